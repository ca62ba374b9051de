"""Superposition of predicted on true points: root, scale, and similarity (Procrustes).

The similarity needs, for each sample, the rotation nearest to a 3 x 3 covariance. It is found in
closed form for all samples at once, which is some thirty times faster than a singular value
decomposition of each; the few samples for which the closed form would lose digits are decomposed.

What becomes of degenerate samples:

- no point counts: the sample comes back as it was;
- one point counts, or all points that count coincide: they are moved only, neither turned nor
  scaled;
- points on a line: aligned along the line, the angle about it is arbitrary (and does not change
  the distances of points on the line);
- flat poses: aligned by the proper rotation, never by a reflection;
- a mirror image whose best rotation is not unique: one of the best, by decomposition;
- a value that is not finite: HumandataError naming the row, except in ground truth that a mask
  leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata.errors import HumandataError

Array = NDArray[Any]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_CHUNK = 2**18
"""Numbers handled at a time: they fit into a core's cache, so that no pass waits for memory."""

_CLOSED_FORM_FROM = 0.01
"""Smallest separation of the rotation (see `nearest_rotations`) that the closed form is used for.
There it agrees with the decomposition to some 1e-14 of the extent; a tenth of it costs a digit."""


def root_relative(points: ArrayLike, root: int | Sequence[int] = 0) -> Array:
    """Points (N, K, 3) minus the root: one joint, or the mean of several (the two hips)."""
    values = np.asarray(points)
    return np.asarray(values - values[:, np.atleast_1d(root)].mean(axis=1, keepdims=True))


def scale_align(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> Float64:
    """Scale each sample (N, K, 3) about the origin by ``sum(P G) / sum(P P)``.

    A sample whose points all lie at the origin stays as it is, and so does one without a point
    that counts.
    """
    predicted, true = as_pair(pred, gt)
    usable = as_mask(mask, *predicted.shape[:2])
    result = np.empty(predicted.shape)
    for rows in chunks(predicted):
        p, g, counts = _rows(predicted, true, usable, rows)
        flat = len(p), -1
        counting = p if counts is None else np.where(counts[..., None], p, 0)
        square = np.vecdot(counting.reshape(flat), counting.reshape(flat))
        product = np.vecdot(counting.reshape(flat), g.reshape(flat))
        some = square > 0
        scale = np.where(some, product, 1) / np.where(some, square, 1)
        result[rows] = scale[:, None, None] * p
    return result


def similarity_align(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> Float64:
    """Move, turn and scale each prediction onto its ground truth as well as possible (Procrustes).

    Least squares over the joints that count (Schönemann 1966, Umeyama 1991), without reflections.
    What becomes of degenerate samples is said in the description of this module.

    Parameters
    ----------
    pred, gt : array_like, shape (N, K, 3)
    mask : array_like of bool, shape (N, K) or (N, 1), optional
        Joints that define the alignment; all joints are moved by it.

    Returns
    -------
    float64 ndarray, shape (N, K, 3)

    Raises
    ------
    HumandataError
        Shapes differ, or a value is not finite (masked ground truth excepted).
    """
    predicted, true = as_pair(pred, gt)
    usable = as_mask(mask, *predicted.shape[:2])
    result = np.empty(predicted.shape)
    for rows in chunks(predicted):
        source, target, counts = _rows(predicted, true, usable, rows)
        fit = _fit(source, target, counts)
        result[rows] = fit.source @ fit.matrix
        result[rows] += fit.mean
    return result


def similarity_errors(pred: ArrayLike, gt: ArrayLike, mask: ArrayLike | None = None) -> Float64:
    """Distance of every joint to its true place after `similarity_align`, float64 (N, K).

    The same numbers as aligning first, without making the aligned points. For joints that a mask
    leaves out the number means nothing: leave them out of every mean by the same mask.
    """
    predicted, true = as_pair(pred, gt)
    usable = as_mask(mask, *predicted.shape[:2])
    errors = np.empty(predicted.shape[:2])
    for rows in chunks(predicted):
        source, target, counts = _rows(predicted, true, usable, rows)
        fit = _fit(source, target, counts)
        difference = fit.source @ fit.matrix
        difference -= fit.target
        errors[rows] = lengths(difference)
    return errors


def nearest_rotations(matrices: ArrayLike) -> tuple[Float64, Float64]:
    """The proper rotation R nearest to each matrix M, and the largest ``trace(R^T M)``.

    With the singular values s1 >= s2 >= |s3| of M, s3 having the sign of its determinant, and M
    scaled to norm 1: the trace t = s1 + s2 + s3 is the largest root of ::

        (t^2 - 1)^2 - 8 det(M) t - 4 |cof(M)|^2

    (the characteristic polynomial of Horn's 4 x 4 matrix, J. Opt. Soc. Am. A 1987), to which
    Newton's method descends from sqrt(3), and by Cayley-Hamilton for the polar factor ::

        R = (t cof(M) + (t^2 - u) M - M M^T M) / (t u - det(M)),    u = (t^2 - 1) / 2

    The denominator is (s1 + s2) (s2 + s3) (s3 + s1): how well separated the rotation is from the
    next best. Where it is small, and R therefore not well determined, a singular value
    decomposition takes over.

    Parameters
    ----------
    matrices : array_like, shape (N, 3, 3)
        Finite.

    Returns
    -------
    rotations : float64 ndarray, shape (N, 3, 3)
    traces : float64 ndarray, shape (N,)
    """
    given = np.asarray(matrices, np.float64)
    count = len(given)
    m = np.ascontiguousarray(given.reshape(count, 9).T)
    norm = np.sqrt(np.einsum("in,in->n", m, m))
    m = m / np.where(norm > 0, norm, 1)
    a, b, c, d, e, f, g, h, i = m
    cofactors = np.stack(
        [
            *(e * i - f * h, f * g - d * i, d * h - e * g),
            *(c * h - b * i, a * i - c * g, b * g - a * h),
            *(b * f - c * e, c * d - a * f, a * e - b * d),
        ]
    )
    determinant = a * cofactors[0] + b * cofactors[1] + c * cofactors[2]
    linear, constant = -8 * determinant, 1 - 4 * np.einsum("in,in->n", cofactors, cofactors)

    trace = np.full(count, np.sqrt(3.0))
    with np.errstate(all="ignore"):
        for _ in range(20):
            square = trace * trace
            inner = (square - 2) * trace
            slope = inner + linear
            step = (slope * trace + constant) / (2 * square * trace + inner + slope)
            trace -= step
            # Each step is about the square of the one before, so the next would be rounding.
            if not (np.abs(step) > 1e-9).any():
                break
        half = (trace * trace - 1) / 2
        separation = trace * half - determinant
        # M^T M, symmetric
        aa, bb, cc = a * a + d * d + g * g, b * b + e * e + h * h, c * c + f * f + i * i
        ab, ac, bc = a * b + d * e + g * h, a * c + d * f + g * i, b * c + e * f + h * i
        cubic = np.stack(
            [
                value
                for x, y, z in ((a, b, c), (d, e, f), (g, h, i))
                for value in (
                    x * aa + y * ab + z * ac,
                    x * ab + y * bb + z * bc,
                    x * ac + y * bc + z * cc,
                )
            ]
        )
        rotation = (trace * cofactors + (trace * trace - half) * m - cubic) / separation
    rotations = np.ascontiguousarray(rotation.T).reshape(count, 3, 3)
    traces = trace * norm
    hard = ~(separation > _CLOSED_FORM_FROM) | ~(np.abs(step) < 1e-9)
    if hard.any():
        rotations[hard], traces[hard] = _by_decomposition(given[hard])
    return rotations, traces


def _by_decomposition(matrices: Float64) -> tuple[Float64, Float64]:
    u, s, vt = np.linalg.svd(matrices)
    # Where the best orthogonal matrix mirrors, the axis of the smallest singular value gives way.
    sign = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    u[..., 2] *= sign[:, None]
    return u @ vt, s[:, 0] + s[:, 1] + sign * s[:, 2]


class _Fit(NamedTuple):
    """``source @ matrix`` is closest to ``target``, both centred; ``mean`` moves it in place."""

    source: Float64
    target: Float64
    matrix: Float64
    mean: Float64


def _fit(source: Float64, target: Float64, counts: Bool | None) -> _Fit:
    samples, joints = source.shape[:2]
    if counts is None:
        # Products with a row of ones: NumPy's own sums over a short middle axis take far longer.
        share = np.full((1, joints), 1 / joints if joints else 0)
        number: Float64 | int = joints
    else:
        number = counts.sum(axis=1)
        share = (counts / np.maximum(number, 1)[:, None])[:, None]
    mean1, mean2 = share @ source, share @ target
    x1, x2 = source - mean1, target - mean2
    counting = x1 if counts is None else x1 * counts[..., None]
    flat = counting.reshape(samples, -1)
    variance = np.vecdot(flat, flat)
    rotation, trace = nearest_rotations(np.swapaxes(counting, 1, 2) @ x2)

    # The mean of equal numbers may be off in its last digit, so coinciding points are not quite 0.
    far = np.abs(mean1).max(axis=(1, 2), initial=0)
    fixed = variance <= number * (8 * np.finfo(np.float64).eps * far) ** 2
    rotation[fixed] = np.eye(3)
    scale = np.where(fixed, 1, trace) / np.where(fixed, 1, variance)
    return _Fit(x1, x2, rotation * scale[:, None, None], mean2)


def _rows(
    predicted: Array, true: Array, usable: Bool | None, rows: slice
) -> tuple[Float64, Float64, Bool | None]:
    """Some rows in float64, checked, with zeros for ground truth that does not count."""
    source = predicted[rows].astype(np.float64, copy=False)
    target = true[rows].astype(np.float64, copy=False)
    counts = None if usable is None else usable[rows]
    if counts is not None:
        target = np.where(counts[..., None], target, 0)
        if counts.all():
            counts = None
    require_finite(source, rows.start, "the prediction")
    require_finite(target, rows.start, "the ground truth")
    return source, target, counts


def lengths(vectors: Float64) -> Float64:
    """Euclidean lengths (...) of float64 vectors (..., D), whose memory is used up."""
    np.square(vectors, out=vectors)
    return np.asarray(np.sqrt(vectors @ np.ones(vectors.shape[-1])))


def as_pair(pred: ArrayLike, gt: ArrayLike, dimensions: int = 3) -> tuple[Array, Array]:
    """Both sides as arrays (N, K, dimensions) of one shape, else HumandataError."""
    predicted, true = np.asarray(pred), np.asarray(gt)
    if predicted.ndim != 3 or predicted.shape[-1] != dimensions or predicted.shape != true.shape:
        raise HumandataError(
            f"prediction and ground truth must both have shape (N, K, {dimensions}), "
            f"found {predicted.shape} and {true.shape}"
        )
    return predicted, true


def as_mask(mask: ArrayLike | None, samples: int, joints: int) -> Bool | None:
    """A mask as bool (N, K), None for none; HumandataError for other shapes."""
    if mask is None:
        return None
    given = np.asarray(mask) != 0
    if given.shape not in ((samples, joints), (samples, 1)):
        raise HumandataError(
            f"the mask must have shape ({samples}, {joints}) or ({samples}, 1), found {given.shape}"
        )
    return np.broadcast_to(given, (samples, joints))


def require_finite(values: Array, start: int, what: str) -> None:
    """HumandataError naming the first row (counted from ``start``) with a value not finite."""
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(values), -1).all(axis=1)))
        raise HumandataError(f"{what} of row {start + row} holds a value that is not finite")


def chunks(values: Array) -> Iterator[slice]:
    """Slices of rows that together are all, so that a whole test set is never copied at once."""
    step = max(1, _CHUNK // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), step):
        yield slice(start, min(start + step, len(values)))
