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

METRICS: Mapping[str, str] = {
    "mpjpe": "MPJPE", "pa_mpjpe": "PA-MPJPE", "pve": "PVE",
    "n_mpjpe": "N-MPJPE", "pa_pve": "PA-PVE",
    "pck3d": "3DPCK", "pa_pck3d": "PA-3DPCK", "auc": "AUC", "pa_auc": "PA-AUC",
    "acceleration": "acceleration",
}  # fmt: skip
"""Names in commands and JSON -> names in print."""

DEFAULT_METRICS = ("mpjpe", "pa_mpjpe", "pve")
"""What is computed where nothing is asked for."""

UNITS: Mapping[str, str] = {
    **dict.fromkeys(METRICS, "mm"),
    **dict.fromkeys(("pck3d", "pa_pck3d", "auc", "pa_auc"), "%"),
    "acceleration": "mm/frame²",
}
"""Of every metric. Percentages are better the larger they are, all others the smaller."""

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
FRAMES_PER_BLOCK = 30
"""Consecutive frames of one person that are resampled together within a sequence: one second."""

STATISTICS_VERSION = 1
"""Raised when intervals or the baseline are computed in another way."""


@dataclass(frozen=True)
class Figure:
    """A mean and its 95 % bootstrap interval, in the metric's unit; NaN where not known."""

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
        Figure of each of them, in the metric's unit; NaN for an acceleration error of a frame
        without neighbours.
    joints : dict of str to (J,) float64
        Mean of each of the protocol's joints, for the metrics that are made of joints.
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
    joints: dict[str, Array]
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
            "units": {name: UNITS[name] for name in self.metrics},
            "overall": _row_as_dict(self.overall),
            "baseline": _row_as_dict(self.baseline),
            "sequences": [_row_as_dict(row) for row in self.sequences],
            "joints": {
                "names": list(self.protocol.joint_names),
                "metrics": {name: [_known(v) for v in row] for name, row in self.joints.items()},
            },
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


def heading(metric: str) -> str:
    """A metric as the head of a column in a table of millimetres: others bring their unit."""
    unit = UNITS[metric]
    return METRICS[metric] if unit == "mm" else f"{METRICS[metric]} ({unit})"


def in_print(figure: Figure) -> str:
    """A figure as people read it: ``57.54 (55.10 to 59.87)``."""
    if not math.isfinite(figure.low):
        return f"{figure.mean:.2f}"
    return f"{figure.mean:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def _known(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _row_as_dict(row: Row) -> dict[str, Any]:
    figures = {
        name: {"mean": _known(f.mean), "low": _known(f.low), "high": _known(f.high)}
        for name, f in row.figures.items()
    }
    return {"name": row.name, "rows": row.rows, "metrics": figures}


def row_of(name: str, errors: Mapping[str, Array], clusters: Array) -> Row:
    """Means and intervals of the errors (n,) of each metric, in their units.

    Parameters
    ----------
    name : str
    errors : mapping of str to (n,) float
        NaN for persons of whom a metric says nothing.
    clusters : (n,)
        What is resampled together.
    """
    figures = {}
    for metric, values in errors.items():
        low, high = bootstrap_interval(values, clusters, SEED, RESAMPLES, LEVEL)
        known = values[~np.isnan(values)]
        figures[metric] = Figure(float(np.mean(known)) if len(known) else math.nan, low, high)
    return Row(name, len(clusters), figures)
