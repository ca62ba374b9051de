"""The table that says what became of every tensor of a file of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Status = Literal["taken", "left out", "missing", "shape differs", "not known"]


@dataclass(frozen=True)
class Row:
    """A group of tensors that share their fate.

    Attributes
    ----------
    status : str
        ``taken``; ``left out`` of the file on purpose; ``missing`` from it; ``shape differs``; or
        ``not known``.
    part : str
        The first parts of their names, in the file or (missing ones) in the network.
    count : int
    why : str
    names : tuple of str
        Of the tensors, with both shapes where they differ.
    wrong : bool
        Whether this keeps the file from being imported.
    """

    status: Status
    part: str
    count: int
    why: str
    names: tuple[str, ...]
    wrong: bool = False


def grouped(keys: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key in keys:
        words = key.split(".")
        depth = 2 if words[0] in ("backbone", "encoder", "head", "module", "model") else 1
        groups.setdefault(".".join(words[:depth]), []).append(key)
    return groups


def make_row(
    status: Status, keys: Iterable[str], why: str, wrong: bool = False, part: str = ""
) -> Row:
    listed = tuple(keys)
    groups = list(grouped(key.split(":")[0] for key in listed))
    if not part:
        part = ", ".join(groups[:3]) + (" ..." if len(groups) > 3 else "")
    return Row(status, part, len(listed), why, listed, wrong)


def shape_of(tensor: Tensor) -> str:
    return in_words(tuple(tensor.shape))


def in_words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def rows_unrecognised(tensors: Mapping[str, Tensor]) -> tuple[Row, ...]:
    """All tensors with their shapes, for a file that is like nothing known."""
    why = "no network that is here has these names and shapes"
    return tuple(
        make_row("not known", [f"{key}: {shape_of(tensors[key])}" for key in keys], why, True, part)
        for part, keys in grouped(tensors).items()
    )


def rows_of_another(
    names: Iterable[str], backbone: Iterable[str], network: str, takes: str
) -> Iterable[Row]:
    """A network that is not here: its backbone, where ``takes`` says that it is, and the rest."""
    kept = set(backbone) if takes else set()
    if kept:
        yield make_row("left out", [k for k in names if k in kept], f"its backbone, {takes}")
    for part, keys in grouped(key for key in names if key not in kept).items():
        yield Row(
            "not known", part, len(keys), f"of {network}, which is not here", tuple(keys), True
        )


def rows_beside(beside: Mapping[str, int], wrapper: str) -> Iterable[Row]:
    """What lies in the file beside the tensors that were looked at."""
    for name, count in beside.items():
        yield Row("left out", name, count, f"lies beside {wrapper.split(' / ')[0]}", (name,))
