"""The known mistakes of placing people before a camera, in words, and what undoes each.

:mod:`humandata.reprojection` tries them where 3D joints or bodies do not fall on their joints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

EXCHANGED = "left and right of the 3D joints are exchanged"
MIRRORED = "one side is mirrored, x being negated or the picture flipped"
MIRRORED_NAMES = f"{MIRRORED}, with left and right renamed"
TRANSPOSED = "the camera rotation was applied transposed"
INVERTED = "the inverse of the extrinsics was applied"
WORLD = "the 3D joints are still in the world frame"
MILLIMETRES = "the translation is in millimetres, the body in metres"
ROOT_TRANSPOSED = "the root rotation was turned by the transposed camera rotation"
ROOT_WORLD = "the root rotation is still in the world frame"
ALL_TRANSPOSED = "all rotations of the bodies are transposed"
UPSIDE_DOWN = "the bodies hang upside down, y points up"
OFFSET = (
    "the pelvis offset is missing: SMPL turns about its pelvis, so the translation has to move "
    "with it when the camera turns the body"
)


@dataclass(frozen=True)
class Placed:
    """Some people with 3D joints and where those should be, in the convention of the latter.

    Attributes
    ----------
    rows : (n,) int
    points3d : (n, K, 3) float64, metres, camera frame
    target : (n, K, 2 or 3) float64, pixels or metres
    both : (n, K) bool
        Joints that both have.
    see : callable
        Makes ``points3d`` comparable with the target: projects, or moves to a common centre.
    convention : str
        Of the target.
    extrinsics : (n, 4, 4) or None
    size : (n,) float64
        Longer side of the box, pixels; or extent of the target, metres.
    flip : (K,) int
        Order of the joints with left and right exchanged.
    turn : (n, 3) or None
        For bodies: by how much the pelvis moves when the camera turns it, ``R J - J``.
    root, transl : (n, 3) or None
        For bodies: the pelvis, and the translation.
    fixed : bool
        Whether places count; else all is moved to a common centre.
    undone : mapping
        Further mistakes, in words, and what makes ``points3d`` without them.
    """

    rows: NDArray[np.int64]
    points3d: Float
    target: Float
    both: Bool
    see: Callable[[Float], Float]
    convention: str
    extrinsics: Float | None
    size: Float
    flip: NDArray[np.intp]
    turn: Float | None = None
    root: Float | None = None
    transl: Float | None = None
    fixed: bool = True
    undone: Mapping[str, Callable[[], Float | None]] = field(default_factory=dict)

    def residual(self, points3d: Float | None = None, flipped: bool = False) -> Float:
        """Mean residual per person, (n,) pixels or metres; infinite where most are behind."""
        points = self.points3d if points3d is None else points3d
        both = self.both
        if flipped:
            points, both = points[:, self.flip], both & both[:, self.flip]
        distance = np.linalg.norm(self.see(points) - self.target, axis=-1)
        usable = both & np.isfinite(distance)
        count = usable.sum(axis=1)
        total = np.where(usable, distance, 0).sum(axis=1)
        mean = total / np.maximum(count, 1)
        return np.where((count > 0) & (2 * count >= both.sum(axis=1)), mean, np.inf)


Move = Callable[[Float, Float, Float], Float]


def _move(people: Placed, move: Move) -> Float | None:
    if people.extrinsics is None or not people.fixed:
        return None
    return move(people.extrinsics[:, :3, :3], people.points3d, people.extrinsics[:, None, :3, 3])


def _move_about_root(people: Placed, move: Move) -> Float | None:
    if people.extrinsics is None or people.root is None:
        return None
    return move(people.extrinsics[:, :3, :3], people.points3d, people.root[:, None])


def turn(rotation: Float, points: Float) -> Float:
    """Points (n, K, 3) turned by one rotation (n, 3, 3) per person."""
    turned: Float = np.einsum("nab,nkb->nka", rotation, points)
    return turned


def _shrink(people: Placed) -> Float:
    if people.transl is not None:
        return people.points3d - 0.999 * people.transl[:, None]
    weight = people.both[..., None] / np.maximum(people.both.sum(axis=1), 1)[:, None, None]
    centre = (people.points3d * weight).sum(axis=1, keepdims=True)
    shrunk: Float = people.points3d - centre + centre / 1000
    return shrunk


# Each undoes one mistake; P are the stored points, X the world's, and P = R X + t is right.
CORRECTIONS: dict[str, Callable[[Placed], Float | None]] = {
    # P = R^T X + t, so R (R (P - t)) + t is right.
    TRANSPOSED: lambda p: _move(p, lambda r, x, t: turn(r, turn(r, x - t)) + t),
    # P = R^T (X - t)
    INVERTED: lambda p: _move(p, lambda r, x, t: turn(r, turn(r, x) + t) + t),
    WORLD: lambda p: _move(p, lambda r, x, t: turn(r, x) + t),
    MIRRORED: lambda p: p.points3d * [-1, 1, 1],
    MIRRORED_NAMES: lambda p: p.points3d[:, p.flip] * [-1, 1, 1],
    MILLIMETRES: _shrink,
    OFFSET: lambda p: None if p.turn is None else p.points3d + p.turn[:, None],
    # Of bodies, translation and root rotation are moved apart, and one may be wrong alone.
    ROOT_TRANSPOSED: lambda p: _move_about_root(p, lambda r, x, c: turn(r, turn(r, x - c)) + c),
    ROOT_WORLD: lambda p: _move_about_root(p, lambda r, x, c: turn(r, x - c) + c),
}
