"""Crops of persons for a store: the part of a picture that a training crop may show, scaled down.

A crop store (``convert --crop 256``) holds one small JPEG per person instead of the pictures: an
explicit choice for 4K and video, and lossy. A loader cuts its own, flipped, scaled and turned crop
out of it, so it has to hold everything such a crop may show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import geometry
from humandata.columns import Part
from humandata.packs import Crop
from humandata.pictures import encode_jpeg

Array = NDArray[Any]

ENLARGEMENT = 1.2
"""What a loader enlarges an annotator's box by (factor 1), SPIN's and mmhuman3d's factor; boxes
whose factor says that they have been enlarged are taken as they are."""
RANDOM_SCALE, TURN_DEGREES = 1.25, 30.0
"""The largest scale and turn that published recipes draw (SPIN, mmhuman3d: 0.25 and 30)."""
MARGIN = 1.71
"""A square of side 1.25 turned by 30 degrees reaches 1.25 (cos 30 + sin 30) / 2 = 0.854 from its
centre: this many times the loader's square holds every crop whole, corners included."""
QUALITY = 92
_FAR = 2.0**22
"""Places up to here are whole numbers in float32, half pixels included."""


@dataclass(frozen=True)
class Crops:
    """How crops are cut.

    Attributes
    ----------
    size : int
        Pixels that the loader's square (the longer side of the box, enlarged) becomes wide, never
        more than it has in the picture; a crop is ``margin`` times as wide.
    factor : float or None
        What the boxes say they were enlarged by (attribute ``factor``).
    quality : int
        Of the JPEG, 1 to 100.
    margin : float
        How much wider than the loader's square a crop is.
    """

    size: int
    factor: float | None = None
    quality: int = QUALITY
    margin: float = MARGIN

    def squares(self, boxes: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where to cut, and how many pixels to make of it.

        Parameters
        ----------
        boxes : ndarray (n, 5)
            Left, top, width, height, confidence; pixels of the picture.

        Returns
        -------
        squares : int64 ndarray (n, 3)
            First column and row of pixels, and their number, so that nothing is interpolated
            where a crop is not scaled. Side 0 where there is no usable box.
        pixels : int64 ndarray (n,)
            Width and height of the crop.
        """
        usable = np.asarray(np.isfinite(boxes).all(axis=1), bool)
        given = np.where(usable[:, None], boxes, 0).astype(np.float64)
        centre, side = geometry.xywh_to_square(given)
        usable &= (given[:, 4] > 0) & (side > 0)
        side = side * (ENLARGEMENT if self.factor == 1 else 1.0)
        # Beyond the margin one pixel of the crop, which a loader's bilinear sampling looks at.
        half = side * self.margin / 2 + np.maximum(side / self.size, 1)
        first = np.floor(centre - half[:, None])
        # Pixels are points: up to two more of them than fit between both ends of a line.
        count = np.ceil(2 * half) + 2
        usable &= (np.abs(first) < _FAR).all(axis=1) & (count < _FAR)
        squares = np.column_stack([first, count])
        pixels = np.where(side > self.size, count * self.size / np.maximum(side, 1e-9), count)
        squares[~usable], pixels[~usable] = 0, 0
        return squares.astype(np.int64), np.rint(pixels).astype(np.int64)

    def cut(self, picture: NDArray[np.uint8], boxes: Array) -> Iterator[Crop | None]:
        """Crops of all people of one picture (height, width, 3); None without a usable box."""
        for (left, top, side), pixels in zip(*self.squares(boxes), strict=True):
            if side == 0:
                yield None
                continue
            crop = cut_square(picture, int(left), int(top), int(side), int(pixels))
            data = memoryview(encode_jpeg(crop, self.quality))
            yield Crop(data, float(left), float(top), float(side))

    def attributes(self) -> dict[str, Any]:
        """What the root attributes of a store say of its crops."""
        return {
            "lossy": True,
            "format": f"JPEG of quality {self.quality}",
            "quality": self.quality,
            "size": self.size,
            "margin": self.margin,
            "enlargement": ENLARGEMENT if self.factor == 1 else 1.0,
        }


def people_by_picture(part: Part) -> list[tuple[NDArray[np.int64], Array]]:
    """Per picture of a unit, the rows of its instances (n,) and their boxes (n, 5)."""
    image, boxes = part.array("instances", "image"), part.array("instances", "bbox_xywh")
    if image is None or boxes is None:
        return [(np.zeros(0, np.int64), np.zeros((0, 5), np.float32))] * part.rows["images"]
    rows = np.argsort(image, kind="stable")
    ends = np.searchsorted(image[rows], np.arange(part.rows["images"]), side="right")
    return [(found, boxes[found]) for found in np.split(rows, ends)[:-1]]


def cut_square(
    picture: NDArray[np.uint8], left: int, top: int, side: int, pixels: int
) -> NDArray[np.uint8]:
    """Cut a square out of a picture and scale it down, averaging over the area of each new pixel.

    Parameters
    ----------
    picture : uint8 ndarray (height, width, 3)
    left, top, side : int
        Pixels of the picture; what lies outside is black.
    pixels : int
        Side of the result, at most ``side``.

    Returns
    -------
    uint8 ndarray (pixels, pixels, 3)
    """
    height, width = picture.shape[:2]
    x0, x1 = np.clip([left, left + side], 0, width).tolist()
    y0, y1 = np.clip([top, top + side], 0, height).tolist()
    inside = picture[y0:y1, x0:x1]
    if x0 == x1 or y0 == y1:
        return np.zeros((pixels, pixels, 3), np.uint8)
    if side > 2 * max(height, width):  # mostly black: spare the memory
        rows = _shares(y0 - top, y1 - top, side, pixels)
        columns = _shares(x0 - left, x1 - left, side, pixels)
        averaged = np.einsum("vy,yxc,ux->vuc", rows, inside, columns, optimize=True)
        return np.asarray(np.rint(averaged), np.uint8)
    canvas: NDArray[np.uint8] = inside
    if inside.shape[:2] != (side, side):
        canvas = np.zeros((side, side, 3), np.uint8)
        canvas[y0 - top : y1 - top, x0 - left : x1 - left] = inside
    if pixels == side:
        return canvas
    import cv2

    return np.asarray(cv2.resize(canvas, (pixels, pixels), interpolation=cv2.INTER_AREA), np.uint8)


def _shares(start: int, stop: int, side: int, pixels: int) -> NDArray[np.float64]:
    """Share (pixels, stop - start) that old pixels start to stop have in each new one."""
    ratio = side / pixels
    new = np.arange(pixels)[:, None] * ratio
    old = np.arange(start, stop)[None]
    overlap = np.minimum(new + ratio, old + 1) - np.maximum(new, old)
    return np.asarray(np.maximum(overlap, 0) / ratio)
