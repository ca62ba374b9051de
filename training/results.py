"""What an evaluation found: figures with intervals, and the JSON that keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.training.metrics import bootstrap_interval
from humandata.training.predictions import Predictions
from humandata.training.protocols import Protocol

Array = NDArray[Any]

METRICS: Mapping[str, str] = {"mpjpe": "MPJPE", "pa_mpjpe": "PA-MPJPE", "pve": "PVE"}
"""Names in commands and JSON -> names in print. All in millimetres, smaller is better."""

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
FRAMES_PER_BLOCK = 30
"""Consecutive frames of one person that are resampled together within a sequence: one second."""

STATISTICS_VERSION = 1
"""Raised when intervals or the baseline are computed in another way."""


@dataclass(frozen=True)
class Figure:
    """A mean error and its 95 % bootstrap interval, millimetres; NaN where not known."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Figures of one group of persons: all, one sequence, or the baseline."""

    name: str
    rows: int
    figures: dict[str, Figure]


@dataclass(frozen=True, eq=False)
class Result:
    """Everything an evaluation found.

    Attributes
    ----------
    protocol : Protocol
    store : dict
        Path, dataset, split, fingerprint and number of rows of the store.
    source : str
        Where the predictions come from.
    body_model : str
        ``smpl`` or ``standin``.
    metrics : tuple of str
    overall : Row
    sequences : tuple of Row
        Their means, weighted by ``rows``, give the overall means. Empty where the store has none.
    baseline : Row
        The mean pose predicted for everybody, by the same protocol.
    clusters : str
        What the intervals of ``overall`` and ``baseline`` resample.
    notes : tuple of str
        What a reader of the figures has to know.
    rows : (n,) int
        Rows of the store's instances that were evaluated.
    errors : dict of str to (n,) float64
        Error of each of them in millimetres.
    predictions : Predictions
        In the order of ``rows``.
    """

    protocol: Protocol
    store: dict[str, Any]
    source: str
    body_model: str
    metrics: tuple[str, ...]
    overall: Row
    sequences: tuple[Row, ...]
    baseline: Row
    clusters: str
    notes: tuple[str, ...]
    rows: Array
    errors: dict[str, Array]
    predictions: Predictions

    def as_dict(self) -> dict[str, Any]:
        """The result ready for JSON: no per-person numbers, null where a figure is not known."""
        return {
            "protocol": self.protocol.as_dict(),
            "store": self.store,
            "predictions": self.source,
            "body_model": self.body_model,
            "comparable_with_published": self.body_model == "smpl",
            "unit": "mm",
            "overall": _row_as_dict(self.overall),
            "baseline": _row_as_dict(self.baseline),
            "sequences": [_row_as_dict(row) for row in self.sequences],
            "intervals": {
                "level": LEVEL,
                "method": "percentile bootstrap",
                "resamples": RESAMPLES,
                "seed": SEED,
                "clusters": self.clusters,
                "clusters_within_sequences": f"{FRAMES_PER_BLOCK} frames of one person",
                "version": STATISTICS_VERSION,
            },
            "notes": list(self.notes),
        }


def in_print(figure: Figure) -> str:
    """A figure as people read it: ``57.54 (55.10 to 59.87)``."""
    if not math.isfinite(figure.low):
        return f"{figure.mean:.2f}"
    return f"{figure.mean:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def _row_as_dict(row: Row) -> dict[str, Any]:
    def known(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    figures = {
        name: {"mean": known(f.mean), "low": known(f.low), "high": known(f.high)}
        for name, f in row.figures.items()
    }
    return {"name": row.name, "rows": row.rows, "metrics": figures}


def row_of(name: str, errors: Mapping[str, Array], clusters: Array) -> Row:
    """Means and intervals of the errors (n,) of each metric, in millimetres.

    Parameters
    ----------
    name : str
    errors : mapping of str to (n,) float
    clusters : (n,)
        What is resampled together.
    """
    figures = {}
    for metric, values in errors.items():
        low, high = bootstrap_interval(values, clusters, SEED, RESAMPLES, LEVEL)
        figures[metric] = Figure(float(np.mean(values)), low, high)
    return Row(name, len(clusters), figures)
