"""Do 3D joints and bodies fall on the 2D joints, and if not, which known mistake explains it.

The residual of a person is the mean distance, in pixels, between the projected 3D joints and the
labelled 2D joints of the same name. Beside it stands the residual in shares of the box, because
ten pixels mean little on a person a thousand pixels tall and much on one of fifty. Bodies are held
against the stored 3D joints as well, in millimetres and shares of the person's extent.

Mistakes are recognised by undoing them: where the residual falls below half once left and right
are exchanged, or the rotation is transposed back, that is said in words. A store in which the
typical residual is above a tenth of the box, or in which one mistake explains most people, fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, keypoints, store_bodies
from humandata.cameras import project_through_lens
from humandata.checks import Check, blocks, name_row, spread_rows
from humandata.misplacement import (
    ALL_TRANSPOSED,
    CORRECTIONS,
    EXCHANGED,
    OFFSET,
    UPSIDE_DOWN,
    Placed,
    turn,
)
from humandata.store import Store

Array = NDArray[Any]
Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

MIN_JOINTS = 4
BAD_SHARE = 0.1
"""Typical residual, as a share of the box, above which a store fails."""
SUSPECT_SHARE = 0.03
"""Below this, a person is too well placed for any of the mistakes."""
SAMPLE = 4096
"""People on whom mistakes are tried, and bodies that are posed."""
WARN_RATE = 0.02
WEAK_CAMERA = "extra/weak_camera"


class Held(NamedTuple):
    """What 3D joints are held against, in the words of a report.

    ``factor`` takes residuals to ``unit``; shares are those of ``whole``.
    """

    unit: str
    factor: float
    whole: str
    pair: str
    needs: str


ON_2D = Held("px", 1, "box", "3D and 2D", f"a known camera and {MIN_JOINTS} joints in 2D and 3D")
ON_3D = Held("mm", 1000, "body", "bodies and 3D joints", f"a body and {MIN_JOINTS} joints in 3D")


def check_reprojection(store: Store) -> Check:
    """Residual of the 3D joints on the 2D joints, over all people whose camera is known."""
    name = "reprojection"
    missing = _lacks(store)
    if "keypoints3d" not in store.instances:
        missing = "no 3D joints"
    elif store.instances["keypoints3d"].attributes.get("root") != "absolute":
        missing = "the 3D joints are relative to a root, so no camera can project them"
    if missing is not None:
        return Check(name, None, missing)
    return _judge(store, name, lambda rows: placed_joints(store, rows), len(store))


def check_body_reprojection(store: Store) -> Check:
    """Residual of the SMPL bodies' joints on the 2D joints; most bodies of a store are sampled.

    Bodies without a translation are projected with the camera of their box, where they have one.
    """
    name = "body_reprojection"
    family = store_bodies.family_of(store)
    moved, weak = f"{family}/transl_valid" in store.instances, WEAK_CAMERA in store.instances
    missing = None if weak and not moved and "keypoints2d" in store.instances else _lacks(store)
    if family is None or not (moved or weak):
        missing = "no SMPL bodies with a translation"
    if missing is not None:
        return Check(name, None, missing)
    return _judge_bodies(store, name, placed_bodies if moved else weakly_placed, ON_2D)


def check_body_joints(store: Store) -> Check:
    """Distance of the SMPL bodies' joints to the stored 3D joints of the same name.

    Where either has no place in the camera frame, both are moved to a common centre first.
    """
    name = "body_joints"
    missing = None
    if store_bodies.family_of(store) is None:
        missing = "no SMPL bodies"
    elif "keypoints3d" not in store.instances:
        missing = "no 3D joints"
    if missing is not None:
        return Check(name, None, missing)
    return _judge_bodies(store, name, bodies_on_joints, ON_3D)


def _judge_bodies(
    store: Store, name: str, read: Callable[[Store, Any], Placed | None], of: Held
) -> Check:
    try:
        check = _judge(store, name, lambda rows: read(store, rows), SAMPLE, of)
    except store_bodies.NoBodyModel as error:
        return Check(name, None, str(error))
    left = store_bodies.unposed_children(store)
    if not left:
        return check
    file = store_bodies.template_name(store_bodies.family_of(store) or "smpl")
    why = f"no {file} beside the body models"
    if store_bodies.WEIGHT not in store.instances:
        why = "the weights of their template were lost before the import"
    text = f"{check.summary}; {left:,} children are left out: {why}"
    return replace(check, summary=text)


def _lacks(store: Store) -> str | None:
    if "keypoints2d" not in store.instances:
        return "no 2D joints"
    return None if "intrinsics" in store.images else "no camera"


def placed_joints(store: Store, rows: Any) -> Placed | None:
    """People among ``rows`` whose 3D joints, 2D joints and camera are known."""
    values = store.instances["keypoints3d"][rows].astype(np.float64)
    index = np.arange(len(store))[rows]
    return _projected(store, index, values, store.convention("keypoints3d"))


def placed_bodies(store: Store, rows: Any) -> Placed | None:
    """The same with the joints of their bodies, where these have a translation."""
    posed = store_bodies.pose(store, rows)
    posed = posed.take(posed.moved)
    found = _projected(store, posed.rows, posed.joints, posed.convention)
    return found and replace(found, **_of_bodies(store, found, posed))


def weakly_placed(store: Store, rows: Any) -> Placed | None:
    """Bodies under the weak-perspective camera of their box (`humandata.converters.eft`)."""
    posed = store_bodies.pose(store, rows)
    found = _common(store, posed.rows, posed.joints, posed.convention, "keypoints2d")
    if found is None:
        return None
    camera, box = (
        store.instances[name][found.rows].astype(np.float64) for name in (WEAK_CAMERA, "bbox_xywh")
    )

    def see(points: Float) -> Float:
        crop = camera[:, None, :1] * points[..., :2] + camera[:, None, 1:]
        seen: Float = box[:, None, :2] + (crop + 1) * box[:, None, 2:4] / 2
        return seen

    return replace(found, see=see, **_of_bodies(store, found, posed))


def bodies_on_joints(store: Store, rows: Any) -> Placed | None:
    """Bodies and the 3D joints that they should have."""
    posed = store_bodies.pose(store, rows)
    found = _common(store, posed.rows, posed.joints, posed.convention, "keypoints3d")
    if found is None:
        return None
    absolute = store.instances["keypoints3d"].attributes.get("root") == "absolute"
    fixed = absolute & posed.moved[np.isin(posed.rows, found.rows)][:, None, None]
    weight = found.both[..., None] / found.both.sum(axis=1)[:, None, None]

    def see(points: Float) -> Float:
        return np.where(fixed, points, points - (points * weight).sum(axis=1, keepdims=True))

    extent = np.ptp(np.where(found.both[..., None], found.target, found.target[:, :1]), axis=1)
    people = replace(
        found,
        target=see(found.target),
        see=see,
        size=np.maximum(extent.max(axis=1), 1e-3),
        fixed=bool(fixed.any()),
        **_of_bodies(store, found, posed),
    )
    if not people.fixed:
        return people
    pelvis = posed.pelvis[np.isin(posed.rows, found.rows)]
    return replace(people, undone={**people.undone, OFFSET: lambda: _with_offset(people, pelvis)})


def _with_offset(people: Placed, pelvis: Float) -> Float | None:
    """Bodies moved by ``A J - J`` for the turn A that suits them best, where it suits them well.

    A dataset may turn a body by more than the camera of its picture (AGORA: about the person, too),
    so that A is not known; but it keeps the length of J.
    """
    weight = people.both[..., None] / people.both.sum(axis=1)[:, None, None]
    wanted = ((people.target - people.points3d) * weight).sum(axis=1)
    turned = wanted + pelvis
    turned *= np.linalg.norm(pelvis, axis=1, keepdims=True) / np.maximum(
        np.linalg.norm(turned, axis=1, keepdims=True), 1e-9
    )
    left = np.linalg.norm(wanted + pelvis - turned, axis=1)
    if np.median(left) > 0.05 * np.median(np.linalg.norm(wanted, axis=1)):
        return None
    moved: Float = people.points3d + (turned - pelvis)[:, None]
    return moved


def _projected(store: Store, index: Array, values: Float, convention: str) -> Placed | None:
    image = store.instances["image"][index]
    intrinsics = store.images["intrinsics"][image].astype(np.float64)
    # An assumed camera says nothing of where 3D joints ought to fall.
    known = intrinsics[:, 0, 0] > 0
    if "intrinsics_source" in store.images:
        known &= store.images["intrinsics_source"][image] == 1
    found = _common(store, index[known], values[known], convention, "keypoints2d")
    if found is None:
        return None
    here = np.isin(index, found.rows)
    camera = intrinsics[here]
    if "distortion" not in store.images:
        return replace(found, see=lambda points: np.asarray(geometry.project(points, camera)))
    column = store.images["distortion"]
    lens, model = column[image[here]].astype(np.float64), str(column.attributes.get("model"))

    def see(points: Float) -> Float:
        return project_through_lens(points, camera, lens, model)

    return replace(found, see=see)


def _common(
    store: Store, index: Array, values: Float, convention: str, against: str
) -> Placed | None:
    """Joints (n, K, 4) of rows beside those of a field, where both have enough."""
    wanted = store.convention(against)
    points, mask = _converted(values, convention, wanted)
    target = store.instances[against][index].astype(np.float64)
    both = mask & (points[..., 3] > 0) & (target[..., -1] > 0)
    good = both.sum(axis=1) >= MIN_JOINTS
    if not good.any():
        return None
    extrinsics = None
    if "extrinsics" in store.images:
        image = store.instances["image"][index[good]]
        extrinsics = store.images["extrinsics"][image].astype(np.float64)
    size = store.instances["bbox_xywh"][index[good]][:, 2:4].astype(np.float64).max(axis=1)
    return Placed(
        index[good], np.nan_to_num(points[good, :, :3]), target[good, :, :-1], both[good],
        lambda points: points, wanted, extrinsics, np.maximum(size, 1), _flip(wanted),
    )  # fmt: skip


def _converted(points: Float, convention: str, wanted: str) -> tuple[Float, Bool]:
    """Joints of the same name; where those are too few, near ones stand in."""
    exact = (keypoints.mapping(convention, wanted) >= 0).sum()
    return keypoints.convert(points, convention, wanted, approximate=bool(exact < MIN_JOINTS))


def _of_bodies(store: Store, people: Placed, posed: store_bodies.Posed) -> dict[str, Any]:
    """What is known of bodies more than of joints, and the mistakes only they can have."""
    posed = posed.take(np.isin(posed.rows, people.rows))
    found: dict[str, Any] = {"root": posed.joints[:, 0, :3]}
    if posed.moved.any():
        field = f"{posed.convention}/transl"
        moved = posed.moved[:, None]
        found["transl"] = np.where(moved, store.instances[field][posed.rows], 0).astype(np.float64)
    if people.extrinsics is not None:
        pelvis = posed.pelvis
        found["turn"] = turn(people.extrinsics[:, :3, :3], pelvis[:, None])[:, 0] - pelvis

    def turned_back() -> Float:
        again = store_bodies.pose(store, people.rows, transposed=True)
        return _converted(again.joints[..., :3], again.convention, people.convention)[0]

    def upright() -> Float:
        root = found["root"][:, None]
        return np.asarray((people.points3d - root) * [1, -1, -1] + root)

    return {**found, "undone": {ALL_TRANSPOSED: turned_back, UPSIDE_DOWN: upright}}


def _flip(convention: str) -> NDArray[np.intp]:
    if keypoints.convention(convention).flip_unpaired:
        return np.arange(len(keypoints.names(convention)))
    return keypoints.flip_permutation(convention)


def residuals(store: Store, most: int) -> Float:
    """Residuals in pixels of up to ``most`` evenly spread people, for a histogram."""
    rows = spread_rows(len(store), most)
    if "reprojection_error" in store.instances:
        stored: Float = store.instances["reprojection_error"][rows].astype(np.float64)
        return stored[stored >= 0]
    if _lacks(store) is not None or "keypoints3d" not in store.instances:
        return np.zeros(0)
    if store.instances["keypoints3d"].attributes.get("root") != "absolute":
        return np.zeros(0)
    found = [placed_joints(store, rows[part]) for part in blocks(len(rows))]
    values = [people.residual() for people in found if people is not None]
    return np.concatenate(values)[np.isfinite(np.concatenate(values))] if values else np.zeros(0)


def _judge(
    store: Store, name: str, read: Callable[[Array], Placed | None], most: int, of: Held = ON_2D
) -> Check:
    rows, distance, share, exchanged = [], [], [], []
    for people in _read_blocks(store, read, most):
        residual = people.residual()
        mirrored = people.residual(flipped=True)
        relative = residual / people.size
        rows.append(people.rows)
        distance.append(residual * of.factor)
        share.append(relative)
        exchanged.append((mirrored < 0.5 * residual) & (relative > SUSPECT_SHARE))
    if not rows:
        return Check(name, None, f"nobody with {of.needs}")
    row, away, part = np.concatenate(rows), np.concatenate(distance), np.concatenate(share)
    swapped = np.concatenate(exchanged)
    text = (
        f"median {np.median(away):.1f} {of.unit}, 95th percentile {_percentile(away, 95):.1f} "
        f"{of.unit} ({100 * np.median(part):.1f} % and {100 * _percentile(part, 95):.1f} % of the "
        f"{of.whole}) over {len(row):,} people"
    )
    mistake = _mistake(store, read, float(np.median(part)))
    if mistake is None and swapped.mean() > 0.5:
        mistake = EXCHANGED
    rate = float(swapped.mean())
    order = np.argsort(-part, kind="stable")[:20]
    details = tuple(
        (name_row(store, row[i]), _in_words(away[i], part[i], bool(swapped[i]), of))
        for i in order
        if part[i] > BAD_SHARE or swapped[i]
    )
    if mistake is not None:
        return Check(name, False, f"{text}: {mistake}", details)
    if np.median(part) > BAD_SHARE:
        hint = _hint(store, row) if of is ON_2D else ""
        return Check(name, False, f"{text}: {of.pair} do not fit{hint}", details)
    if rate > WARN_RATE:
        text += f"; in {100 * rate:.1f} % of them left and right are exchanged between {of.pair}"
    return Check(name, rate <= WARN_RATE, text, details, fatal=False)


def _read_blocks(
    store: Store, read: Callable[[Array], Placed | None], most: int
) -> Iterator[Placed]:
    sample = spread_rows(len(store), most)
    for part in blocks(len(sample), 4096):
        people = read(sample[part])
        if people is not None:
            yield people


def _mistake(store: Store, read: Callable[[Array], Placed | None], typical: float) -> str | None:
    """The known mistake whose undoing halves the residual, and makes it good."""
    if typical <= SUSPECT_SHARE:
        return None
    people = read(spread_rows(len(store), SAMPLE))
    if people is None:
        return None
    shares = {EXCHANGED: float(np.median(people.residual(flipped=True) / people.size))}
    undone = {words: undo(people) for words, undo in CORRECTIONS.items()}
    tried = [*undone.items(), *((words, undo()) for words, undo in people.undone.items())]
    for words, points in tried:
        if points is not None:
            share = float(np.median(people.residual(points) / people.size))
            shares[words] = min(share, shares.get(words, np.inf))
    best = min(shares, key=lambda words: shares[words])
    return best if shares[best] < min(0.5 * typical, BAD_SHARE) else None


def _hint(store: Store, rows: Array) -> str:
    if "keypoints3d" not in store.instances:
        return ""
    depth = store.instances["keypoints3d"][rows[:SAMPLE]][..., 2]
    if np.median(np.abs(depth)) < 0.6:
        return "; the joints lie around the camera itself: has the root been subtracted?"
    return ""


def _in_words(away: float, share: float, swapped: bool, of: Held) -> str:
    if not np.isfinite(away):
        return "most joints lie behind the camera"
    text = f"{away:.1f} {of.unit}, {100 * share:.0f} % of the {of.whole}"
    return f"{text}; falls below half with left and right exchanged" if swapped else text


def _percentile(values: Float, percent: float) -> float:
    # Interpolation between infinities would give NaN.
    return float(np.percentile(values, percent, method="nearest"))
