"""Errors of predicted joints and vertices, in NumPy.

Everything is a distance per joint first (`joint_errors`), then a mean: over all joints of all
samples (`pooled`, the published figures), within each sample (`sample_means`, for rows per sequence
and for intervals) or within each joint (`joint_means`). Distances come out in the unit that goes
in; the package uses metres. Batches that come one after another are added up by
`humandata.training.streaming.Stream`.

>>> import numpy as np
>>> from humandata.training import metrics
>>> gt = np.random.default_rng(0).normal(size=(5, 14, 3))
>>> pred = 1.1 * gt + 0.05
>>> round(metrics.pa_mpjpe(pred, gt), 6)
0.0
>>> errors = metrics.joint_errors(pred, gt)
>>> metrics.mpjpe(pred, gt) == metrics.pooled(errors)
True
>>> metrics.sample_means(errors).shape, metrics.joint_means(errors).shape
((5,), (14,))

Masks say which joints count, shape (N, K) or, for whole samples, (N, 1). Samples without a joint
that counts are left out of every figure (`sample_means` gives NaN for them, `joint_means` for
joints that never count); a figure is NaN only where nothing at all counts. A value that is not
finite ends in HumandataError naming the row, except in ground truth that a mask leaves out, which
may be anything. Poses without a unique alignment: see `humandata.training.alignment`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from humandata.errors import HumandataError
from humandata.training.alignment import (
    Array,
    Bool,
    Float64,
    as_mask,
    as_pair,
    chunks,
    lengths,
    require_finite,
    root_relative,
    scale_align,
    similarity_align,
    similarity_errors,
)

__all__ = [
    "AUC_THRESHOLDS",
    "acceleration_error",
    "auc",
    "auc_shares",
    "bootstrap_interval",
    "head_hits",
    "head_sizes",
    "joint_errors",
    "joint_means",
    "mpjpe",
    "n_mpjpe",
    "pa_mpjpe",
    "pa_pve",
    "pck2d",
    "pck3d",
    "pckh",
    "pooled",
    "pve",
    "root_relative",
    "sample_means",
    "scale_align",
    "similarity_align",
    "similarity_errors",
]

AUC_THRESHOLDS = 31
"""Number of thresholds of the area under the curve, from 0 to the largest, both included."""

_DRAWN = 2**21
"""Clusters drawn at a time by `bootstrap_interval`."""


def mpjpe(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean per-joint position error over all joints that count, of all samples together.

    Subtract the root from both sides first (`root_relative`) where the protocol says so.

    Parameters
    ----------
    pred, gt : array_like, shape (N, K, 3)
    mask : array_like of bool, shape (N, K), optional

    Returns
    -------
    float
        In the unit of the input.

    Raises
    ------
    HumandataError
        Shapes differ, or a value is not finite (masked ground truth excepted).
    """
    gt = _without_masked(gt, mask)
    return pooled(joint_errors(pred, gt), mask)


def pa_mpjpe(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> float:
    """MPJPE after every sample is aligned by its best similarity (`similarity_align`).

    Masked joints take no part in the alignment. Toolboxes that align on all joints and mask only
    the mean (mmhuman3d) compute ``pooled(similarity_errors(pred, gt), mask)``.
    """
    return pooled(similarity_errors(pred, gt, mask), mask)


def n_mpjpe(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> float:
    """MPJPE after every root-relative sample is scaled best (`scale_align`).

    Masked joints take no part in the scale. mmhuman3d scales by all joints and masks only the mean:
    ``pooled(joint_errors(scale_align(pred, gt), gt), mask)``.
    """
    gt = _without_masked(gt, mask)
    return pooled(joint_errors(scale_align(pred, gt, mask), gt), mask)


def pve(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean per-vertex error, (N, V, 3) as given: no alignment, no root subtracted.

    Which root and which gender the meshes have is the protocol's to say. The form with the best
    scale (mmhuman3d's ``alignment="scale"``) is `n_mpjpe` of the vertices.
    """
    return mpjpe(pred, gt, mask)


def pa_pve(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean per-vertex error after the best similarity of every mesh."""
    return pa_mpjpe(pred, gt, mask)


def pck3d(
    pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None, threshold: float = 0.150
) -> float:
    """Percentage of joints with an error strictly below the threshold (3DPCK).

    Align first (`similarity_align`) for the PA form.

    Parameters
    ----------
    pred, gt : array_like, shape (N, K, 3)
    mask : array_like of bool, shape (N, K), optional
    threshold : float
        In the unit of the input: 150 mm are 0.150 of metres.
    """
    gt = _without_masked(gt, mask)
    return 100 * pooled(joint_errors(pred, gt) < threshold, mask)


def auc(
    pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None, largest: float = 0.150
) -> float:
    """Mean 3DPCK over 31 thresholds from 0 to the largest (Mehta et al. 2017).

    No error is below the threshold 0, so the best value is 100 * 30 / 31 = 96.77.
    """
    gt = _without_masked(gt, mask)
    return 100 * pooled(auc_shares(joint_errors(pred, gt), largest), mask)


def auc_shares(errors: ArrayLike, largest: float = 0.150) -> Float64:
    """Share of the 31 thresholds from 0 to the largest that lie strictly above each error."""
    thresholds = np.linspace(0, largest, AUC_THRESHOLDS)
    not_above = np.searchsorted(thresholds, np.asarray(errors, np.float64), side="right")
    return np.asarray((AUC_THRESHOLDS - not_above) / AUC_THRESHOLDS)


def pckh(
    pred: ArrayLike,
    gt: ArrayLike,
    mask: ArrayLike | None = None,
    threshold: float = 0.5,
    head: tuple[int, int] = (12, 13),
) -> float:
    """Percentage of 2D joints within half a head of their true place, a mean of joint means.

    As in 3DNBF (``keypoint_2d_pckh``): a joint is right up to and including the threshold, and
    joints weigh alike however often they are visible. The head is measured on the ground truth
    whether its two points count or not; a sample where they are unknown is left out.

    Parameters
    ----------
    pred, gt : array_like, shape (N, K, 2)
        Pixels, or any one unit.
    mask : array_like of bool, shape (N, K) or (N, 1), optional
    threshold : float
        In heads.
    head : tuple of int
        Neck and top of the head; 12 and 13 of the 14 joints of LSP.

    Raises
    ------
    HumandataError
        Shapes differ, or a value that counts is not finite.
    """
    predicted, true = as_pair(pred, gt, 2)
    sizes = threshold * head_sizes(true, head)
    usable = _mask(mask, *predicted.shape[:2]) & np.isfinite(sizes)[:, None]
    return _mean_of_joints(head_hits(predicted, true, sizes, usable), usable)


def pck2d(
    pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None, threshold: float = 0.05
) -> float:
    """Percentage of 2D joints (N, K, 2) within a distance of their true place, as `pckh`.

    The unit of the threshold is that of the input: 3DNBF takes 0.05 and 0.10 of the image.
    """
    predicted, true = as_pair(pred, gt, 2)
    usable = _mask(mask, *predicted.shape[:2])
    size = np.full(len(predicted), float(threshold))
    return _mean_of_joints(head_hits(predicted, true, size, usable), usable)


def head_sizes(gt: Array, head: tuple[int, int] = (12, 13)) -> Float64:
    """Length (N,) from neck to top of the head of 2D joints (N, K, 2); NaN where not known."""
    ends = np.asarray(gt[:, head], np.float64)
    known = np.asarray(np.isfinite(ends).all(axis=(1, 2)))
    sizes = lengths(np.where(known[:, None], ends[:, 0] - ends[:, 1], 0))
    return np.where(known, sizes, np.nan)


def head_hits(pred: Array, gt: Array, sizes: Float64, mask: Bool) -> Float64:
    """1 for every 2D joint (N, K) that is at most ``sizes`` (N,) off its true place, else 0.

    `pckh` and `pck2d` are means of these: take `sample_means` for figures per picture.
    """
    true = np.where(mask[..., None], gt, 0)
    require_finite(pred, 0, "the prediction")
    require_finite(true, 0, "the ground truth")
    distance = lengths(np.asarray(pred, np.float64) - true)
    return (distance <= sizes[:, None]).astype(np.float64)


def _mean_of_joints(hits: Float64, mask: Bool) -> float:
    shares = joint_means(hits, mask)
    shares = shares[~np.isnan(shares)]
    return 100 * float(shares.mean()) if len(shares) else float("nan")


def acceleration_error(
    pred: ArrayLike,
    gt: ArrayLike,
    mask: ArrayLike | None = None,
    sequences: ArrayLike | None = None,
) -> float:
    """Mean distance between second differences of predicted and true joints over time.

    Parameters
    ----------
    pred, gt : array_like, shape (T, K, 3)
        Consecutive frames.
    mask : array_like of bool, shape (T, K) or (T, 1), optional
        A triple of frames counts for a joint that all three of them have.
    sequences : array_like, shape (T,), optional
        Sequence of each frame; triples across a boundary are left out.

    Returns
    -------
    float
        Unit of the input per squared frame; NaN where no triple counts.
    """
    predicted, true = as_pair(pred, _without_masked(gt, mask))
    require_finite(predicted, 0, "the prediction")
    require_finite(true, 0, "the ground truth")
    frames, joints = predicted.shape[:2]
    if frames < 3:
        return float("nan")
    usable = _mask(mask, frames, joints)
    usable = usable[:-2] & usable[1:-1] & usable[2:]
    if sequences is not None:
        name = np.asarray(sequences)
        usable = usable & ((name[:-2] == name[1:-1]) & (name[1:-1] == name[2:]))[:, None]
    difference = np.asarray(predicted, np.float64) - true
    second = difference[:-2] - 2 * difference[1:-1] + difference[2:]
    return pooled(lengths(second), usable)


def joint_errors(pred: ArrayLike, gt: ArrayLike) -> Float64:
    """Distance of every joint to its true place, float64 (N, K).

    Raises
    ------
    HumandataError
        Shapes differ, or a value is not finite; the message names the first such row.
    """
    predicted, true = as_pair(pred, gt)
    errors = np.empty(predicted.shape[:2])
    for rows in chunks(predicted):
        require_finite(predicted[rows], rows.start, "the prediction")
        require_finite(true[rows], rows.start, "the ground truth")
        errors[rows] = lengths(predicted[rows].astype(np.float64) - true[rows])
    return errors


def pooled(errors: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean of (N, K) values over all that count; NaN where none does."""
    values = np.asarray(errors, np.float64)
    usable = as_mask(mask, *values.shape)
    if usable is None:
        return float(values.mean()) if values.size else float("nan")
    count = int(usable.sum())
    return float(values.sum(where=usable) / count) if count else float("nan")


def sample_means(errors: ArrayLike, mask: ArrayLike | None = None) -> Float64:
    """Mean of (N, K) values within each sample, float64 (N,); NaN for samples not evaluated."""
    values = np.asarray(errors, np.float64)
    usable = as_mask(mask, *values.shape)
    if usable is None and values.shape[1]:
        # Ten times faster than a sum over a short axis, which is most of a large test set's work.
        return np.asarray(values @ np.full(values.shape[1], 1 / values.shape[1]))
    return _means(values, _mask(mask, *values.shape), 1)


def joint_means(errors: ArrayLike, mask: ArrayLike | None = None) -> Float64:
    """Mean of (N, K) values within each joint, float64 (K,); NaN for joints that never count."""
    values = np.asarray(errors, np.float64)
    return _means(values, _mask(mask, *values.shape), 0)


def _means(values: Float64, usable: Bool, axis: int) -> Float64:
    count = usable.sum(axis=axis)
    total = values.sum(axis=axis, where=usable)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def bootstrap_interval(
    errors: ArrayLike,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    n: int = 1000,
    level: float = 0.95,
    weights: ArrayLike | None = None,
) -> tuple[float, float]:
    """Percentile interval of a mean error, by resampling samples or whole clusters.

    Frames of one video are alike; resampled one by one they make an interval far too narrow. Give
    the sequence of each sample to resample sequences instead (Field and Welsh 2007).

    Parameters
    ----------
    errors : array_like, shape (N,)
        Per sample; NaN marks samples not evaluated, which are left out.
    clusters : array_like, shape (N,), optional
        What is drawn together: sequence, subject. Any type that sorts.
    seed : int
    n : int
        Number of resamples.
    level : float
        Coverage, between 0 and 1.
    weights : array_like, shape (N,), optional
        Joints behind each error, where samples have different numbers of them and the figure is
        the pooled one.

    Returns
    -------
    low, high : float
        NaN both where fewer than two samples (or clusters) are left: nothing is known of the
        spread then.

    Raises
    ------
    HumandataError
        Lengths differ, or `level` or `n` are out of range.
    """
    values = np.asarray(errors, np.float64)
    if not 0 < level < 1 or n < 1:
        raise HumandataError(f"an interval needs 0 < level < 1 and n > 0, found {level} and {n}")
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    group = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if not len(values) == len(weight) == len(group):
        raise HumandataError(
            f"{len(values)} errors, {len(weight)} weights and {len(group)} clusters: "
            "there must be one of each per sample"
        )
    known = np.isfinite(values) & (weight > 0)
    kinds, member = np.unique(group[known], return_inverse=True)
    if len(kinds) < 2:
        return float("nan"), float("nan")
    totals = np.bincount(member, weight[known] * values[known])
    counts = np.bincount(member, weight[known])

    generator = np.random.default_rng(seed)
    means = np.empty(n)
    step = max(1, _DRAWN // len(kinds))
    for start in range(0, n, step):
        drawn = generator.integers(len(kinds), size=(min(step, n - start), len(kinds)))
        means[start : start + step] = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mask(mask: ArrayLike | None, samples: int, joints: int) -> Bool:
    usable = as_mask(mask, samples, joints)
    return np.ones((samples, joints), bool) if usable is None else usable


def _without_masked(gt: ArrayLike, mask: ArrayLike | None) -> Array:
    """Ground truth with zeros where it does not count, so that it may be anything there."""
    true = np.asarray(gt)
    if mask is None or true.ndim != 3:
        return true
    return np.where(_mask(mask, *true.shape[:2])[..., None], true, 0)
