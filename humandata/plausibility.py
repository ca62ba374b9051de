"""Are the people of a store possible: boxes around joints, bones that keep their length, left left.

Every check turns joints into the seventeen of COCO (near ones stand in for missing ones), so that
one rule serves all conventions. Limits are set where the field's own mistakes begin, far above
what annotators and detectors scatter; what they find in a few rows is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import keypoints
from humandata.checks import MAX_DETAILS, Check, blocks, name_row
from humandata.store import Store

Array = NDArray[Any]
Bool = NDArray[np.bool_]
Float = NDArray[np.float64]

NOSE, LEFT_EYE, RIGHT_EYE = 0, 1, 2
SHOULDERS, HIPS, KNEES, ANKLES = (5, 6), (11, 12), (13, 14), (15, 16)
"""Left and right of each, in the order of COCO."""
BONES = {
    "thigh": (HIPS, KNEES),
    "shin": (KNEES, ANKLES),
    "upper arm": (SHOULDERS, (7, 8)),
    "forearm": ((7, 8), (9, 10)),
}
TOES = ("bigtoe", "foot", "toe_3dhp", "bigtoe_openpose")
"""Joints in front of the ankle, by their names without the side."""

THIGH_M = (0.2, 0.7)
SPREAD, SPREAD_OF_MANY, ASYMMETRY = 0.1, 0.4, 0.1
RATE = 0.02
"""Share of rows from which on a contradiction is worth a warning."""
BOX_FACTOR = 1.2
MIN_FACES = 20
"""Fewer faces prove nothing about a whole store."""


def as_coco(store: Store, field: str, rows: Any) -> tuple[Float, Bool]:
    """Joints of some rows in COCO's order.

    Returns
    -------
    points : (n, 17, 2 or 3) float64
    labelled : (n, 17) bool
    """
    values = store.instances[field][rows]
    points, mask = keypoints.convert(values, store.convention(field), "coco", approximate=True)
    finite = np.isfinite(points).all(axis=-1)
    return points[..., :-1].astype(np.float64), mask & finite & (points[..., -1] > 0)


def check_bone_lengths(store: Store) -> Check:
    """Spread of each bone within a person, symmetry of left and right, and the unit."""
    name = "bone_lengths"
    if "keypoints3d" not in store.instances:
        return Check(name, None, "no 3D joints")
    group, labels = _people(store)
    sums = np.zeros((3, len(labels), 8))  # count, length, length squared
    for rows in blocks(len(store)):
        length, known = _bone_lengths(*as_coco(store, "keypoints3d", rows))
        for bone in range(8):
            of, values = group[rows][known[:, bone]], length[known[:, bone], bone]
            for power in range(3):
                sums[power, :, bone] += np.bincount(of, values**power, len(labels))
    count, total, squares = sums
    if not count.any():
        return Check(name, None, "no 3D arms or legs")
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        spread = np.sqrt(np.maximum(squares / count - mean**2, 0)) / mean
        bone_mean = total.sum(0) / count.sum(0)
    wrong = _unit(bone_mean)
    if wrong is not None:
        return Check(name, False, wrong)
    spread[count < 5] = np.nan
    grouped = len(labels) > 1 or labels[0] != "all rows"
    limit = SPREAD if grouped else SPREAD_OF_MANY
    left, right = bone_mean[:4], bone_mean[4:]
    asymmetry = np.abs(left - right) / ((left + right) / 2)
    worst = _largest(np.nan_to_num(spread).max(axis=1), limit)
    details = [
        (labels[g], f"a bone of one person spreads by {100 * np.nanmax(spread[g]):.0f} %")
        for g in worst
    ]
    details += [
        (bone, f"left {100 * a:.1f} cm, right {100 * b:.1f} cm on average")
        for bone, a, b, differ in zip(BONES, left, right, asymmetry, strict=True)
        if differ > ASYMMETRY
    ]
    text = ", ".join(
        f"{bone} {100 * np.nanmean([a, b]):.0f} cm"
        + ("" if np.isnan(both).all() else f" ± {100 * np.nanmedian(both):.1f} %")
        for bone, a, b, both in zip(
            BONES, left, right, np.stack([spread[:, :4], spread[:, 4:]], -1).swapaxes(0, 1),
            strict=True,
        )
        if not np.isnan([a, b]).all()
    )  # fmt: skip
    return Check(name, not details, text, tuple(details[:MAX_DETAILS]), fatal=False)


def _people(store: Store) -> tuple[NDArray[np.intp], list[str]]:
    """For every row, who it shows: the track of its sequence; and a name for each."""
    if "person" not in store.instances or "sequence" not in store.images:
        return np.zeros(len(store), np.intp), ["all rows"]
    sequence = np.asarray(store.images["sequence"])[np.asarray(store.instances["image"])]
    person = np.asarray(store.instances["person"])
    pairs = np.stack([sequence, np.where(sequence < 0, -1, person)], axis=1)
    found, group = np.unique(pairs, axis=0, return_inverse=True)
    labels = [
        "all rows" if s < 0 else f"{store.sequences['name'][int(s)]}, person {p}" for s, p in found
    ]
    return group.reshape(-1), labels or ["all rows"]


def _bone_lengths(points: Float, labelled: Bool) -> tuple[Float, Bool]:
    """Lengths (n, 8), four left and four right, and which are known."""
    ends = [(a[side], b[side]) for side in (0, 1) for a, b in BONES.values()]
    start, stop = np.array(ends).T
    length = np.linalg.norm(points[:, start] - points[:, stop], axis=-1)
    return length, labelled[:, start] & labelled[:, stop]


def _unit(bone_mean: Float) -> str | None:
    """What the length of the bones says against metres."""
    thigh, arm = np.nanmean(bone_mean[[0, 4]]), np.nanmean(bone_mean[[2, 6]])
    # An upper arm measures about 0.68 of a thigh.
    length = float(thigh if np.isfinite(thigh) else arm / 0.68)
    if THIGH_M[0] <= length <= THIGH_M[1] or not np.isfinite(length):
        return None
    text = f"the mean thigh measures {length:.3g} m"
    for unit, size in (("millimetres", 1000), ("centimetres", 100), ("decimetres", 10)):
        if THIGH_M[0] <= length / size <= THIGH_M[1]:
            return f"{text}: the 3D joints are in {unit}, not in metres"
    return f"{text}: the 3D joints are not in metres"


def check_sides_3d(store: Store) -> Check:
    """Left x up must point to where toes, nose and knees do; mirrored bodies fail.

    For a body with its left hip at l, its right hip at r and its head along u, ``(l - r) x u``
    points forward, whatever the frame, as long as that is right-handed.
    """
    name = "sides_3d"
    if "keypoints3d" not in store.instances:
        return Check(name, None, "no 3D joints")
    convention = store.convention("keypoints3d")
    feet = _feet(convention)
    scores = np.zeros(len(store))
    for rows in blocks(len(store)):
        points, labelled = as_coco(store, "keypoints3d", rows)
        values = store.instances["keypoints3d"][rows].astype(np.float64)
        feet_of = np.nan_to_num(values[:, feet, :3])
        known = values[:, feet, 3] > 0
        scores[rows] = _forward_score(points, labelled, feet_of, known)
    decided = np.abs(scores) > 0.1
    if decided.sum() < 1:
        return Check(name, None, "no body whose toes, nose or knees tell where its front is")
    return _sides(
        store, name, decided, scores < 0, -scores,
        "toes, nose and knees point backwards", "bodies", fatal_rate=0.5,
    )  # fmt: skip


def _feet(convention: str) -> list[int]:
    names = keypoints.names(convention)
    for toe in TOES:
        pair = [f"left_{toe}", f"right_{toe}"]
        if all(foot in names for foot in pair):
            return [names.index(foot) for foot in pair]
    return []


def _forward_score(points: Float, labelled: Bool, feet: Float, feet_known: Bool) -> Float:
    """How far toes, nose and knees lie in front, in thigh lengths; 0 where nothing tells."""
    torso = labelled[:, [*SHOULDERS, *HIPS]].all(axis=1)
    hips, shoulders = points[:, HIPS], points[:, SHOULDERS]
    up = shoulders.mean(axis=1) - hips.mean(axis=1)
    forward = np.cross(hips[:, 0] - hips[:, 1], up)
    size = np.linalg.norm(up, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        forward /= np.linalg.norm(forward, axis=1, keepdims=True) * size[:, None]
    score = np.zeros(len(points))

    def add(vector: Float, known: Bool) -> None:
        ahead = np.einsum("nd,nd->n", vector, forward)
        score[:] += np.where(known & np.isfinite(ahead), ahead, 0)

    for side in (0, 1):
        hip, knee, ankle = HIPS[side], KNEES[side], ANKLES[side]
        leg: Bool = np.all(labelled[:, [hip, knee, ankle]], axis=1)
        add(points[:, knee] - (points[:, hip] + points[:, ankle]) / 2, leg)
        if feet.shape[1]:
            add(feet[:, side] - points[:, ankle], labelled[:, ankle] & feet_known[:, side])
    add(points[:, NOSE] - shoulders.mean(axis=1), labelled[:, NOSE])
    return np.where(torso, score, 0)


def check_sides_2d(store: Store) -> Check:
    """Shoulders and hips must be in the same order, and eyes as a face in front shows them.

    People twist and detectors err, so single rows prove nothing; the rate does. A face counts
    where nose and eyes are visible. Without visibility, joints may be projections that are there
    from behind too; then faces count only if noses are missing in a tenth of the people.
    """
    name = "sides_2d"
    if "keypoints2d" not in store.instances:
        return Check(name, None, "no 2D joints")
    told, against, faces, behind, noses = (np.zeros(len(store), bool) for _ in range(5))
    for rows in blocks(len(store)):
        points, labelled = as_coco(store, "keypoints2d", rows)
        shoulders, hips = (_order(points, labelled, pair) for pair in (SHOULDERS, HIPS))
        told[rows] = (shoulders != 0) & (hips != 0)
        against[rows] = told[rows] & (shoulders != hips)
        eyes = _order(points, labelled, (LEFT_EYE, RIGHT_EYE), 0.03)
        noses[rows] = labelled[:, NOSE]
        faces[rows] = (eyes != 0) & _visible_face(store, rows, labelled)
        behind[rows] = faces[rows] & (eyes < 0)
    if "keypoints2d_visibility" not in store.instances and noses.mean() > 0.9:
        faces[:] = behind[:] = False
    if not told.any() and not faces.any():
        return Check(name, None, "nobody whose shoulders, hips or eyes are far enough apart")
    if faces.sum() >= MIN_FACES and behind.sum() > 0.5 * faces.sum():
        text = (
            f"{behind.sum():,} of {faces.sum():,} faces have the left eye on the left of the "
            "picture: left and right are exchanged"
        )
        return Check(name, False, text)
    return _sides(
        store, name, told | faces, against | behind, (against | behind).astype(float),
        "shoulders, hips and eyes disagree on which side is left", "persons", fatal_rate=1.1,
    )  # fmt: skip


def _visible_face(store: Store, rows: slice, labelled: Bool) -> Bool:
    if "keypoints2d_visibility" in store.instances:
        seen = store.instances["keypoints2d_visibility"][rows][..., None] == 2
        convention = store.convention("keypoints2d")
        seen, _ = keypoints.convert(seen, convention, "coco", approximate=True)
        labelled = labelled & seen[..., 0]
    face: Bool = np.all(labelled[:, [NOSE, LEFT_EYE, RIGHT_EYE]], axis=1)
    return face


def _order(points: Float, labelled: Bool, pair: tuple[int, int], least: float = 0.06) -> Float:
    """+1 where the left joint is right of the right one (seen from the front), -1, or 0 unclear."""
    spread = np.where(labelled[..., None], points, np.nan)
    with np.errstate(invalid="ignore"):
        low, high = (np.where(labelled[..., None], points, s * np.inf) for s in (1, -1))
        size = (high.max(axis=1) - low.min(axis=1)).max(axis=1)
    apart = spread[:, pair[0], 0] - spread[:, pair[1], 0]
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(apart) > least * size, np.sign(apart), 0.0)


def _sides(
    store: Store, name: str, decided: Bool, wrong: Bool, badness: Float, what: str, of: str,
    fatal_rate: float,
) -> Check:  # fmt: skip
    wrong = wrong & decided
    rate = wrong.sum() / decided.sum()
    text = f"{what} in {wrong.sum():,} of {decided.sum():,} {of} that tell ({100 * rate:.1f} %)"
    if rate > fatal_rate:
        return Check(name, False, f"{text}: left and right are exchanged, or x is mirrored")
    worst = _largest(np.where(wrong, badness, 0), 0)
    details = tuple((name_row(store, row), what) for row in worst if rate > RATE)
    return Check(name, bool(rate <= RATE), text, details, fatal=False)


def check_joints_in_boxes(store: Store) -> Check:
    """Share of the labelled joints inside the box, enlarged by 1.2 about its centre."""
    name = "joints_in_boxes"
    if "keypoints2d" not in store.instances:
        return Check(name, None, "no 2D joints")
    inside, labelled = np.zeros(len(store)), np.zeros(len(store))
    for rows in blocks(len(store)):
        box = store.instances["bbox_xywh"][rows].astype(np.float64)
        points = store.instances["keypoints2d"][rows]
        half = box[:, None, 2:4] / 2
        off = np.abs(points[..., :2] - (box[:, None, :2] + half))
        seen = (points[..., 2] > 0) & (box[:, 4] > 0)[:, None]
        labelled[rows] = seen.sum(axis=1)
        inside[rows] = (seen & (off <= BOX_FACTOR * half).all(axis=-1)).sum(axis=1)
    if not labelled.any():
        return Check(name, None, "no person with a box and labelled joints")
    share = inside.sum() / labelled.sum()
    none = (labelled > 0) & (inside == 0)
    text = (
        f"{100 * share:.1f} % of the labelled joints lie in the box enlarged by {BOX_FACTOR}; "
        f"{none.sum():,} persons have none inside"
    )
    details = tuple(
        (name_row(store, row), f"none of {labelled[row]:.0f} joints is in the box")
        for row in np.flatnonzero(none)[:MAX_DETAILS]
    )
    beside = bool(share < 0.5)
    return Check(name, not beside and not none.any(), text, details, fatal=beside)


def check_boxes_in_pictures(store: Store) -> Check:
    """Boxes that lie outside of their picture, or whose width and height are the far corner."""
    name = "boxes_in_pictures"
    width, height = (np.asarray(store.images[side]) for side in ("width", "height"))
    outside, known, corners = (np.zeros(len(store), bool) for _ in range(3))
    for rows in blocks(len(store)):
        image = store.instances["image"][rows]
        size = np.stack([width[image], height[image]], axis=1).astype(np.float64)
        box = store.instances["bbox_xywh"][rows].astype(np.float64)
        start, extent = box[:, :2], box[:, 2:4]
        overlap = np.minimum(start + extent, size) - np.maximum(start, 0)
        known[rows] = (size > 0).all(axis=1) & (box[:, 4] > 0)
        outside[rows] = known[rows] & (overlap <= 0).any(axis=1)
        beyond = (start + extent > 1.02 * size).any(axis=1)
        corners[rows] = beyond & (extent > start).all(axis=1) & (extent <= size).all(axis=1)
    if not known.any():
        return Check(name, None, "no box in a picture of known size")
    if (corners & known).sum() > 0.5 * known.sum():
        text = "most boxes reach beyond the picture: left, top, right, bottom stored as a size?"
        return Check(name, False, text)
    count = int(outside.sum())
    text = f"{count:,} of {known.sum():,} boxes lie outside of their picture"
    details = tuple(
        (name_row(store, row), f"box {_numbers(store.instances['bbox_xywh'][int(row)][:4])}")
        for row in np.flatnonzero(outside)[:MAX_DETAILS]
    )
    return Check(name, not count, text, details, fatal=bool(count > 0.5 * known.sum()))


def check_duplicates(store: Store) -> Check:
    """Persons annotated twice in one picture, and pictures stored twice."""
    image = np.asarray(store.instances["image"])
    order = np.argsort(image, kind="stable")
    sorted_image = image[order]
    pairs: list[tuple[int, int]] = []
    twice = 0
    # Rows of one picture are neighbours in this order; compare each with the 1st, 2nd ... after it.
    lag, here = 1, np.arange(len(order) - 1)
    while len(here):
        here = here[here + lag < len(order)]
        here = here[sorted_image[here] == sorted_image[here + lag]]
        for part in blocks(len(here)):
            first, second = order[here[part]], order[here[part] + lag]
            same = _same_person(store, first, second)
            twice += int(same.sum())
            found = zip(first[same].tolist(), second[same].tolist(), strict=True)
            pairs += list(found)[: MAX_DETAILS - len(pairs)]
        lag += 1
    details = [
        (name_row(store, a), f"is nearly the same person as {name_row(store, b)}") for a, b in pairs
    ]
    text = f"{twice:,} persons are annotated twice in a picture"
    copies = _picture_copies(store)
    if copies:
        text += f"; {len(copies):,} pictures are stored more than once"
        details += [
            (name_row(store, b, "images"), f"has the bytes of {name_row(store, a, 'images')}")
            for a, b in copies[: MAX_DETAILS - len(details)]
        ]
    return Check("duplicates", not twice and not copies, text, tuple(details), fatal=False)


def _same_person(store: Store, first: Array, second: Array) -> Bool:
    """Boxes that overlap by 0.9 of their union, and joints within 3 % of the box where labelled."""
    a, b = (store.instances["bbox_xywh"][rows].astype(np.float64) for rows in (first, second))
    overlap = np.minimum(a[:, :2] + a[:, 2:4], b[:, :2] + b[:, 2:4]) - np.maximum(
        a[:, :2], b[:, :2]
    )
    shared = np.maximum(overlap, 0).prod(axis=1)
    areas = a[:, 2:4].prod(axis=1) + b[:, 2:4].prod(axis=1)
    same: Bool = (shared > 0) & (shared > 0.9 * (areas - shared))
    if "keypoints2d" in store.instances and same.any():
        p, q = (store.instances["keypoints2d"][rows[same]] for rows in (first, second))
        both = (p[..., 2] > 0) & (q[..., 2] > 0)
        far = np.linalg.norm(p[..., :2] - q[..., :2], axis=-1) * both
        near = far.sum(axis=1) <= 0.03 * a[same, 2:4].max(axis=1) * both.sum(axis=1)
        # Two people in one box share few joints; without joints the boxes alone decide.
        alike = both.sum(axis=1) >= 0.5 * np.maximum((p[..., 2] > 0).sum(1), (q[..., 2] > 0).sum(1))
        same[same] = near & alike
    return same


def _picture_copies(store: Store) -> list[tuple[int, int]]:
    if not store.has_pictures:
        return []
    key = np.asarray(store.images["crc32c"]).astype(np.int64) << 32
    key |= np.asarray(store.images["length"])
    rows = np.flatnonzero(np.asarray(store.images["length"]) > 0)
    _, first, which = np.unique(key[rows], return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(rows)))
    return [(int(rows[first[which[i]]]), int(rows[i])) for i in again]


def check_body_parameters(store: Store) -> Check:
    """Rotations below a full turn, shape within five standard deviations, bodies in front."""
    name = "body_parameters"
    details: list[tuple[str, str]] = []
    bodies, odd = 0, {"rotation": 0, "shape": 0, "depth": 0}
    for model in (m for m in ("smpl", "smplx") if f"{m}/valid" in store.instances):
        for rows in blocks(len(store)):
            bodies += int(store.instances[f"{model}/valid"][rows].sum())
            for kind, values, limit, what in _body_values(store, model, rows):
                wrong = np.flatnonzero(values > limit)
                odd[kind] += len(wrong)
                details += [
                    (name_row(store, rows.start + row), f"{model} {what} {abs(values[row]):.1f}")
                    for row in wrong[: MAX_DETAILS - len(details)]
                ]
    if not bodies:
        return Check(name, None, "no body")
    text = (
        f"of {bodies:,} bodies {odd['rotation']:,} turn a joint by more than 2 pi, "
        f"{odd['shape']:,} have a shape coefficient above 5, {odd['depth']:,} lie behind the camera"
    )
    degrees = odd["rotation"] > 0.5 * bodies
    if degrees:
        text += ": rotations in degrees instead of radians?"
    return Check(name, not any(odd.values()), text, tuple(details), fatal=degrees)


def _body_values(store: Store, model: str, rows: slice) -> Iterator[tuple[str, Float, float, str]]:
    """For each rule: its name, a value per row (0 where no body is), the limit, and words."""
    valid = store.instances[f"{model}/valid"][rows]

    def of(field: str, where: Bool) -> Float:
        values = np.where(
            where[:, None], store.instances[f"{model}/{field}"][rows].reshape(len(where), -1), 0
        )
        return values.astype(np.float64)

    if f"{model}/body_pose" in store.instances and f"{model}/global_orient" in store.instances:
        pose = np.concatenate([of("global_orient", valid), of("body_pose", valid)], axis=1)
        angle = np.linalg.norm(pose.reshape(len(pose), -1, 3), axis=-1).max(axis=1)
        yield "rotation", angle, 2 * np.pi, "turns a joint by this many radians:"
    if f"{model}/betas" in store.instances:
        yield "shape", np.abs(of("betas", valid)).max(axis=1), 5, "has a shape coefficient of"
    if f"{model}/transl_valid" in store.instances:
        placed = valid & store.instances[f"{model}/transl_valid"][rows]
        depth = of("transl", placed)[:, 2]
        yield "depth", np.where(placed, -depth, -np.inf), 0, "lies behind the camera, metres:"


def _largest(values: Float, limit: float) -> NDArray[np.intp]:
    """Places of the largest values above the limit, largest first."""
    above = np.flatnonzero(values > limit)
    return above[np.argsort(-values[above], kind="stable")][:MAX_DETAILS]


def _numbers(values: Array) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
