"""Which persons a batch holds: a pure function of seed, epoch, step, rank and number of ranks.

The reference (hmr-benchmarks' ``MixedDataset``) draws every sample of an epoch anew: a store by its
weight, then one of its persons evenly, *with replacement*. A store of N persons that gets N draws
so shows 37 % of its persons not at all in an epoch and others up to eight times, and the share of a
store scatters from epoch to epoch. `Sampler` keeps the expectations and takes the scatter away:

- the samples of an epoch are shared out among the stores by weight, exactly (to whole samples, the
  method of largest remainders), and every rank gets the same of each store, to within one;
- within a store its persons are walked in a random order that goes on from epoch to epoch and is
  drawn anew for every walk, so that after any epoch no person has been seen more than once more
  often than another. In expectation each is drawn (share of the store) / N times, as before.

Nothing is stored per person: an order is a keyed pseudo-random permutation (`permute`), computed
for the positions that are asked for, in integers only, the same on every platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata.errors import HumandataError

Int = NDArray[np.int64]
Word = NDArray[np.uint64]

_ROUNDS = 8
# How many samples are drawn at once, and how many such blocks are kept.
_AT_ONCE, _BLOCKS_KEPT = 4096, 4
# What a key is for; two uses of the same numbers must not meet.
_ORDER, _WALK, _REDRAW, _NOISE, _GEOMETRY = range(5)


def hashed(*parts: ArrayLike) -> Word:
    """A 64-bit word per tuple of integers, as unlike to its neighbours' as random ones.

    Parameters
    ----------
    *parts : int or array_like of int
        Broadcast against each other; taken modulo 2**64.

    Returns
    -------
    uint64 ndarray, at least one-dimensional

    Notes
    -----
    The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014), applied to each part added to the state.
    """
    # Plain numbers first, as long as there is no array: NumPy would need ten times as long for one.
    start = 0
    arrays = next((n for n, part in enumerate(parts) if not isinstance(part, int)), len(parts))
    for part in parts[:arrays]:
        start = _scrambled_number(start + int(part))  # type: ignore[arg-type]
    state = np.array([start], np.uint64)
    for part in parts[arrays:]:
        state = _scrambled(state + _words(part))
    return state


def _words(values: Any) -> Word:
    if isinstance(values, int):
        return np.array([values % 2**64], np.uint64)
    return np.atleast_1d(np.asarray(values)).astype(np.uint64)


def _scrambled(state: Word) -> Word:
    state = state + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around, as meant
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _scrambled_number(state: int) -> int:
    """As `_scrambled`, of one number."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def permute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> Int:
    """Where positions go in a pseudo-random permutation of ``range(size)``, one for every key.

    Parameters
    ----------
    index : array_like of int
        In ``range(size)``.
    size : array_like of int
        At least 1; broadcast against ``index``.
    key : array_like of uint64
        Names the permutation; broadcast against ``index``.

    Returns
    -------
    int64 ndarray, at least one-dimensional
        In ``range(size)``; different for different positions of one size and key.

    Notes
    -----
    A Feistel network on pairs (left, right) of a rectangle that just holds the range (Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002), walked on from where it leaves the
    range; as few as about one position in sqrt(size) does. Time and memory do not depend on the
    size.
    """
    at, sizes, keys = np.broadcast_arrays(_words(index), _words(size), _words(key))
    # The square root is correctly rounded on every machine (IEEE 754).
    height = np.sqrt(sizes).astype(np.uint64)
    height += height * height < sizes
    width = (sizes + height - np.uint64(1)) // height
    result = _feistel(at, height, width, keys)
    outside = np.flatnonzero(result >= sizes)
    while len(outside):
        moved = _feistel(result[outside], height[outside], width[outside], keys[outside])
        result[outside] = moved
        outside = outside[moved >= sizes[outside]]
    return result.astype(np.int64)


def _feistel(at: Word, height: Word, width: Word, key: Word) -> Word:
    left, right = np.divmod(at, width)
    for turn in range(0, _ROUNDS, 2):
        left = (left + _round(right, key, turn) % height) % height
        right = (right + _round(left, key, turn + 1) % width) % width
    return left * width + right


def _round(half: Word, key: Word, turn: int) -> Word:
    return _scrambled(half + key + np.uint64((turn + 1) * 0xD1342543DE82EF95 % 2**64))


def shares(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Share ``total`` out by weight to whole numbers, by largest remainders.

    Computed in fractions, so that no rounding of a platform can tip it; of equal remainders the
    first wins.

    Raises
    ------
    HumandataError
        When a weight is not a positive number.
    """
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise HumandataError(f"a weight of a mix must be a number above zero, found {weight!r}")
    exact = [Fraction(weight) for weight in weights]
    parts = [weight * total / sum(exact) for weight in exact]
    counts = [int(part) for part in parts]
    order = sorted(range(len(parts)), key=lambda i: (counts[i] - parts[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


@dataclass(frozen=True)
class Sampler:
    """The samples of every step of every epoch, for one rank.

    Parameters
    ----------
    sizes : tuple of int
        Persons of every store.
    weights : tuple of float
        Share of the samples that come from each store; they need not sum to one.
    batch_size : int
        Samples of a step on this rank.
    seed : int
    epoch_length : int, optional
        Samples of an epoch over all ranks, rounded up to whole batches; by default as many as the
        largest store has persons.
    rank, world_size : int
        Which of how many processes this one is.

    Raises
    ------
    HumandataError
        When a store is empty, or so light that it would get no sample at all in an epoch.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    batch_size: int
    seed: int = 0
    epoch_length: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not self.sizes:
            raise HumandataError("a mix needs at least one store")
        if len(self.sizes) != len(self.weights) or min(self.sizes) < 1:
            raise HumandataError(
                f"a mix needs a weight and at least one person for every store, found "
                f"{len(self.weights)} weights for stores of {self.sizes} persons"
            )
        if self.batch_size < 1 or (self.epoch_length is not None and self.epoch_length < 1):
            raise HumandataError("batches and epochs need at least one sample")
        if not 0 <= self.rank < self.world_size:
            raise HumandataError(f"there is no rank {self.rank} among {self.world_size}")
        for number, count in enumerate(self.counts):
            if not count:
                raise HumandataError(
                    f"store {number + 1} of the mix, with the weight {self.weights[number]:g}, "
                    f"gets none of the {self.length:,} samples of an epoch; give it more weight, "
                    "or make the epoch longer (--set epoch_length=N)"
                )

    @cached_property
    def steps(self) -> int:
        """Steps of an epoch; all batches are full."""
        wanted = self.epoch_length or max(self.sizes)
        return -(-wanted // (self.batch_size * self.world_size))

    @property
    def length(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self.steps * self.batch_size * self.world_size

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Samples of every store in an epoch, over all ranks."""
        return shares(self.weights, self.length)

    @cached_property
    def _tables(self) -> tuple[Int, Int, Int]:
        counts = np.array(self.counts, np.int64)
        return counts, np.cumsum(counts) - counts, np.array(self.sizes, np.int64)

    def samples(self, epoch: int, step: int) -> tuple[Int, Int]:
        """What batch ``step`` of an epoch holds.

        Returns
        -------
        store : (B,) int64
            Number of the store.
        position : (B,) int64
            Which of the store's persons, in ``range(sizes[store])``.

        Raises
        ------
        HumandataError
            When the epoch has fewer steps.
        """
        if not 0 <= step < self.steps:
            raise HumandataError(f"there is no step {step} in an epoch of {self.steps} steps")
        first = step - step % self._steps_at_once
        store, position = self._drawn(epoch, first)
        mine = slice((step - first) * self.batch_size, (step - first + 1) * self.batch_size)
        return store[mine].copy(), position[mine].copy()

    @property
    def _steps_at_once(self) -> int:
        return max(1, _AT_ONCE // self.batch_size)

    def _drawn(self, epoch: int, first: int) -> tuple[Int, Int]:
        """The samples of some steps, kept for the steps that follow.

        For a batch alone NumPy's calls cost ten times as long as what they compute.
        """
        found = self._recent.get((epoch, first))
        if found is None:
            found = self._draw(epoch, first, self._steps_at_once)
            # Several threads may come here at once; they find the same.
            if len(self._recent) >= _BLOCKS_KEPT:
                self._recent.clear()
            self._recent[epoch, first] = found
        return found

    @cached_property
    def _recent(self) -> dict[tuple[int, int], tuple[Int, Int]]:
        return {}

    def _draw(self, epoch: int, first: int, steps: int) -> tuple[Int, Int]:
        counts, starts, sizes = self._tables
        last = min(first + steps, self.steps)
        mine = np.arange(first * self.batch_size, last * self.batch_size)
        # An epoch is a line on which the samples of each store lie together. Every rank takes each
        # world_size-th of it, hence the same of each store, in an order of its own.
        order = hashed(self.seed, _ORDER, epoch, self.rank)
        line = permute(mine, self.steps * self.batch_size, order) * self.world_size + self.rank
        store = np.searchsorted(starts, line, side="right") - 1
        drawn = epoch * counts[store] + line - starts[store]
        walk, place = np.divmod(drawn, sizes[store])
        key = hashed(self.seed, _WALK, store, walk)
        return store, permute(place, sizes[store], key)

    def redraw(self, epoch: int, step: int, slot: int, attempt: int, store: int) -> int:
        """Another person of the same store, where the one of a slot cannot be used.

        Drawn with replacement and beside the walks, so that what other samples hold stays.
        """
        word = hashed(self.seed, _REDRAW, epoch, step, self.rank, slot, attempt)
        return int(word[0] % np.uint64(self.sizes[store]))

    def noise_seeds(self, epoch: int, step: int) -> Int:
        """A number (B,) in ``range(2**63)`` for every sample, for what is drawn on the device."""
        slots = np.arange(self.batch_size)
        words = hashed(self.seed, _NOISE, epoch, step, self.rank, slots)
        return (words >> np.uint64(1)).astype(np.int64)

    def generator(self, epoch: int, step: int) -> np.random.Generator:
        """The source of a batch's other random numbers."""
        word = hashed(self.seed, _GEOMETRY, epoch, step, self.rank)
        return np.random.Generator(np.random.PCG64(int(word[0])))

    def describe(self) -> dict[str, Any]:
        """The length of an epoch and each store's part in it, for logs and reports."""
        return {
            "samples_per_epoch": self.length,
            "steps_per_epoch": self.steps,
            "samples_per_store": list(self.counts),
            "walks_per_epoch": [c / n for c, n in zip(self.counts, self.sizes, strict=True)],
        }
