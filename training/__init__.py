"""From stores to trained networks to numbers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from humandata.training.assembly import Augmentation, Batch
    from humandata.training.augment import prepare
    from humandata.training.dataset import Batches, PersonDataset
    from humandata.training.evaluation import evaluate

__all__ = ["Augmentation", "Batch", "Batches", "PersonDataset", "evaluate", "prepare"]

# Loaded when asked for: most of it needs torch, and nothing here should wait for that.
_HOMES = {
    "Augmentation": "assembly",
    "Batch": "assembly",
    "Batches": "dataset",
    "PersonDataset": "dataset",
    "evaluate": "evaluation",
    "prepare": "augment",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = importlib.import_module(f"humandata.training.{_HOMES[name]}")
        return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
