"""Random numbers that are a function of a sample's own seed, the same on every device.

A generator hands out its numbers in turn, so that what a sample gets depends on who else is in the
batch, and a GPU's generator is not a CPU's. Here every number is a hash of (seed of the sample,
purpose, position): splitmix64 for the few numbers that decide what happens to a sample, a 32-bit
mixer for the many that become pixels. Integer arithmetic only, so CPU and GPU agree bit for bit.

Sources: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014
(splitmix64); C. Wellons, "Prospecting for hash functions", 2018 (the constants of lowbias32).
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import torch
from torch import Tensor


def _signed(value: int, bits: int = 64) -> int:
    """The two's complement number with the same bits; torch has no full unsigned arithmetic."""
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)
_STREAM = 0xD1342543DE82EF95


def bits(seeds: Tensor, stream: str, count: int) -> Tensor:
    """``count`` numbers of 64 random bits for every sample.

    Parameters
    ----------
    seeds : (B,) int64
    stream : str
        What the numbers are for; every name has numbers of its own.
    count : int

    Returns
    -------
    Tensor, (B, count) int64
        The outputs of splitmix64 started from a hash of (seed, stream); the first numbers do not
        depend on ``count``.
    """
    state = _mixed(seeds + _signed(zlib.crc32(stream.encode()) * _STREAM % 2**64))
    steps = torch.arange(1, count + 1, device=seeds.device) * _STEP
    return _mixed(state[:, None] + steps)


def _mixed(z: Tensor) -> Tensor:
    # ">>" keeps the sign; the masks make it the shift of unsigned numbers.
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _FIRST
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _SECOND
    return z ^ ((z >> 31) & (2**33 - 1))


def uniform(seeds: Tensor, stream: str, count: int) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24, (B, count) float32. See `bits`."""
    return ((bits(seeds, stream, count) >> 40) & (2**24 - 1)).float() * 2.0**-24


def integers(share: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """Whole numbers (int64) from ``low`` to ``high``, both included, by uniform ``share``."""
    return low + (share * (high - low + 1)).long()


def normal(first: Tensor, second: Tensor) -> Tensor:
    """Standard normal deviates from two arrays of uniform numbers (Box and Muller).

    Logarithm and cosine are the only steps of this module in which CPU and GPU may differ, by a
    rounding of float32.
    """
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)


class Pattern(NamedTuple):
    """What tells the noise of one sample from another's; each (N,) int32."""

    step: Tensor
    start: Tensor


def pattern(key: Tensor) -> Pattern:
    """A pattern of noise for every 64 random bits of ``key`` (N,)."""
    # Each has its own odd step through the mixer's period, so that no two share a patch of noise,
    # not even a shifted one.
    return Pattern((key | 1).to(torch.int32), (key >> 32).to(torch.int32))


def pixels(of: Pattern, x: Tensor, y: Tensor) -> Tensor:
    """32 random bits for every pixel.

    Parameters
    ----------
    of : Pattern
        The pattern (P,) that each pixel belongs to.
    x, y : (P,) int32
        Where it lies, in any grid of less than 65,536 columns.

    Returns
    -------
    Tensor, (P,) int32
    """
    z = (y * 65536).add_(x).mul_(of.step).add_(of.start)
    z = (z >> 16).bitwise_and_(0xFFFF).bitwise_xor_(z).mul_(0x7FEB352D)
    z = (z >> 15).bitwise_and_(0x1FFFF).bitwise_xor_(z).mul_(_signed(0x846CA68B, 32))
    return (z >> 16).bitwise_and_(0xFFFF).bitwise_xor_(z)


def colours(bits: Tensor) -> Tensor:
    """Three uniform numbers in [0, 1), multiples of 1/1024, of the bits of pixels: (3, P)."""
    return torch.stack([bits & 1023, (bits >> 10) & 1023, (bits >> 20) & 1023]) * (1 / 1024)
