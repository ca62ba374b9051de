"""LSP and LSP-Extended: ``joints.mat`` with its axes in each release's order, and pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import scipy.io

SIZE = (400, 500)  # height, width


def people(count: int, seed: int = 0, low: float = 20, high: float = 380) -> np.ndarray:
    """Joints (count, 14, 3), fractional, inside of the pictures; the flag is 0."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((count, 14, 3))
    joints[..., :2] = rng.uniform(low, high, (count, 14, 2))
    # A clear view from the front: the person's left is on the right of the picture.
    for right, left in ((8, 9), (2, 3)):
        joints[:, right, 0], joints[:, left, 0] = low, high
    return joints


def write_joints(file: Path, joints: np.ndarray, extended: bool) -> None:
    """(3, 14, N) for LSP, (14, 3, N) for LSP-Extended, compressed as the releases are."""
    axes = (1, 2, 0) if extended else (2, 1, 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, {"joints": joints.transpose(axes)}, do_compression=True)


def write_pictures(folder: Path, names: Iterable[str], size: tuple[int, int] = SIZE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((*size, 3), number, np.uint8))
