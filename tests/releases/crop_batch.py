"""A batch of crops cut from known pictures, for tests of what happens to pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from humandata import geometry
from humandata.training.batches import Batch

Picture = NDArray[np.uint8]


def smooth_picture(rng: np.random.Generator, width: int, height: int) -> Picture:
    """A colourful picture without edges, no colour below 8."""
    small = rng.integers(8, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def make_batch(
    count: int,
    size: int = 64,
    picture_size: tuple[int, int] = (320, 240),
    seed: int = 0,
    turned: bool = True,
    side: tuple[float, float] = (60, 200),
    pictures: list[Picture] | None = None,
    **fields: Any,
) -> Batch:
    """Crops of smooth pictures at random places, some reaching beyond; joints of confidence 1.

    ``fields`` replaces fields of the batch.
    """
    rng = np.random.default_rng(seed)
    width, height = picture_size
    centre = rng.uniform(0.2, 0.8, (count, 2)) * [width, height]
    sides = rng.uniform(*side, count)
    rotation = rng.normal(0, 30, count) if turned else np.zeros(count)
    flip = rng.random(count) < 0.5 if turned else np.zeros(count, bool)
    affine = geometry.crop_affine(centre, sides, size, rotation, flip)
    if pictures is None:
        pictures = [smooth_picture(rng, width, height) for _ in range(count)]
    crops = np.stack([cv2.warpAffine(p, a, (size, size)) for p, a in zip(pictures, affine)])  # noqa: B905
    values: dict[str, Any] = {
        "images": torch.from_numpy(crops).permute(0, 3, 1, 2),
        "keypoints2d": np.dstack([rng.uniform(0, size, (count, 54, 2)), np.ones((count, 54))]),
        "keypoints3d": np.zeros((count, 54, 4)),
        "pose": np.zeros((count, 24, 3)),
        "betas": np.zeros((count, 10)),
        "has_smpl": torch.zeros(count, dtype=torch.bool),
        "gender": torch.zeros(count, dtype=torch.uint8),
        "centre": centre,
        "side": sides,
        "affine": affine,
        "picture_size": np.tile([width, height], (count, 1)),
        "intrinsics": np.zeros((count, 3, 3)),
        "crop_intrinsics": np.zeros((count, 3, 3)),
        "channel_gain": np.ones((count, 3)),
        "noise_seed": torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, count)),
        "store": torch.zeros(count, dtype=torch.int64),
        "row": torch.arange(count),
        **fields,
    }
    tensors = {
        name: value
        if isinstance(value, torch.Tensor)
        else torch.from_numpy(np.ascontiguousarray(value, np.float32))
        for name, value in values.items()
    }
    return Batch(**tensors)
