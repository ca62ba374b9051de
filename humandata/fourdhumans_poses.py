"""The test of 4D-Humans whether AMASS has a pose: a histogram of every joint's rotation.

Source: shubham-goel/4D-Humans, hmr2/datasets/smplh_prob_filter.py.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata import unpickle
from humandata.errors import DataError

Float = NDArray[np.float64]

FILE = "amass_poses_hist100_SMPL+H_G.npy"
JOINTS = 21
SIGMA = 2
LEAST_DENSITY = np.array([
    5e-5, 5e-5, 2e-3, 5e-6, 5e-6, 0.01, 5e-6, 5e-6, 0.025, 0, 0, 2e-4, 4.5e-4, 4.5e-4, 5e-4,
    2e-4, 2e-4, 4e-5, 4e-5, 1e-3, 1e-3,
])  # fmt: skip
"""Of SMPL's joints 1 to 21: the density above which a rotation is probable."""


@functools.lru_cache(maxsize=1)
def densities(file: Path) -> Float:
    """Smoothed densities (21, n, n, n) over rotations from -pi to pi on each axis.

    The histogram is blurred along the axis of the joints too, as the peer's code does: neighbours
    in the list lend each other density.

    Raises
    ------
    DataError
        The file is no histogram of 21 joints.
    """
    from scipy.ndimage import gaussian_filter

    counts = np.asarray(unpickle.load_npy(file))
    bins = counts.shape[-1] if counts.ndim else 0
    if counts.shape != (JOINTS, bins, bins, bins) or counts.dtype.kind not in "iuf" or not bins:
        raise DataError(
            file, expected=f"counts of shape ({JOINTS}, 100, 100, 100)", found=f"{counts.shape}"
        )
    density = counts / counts.sum() / (2 * np.pi / bins) ** 3
    blurred: Float = gaussian_filter(density, sigma=SIGMA, mode="constant")
    return blurred


def probable(pose: Float, density: Float) -> bool:
    """Whether all 21 joints of a pose (72,), in radians with the root first, are probable."""
    joints = _shortest(pose[3 : 3 * (JOINTS + 1)].reshape(JOINTS, 3))
    bins = density.shape[1]
    place = ((joints + np.pi) / (2 * np.pi) * (bins - 1e-6)).astype(int).clip(0, bins - 1)
    found = density[np.arange(JOINTS), place[:, 0], place[:, 1], place[:, 2]]
    found = np.where(((joints < -np.pi) | (joints >= np.pi)).any(axis=1), 0, found)
    return bool((found > LEAST_DENSITY).all())


def _shortest(rotations: Float) -> Float:
    """The same rotations (N, 3) by the angle up to pi."""
    angle = np.linalg.norm(rotations, axis=1, keepdims=True)
    axis = rotations / np.maximum(angle, 1e-8)
    turned = np.where(
        angle > np.pi + 1e-6, angle - 2 * np.pi * np.round(angle / (2 * np.pi)), angle
    )
    shortest: Float = axis * turned
    return shortest
