"""A 3DPW release in its true form, from known ground truth: Python 2 pickles and JPEG pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import py2pickle
from scipy.spatial.transform import Rotation

PORTRAIT = np.array([[1961.853, 0, 540], [0, 1969.231, 960], [0, 0, 1]])
LANDSCAPE = np.array([[1961.853, 0, 960], [0, 1969.231, 540], [0, 0, 1]])
SHARED = {2: 17, 3: 19, 4: 21, 5: 16, 6: 18, 7: 20, 9: 5, 10: 8, 12: 4, 13: 7}
"""OpenPose joint -> SMPL joint, where both mean the same."""


@dataclass
class SequenceTruth:
    """Ground truth of one sequence, all frames, in the camera frame."""

    name: str
    rotation: np.ndarray  # (P, N, 3, 3) root
    transl: np.ndarray  # (P, N, 3)
    joints: np.ndarray  # (P, N, 24, 3)
    pixels: np.ndarray  # (P, N, 24, 2)
    pose: np.ndarray  # (P, N, 72) as in the file, world
    betas: list[np.ndarray]
    genders: list[str]
    valid: np.ndarray  # (P, N)
    extrinsics: np.ndarray  # (N, 4, 4)
    intrinsics: np.ndarray
    undetected: tuple[int, int]  # actor, frame without detections


def cameras(frames: int) -> np.ndarray:
    """World-to-camera matrices of a camera on an arc around the scene, y down."""
    matrices = np.tile(np.eye(4), (frames, 1, 1))
    for i in range(frames):
        angle = 0.2 + 0.1 * i
        centre = np.array([6 * np.sin(angle), 1.2, 6 * np.cos(angle)])
        forward = -centre + np.array([0, 0.9, 0])
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 1, 0])
        right /= np.linalg.norm(right)
        matrices[i, :3, :3] = np.stack([right, np.cross(forward, right), forward])
        matrices[i, :3, 3] = -matrices[i, :3, :3] @ centre
    return matrices


def write_pw3d(
    root: Path,
    split: str = "test",
    name: str = "downtown_walk_00",
    frames: int = 6,
    actors: int = 2,
    seed: int = 0,
    landscape: bool = False,
    pictures: bool = True,
    size: tuple[int, int] | None = None,
    change: Any = None,
) -> SequenceTruth:
    """Write one sequence; ``change(data)`` may spoil the dictionary before it is pickled."""
    rng = np.random.default_rng(seed)
    intrinsics = (LANDSCAPE if landscape else PORTRAIT).copy()
    if size is not None:
        intrinsics[:2] *= size[0] / (2 * intrinsics[0, 2])
        intrinsics[:2, 2] = np.array(size) / 2
    extrinsics = cameras(frames)
    rest = rng.uniform(-0.5, 0.5, (actors, 24, 3))  # a rigid stick figure
    rest[:, 0] = rng.uniform(-0.3, 0.3, (actors, 3))
    turn = Rotation.from_rotvec(rng.normal(size=(actors * frames, 3)))
    pose = rng.normal(scale=0.4, size=(actors, frames, 72))
    pose[:, :, :3] = turn.as_rotvec().reshape(actors, frames, 3)
    trans = np.array([0, 0.9, 0]) + rng.uniform(-0.4, 0.4, (actors, frames, 3))
    turns = turn.as_matrix().reshape(actors, frames, 3, 3)
    pelvis = rest[:, None, :1]
    # SMPL turns the body about its rest-pose pelvis, then moves it.
    world = np.einsum("pnij,pnkj->pnki", turns, np.broadcast_to(
        rest[:, None] - pelvis, (actors, frames, 24, 3))) + pelvis + trans[:, :, None]  # fmt: skip
    rotation, shift = extrinsics[:, :3, :3], extrinsics[:, :3, 3]
    joints = np.einsum("nij,pnkj->pnki", rotation, world) + shift[None, :, None]
    homogeneous = joints @ intrinsics.T
    pixels = homogeneous[..., :2] / homogeneous[..., 2:]
    detected = np.zeros((actors, frames, 3, 18))
    for ours, theirs in SHARED.items():
        detected[:, :, :2, ours] = pixels[:, :, theirs] + rng.normal(size=(actors, frames, 2))
        detected[:, :, 2, ours] = rng.uniform(0.3, 1, (actors, frames))
    detected[:, :, :, 17] = [-90_000, 50, 0.4]  # an outlier far outside of the picture
    undetected = (actors - 1, 2)
    detected[undetected] = 0
    valid = np.ones((actors, frames), np.uint8)
    valid[0, 1] = 0
    valid[-1, -1] = 0
    betas = [rng.normal(size=10) if a == 0 else rng.normal(size=12) for a in range(actors)]
    genders = ["m", "f"][:actors]
    twice = np.repeat(np.arange(frames), 2)
    data: dict[str, Any] = {
        "sequence": name,
        "img_frame_ids": (np.arange(frames) * 2).astype(np.uint16),
        "poses": list(pose),
        "trans": list(trans),
        "betas": betas,
        "poses_60Hz": list(pose[:, twice]),
        "trans_60Hz": list(trans[:, twice]),
        "betas_clothed": betas,
        "v_template_clothed": [np.zeros((6890, 3)) for _ in range(actors)],
        "genders": genders,
        "texture_maps": [],
        "poses2d": list(detected),
        "jointPositions": list(world.reshape(actors, frames, 72)),
        "cam_poses": extrinsics,
        "campose_valid": list(valid),
        "cam_intrinsics": intrinsics,
    }
    if change is not None:
        change(data)
    folder = root / "sequenceFiles" / split
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.pkl").write_bytes(py2pickle.dumps(data))
    if pictures:
        width, height = (round(2 * c) for c in intrinsics[:2, 2])
        place = root / "imageFiles" / name
        place.mkdir(parents=True)
        for i in range(frames):
            grey = np.full((height, width), 20 * i + 60, np.uint8)
            cv2.imwrite(str(place / f"image_{i:05d}.jpg"), grey)
    return SequenceTruth(
        name,
        rotation[None] @ turns,
        _camera_transl(rotation, shift, pelvis, trans),
        joints,
        pixels,
        pose,
        betas,
        genders,
        valid.astype(bool),
        extrinsics,
        intrinsics,
        undetected,
    )


def _camera_transl(
    rotation: np.ndarray, shift: np.ndarray, pelvis: np.ndarray, trans: np.ndarray
) -> np.ndarray:
    """Translation for which SMPL with the turned root gives the joints in the camera frame."""
    moved = np.einsum("nij,pnj->pni", rotation, pelvis[:, :, 0] + trans) + shift
    return moved - pelvis[:, :, 0]
