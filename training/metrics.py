"""Errors of predicted joints and vertices, in NumPy.

Everything is a distance per joint first (`joint_errors`), then a mean: over all joints of all
samples (`pooled`, the published figures) or within each sample (`sample_means`, for rows per
sequence and for intervals). Distances come out in the unit that goes in; the package uses metres.

>>> import numpy as np
>>> from humandata.training import metrics
>>> gt = np.random.default_rng(0).normal(size=(5, 14, 3))
>>> pred = 1.1 * gt + 0.05
>>> round(metrics.pa_mpjpe(pred, gt), 6)
0.0
>>> errors = metrics.joint_errors(pred, gt)
>>> metrics.mpjpe(pred, gt) == metrics.pooled(errors)
True
>>> metrics.sample_means(errors).shape
(5,)

Masks say which joints count, shape (N, K) or, for whole samples, (N, 1). Samples without a joint
that counts are left out of every figure (`sample_means` gives NaN for them); a figure is NaN only
where nothing at all counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata.errors import HumandataError

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

AUC_THRESHOLDS = 31
"""Number of thresholds of the area under the curve, from 0 to the largest, both included."""

_CHUNK = 2**21


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
    the mean (mmhuman3d) compute ``pooled(joint_errors(similarity_align(pred, gt), gt), mask)``.
    """
    gt = _without_masked(gt, mask)
    return pooled(joint_errors(similarity_align(pred, gt, mask), gt), mask)


def n_mpjpe(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> float:
    """MPJPE after every root-relative sample is scaled best (`scale_align`)."""
    gt = _without_masked(gt, mask)
    return pooled(joint_errors(scale_align(pred, gt, mask), gt), mask)


def pve(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean per-vertex error, (N, V, 3) as given: no alignment, no root subtracted.

    Which root and which gender the meshes have is the protocol's to say.
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
    errors = joint_errors(pred, gt)
    thresholds = np.linspace(0, largest, AUC_THRESHOLDS)
    return float(np.mean([100 * pooled(errors < threshold, mask) for threshold in thresholds]))


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
    predicted, true = _pair(pred, _without_masked(gt, mask))
    _require_finite(predicted, 0, "the prediction")
    _require_finite(true, 0, "the ground truth")
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
    return pooled(np.linalg.norm(second, axis=-1), usable)


def joint_errors(pred: ArrayLike, gt: ArrayLike) -> Float64:
    """Distance of every joint to its true place, float64 (N, K).

    Raises
    ------
    HumandataError
        Shapes differ, or a value is not finite; the message names the first such row.
    """
    predicted, true = _pair(pred, gt)
    errors = np.empty(predicted.shape[:2])
    for rows in _chunks(predicted):
        _require_finite(predicted[rows], rows.start, "the prediction")
        _require_finite(true[rows], rows.start, "the ground truth")
        errors[rows] = np.linalg.norm(predicted[rows].astype(np.float64) - true[rows], axis=-1)
    return errors


def pooled(errors: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean of (N, K) values over all that count; NaN where none does."""
    values = np.asarray(errors, np.float64)
    usable = _mask(mask, *values.shape)
    count = int(usable.sum())
    return float(values.sum(where=usable) / count) if count else float("nan")


def sample_means(errors: ArrayLike, mask: ArrayLike | None = None) -> Float64:
    """Mean of (N, K) values within each sample, float64 (N,); NaN for samples not evaluated."""
    values = np.asarray(errors, np.float64)
    usable = _mask(mask, *values.shape)
    count = usable.sum(axis=1)
    total = values.sum(axis=1, where=usable)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def root_relative(points: ArrayLike, root: int | Sequence[int] = 0) -> NDArray[Any]:
    """Points (N, K, 3) minus the root: one joint, or the mean of several (the two hips)."""
    values = np.asarray(points)
    return np.asarray(values - values[:, np.atleast_1d(root)].mean(axis=1, keepdims=True))


def scale_align(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> Float64:
    """Scale each sample (N, K, 3) about the origin by ``sum(P G) / sum(P P)``.

    A sample whose points all lie at the origin stays as it is.
    """
    predicted, true = _pair(pred, gt)
    p, g = predicted.astype(np.float64), _without_masked(true, mask)
    _require_finite(p, 0, "the prediction")
    _require_finite(g, 0, "the ground truth")
    weight = _mask(mask, *p.shape[:2])[..., None]
    square = np.sum(p * p, axis=(1, 2), where=weight)
    product = np.sum(p * g, axis=(1, 2), where=weight)
    scale = np.where(square > 0, product / np.where(square > 0, square, 1), 1)
    return np.asarray(scale[:, None, None] * p)


def similarity_align(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> Float64:
    """Move, turn and scale each prediction onto its ground truth as well as possible (Procrustes).

    Least squares over the joints that count, by singular value decomposition (Schönemann 1966,
    Umeyama 1991), without reflections. Points of a prediction that all coincide have no scale and
    no orientation: they are only moved. So are single joints, whose error then is zero. A sample
    without any joint that counts comes back as it was.

    Parameters
    ----------
    pred, gt : array_like, shape (N, K, 3)
    mask : array_like of bool, shape (N, K), optional
        Joints that define the alignment; all joints are moved by it.

    Returns
    -------
    float64 ndarray, shape (N, K, 3)
    """
    predicted, true = _pair(pred, gt)
    usable = _mask(mask, *predicted.shape[:2])
    result = np.empty(predicted.shape)
    for rows in _chunks(predicted):
        source, target = predicted[rows].astype(np.float64), true[rows].astype(np.float64)
        _require_finite(source, rows.start, "the prediction")
        target = np.where(usable[rows][..., None], target, 0)
        _require_finite(target, rows.start, "the ground truth")
        result[rows] = _similarity(source, target, usable[rows])
    return result


def _similarity(source: Float64, target: Float64, usable: Bool) -> Float64:
    weight = usable[..., None].astype(np.float64)
    count = np.maximum(weight.sum(axis=1, keepdims=True), 1)
    mean1 = (weight * source).sum(axis=1, keepdims=True) / count
    mean2 = (weight * target).sum(axis=1, keepdims=True) / count
    x1, x2 = weight * (source - mean1), weight * (target - mean2)
    variance = (x1 * x1).sum(axis=(1, 2))
    covariance = np.einsum("nki,nkj->nij", x1, x2)
    u, s, vt = np.linalg.svd(covariance)
    # Where the best orthogonal matrix mirrors, the axis of the smallest singular value gives way.
    sign = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    u[..., 2] *= sign[:, None]
    rotation = np.swapaxes(vt, 1, 2) @ np.swapaxes(u, 1, 2)
    trace = s[:, 0] + s[:, 1] + sign * s[:, 2]

    # The mean of equal numbers may be off in its last digit, so coinciding points are not quite 0.
    largest = np.abs(weight * source).max(axis=(1, 2), initial=0)
    rounding = count[:, 0, 0] * (4 * np.finfo(np.float64).eps * largest) ** 2
    fixed = variance <= rounding
    scale = np.where(fixed, 1, trace / np.where(fixed, 1, variance))
    rotation[fixed] = np.eye(3)
    moved = scale[:, None, None] * ((source - mean1) @ np.swapaxes(rotation, 1, 2)) + mean2
    return np.asarray(np.where(weight.any(axis=1, keepdims=True), moved, source))


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
    step = max(1, _CHUNK // len(kinds))
    for start in range(0, n, step):
        drawn = generator.integers(len(kinds), size=(min(step, n - start), len(kinds)))
        means[start : start + step] = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _pair(pred: ArrayLike, gt: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    predicted, true = np.asarray(pred), np.asarray(gt)
    if predicted.ndim != 3 or predicted.shape[-1] != 3 or predicted.shape != true.shape:
        raise HumandataError(
            "prediction and ground truth must both have shape (N, K, 3), "
            f"found {predicted.shape} and {true.shape}"
        )
    return predicted, true


def _mask(mask: ArrayLike | None, samples: int, joints: int) -> Bool:
    if mask is None:
        return np.ones((samples, joints), bool)
    given = np.asarray(mask) != 0
    if given.shape not in ((samples, joints), (samples, 1)):
        raise HumandataError(
            f"the mask must have shape ({samples}, {joints}) or ({samples}, 1), found {given.shape}"
        )
    return np.broadcast_to(given, (samples, joints))


def _without_masked(gt: ArrayLike, mask: ArrayLike | None) -> NDArray[Any]:
    """Ground truth with zeros where it does not count, so that it may be anything there."""
    true = np.asarray(gt)
    if mask is None or true.ndim != 3:
        return true
    return np.where(_mask(mask, *true.shape[:2])[..., None], true, 0)


def _require_finite(values: NDArray[Any], start: int, what: str) -> None:
    finite = np.isfinite(values).all(axis=(1, 2))
    if not finite.all():
        raise HumandataError(
            f"{what} of row {start + int(np.argmin(finite))} holds a value that is not finite"
        )


def _chunks(values: NDArray[Any]) -> Iterator[slice]:
    """Slices of rows of a few MB, so that meshes of a whole test set are never copied at once."""
    step = max(1, _CHUNK // max(1, values.shape[1] * 3))
    for start in range(0, len(values), step):
        yield slice(start, min(start + step, len(values)))
