"""Metrics added up batch by batch equal those of the whole set."""

from __future__ import annotations

import doctest
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from humandata import HumandataError
from humandata.training import metrics, streaming
from humandata.training.streaming import METRICS, Stream

Array = NDArray[Any]


def aligned(figure: Callable[..., float]) -> Callable[..., float]:
    return lambda p, g, m: figure(metrics.similarity_align(p, g, m), g, m)


WHOLE: dict[str, Callable[..., float]] = {
    "mpjpe": metrics.mpjpe,
    "pa_mpjpe": metrics.pa_mpjpe,
    "n_mpjpe": metrics.n_mpjpe,
    "pck3d": metrics.pck3d,
    "pa_pck3d": aligned(metrics.pck3d),
    "auc": metrics.auc,
    "pa_auc": aligned(metrics.auc),
    "acceleration": metrics.acceleration_error,
}


def walk(frames: int = 40, seed: int = 0) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    gt = np.cumsum(0.02 * random.normal(size=(frames, 14, 3)), axis=0) + random.normal(size=(14, 3))
    pred = gt + 0.1 * random.normal(size=gt.shape)
    mask = random.random((frames, 14)) < 0.8
    mask[7] = False
    return pred, gt, mask


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(streaming).failed == 0


@functools.cache
def whole() -> dict[str, float]:
    """Every figure of the walk, none of it batch by batch."""
    return {name: figure(*walk()) for name, figure in WHOLE.items()}


@given(st.lists(st.integers(0, 40), max_size=6))
def test_any_split_into_batches_gives_the_figures_of_the_whole(cuts: list[int]) -> None:
    pred, gt, mask = walk()
    stream = Stream(tuple(METRICS))
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        rows = slice(start, stop)
        stream.add(pred[rows], gt[rows], mask[rows])
    summary = stream.result()
    assert set(WHOLE) == set(METRICS)
    for name, figure in whole().items():
        assert summary.figures[name] == pytest.approx(figure, rel=1e-12), name
    assert (summary.samples, summary.left_out) == (40, 1)
    assert summary.sequences == {}


def test_joints_and_sequences_have_their_own_figures() -> None:
    pred, gt, mask = walk()
    mask[:, 5] = False
    names = np.repeat(["b", "a"], 20)
    stream = Stream(tuple(METRICS))
    for start in range(0, 40, 16):
        rows = slice(start, start + 16)
        stream.add(pred[rows], gt[rows], mask[rows], sequences=list(names[rows]))
    summary = stream.result()
    assert list(summary.sequences) == ["b", "a"]
    for name in ("b", "a"):
        mine = names == name
        for metric, figure in WHOLE.items():
            expected = figure(pred[mine], gt[mine], mask[mine])
            assert summary.sequences[name][metric] == pytest.approx(expected, rel=1e-12)
    expected = metrics.acceleration_error(pred, gt, mask, names)
    assert summary.figures["acceleration"] == pytest.approx(expected)
    for joint in range(14):
        mine = np.zeros_like(mask)
        mine[:, joint] = mask[:, joint]
        assert summary.joints["mpjpe"][joint] == pytest.approx(
            metrics.mpjpe(pred, gt, mine), nan_ok=True
        )
        assert summary.joints["acceleration"][joint] == pytest.approx(
            metrics.acceleration_error(pred, gt, mine, names), nan_ok=True
        )
    assert np.isnan(summary.joints["pck3d"]).tolist() == [joint == 5 for joint in range(14)]


def test_interleaved_people_keep_their_own_motion() -> None:
    pred, gt, _ = walk()
    order = np.argsort(np.tile([0, 1], 20), kind="stable")
    stream = Stream(["acceleration"])
    for start in range(0, 40, 2):  # frames 0 of both, frames 1 of both ...
        rows = order.reshape(2, 20)[:, start // 2]
        stream.add(pred[rows], gt[rows], sequences=["one", "two"])
    expected = [metrics.acceleration_error(pred[rows], gt[rows]) for rows in order.reshape(2, 20)]
    assert stream.result().figures["acceleration"] == pytest.approx(np.mean(expected))


def test_the_similarity_may_be_fitted_to_masked_joints_too() -> None:
    pred, gt, mask = walk()
    stream = Stream(["pa_mpjpe"], pa_joints="all")
    stream.add(pred, gt, mask)
    theirs = metrics.pooled(metrics.joint_errors(metrics.similarity_align(pred, gt), gt), mask)
    assert stream.result().figures["pa_mpjpe"] == pytest.approx(theirs)
    assert theirs != pytest.approx(metrics.pa_mpjpe(pred, gt, mask))


def test_figures_may_be_looked_at_along_the_way_and_empty_batches_do_nothing() -> None:
    pred, gt, _ = walk()
    stream = Stream(["mpjpe"])
    assert np.isnan(stream.result().figures["mpjpe"])
    assert stream.result().sequences == {}
    stream.add(pred[:0], gt[:0])
    stream.add(pred[:10], gt[:10])
    assert stream.result().figures["mpjpe"] == pytest.approx(metrics.mpjpe(pred[:10], gt[:10]))
    stream.add(pred[10:], gt[10:])
    assert stream.result().figures["mpjpe"] == pytest.approx(metrics.mpjpe(pred, gt))


def test_a_batch_that_cannot_be_added_changes_nothing() -> None:
    pred, gt, mask = walk()
    stream = Stream(tuple(METRICS))
    stream.add(pred[:20], gt[:20], mask[:20], ["a"] * 20)
    before = stream.result()
    broken = pred[20:].copy()
    broken[3, 4, 1] = np.nan
    with pytest.raises(HumandataError, match="the prediction of row 23 holds a value"):
        stream.add(broken, gt[20:], mask[20:], ["a"] * 20)
    with pytest.raises(HumandataError, match="adds up 14 joints, found 17"):
        stream.add(np.zeros((1, 17, 3)), np.zeros((1, 17, 3)))
    with pytest.raises(HumandataError, match="20 samples and 1 names"):
        stream.add(pred[20:], gt[20:], mask[20:], ["a"])
    after = stream.result()
    assert before.figures == after.figures
    assert before.samples == after.samples


def test_masked_ground_truth_may_be_anything() -> None:
    pred, gt, mask = walk()
    stream, other = Stream(tuple(METRICS)), Stream(tuple(METRICS))
    stream.add(pred, np.where(mask[..., None], gt, np.nan), mask)
    other.add(pred, gt, mask)
    assert stream.result().figures == other.result().figures


@given(st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=30)
def test_2d_figures_of_any_split_are_those_of_the_whole(cuts: list[int]) -> None:
    """Means of joint means, which do not pool: batches must not be averaged."""
    pred, gt, mask = (values[..., :2] if values.ndim == 3 else values for values in walk())
    gt = gt.copy()
    gt[3, 13] = np.nan  # a head that is not known
    mask[3, 13] = False
    names = np.repeat(["b", "a"], 20)
    stream = Stream(["pckh", "pck2d"], threshold=0.1)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        rows = slice(start, stop)
        stream.add(pred[rows], gt[rows], mask[rows], list(names[rows]))
    summary = stream.result()
    assert summary.figures["pckh"] == pytest.approx(metrics.pckh(pred, gt, mask), rel=1e-12)
    assert summary.figures["pck2d"] == pytest.approx(
        metrics.pck2d(pred, gt, mask, threshold=0.1), rel=1e-12
    )
    for name in ("a", "b"):
        mine = names == name
        expected = metrics.pckh(pred[mine], gt[mine], mask[mine])
        assert summary.sequences[name]["pckh"] == pytest.approx(expected, rel=1e-12)
    heads = 0.5 * np.linalg.norm(gt[:, 12] - gt[:, 13], axis=-1)
    right = np.linalg.norm(pred[:, 4] - gt[:, 4], axis=-1) <= heads
    counted = mask[:, 4] & np.isfinite(heads)
    assert summary.joints["pckh"][4] == pytest.approx(100 * right[counted].mean())


def test_metrics_of_2d_and_3d_points_need_streams_of_their_own() -> None:
    with pytest.raises(HumandataError, match="and not mpjpe besides"):
        Stream(["pckh", "mpjpe"])
    with pytest.raises(HumandataError, match=r"shape \(N, K, 2\)"):
        Stream(["pckh"]).add(*walk()[:2])


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(HumandataError, match="mpjpe.*and not pve"):
        Stream(["mpjpe", "pve"])
    with pytest.raises(HumandataError, match="not nothing"):
        Stream([])
