"""Objects to put before people: read from a file or made up, and kept as one table of pixels.

`read` opens ``pascal_occluders.npy`` as isarandi/synthetic-occlusion and PARE make it from Pascal
VOC 2012: an object array of RGBA pictures. `make` invents shapes for those who lack it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from humandata import unpickle
from humandata.errors import DataError

Picture = NDArray[np.uint8]

LEVELS = 4
"""Sizes kept of every object: 1, 1/2, 1/4, 1/8, so that a small one is not picked from skipped
pixels."""
MAX_SIDE = 256
"""Longest side of a kept object; objects of Pascal VOC, halved, are no longer than 250."""
MADE = 96
_AREA = cv2.INTER_AREA


def read(path: str | Path) -> list[Picture]:
    """The objects of an occluder file.

    Parameters
    ----------
    path : path
        A ``.npy`` file: an object array of uint8 arrays (h, w, 4), RGBA. It is a pickle inside, and
        is read without running anything from it.

    Returns
    -------
    list of uint8 ndarray (h, w, 4)

    Raises
    ------
    DataError
        When the file is missing or holds something else.
    UnsafePickle
        When it names code.
    """
    stored = unpickle.load_npy(path)
    objects = list(stored) if isinstance(stored, np.ndarray) and stored.ndim else []
    if not objects:
        raise DataError(
            path,
            expected="an array of RGBA pictures of objects",
            found=f"{type(stored).__name__} of shape {np.shape(stored)}",
            hint=_HINT,
        )
    for number, picture in enumerate(objects):
        sound = (
            isinstance(picture, np.ndarray)
            and picture.dtype == np.uint8
            and picture.ndim == 3
            and picture.shape[2] == 4
            and picture.size > 0
        )
        if not sound:
            found = (
                f"{picture.dtype} of shape {picture.shape}"
                if isinstance(picture, np.ndarray)
                else type(picture).__name__
            )
            raise DataError(
                path,
                f"object {number}",
                expected="a uint8 picture (height, width, 4), RGBA",
                found=found,
                hint=_HINT,
            )
    return objects


_HINT = (
    "The file is the one that synthetic-occlusion and PARE call pascal_occluders.npy; without one, "
    "made-up shapes are used"
)


@dataclass(frozen=True)
class Objects:
    """N objects in `LEVELS` sizes, all pixels in one table.

    Attributes
    ----------
    pixels : (P,) int32
        Red, green, blue, each times opacity, and opacity, from the lowest byte to the highest; row
        by row, with a transparent pixel all around, size by size, object by object.
    start : (N, LEVELS) int64
        First pixel of each size of each object.
    extent : (N, LEVELS, 2) int64
        Width, height, without the pixel around.
    native : (N, 2) int64
        Width, height in the file, by which objects are scaled; more than `MAX_SIDE` are not kept.
    """

    pixels: Tensor
    start: Tensor
    extent: Tensor
    native: Tensor

    def __len__(self) -> int:
        return len(self.start)

    def to(self, device: torch.device | str) -> Objects:
        """The same on another device."""
        return Objects(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))


def pack(objects: Sequence[Picture]) -> Objects:
    """Put RGBA pictures (h, w, 4) uint8 into one table, in several sizes.

    Colours are multiplied by their opacity first, so that what lies around an object in its file
    never shows at its edge.
    """
    tables, extents = [], []
    for picture in objects:
        colours = picture.astype(np.float32)
        colours[..., :3] *= colours[..., 3:] / 255
        factor = min(1.0, MAX_SIDE / max(picture.shape[:2]))
        for level in range(LEVELS):
            width, height = (
                max(1, round(side * factor / 2**level)) for side in picture.shape[1::-1]
            )
            same = (height, width) == picture.shape[:2]
            small = colours if same else cv2.resize(colours, (width, height), interpolation=_AREA)
            framed = np.zeros((height + 2, width + 2, 4), np.uint8)
            framed[1:-1, 1:-1] = np.round(small)
            tables.append(framed.reshape(-1))
            extents.append((width, height))
    extent = np.array(extents, np.int64).reshape(len(objects), LEVELS, 2)
    area = (extent + 2).prod(axis=2).reshape(-1)
    start = (area.cumsum() - area).reshape(len(objects), LEVELS)
    native = np.array([picture.shape[1::-1] for picture in objects], np.int64)
    table = np.concatenate(tables).view("<i4").astype(np.int32)
    return Objects(*map(torch.from_numpy, (table, start, extent, native)))


def make(count: int = MADE, seed: int = 0) -> list[Picture]:
    """Made-up objects: ellipses, polygons and blobs with stripes, checks, clouds or shading.

    The same for the same seed on every machine. Sizes are those of Pascal's objects after halving
    (40 to 200 pixels), opaque, with a soft rim (192 of 255) two pixels wide as theirs.

    Returns
    -------
    list of uint8 ndarray (h, w, 4)
    """
    rng = np.random.default_rng(seed)
    return [_shape(rng) for _ in range(count)]


def _shape(rng: np.random.Generator) -> Picture:
    side = rng.integers(40, 200)
    width, height = (max(24, int(side * factor)) for factor in rng.permutation([1, rng.random()]))
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    # -1 to 1 over the object
    x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    mask = np.ascontiguousarray(_outline(rng, x, y).astype(np.uint8) * 255)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    inner = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    opacity = np.where(inner > 0, 255, np.where(mask > 0, 192, 0))
    pattern = _pattern(rng, x * width / side, y * height / side)[..., None]
    first, second = (_colour(rng) for _ in range(2))
    light = 1 - 0.35 * np.clip(x * rng.uniform(-1, 1) + y * rng.uniform(0, 1), -1, 1)[..., None]
    colours = (first * pattern + second * (1 - pattern)) * light + rng.normal(0, 6, (*x.shape, 3))
    return np.dstack([np.clip(colours, 0, 255), opacity]).astype(np.uint8)


def _colour(rng: np.random.Generator) -> NDArray[np.float64]:
    """RGB 0-255, rarely as strong as three independent numbers would make it."""
    colour = rng.uniform(20, 235, 3)
    return np.asarray(colour.mean() + (colour - colour.mean()) * rng.uniform(0.1, 0.9))


def _outline(rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64]) -> Picture:
    """Where the object is: an ellipse, a polygon, a blob, or a box with round corners."""
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    kind = rng.integers(4)
    if kind == 0:
        edge: NDArray[np.float64] | float = 0.98
    elif kind == 1:
        corners = rng.integers(3, 9)
        part = 2 * np.pi / corners
        turned = (angle + rng.uniform(0, part)) % part - part / 2
        edge = 0.98 * np.cos(part / 2) / np.cos(turned)
    elif kind == 2:
        waves = np.arange(2, 8)
        size = rng.normal(0, 0.2, len(waves)) / waves**0.5
        phase = rng.uniform(0, 2 * np.pi, len(waves))
        wobble = (size * np.cos(angle[..., None] * waves + phase)).sum(axis=-1)
        edge = 0.98 * np.exp(wobble - np.abs(size).sum() / 2)
    else:
        return np.asarray(np.abs(x) ** 8 + np.abs(y) ** 8 < 0.9, np.uint8)
    return np.asarray(radius < edge, np.uint8)


def _pattern(
    rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A texture from 0 to 1; x and y are -1 to 1 along the longer side."""
    turn, rate = rng.uniform(0, np.pi), rng.uniform(3, 14)
    along = x * np.cos(turn) + y * np.sin(turn)
    across = y * np.cos(turn) - x * np.sin(turn)
    kind = rng.integers(4)
    if kind == 0:
        return np.asarray(np.sin(rate * along) > rng.uniform(-0.6, 0.6), np.float64)
    if kind == 1:
        return np.asarray(np.sin(rate * along) * np.sin(rate * across) > 0, np.float64)
    if kind == 2:
        coarse = rng.random((8, 8)).astype(np.float32)
        return np.asarray(cv2.resize(coarse, x.shape[::-1], interpolation=cv2.INTER_CUBIC))
    return np.asarray(0.5 + 0.5 * along / 1.5)
