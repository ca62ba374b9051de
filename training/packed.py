"""Bilinear interpolation of four bytes at once, in 32-bit whole numbers.

A pixel of four bytes is split into its even and its odd ones, which lie 16 bits apart. Weights are
products of sixteenths and sum to 256, so a weighted sum of bytes fits into its 16 bits, and one
multiplication serves two colours.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

OPAQUE = -(1 << 24)
"""The bits of a highest byte of 255."""
_EVEN = 0x00FF00FF
_HALF = 0x00800080


def shares(sixteenths: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the two neighbours, before and after, of places on an axis."""
    return 16 - sixteenths, sixteenths


def corners(
    across: tuple[Tensor, Tensor], down: tuple[Tensor, Tensor]
) -> Iterator[tuple[int, int, Tensor]]:
    """The four neighbours of places: steps to the right and down, and weights that sum to 256.

    ``across`` and ``down`` are the weights along each axis, (P,) int32 (`shares`).
    """
    for step_x, step_y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        yield step_x, step_y, across[step_x] * down[step_y]


class Bytes:
    """Weighted sums of pixels of four bytes, as many as ``like``."""

    def __init__(self, like: Tensor) -> None:
        self._even = torch.full_like(like, _HALF)
        self._odd = torch.full_like(like, _HALF)

    def add(self, pixels: Tensor, weight: Tensor) -> None:
        """Add pixels (P,) int32 with weights (P,) int32."""
        self._even += (pixels & _EVEN).mul_(weight)
        self._odd += (pixels >> 8).bitwise_and_(_EVEN).mul_(weight)

    def values(self) -> Tensor:
        """The sums over 256, rounded: (4, P) float32, from the lowest byte to the highest."""
        even, odd = self._even, self._odd
        parts = [(sums >> shift) & 255 for shift in (8, 24) for sums in (even, odd)]
        return torch.stack(parts).float()
