"""AGORA's fits in the camera frame, and how well they stand there.

SMPL turns a body about its rest pelvis J0, so what turns and moves a posed body by ``A x + o``
changes its root rotation to ``A R`` and its translation to ``A (J0 + transl) + o - J0``. The tables
hold the pelvis that this gives, ``A (J0 + transl) + o``, and so tell J0 without a body model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import geometry
from humandata.agora_camera import UPSIDE_DOWN, from_unreal, scan_to_world

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Placed:
    """Bodies in the camera frame.

    Attributes
    ----------
    orient : (n, 3) float64
        Root rotation, axis-angle in radians.
    transl : (n, 3) float64
        Metres.
    pelvis : (n, 3) float64
        Rest pelvis of the shaped body, metres.
    angle : (n,) float64
        Degrees between ``orient`` and the axes that hips and spine of the 3D joints show.
    """

    orient: Float
    transl: Float
    pelvis: Float
    angle: Float


def scan_to_camera(yaw: Float, ground: Float, view: Float) -> Float:
    """What takes fits into the camera: (n, 4, 4).

    Parameters
    ----------
    yaw : (n,) float64
        Of the persons, degrees.
    ground : (n, 3) float64
        Where they stand, Unreal's world, centimetres.
    view : (n, 4, 4) float64
        World to camera.
    """
    moves = np.zeros((len(yaw), 4, 4))
    moves[:, :3, :3] = view[:, :3, :3] @ scan_to_world(yaw)
    moves[:, :3, 3] = geometry.transform(view, from_unreal(ground)[:, None])[:, 0]
    moves[:, 3, 3] = 1
    return moves


def place(orient: Float, transl: Float, joints: Float, moves: Float) -> Placed:
    """Fits in the camera frame.

    Parameters
    ----------
    orient, transl : (n, 3) float64
        Of the fits, in their own frame.
    joints : (n, K, 3) float64
        Of the table, camera frame, metres; pelvis, hips and spine first.
    moves : (n, 4, 4) float64
        From `scan_to_camera`.
    """
    back = np.einsum("nji,nj->ni", moves[:, :3, :3], joints[:, 0] - moves[:, :3, 3])
    pelvis = back - transl
    turned, moved = (
        np.asarray(part, np.float64)
        for part in geometry.smpl_to_camera(orient, transl, pelvis, moves)
    )
    return Placed(turned, moved, pelvis, root_angle(joints, turned))


def root_angle(joints: Float, orient: Float) -> Float:
    """Degrees between root rotations (n, 3) and the axes that joints (n, 4 or more, 3) show.

    x goes from the right hip to the left one, y from between them to the spine. On the rest bodies
    of SMPL and SMPL-X that is some 5 to 10 degrees off, and about 180 once the body is turned over.
    """
    left, right, spine = (joints[:, joint] for joint in (1, 2, 3))
    x = _unit(left - right)
    up = spine - (left + right) / 2
    y = _unit(up - (up * x).sum(axis=1, keepdims=True) * x)
    shown = np.stack([x, y, np.cross(x, y)], axis=-1)
    turned = np.asarray(geometry.axis_angle_to_matrix(orient), np.float64)
    cosine = (np.einsum("nij,nij->n", shown, turned) - 1) / 2
    angle: Float = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
    return angle


def _unit(vectors: Float) -> Float:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Float = vectors / np.maximum(length, 1e-9)
    return unit


def root_of_mmhuman3d(orient: Float, moves: Float) -> Float:
    """Root rotations (n, 3) as mmhuman3d has them: turned upside down before the pose, not after.

    Right only for roots that a half turn about x leaves as they are.
    """
    root = np.asarray(geometry.axis_angle_to_matrix(orient), np.float64)
    turned = moves[:, :3, :3] @ UPSIDE_DOWN @ root @ UPSIDE_DOWN
    return np.asarray(geometry.matrix_to_axis_angle(turned), np.float64)


def pelvis_spread(scans: list[str], pelvis: NDArray[Any]) -> Float:
    """By how much the rest pelvis of each scan differs between its pictures: (scans,) metres."""
    if not len(scans):
        return np.zeros(0)
    _, number = np.unique(np.array(scans), return_inverse=True)
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    low = np.minimum.reduceat(pelvis[order], starts)
    spread: Float = (np.maximum.reduceat(pelvis[order], starts) - low).max(axis=1)
    return spread
