"""From stores to trained networks to numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from humandata.training.evaluation import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the engine beside it needs torch, and nothing here should wait for it.
    if name == "evaluate":
        from humandata.training.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
