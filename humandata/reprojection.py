"""Do 3D joints and bodies fall on the 2D joints, and if not, which known mistake explains it.

The residual of a person is the mean distance, in pixels, between the projected 3D joints and the
labelled 2D joints of the same name. Beside it stands the residual in shares of the box, because
ten pixels mean little on a person a thousand pixels tall and much on one of fifty.

Mistakes are recognised by undoing them: where the residual falls below half once left and right
are exchanged, or the rotation is transposed back, that is said in words. A store in which the
typical residual is above a tenth of the box, or in which one mistake explains most people, fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, keypoints
from humandata.checks import Check, blocks, name_row, spread_rows
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

EXCHANGED = "left and right of the 3D joints are exchanged"
TRANSPOSED = "the camera rotation was applied transposed"
INVERTED = "the inverse of the extrinsics was applied"
WORLD = "the 3D joints are still in the world frame"
MILLIMETRES = "the translation is in millimetres, the body in metres"
ROOT_TRANSPOSED = "the root rotation was turned by the transposed camera rotation"
ROOT_WORLD = "the root rotation is still in the world frame"
OFFSET = (
    "the pelvis offset is missing: SMPL turns about its pelvis, so the translation has to move "
    "with it when the camera turns the body"
)


@dataclass(frozen=True)
class Placed:
    """Some people with 3D, 2D and a camera, their joints in the 2D convention.

    Attributes
    ----------
    rows : (n,) int
    points3d : (n, K, 3) float64, metres, camera frame
    points2d : (n, K, 2) float64, pixels
    both : (n, K) bool
        Joints that both have.
    intrinsics : (n, 3, 3)
    extrinsics : (n, 4, 4) or None
    size : (n,) float64
        Longer side of the box, pixels.
    flip : (K,) int
        Order of the joints with left and right exchanged.
    turn : (n, 3) or None
        For bodies: by how much the pelvis moves when the camera turns it, ``R J - J``.
    root : (n, 3) or None
        For bodies: the pelvis.
    """

    rows: NDArray[np.int64]
    points3d: Float
    points2d: Float
    both: Bool
    intrinsics: Float
    extrinsics: Float | None
    size: Float
    flip: NDArray[np.intp]
    turn: Float | None = None
    root: Float | None = None

    def residual(self, points3d: Float | None = None, flipped: bool = False) -> Float:
        """Mean residual per person, (n,) pixels; infinite where most joints are behind."""
        points = self.points3d if points3d is None else points3d
        both = self.both
        if flipped:
            points, both = points[:, self.flip], both & both[:, self.flip]
        projected = geometry.project(points, self.intrinsics)
        distance = np.linalg.norm(projected - self.points2d, axis=-1)
        usable = both & np.isfinite(distance)
        count = usable.sum(axis=1)
        total = np.where(usable, distance, 0).sum(axis=1)
        mean = total / np.maximum(count, 1)
        return np.where((count > 0) & (2 * count >= both.sum(axis=1)), mean, np.inf)


Move = Callable[[Float, Float, Float], Float]


def _move(people: Placed, move: Move) -> Float | None:
    if people.extrinsics is None:
        return None
    rotation = people.extrinsics[:, :3, :3]
    return move(rotation, people.points3d, people.extrinsics[:, None, :3, 3])


def _move_about_root(people: Placed, move: Move) -> Float | None:
    if people.root is None:
        return None
    root = people.root[:, None]
    return _move(people, lambda r, x, t: move(r, x, root))


def _turn(rotation: Float, points: Float) -> Float:
    turned: Float = np.einsum("nab,nkb->nka", rotation, points)
    return turned


def _shrink(people: Placed) -> Float:
    weight = people.both[..., None] / np.maximum(people.both.sum(axis=1), 1)[:, None, None]
    centre = (people.points3d * weight).sum(axis=1, keepdims=True)
    shrunk: Float = people.points3d - centre + centre / 1000
    return shrunk


# Each undoes one mistake; P are the stored points, X the world's, and P = R X + t is right.
CORRECTIONS: dict[str, Callable[[Placed], Float | None]] = {
    # P = R^T X + t, so R (R (P - t)) + t is right.
    TRANSPOSED: lambda p: _move(p, lambda r, x, t: _turn(r, _turn(r, x - t)) + t),
    # P = R^T (X - t)
    INVERTED: lambda p: _move(p, lambda r, x, t: _turn(r, _turn(r, x) + t) + t),
    WORLD: lambda p: _move(p, lambda r, x, t: _turn(r, x) + t),
    MILLIMETRES: _shrink,
    OFFSET: lambda p: None if p.turn is None else p.points3d + p.turn[:, None],
    # Of bodies, translation and root rotation are moved apart, and one may be wrong alone.
    ROOT_TRANSPOSED: lambda p: _move_about_root(p, lambda r, x, c: _turn(r, _turn(r, x - c)) + c),
    ROOT_WORLD: lambda p: _move_about_root(p, lambda r, x, c: _turn(r, x - c) + c),
}


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
    """Residual of the SMPL bodies' joints on the 2D joints; most bodies of a store are sampled."""
    name = "body_reprojection"
    missing = _lacks(store)
    if "smpl/transl_valid" not in store.instances:
        missing = "no SMPL bodies with a translation"
    if missing is not None:
        return Check(name, None, missing)
    return _judge(store, name, lambda rows: placed_bodies(store, rows), SAMPLE)


def _lacks(store: Store) -> str | None:
    if "keypoints2d" not in store.instances:
        return "no 2D joints"
    return None if "intrinsics" in store.images else "no camera"


def placed_joints(store: Store, rows: Any) -> Placed | None:
    """People among ``rows`` whose 3D joints, 2D joints and camera are known."""
    values = store.instances["keypoints3d"][rows].astype(np.float64)
    return _placed(store, rows, values, store.convention("keypoints3d"))


def placed_bodies(store: Store, rows: Any) -> Placed | None:
    """The same with the 24 joints of their SMPL bodies.

    Without the user's SMPL files the joints are those of the stand-in body, a few centimetres off.
    """
    from humandata.bodymodel import body_model, forward_joints, rest_pelvis

    index = np.arange(len(store))[rows]
    at = store.instances
    valid = at["smpl/valid"][index] & at["smpl/transl_valid"][index]
    index = index[valid]
    joints, pelvis = np.zeros((len(index), 24, 4)), np.zeros((len(index), 3))
    joints[..., 3] = 1
    gender = body_genders(store, index)
    for word in np.unique(gender):
        chosen = gender == word
        orient, pose, betas, transl = (
            at[f"smpl/{field}"][index[chosen]]
            for field in ("global_orient", "body_pose", "betas", "transl")
        )
        model = body_model(str(word))
        joints[chosen, :, :3] = forward_joints(model, orient, pose, betas, transl)
        pelvis[chosen] = rest_pelvis(model, betas)
    return _placed(store, index, joints, "smpl", pelvis)


def body_genders(store: Store, rows: Array) -> Array:
    """Gender of the body model of each row: ``neutral``, ``male`` or ``female``."""
    if "gender" not in store.instances:
        return np.full(len(rows), "neutral")
    words = store.instances["gender"].attributes["vocabulary"]
    known = [word if word in ("male", "female") else "neutral" for word in words]
    codes = store.instances["gender"][rows]
    genders: Array = np.array(known)[np.where(codes < len(known), codes, 0)]
    return genders


def _placed(
    store: Store, rows: Any, values: Float, convention: str, pelvis: Float | None = None
) -> Placed | None:
    index = np.arange(len(store))[rows]
    convention2d = store.convention("keypoints2d")
    exact = (keypoints.mapping(convention, convention2d) >= 0).sum()
    points3d, mask = keypoints.convert(
        values, convention, convention2d, approximate=bool(exact < MIN_JOINTS)
    )
    points2d = store.instances["keypoints2d"][index].astype(np.float64)
    image = store.instances["image"][index]
    intrinsics = store.images["intrinsics"][image].astype(np.float64)
    both = mask & (points3d[..., 3] > 0) & (points2d[..., 2] > 0)
    # An assumed camera says nothing of where 3D joints ought to fall.
    known = intrinsics[:, 0, 0] > 0
    if "intrinsics_source" in store.images:
        known &= store.images["intrinsics_source"][image] == 1
    good = known & (both.sum(axis=1) >= MIN_JOINTS)
    if not good.any():
        return None
    extrinsics = turn = root = None
    if pelvis is not None:
        root = values[good, 0, :3]
    if "extrinsics" in store.images:
        extrinsics = store.images["extrinsics"][image[good]].astype(np.float64)
        if pelvis is not None:
            turned = np.einsum("nab,nb->na", extrinsics[:, :3, :3], pelvis[good])
            turn = turned - pelvis[good]
    points = np.nan_to_num(points3d[good, :, :3])
    size = store.instances["bbox_xywh"][index[good]][:, 2:4].astype(np.float64).max(axis=1)
    return Placed(
        index[good], points, points2d[good, :, :2], both[good], intrinsics[good], extrinsics,
        np.maximum(size, 1), _flip(convention2d), turn, root,
    )  # fmt: skip


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


def _judge(store: Store, name: str, read: Callable[[Array], Placed | None], most: int) -> Check:
    rows, pixels, share, exchanged = [], [], [], []
    for people in _read_blocks(store, read, most):
        residual = people.residual()
        mirrored = people.residual(flipped=True)
        relative = residual / people.size
        rows.append(people.rows)
        pixels.append(residual)
        share.append(relative)
        exchanged.append((mirrored < 0.5 * residual) & (relative > SUSPECT_SHARE))
    if not rows:
        return Check(name, None, f"nobody with a known camera and {MIN_JOINTS} joints in 2D and 3D")
    row, px, part = np.concatenate(rows), np.concatenate(pixels), np.concatenate(share)
    swapped = np.concatenate(exchanged)
    text = (
        f"median {np.median(px):.1f} px, 95th percentile {_percentile(px, 95):.1f} px "
        f"({100 * np.median(part):.1f} % and {100 * _percentile(part, 95):.1f} % of the box) "
        f"over {len(row):,} people"
    )
    mistake = _mistake(store, read, float(np.median(part)))
    if mistake is None and swapped.mean() > 0.5:
        mistake = EXCHANGED
    rate = float(swapped.mean())
    order = np.argsort(-part, kind="stable")[:20]
    details = tuple(
        (name_row(store, row[i]), _in_words(px[i], part[i], bool(swapped[i])))
        for i in order
        if part[i] > BAD_SHARE or swapped[i]
    )
    if mistake is not None:
        return Check(name, False, f"{text}: {mistake}", details)
    if np.median(part) > BAD_SHARE:
        return Check(name, False, f"{text}: 3D and 2D do not fit{_hint(store, row)}", details)
    if rate > WARN_RATE:
        text += f"; in {100 * rate:.1f} % of them left and right are exchanged between 2D and 3D"
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
    people = read(spread_rows(len(store), SAMPLE))
    if typical <= SUSPECT_SHARE or people is None:
        return None
    shares = {EXCHANGED: np.median(people.residual(flipped=True) / people.size)}
    for words, correct in CORRECTIONS.items():
        points = correct(people)
        if points is not None:
            shares[words] = np.median(people.residual(points) / people.size)
    best = min(shares, key=lambda words: shares[words])
    return best if shares[best] < min(0.5 * typical, BAD_SHARE) else None


def _hint(store: Store, rows: Array) -> str:
    if "keypoints3d" not in store.instances:
        return ""
    depth = store.instances["keypoints3d"][rows[:SAMPLE]][..., 2]
    if np.median(np.abs(depth)) < 0.6:
        return "; the joints lie around the camera itself: has the root been subtracted?"
    return ""


def _in_words(pixels: float, share: float, swapped: bool) -> str:
    if not np.isfinite(pixels):
        return "most joints lie behind the camera"
    text = f"{pixels:.1f} px, {100 * share:.0f} % of the box"
    return f"{text}; falls below half with left and right exchanged" if swapped else text


def _percentile(values: Float, percent: float) -> float:
    # Interpolation between infinities would give NaN.
    return float(np.percentile(values, percent, method="nearest"))
