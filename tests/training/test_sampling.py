"""Which persons a batch holds: shares, walks, ranks, resuming, and how random it looks."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from humandata.errors import HumandataError
from humandata.training.sampling import Sampler, hashed, permute, shares

#: Mix 5 of hmr-benchmarks: H36M, MPI-INF-3DHP, LSP, LSPET, MPII, COCO.
MIX_5 = ((312_188, 96_507, 1_000, 9_427, 14_810, 28_344), (0.35, 0.15, 0.1, 0.1, 0.1, 0.2))


def drawn(sampler: Sampler, epoch: int) -> list[tuple[int, int]]:
    """(store, position) of every sample that a rank draws in an epoch, in order."""
    return [
        (int(store), int(position))
        for step in range(sampler.steps)
        for store, position in zip(*sampler.samples(epoch, step), strict=True)
    ]


# Permutations ----------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_reaches_every_place_once(size: int, key: int) -> None:
    places = permute(np.arange(size), size, key)
    assert sorted(places.tolist()) == list(range(size))


@given(st.integers(0, 2**40), st.integers(1, 2**40), st.integers(0, 2**64 - 1))
def test_one_position_is_computed_like_all_of_them_and_at_any_size(
    index: int, size: int, key: int
) -> None:
    some = np.array([0, index % size, size - 1])
    together = permute(some, size, key)
    alone = [int(permute(int(i), size, key)[0]) for i in some]
    assert together.tolist() == alone
    assert (together >= 0).all()
    assert (together < size).all()
    assert len(set(alone)) == len(set(some.tolist()))


def test_permutations_of_several_sizes_and_keys_mix_in_one_call() -> None:
    size = np.array([7, 7, 1000, 1, 12])
    index = np.array([3, 3, 999, 0, 11])
    key = np.array([1, 2, 3, 4, 5], np.uint64)
    expected = [int(permute(int(i), int(n), int(k))[0]) for i, n, k in zip(index, size, key)]  # noqa: B905
    assert permute(index, size, key).tolist() == expected


def test_all_orders_of_a_few_are_about_equally_likely() -> None:
    keys = hashed(np.arange(24_000))
    orders = np.stack([permute(i, 4, keys) for i in range(4)], axis=1)
    counts = Counter(map(tuple, orders.tolist()))
    assert set(counts) == set(permutations(range(4)))
    assert chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("size", [2, 3, 10, 97, 1000])
def test_every_position_goes_everywhere_equally_often_and_neighbours_part(size: int) -> None:
    keys = hashed(np.arange(20_000), size)
    first, second = permute(0, size, keys), permute(1, size, keys)
    bins = np.arange(min(size, 20) + 1) * size / min(size, 20)
    assert chisquare(np.histogram(first, bins)[0], _expected(size, bins, 20_000)).pvalue > 1e-4
    # Where the next position goes says nothing of the first, but that the place is taken.
    gap = (second - first) % size
    assert gap.min() >= 1
    counts = np.bincount(gap, minlength=size)[1:]
    groups = np.array_split(counts, min(len(counts), 20))
    expected = [20_000 * len(group) / len(counts) for group in groups]
    assert len(counts) == 1 or chisquare([g.sum() for g in groups], expected).pvalue > 1e-4


def _expected(size: int, bins: np.ndarray, total: int) -> np.ndarray:
    return np.histogram(np.arange(size), bins)[0] * total / size


def test_the_words_are_those_of_splitmix64() -> None:
    """The published generator's first outputs for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = [(1234567 + step * 0x9E3779B97F4A7C15) % 2**64 for step in range(3)]
    assert [int(hashed(state)[0]) for state in states] == published
    assert [_splitmix(state) for state in states] == published


# Shares ----------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12),
    st.integers(0, 100_000),
)
def test_shares_are_whole_add_up_and_lie_within_one_of_the_weight(
    weights: list[float], total: int
) -> None:
    counts = shares(weights, total)
    exact = [Fraction(w) * total / sum(map(Fraction, weights)) for w in weights]
    assert sum(counts) == total
    assert all(abs(c - e) < 1 for c, e in zip(counts, exact, strict=True))
    # Whoever was rounded up had no smaller a remainder than whoever was rounded down.
    up = [e - int(e) for c, e in zip(counts, exact, strict=True) if c > e]
    down = [e - int(e) for c, e in zip(counts, exact, strict=True) if c < e]
    assert not up or not down or min(up) >= max(down)


def test_an_epoch_of_mix_5_holds_every_store_by_its_ratio() -> None:
    sampler = Sampler(*MIX_5, batch_size=64)
    assert sampler.steps == -(-312_188 // 64)
    assert sampler.length == sampler.steps * 64
    for count, weight in zip(sampler.counts, MIX_5[1], strict=True):
        assert abs(count - weight * sampler.length) < 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.2, 1)), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 2**70),
)
def test_shares_walks_and_ranks_hold_in_every_epoch(
    stores: list[tuple[int, float]], batch: int, world: int, seed: int
) -> None:
    sizes, weights = zip(*stores, strict=True)
    length = 40
    ranks = [Sampler(sizes, weights, batch, seed, length, rank, world) for rank in range(world)]
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(3):
        parts = [drawn(rank, epoch) for rank in ranks]
        together = [sample for part in parts for sample in part]
        assert len(together) == ranks[0].length == -(-length // (batch * world)) * batch * world
        # Each store gets exactly its share, and each rank as much of it as any other.
        assert tuple(Counter(s for s, _ in together)[i] for i in range(len(sizes))) == (
            ranks[0].counts
        )
        for store in range(len(sizes)):
            each = [sum(s == store for s, _ in part) for part in parts]
            assert max(each) - min(each) <= 1
        # After every epoch, no person of a store has been seen more than once more than another.
        seen.update(together)
        for store, size in enumerate(sizes):
            counts = [seen[store, position] for position in range(size)]
            assert max(counts) - min(counts) <= 1
            assert sum(counts) == (epoch + 1) * ranks[0].counts[store]


def test_ranks_that_share_an_epoch_draw_different_persons() -> None:
    ranks = [Sampler((1000,), (1.0,), 10, rank=rank, world_size=4) for rank in range(4)]
    parts = [set(drawn(rank, 0)) for rank in ranks]
    assert set.union(*parts) == {(0, row) for row in range(1000)}
    assert sum(map(len, parts)) == 1000


def test_the_persons_of_an_epoch_do_not_depend_on_how_many_ranks_share_it() -> None:
    stores = ((500, 70), (0.6, 0.4))
    alone = Counter(drawn(Sampler(*stores, batch_size=60), 2))
    ranks = [Sampler(*stores, batch_size=20, rank=rank, world_size=3) for rank in range(3)]
    assert sum((Counter(drawn(rank, 2)) for rank in ranks), Counter()) == alone


# Order -----------------------------------------------------------------------------------------


def test_any_step_can_be_asked_for_alone() -> None:
    sampler = Sampler(*MIX_5, batch_size=16, seed=3)
    whole = [sampler.samples(1, step) for step in range(20)]
    fresh = Sampler(*MIX_5, batch_size=16, seed=3).samples(1, 13)
    np.testing.assert_array_equal(fresh, whole[13])


def test_seed_epoch_and_rank_each_give_another_order() -> None:
    def order(epoch: int = 0, **changes: int) -> list[tuple[int, int]]:
        return drawn(Sampler((200,), (1.0,), 20, world_size=2, **changes), epoch)

    base = order()
    assert order() == base
    assert base != sorted(base)
    for other in (order(seed=1), order(epoch=1), order(rank=1), order(seed=2**64 + 1)):
        assert [x == y for x, y in zip(base, other, strict=True)].count(True) < 8
    # Epochs of one walk each are different orders of all the same persons.
    assert sorted(base + order(rank=1)) == sorted(order(1) + order(1, rank=1))


def test_stores_mix_evenly_over_the_steps_of_an_epoch_and_the_slots_of_a_batch() -> None:
    sampler = Sampler((4000, 300), (0.75, 0.25), 50)
    stores = np.array([sampler.samples(0, step)[0] for step in range(sampler.steps)])
    assert stores.sum() == sampler.counts[1] == 1000
    for axis in (0, 1):
        counts = stores.sum(axis=axis)
        # Drawn without replacement, counts scatter a little less than a binomial: the test is kind.
        assert chisquare(counts).pvalue > 1e-3
        assert counts.std() > 0


def test_the_place_in_a_store_is_uniform_within_every_batch() -> None:
    sampler = Sampler((312_188,), (1.0,), 64)
    places = np.concatenate([sampler.samples(0, step)[1] for step in range(60)]) / 312_188
    assert kstest(places, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.06


def test_what_is_drawn_again_depends_on_where_and_how_often_and_reaches_everyone() -> None:
    sampler = Sampler((9, 30), (1.0, 1.0), 4, seed=5)
    rows = [sampler.redraw(0, 1, slot, attempt, 1) for slot in range(4) for attempt in range(200)]
    assert set(rows) == set(range(30))
    assert rows[0] == sampler.redraw(0, 1, 0, 0, 1)
    assert chisquare(np.bincount(rows, minlength=30)).pvalue > 1e-4


def test_noise_seeds_differ_everywhere_and_fit_int64() -> None:
    seeds = [
        Sampler((9,), (1.0,), 8, seed=seed, rank=rank, world_size=2).noise_seeds(epoch, step)
        for seed in (0, 1) for rank in (0, 1) for epoch in (0, 1) for step in (0, 1)
    ]  # fmt: skip
    everything = np.concatenate(seeds)
    assert everything.dtype == np.int64
    assert len(np.unique(everything)) == len(everything) == 128
    assert (everything >= 0).all()


def test_the_draws_of_a_seed_are_those_of_a_plain_program_in_whole_numbers() -> None:
    """Runs are resumed across releases and platforms, so the arithmetic itself is promised."""
    sampler = Sampler((100, 7, 5000), (0.5, 0.2, 0.3), 6, 42, 120, rank=1, world_size=2)
    for epoch, step in ((0, 0), (2, 3), (700, 9)):
        store, position = sampler.samples(epoch, step)
        assert list(zip(store, position, strict=True)) == [
            _plainly((100, 7, 5000), (60, 24, 36), 42, epoch, step * 6 + slot, 60, 1, 2)
            for slot in range(6)
        ]


def _plainly(
    sizes: tuple[int, ...], counts: tuple[int, ...], seed: int, epoch: int, mine: int,
    of: int, rank: int, world: int,
) -> tuple[int, int]:  # fmt: skip
    line = _place(mine, of, _word(seed, 0, epoch, rank)) * world + rank
    store = 0
    while line >= counts[store]:
        line, store = line - counts[store], store + 1
    walk, place = divmod(epoch * counts[store] + line, sizes[store])
    return store, _place(place, sizes[store], _word(seed, 1, store, walk))


def _word(*parts: int) -> int:
    state = 0
    for part in parts:
        state = _splitmix(state + part)
    return state


def _splitmix(state: int) -> int:
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def _place(at: int, size: int, key: int) -> int:
    height = math.isqrt(size - 1) + 1
    width = -(-size // height)
    while True:
        left, right = divmod(at, width)
        for turn in range(8):
            of = right if turn % 2 == 0 else left
            word = _splitmix((of + key + (turn + 1) * 0xD1342543DE82EF95) % 2**64)
            if turn % 2 == 0:
                left = (left + word % height) % height
            else:
                right = (right + word % width) % width
        at = left * width + right
        if at < size:
            return at


# Trouble ---------------------------------------------------------------------------------------


def test_a_mix_that_cannot_be_says_why() -> None:
    with pytest.raises(HumandataError, match="at least one store"):
        Sampler((), (), 4)
    with pytest.raises(HumandataError, match="at least one person"):
        Sampler((4, 0), (1.0, 1.0), 4)
    with pytest.raises(HumandataError, match="above zero, found -1"):
        Sampler((4, 4), (1.0, -1.0), 4)
    with pytest.raises(HumandataError, match="no rank 2 among 2"):
        Sampler((4,), (1.0,), 4, rank=2, world_size=2)
    with pytest.raises(HumandataError, match=r"store 2 .* gets none of the 100 samples"):
        Sampler((100, 10), (1.0, 1e-4), 10)
    assert Sampler((100, 10), (1.0, 1e-4), 10, epoch_length=20_000).counts[1] == 2


def test_a_step_that_an_epoch_does_not_have_is_an_error() -> None:
    sampler = Sampler((100,), (1.0,), 8)
    assert sampler.steps == 13
    for step in (-1, 13):
        with pytest.raises(HumandataError, match=f"no step {step} in an epoch of 13"):
            sampler.samples(0, step)
