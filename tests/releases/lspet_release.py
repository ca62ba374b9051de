"""LSP-Extended's original release, with its gaps, and HR-LSPET, whose numbers have gaps."""

from __future__ import annotations

from pathlib import Path

import lsp_release
import numpy as np

HR_NUMBERS = (1, 3, 7)
SENTINELS = ((0, (0.0, -26.1)), (5, (-45.3, 0.0)), (7, (0.0, 0.0)))
"""Joints that are not labelled, and what the release writes for them."""


def original(count: int = 6) -> np.ndarray:
    """Joints (count, 14, 3): three unlabelled in picture 2, all but five in 3, all in 4; in 5 one
    just above the picture; 6 with hips exchanged."""
    joints = lsp_release.people(6, seed=1)
    joints[..., 2] = 1
    for joint, place in SENTINELS:
        joints[1, joint] = (*place, 0)
    joints[2, 5:] = (0, -30.5, 0)
    joints[3] = (-12.25, 0, 0)
    joints[4, 13] = (200.5, -0.75, 1)
    joints[5, [2, 3]] = joints[5, [3, 2]]
    return joints[:count]


def write_original(root: Path, joints: np.ndarray, pictures: tuple[int, ...] = ()) -> None:
    """All joints, and the pictures of some numbers (all where none are given)."""
    numbers = pictures or range(1, len(joints) + 1)
    lsp_release.write_joints(root / "joints.mat", joints, extended=True)
    lsp_release.write_pictures(root / "images", [f"im{n:05d}.jpg" for n in numbers])


def write_hr(root: Path, folder: str = "", numbers: tuple[int, ...] = HR_NUMBERS) -> np.ndarray:
    """PNG files with gaps in their numbers; a joint of the second lies beyond its picture."""
    joints = lsp_release.people(len(HR_NUMBERS), seed=2)
    joints[..., 2] = 1
    joints[1, 4, :2] = (lsp_release.SIZE[1] + 2, 50)
    lsp_release.write_joints(root / "joints.mat", joints, extended=True)
    lsp_release.write_pictures(root / folder, [f"im{n:05d}.png" for n in numbers])
    return joints
