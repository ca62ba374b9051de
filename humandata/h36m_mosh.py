"""MoSh's SMPL fits of Human3.6M, where a user has them.

A file is called ``h36m_mosh/S1/Directions 1_cam0_aligned.pkl``.
They were handed on in private and cannot be had with the release. One row per fifth pose, in the
camera's frame, with the root upside down; other keys than ``new_poses`` and ``betas`` are not
used, so the translation is unknown. They are taken as fits of the neutral model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, unpickle
from humandata.errors import DataError
from humandata.h36m_files import Recording
from humandata.h36m_metadata import CAMERAS, Camera, project

Float = NDArray[np.float64]

FOLDERS = ("h36m_mosh", "mosh")
STEP = 5
"""Poses per fit."""
MOSH, NEUTRAL = 2, 1
"""Codes of the fields ``smpl/source`` and ``gender``."""
COMMON = (
    (2, 3, 5, 6, 11, 12, 13, 14, 15, 16),
    (4, 7, 5, 8, 16, 18, 20, 17, 19, 21),
)
"""Joints of both skeletons, among the 17 and among SMPL's 24: knees, ankles, shoulders, elbows,
wrists, left before right in each pair. Hips and spine are not the same places."""
BAD = 0.15
"""Metres by which the joints of a fit may miss the mocap's, typically, before it is said."""


def find(raw: Path, recording: Recording, folder: str = "") -> Path | None:
    """The file of a recording, in the user's folder or below the raw root."""
    name = f"{recording.take.prefix}_cam{CAMERAS.index(recording.camera)}_aligned.pkl"
    for root in [Path(folder)] if folder else [raw / place for place in FOLDERS]:
        for middle in ("", "images"):
            file = root / recording.take.subject / middle / name
            if file.is_file():
                return file
    return None


def read(file: Path) -> tuple[Float, Float]:
    """Poses (n, 24, 3) as axis-angle, the body upright, and betas (10,).

    Raises
    ------
    DataError
        If the pickle is damaged, or not of this form.
    """
    data: Any = unpickle.load(file)
    try:
        poses = np.asarray(data["new_poses"], np.float64)
        betas = np.asarray(data["betas"], np.float64).ravel()
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            file,
            expected="a dictionary with new_poses (n, 72) and betas (10,)",
            found=f"{type(error).__name__}: {error}",
        ) from error
    if poses.ndim != 2 or poses.shape[1] != 72 or len(betas) < 10:
        raise DataError(
            file,
            expected="new_poses (n, 72) and betas (10,)",
            found=f"{poses.shape} and {betas.shape}",
        )
    poses = poses.reshape(-1, 24, 3)
    # Half a turn about the body's own x axis, hence from the right.
    half = np.diag([1.0, -1.0, -1.0])
    root = geometry.axis_angle_to_matrix(poses[:, 0]).astype(np.float64) @ half
    poses[:, 0] = geometry.matrix_to_axis_angle(root)
    return poses, betas[:10]


def columns(file: Path | None, pose: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """SMPL columns for some poses; without a file, and between the fits, no body is valid."""
    rows = len(pose)
    found: dict[str, NDArray[Any]] = {
        "smpl/global_orient": np.zeros((rows, 3), np.float32),
        "smpl/body_pose": np.zeros((rows, 23, 3), np.float32),
        "smpl/betas": np.zeros((rows, 10), np.float32),
        "smpl/valid": np.zeros(rows, bool),
        "smpl/source": np.zeros(rows, np.uint8),
        "smpl/fit_error": np.full(rows, -1, np.float32),
        "gender": np.zeros(rows, np.uint8),
    }
    if file is None:
        return found
    poses, betas = read(file)
    row = pose // STEP
    valid = (pose % STEP == 0) & (row < len(poses))
    valid[valid] = np.isfinite(poses[row[valid]]).all(axis=(1, 2)) & np.isfinite(betas).all()
    found["smpl/global_orient"][valid] = poses[row[valid], 0]
    found["smpl/body_pose"][valid] = poses[row[valid], 1:]
    found["smpl/betas"][valid] = betas
    found["smpl/valid"][valid] = True
    found["smpl/source"][valid] = MOSH
    found["gender"][valid] = NEUTRAL
    return found


def compare(
    bodies: dict[str, NDArray[Any]], joints: Float, pixels: Float, camera: Camera, where: str
) -> list[str]:
    """Hold the fits against the mocap, where the user has SMPL; fills ``smpl/fit_error``.

    The translation being unknown, the bodies are moved by the mean offset of the joints that both
    skeletons have.

    Parameters
    ----------
    bodies : dict
        Of :func:`columns`.
    joints : (n, 17, 3) float64
        Metres, camera frame.
    pixels : (n, 17, 2) float64
    where : str
        The recording, for the note.

    Returns
    -------
    list of str
        A note where the fits are far from the mocap.
    """
    from humandata.bodymodel import FOLDER_VARIABLE, body_model, forward_joints

    valid = bodies["smpl/valid"]
    if not valid.any() or not os.environ.get(FOLDER_VARIABLE):
        return []
    fitted = forward_joints(
        body_model("neutral"),
        *(bodies[f"smpl/{name}"][valid] for name in ("global_orient", "body_pose", "betas")),
    )
    ours, smpl = (list(part) for part in COMMON)
    body = np.asarray(fitted[:, smpl], np.float64)
    mocap = joints[valid][:, ours]
    body += (mocap - body).mean(axis=1, keepdims=True)
    distance = np.linalg.norm(
        project(body, camera.intrinsics, camera.distortion) - pixels[valid][:, ours], axis=-1
    ).mean(axis=1)
    bodies["smpl/fit_error"][valid] = np.nan_to_num(distance, nan=-1.0, posinf=-1.0)
    miss = float(np.median(np.linalg.norm(body - mocap, axis=-1)))
    if not miss > BAD:
        return []
    return [
        f"{where}: the joints of the MoSh bodies miss the mocap's by {1000 * miss:.0f} mm "
        "(median): are they fits of this recording, in the frame of this camera?"
    ]
