"""Metrics of a test set that comes in batches: sums that grow, never the poses themselves.

>>> import numpy as np
>>> from humandata.training.streaming import Stream
>>> stream = Stream(["mpjpe", "pa_mpjpe"])
>>> random = np.random.default_rng(0)
>>> for _ in range(3):
...     gt = random.normal(size=(8, 14, 3))
...     stream.add(1.1 * gt, gt, sequences=["walk"] * 4 + ["run"] * 4)
>>> summary = stream.result()
>>> summary.samples, list(summary.sequences), summary.joints["mpjpe"].shape
(24, ['walk', 'run'], (14,))
>>> round(summary.figures["pa_mpjpe"], 9)
0.0

What is kept is a few numbers per joint and sequence, and the last two frames of every sequence
where the acceleration error is asked for. Any split into batches gives the figures of the functions
of `humandata.training.metrics` on the whole set, up to the rounding of a sum. Vertices are joints
too: PVE is ``mpjpe`` of a stream of meshes, PA-PVE ``pa_mpjpe``. ``pckh`` and ``pck2d`` are of 2D
points, in a stream of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from humandata.errors import HumandataError
from humandata.training.alignment import (
    Array,
    Bool,
    Float64,
    as_mask,
    as_pair,
    lengths,
    require_finite,
    scale_align,
    similarity_errors,
)
from humandata.training.metrics import auc_shares, head_hits, head_sizes, joint_errors

METRICS: Mapping[str, tuple[str, str]] = {
    "mpjpe": ("", "distance"),
    "pa_mpjpe": ("similarity", "distance"),
    "n_mpjpe": ("scale", "distance"),
    "pck3d": ("", "share"),
    "pa_pck3d": ("similarity", "share"),
    "auc": ("", "area"),
    "pa_auc": ("similarity", "area"),
    "acceleration": ("", "acceleration"),
}
"""What a stream can add up -> how a prediction is aligned for it, and what is taken of its errors.

3DPCK and AUC are in percent, acceleration errors in the unit of the input per squared frame."""

METRICS_2D = ("pckh", "pck2d")
"""What a stream of 2D points can add up, in percent: means of the means of the joints."""


@dataclass(frozen=True, eq=False)
class Summary:
    """What a stream has seen so far.

    Attributes
    ----------
    figures : dict of str to float
        Metric -> mean over all joints that count; NaN where none did. Of 2D metrics the mean of
        ``joints``.
    joints : dict of str to float64 ndarray, shape (K,)
        Metric -> mean of each joint; NaN for joints that never counted.
    sequences : dict
        Sequence -> metric -> mean over its joints, in the order of appearance. Empty where no
        sequence was ever named.
    samples : int
        Samples added.
    left_out : int
        Of these, samples without a joint that counts.
    """

    figures: dict[str, float]
    joints: dict[str, Float64]
    sequences: dict[Hashable, dict[str, float]]
    samples: int
    left_out: int


@dataclass(eq=False)
class _Sums:
    """Sums (K,) and counts (K,) of one sequence, and its last frames."""

    totals: dict[str, Float64]
    counts: dict[str, Float64]
    last: Float64
    last_usable: Bool


@dataclass(eq=False)
class Stream:
    """Adds up metrics batch by batch.

    Parameters
    ----------
    metrics : sequence of str
        Of `METRICS`, or of `METRICS_2D`.
    threshold : float
        Of 3DPCK and 2D PCK, and the largest of AUC, in the unit of the input.
    pa_joints : {"counted", "all"}
        Joints that the similarity is fitted to: those that count, or all of them as in mmhuman3d,
        where the mask leaves joints out of the mean only. All must then be known.
    heads : float
        Threshold of PCKh, in heads.
    head : tuple of int
        Neck and top of the head, for PCKh.

    Raises
    ------
    HumandataError
        A metric is unknown, or metrics of 2D and of 3D points are mixed.
    """

    metrics: Sequence[str] = ("mpjpe", "pa_mpjpe")
    threshold: float = 0.150
    pa_joints: Literal["counted", "all"] = "counted"
    heads: float = 0.5
    head: tuple[int, int] = (12, 13)
    _sums: dict[Hashable, _Sums] = field(default_factory=dict, init=False, repr=False)
    _joints: int | None = field(default=None, init=False, repr=False)
    _samples: int = field(default=0, init=False, repr=False)
    _left_out: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        known = METRICS_2D if self._flat else tuple(METRICS)
        unknown = [name for name in self.metrics if name not in known]
        if unknown or not self.metrics:
            raise HumandataError(
                f"a stream adds up {', '.join(METRICS)}, or {', '.join(METRICS_2D)} of 2D points, "
                f"and not {', '.join(unknown) or 'nothing'}" + (" besides" if self._flat else "")
            )

    @property
    def _flat(self) -> bool:
        """Whether the points are 2D."""
        return any(name in METRICS_2D for name in self.metrics)

    def add(
        self,
        pred: ArrayLike,
        gt: ArrayLike,
        mask: ArrayLike | None = None,
        sequences: Sequence[Hashable] | None = None,
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        pred, gt : array_like, shape (N, K, 3)
            Root-relative where the protocol says so. (N, K, 2) of 2D metrics.
        mask : array_like of bool, shape (N, K) or (N, 1), optional
            Joints that count.
        sequences : sequence of N, optional
            What each sample belongs to. For the acceleration error: one person's consecutive
            frames, which may go on in the next batch.

        Raises
        ------
        HumandataError
            Shapes differ from each other or from earlier batches, or a value is not finite (masked
            ground truth excepted). Nothing of the batch is added then.
        """
        predicted, true = as_pair(pred, gt, 2 if self._flat else 3)
        samples, joints = predicted.shape[:2]
        if self._joints not in (None, joints):
            raise HumandataError(f"this stream adds up {self._joints} joints, found {joints}")
        given = as_mask(mask, samples, joints)
        usable = np.ones((samples, joints), bool) if given is None else given
        names = [None] * samples if sequences is None else list(sequences)
        if len(names) != samples:
            raise HumandataError(f"{samples} samples and {len(names)} names of sequences")
        require_finite(predicted, self._samples, "the prediction")
        if self._flat:
            values = self._values_2d(predicted, true, usable)
        else:
            if given is not None and self.pa_joints == "counted":
                true = np.where(given[..., None], true, 0)
            require_finite(true, self._samples, "the ground truth")
            errors = self._values(predicted, true, given)
            values = {name: (found, usable) for name, found in errors.items()}

        self._joints = joints
        self._samples += samples
        self._left_out += int((~usable.any(axis=1)).sum())
        rows_of: dict[Hashable, list[int]] = {}
        for row, name in enumerate(names):
            rows_of.setdefault(name, []).append(row)
        for name, rows in rows_of.items():
            sums = self._sums.get(name) or self._new(name, joints)
            for metric, (found, counts) in values.items():
                sums.totals[metric] += found[rows].sum(axis=0, where=counts[rows])
                sums.counts[metric] += counts[rows].sum(axis=0)
            if "acceleration" in self.metrics:
                difference = predicted[rows].astype(np.float64) - true[rows]
                _add_acceleration(sums, difference, usable[rows])

    def result(self) -> Summary:
        """All figures of what was added so far; more may be added afterwards."""
        joints = self._joints or 0
        everything = list(self._sums.values())
        figures, by_joint = {}, {}
        for metric in self.metrics:
            total = sum((sums.totals[metric] for sums in everything), np.zeros(joints))
            count = sum((sums.counts[metric] for sums in everything), np.zeros(joints))
            figures[metric] = self._figure(total, count)
            some = count > 0
            by_joint[metric] = np.where(some, total / np.where(some, count, 1), np.nan)
        sequences = {
            name: {
                metric: self._figure(sums.totals[metric], sums.counts[metric])
                for metric in self.metrics
            }
            for name, sums in self._sums.items()
        }
        if list(sequences) == [None]:
            sequences = {}
        return Summary(figures, by_joint, sequences, self._samples, self._left_out)

    def _values(self, predicted: Array, true: Array, given: Bool | None) -> dict[str, Float64]:
        """Every metric but the acceleration error, of every joint (N, K)."""
        errors: dict[str, Float64] = {}
        values = {}
        for metric in self.metrics:
            alignment, figure = METRICS[metric]
            if figure == "acceleration":
                continue
            if alignment not in errors:
                errors[alignment] = self._errors(alignment, predicted, true, given)
            values[metric] = self._scored(figure, errors[alignment])
        return values

    def _values_2d(
        self, predicted: Array, true: Array, usable: Bool
    ) -> dict[str, tuple[Float64, Bool]]:
        """Hits (N, K) in percent of every metric of 2D points, and which of them count."""
        values = {}
        for metric in self.metrics:
            sizes = np.full(len(true), float(self.threshold))
            if metric == "pckh":
                sizes = self.heads * head_sizes(true, self.head)
            counts = usable & np.isfinite(sizes)[:, None]
            values[metric] = 100 * head_hits(predicted, true, sizes, counts), counts
        return values

    def _figure(self, total: Float64, count: Float64) -> float:
        """One figure of the sums (K,) of the joints."""
        if not self._flat:
            return _ratio(total.sum(), count.sum())
        some = count > 0
        return _ratio((total[some] / count[some]).sum(), some.sum())

    def _errors(self, alignment: str, predicted: Array, true: Array, given: Bool | None) -> Float64:
        if alignment == "similarity":
            fitted = given if self.pa_joints == "counted" else None
            return similarity_errors(predicted, true, fitted)
        if alignment == "scale":
            return joint_errors(scale_align(predicted, true, given), true)
        return joint_errors(predicted, true)

    def _scored(self, figure: str, errors: Float64) -> Float64:
        if figure == "share":
            return np.where(errors < self.threshold, 100.0, 0.0)
        if figure == "area":
            return 100 * auc_shares(errors, self.threshold)
        return errors

    def _new(self, name: Hashable, joints: int) -> _Sums:
        totals, counts = ({m: np.zeros(joints) for m in self.metrics} for _ in range(2))
        sums = _Sums(totals, counts, np.empty((0, joints, 3)), np.empty((0, joints), bool))
        self._sums[name] = sums
        return sums


def _add_acceleration(sums: _Sums, difference: Float64, usable: Bool) -> None:
    difference = np.concatenate([sums.last, difference])
    usable = np.concatenate([sums.last_usable, usable])
    if len(difference) > 2:
        second = difference[:-2] - 2 * difference[1:-1] + difference[2:]
        counting = usable[:-2] & usable[1:-1] & usable[2:]
        sums.totals["acceleration"] += lengths(second).sum(axis=0, where=counting)
        sums.counts["acceleration"] += counting.sum(axis=0)
    sums.last, sums.last_usable = difference[-2:], usable[-2:]


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else float("nan")
