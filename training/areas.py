"""Parts of crops, in crop and picture coordinates, for a whole batch at once.

Augmentations touch few pixels of some crops. These are listed one after the other by their place in
the batch: work and memory follow what is touched, there is no loop over samples, and the same code
runs on any device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def inverse(affine: Tensor) -> Tensor:
    """The inverse of affines (N, 2, 3).

    Written out in single products and sums: a matrix product may be rounded to TF32 on a GPU.
    """
    a, b, tx = affine[:, 0].unbind(1)
    c, d, ty = affine[:, 1].unbind(1)
    scale = 1 / (a * d - b * c)
    a, b, c, d = d * scale, -b * scale, -c * scale, a * scale
    rows = torch.stack([a, b, -(a * tx + b * ty), c, d, -(c * tx + d * ty)], dim=1)
    return rows.view(-1, 2, 3)


def moved(affine: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Points through affines (N, 2, 3); x and y of shape (N, ...)."""
    shape = (-1, *[1] * (x.dim() - 1))
    a, b, tx, c, d, ty = (value.view(shape) for value in affine.flatten(1).unbind(1))
    return a * x + b * y + tx, c * x + d * y + ty


def boxes_around(affine: Tensor, low: Tensor, high: Tensor, size: int) -> Tensor:
    """The pixels of a crop that may see a rectangle of the picture.

    Parameters
    ----------
    affine : (N, 2, 3)
        Picture to crop.
    low, high : (N, 2)
        Opposite corners x, y in the picture.
    size : int
        Side of the crop.

    Returns
    -------
    Tensor, (N, 4) int64
        x0, y0, x1, y1, the last two excluded, clipped to the crop; without area where the rectangle
        lies beside it.
    """
    x = torch.stack([low[:, 0], high[:, 0], low[:, 0], high[:, 0]], dim=1)
    y = torch.stack([low[:, 1], low[:, 1], high[:, 1], high[:, 1]], dim=1)
    x, y = moved(affine, x, y)
    corners = [x.amin(1).ceil(), y.amin(1).ceil(), x.amax(1).floor() + 1, y.amax(1).floor() + 1]
    return torch.stack(corners, dim=1).clamp(0, size).long()


class Pixels(NamedTuple):
    """Pixels under boxes, listed box by box and row by row.

    What is the same for a box, or for a row of one, is worked out once and then handed to its
    pixels by `of_boxes` and `of_rows`: gathering single numbers is the cheapest step there is.

    Attributes
    ----------
    box, y : (R,) int64
        Number of the box and y of every row.
    row : (P,) int64
        Row of every pixel.
    x : (P,) int32
    """

    box: Tensor
    y: Tensor
    row: Tensor
    x: Tensor

    def of_rows(self, values: Tensor) -> Tensor:
        """Values of rows (R,) for every pixel."""
        return values.index_select(0, self.row)

    def of_boxes(self, values: Tensor) -> Tensor:
        """Values of boxes (N,) for every pixel."""
        return self.of_rows(values.index_select(0, self.box))

    def linear(self, by_x: Tensor, by_y: Tensor, offset: Tensor) -> Tensor:
        """``by_x x + by_y y + offset`` at every pixel, with coefficients of boxes (N,)."""
        base = by_y[self.box] * self.y + offset[self.box]
        return self.of_boxes(by_x) * self.x + self.of_rows(base)

    def places(self, sample: Tensor, size: int) -> Tensor:
        """Where the pixels' first colour lies in `Planes`, for boxes of the given samples (N,)."""
        return self.of_rows((sample[self.box] * 3 * size + self.y) * size) + self.x


def pixels_in(boxes: Tensor) -> Pixels:
    """All pixels of boxes (N, 4) int64 x0, y0, x1, y1, the last two excluded."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).unbind(1)
    box, down = _expanded(height * (width > 0))
    row, across = _expanded(width[box])
    pixels = Pixels(box, down + boxes[box, 1], row, across.int())
    return pixels._replace(x=pixels.x + pixels.of_boxes(boxes[:, 0].int()))


def _expanded(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For counts (N,): the number of the entry, and the position within it, for each counted."""
    entry = torch.repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return entry, torch.arange(len(entry), device=counts.device) - first.index_select(0, entry)


class Planes:
    """A copy of images (B, 3, S, S) whose pixels are read and written by place (`Pixels.places`).

    Values of P pixels are (3, P), colour by colour, as the images are on a CPU.
    """

    def __init__(self, images: Tensor) -> None:
        self._shape = images.shape
        self._bytes = images.clone(memory_format=torch.contiguous_format).view(-1)
        self._colours = [n * images.shape[2] * images.shape[3] for n in range(3)]

    def read(self, places: Tensor) -> Tensor:
        """Pixels as float32."""
        planes = [self._bytes.index_select(0, places + away) for away in self._colours]
        return torch.stack(planes).float()

    def write(self, places: Tensor, values: Tensor) -> None:
        """Write float32 values 0-255 cut off to bytes; no place may come up twice."""
        for away, plane in zip(self._colours, values.to(torch.uint8), strict=True):
            self._bytes.index_copy_(0, places + away, plane)

    def images(self) -> Tensor:
        """The images (B, 3, S, S) as they are now."""
        return self._bytes.view(self._shape)


def outside_picture(images: Tensor, affine: Tensor, picture_size: Tensor) -> Tensor:
    """Which pixels (B, S, S) of crops lie beyond their picture and must stay black.

    Parameters
    ----------
    images : (B, 3, S, S)
    affine : (B, 2, 3)
        Picture to crop.
    picture_size : (B, 2)
        Width, height.
    """
    size = images.shape[-1]
    back = inverse(affine)
    at = torch.arange(size, device=images.device, dtype=torch.float32)
    a, b, tx, c, d, ty = (value.view(-1, 1, 1) for value in back.flatten(1).unbind(1))
    across, down = at.view(1, 1, -1), at.view(1, -1, 1)
    u = a * across + (b * down + tx)
    v = c * across + (d * down + ty)
    width, height = (extent.view(-1, 1, 1) - 0.5 for extent in picture_size.unbind(1))
    return (u < -0.5) | (v < -0.5) | (u >= width) | (v >= height)


def black_outside(images: Tensor, affine: Tensor, picture_size: Tensor) -> Tensor:
    """Make black again, in place, what lies beyond the picture (see `outside_picture`)."""
    beside = leaves_picture(affine, picture_size, images.shape[-1])
    part = images.index_select(0, beside)
    black = outside_picture(part, affine[beside], picture_size[beside])
    return images.index_copy_(0, beside, part.masked_fill_(black[:, None], 0))


def leaves_picture(affine: Tensor, picture_size: Tensor, size: int) -> Tensor:
    """Numbers of the crops some corner of which lies beyond the picture."""
    end = float(size - 1)
    x = torch.tensor([0.0, end, 0.0, end], device=affine.device)
    y = torch.tensor([0.0, 0.0, end, end], device=affine.device)
    u, v = moved(inverse(affine), x.expand(len(affine), 4), y.expand(len(affine), 4))
    width, height = (extent[:, None] - 0.5 for extent in picture_size.unbind(1))
    beyond = (u < -0.5) | (v < -0.5) | (u >= width) | (v >= height)
    return beyond.any(dim=1).nonzero().squeeze(1)
