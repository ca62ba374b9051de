"""Tables and fields of a store, read from ``schemas/store.json``, and the rules they obey."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FORMAT_VERSION = 1
TABLES = {"images": "image", "instances": "instance", "sequences": "sequence"}
"""Table name -> name of its row axis."""


@dataclass(frozen=True)
class Field:
    """One field of a table, as ``schemas/store.json`` describes it.

    Attributes
    ----------
    table, name : str
        ``name`` may hold one slash: ``smpl/betas`` is the array ``betas`` of the group ``smpl``.
    dtype : str
        NumPy name, or ``string``.
    shape : tuple of int or str
        Axes after the row axis; ``"K"`` is the number of joints of the field's convention.
    unit, frame, meaning, missing : str or None
    required : bool
        A store without it is not sound.
    dimensions : tuple of str
        Names of the axes in ``shape``.
    rules : tuple of str
        ``finite``, ``unique``, ``nonempty``, ``assigned``, ``confidence``, ``positive_size``.
    vocabulary : tuple of str
        Meanings of the codes 0, 1, ... of a code field; empty for other fields.
    refers_to : str or None
        Table whose rows the values are numbers of.
    minimum : float or None
        Smallest value allowed.
    attributes : tuple of str
        Attributes the array must carry.
    fill : float, int or bool
        What says "missing", where a table is filled up.
    """

    table: str
    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    missing: str
    unit: str | None = None
    frame: str | None = None
    required: bool = False
    dimensions: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    refers_to: str | None = None
    minimum: float | None = None
    attributes: tuple[str, ...] = ()
    fill: float | int | bool = 0


@functools.cache
def fields() -> dict[tuple[str, str], Field]:
    """All fields a store may hold, by ``(table, name)``, in the order of the schema file."""
    text = resources.files("humandata.schemas").joinpath("store.json").read_text(encoding="utf-8")
    found: dict[tuple[str, str], Field] = {}
    for entry in json.loads(text)["fields"]:
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()
        }
        found[entry["table"], entry["name"]] = Field(**values)
    return found


def field(table: str, name: str, like: Array | None = None) -> Field:
    """The schema of one field; a free ``extra/...`` field takes dtype and shape of ``like``.

    Raises
    ------
    KeyError
        If the table has no field of that name; the message lists those it has.
    """
    known = fields().get((table, name))
    if known is not None:
        return known
    if name.startswith("extra/") and table in TABLES:
        dtype = "float32" if like is None else like.dtype.name
        shape: tuple[int, ...] = () if like is None else tuple(like.shape[1:])
        names = tuple(f"{name.removeprefix('extra/')}_{axis + 1}" for axis in range(len(shape)))
        return Field(table, name, dtype, shape, "kept by an import", "not said", dimensions=names)
    names_here = ", ".join(n for t, n in fields() if t == table)
    raise KeyError(f"the table {table!r} has no field {name!r}; it has {names_here}")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an array: where, and against which rule."""

    array: str
    row: int | None
    rule: str
    found: str

    def __str__(self) -> str:
        where = self.array if self.row is None else f"{self.array}, row {self.row}"
        return f"{where}: {self.rule}; found {self.found}"


def check(
    field: Field,
    values: Array,
    attributes: Mapping[str, Any],
    rows_of: Mapping[str, int],
    first_row: int = 0,
) -> list[Problem]:
    """Hold (a block of) one array against its field.

    Parameters
    ----------
    values : ndarray, shape (rows, *field.shape)
        For strings: the byte length of each, as integers.
    attributes : mapping
        Attributes of the array.
    rows_of : mapping
        Number of rows of every table, for references.
    first_row : int
        Row number of ``values[0]``, for the messages.

    Returns
    -------
    list of Problem
        At most one per rule, naming the first row that breaks it. Uniqueness is only seen within
        the block.
    """
    array = f"{field.table}/{field.name}"
    problems = []

    def report(rule: str, bad: Array) -> None:
        if bad.any():
            row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
            shown = np.array2string(np.asarray(values[row]).reshape(-1)[:8], separator=", ")
            count = int(bad.reshape(len(bad), -1).any(axis=1).sum())
            text = f"{shown} ({count} rows in all)" if count > 1 else shown
            problems.append(Problem(array, first_row + row, rule, text))

    for name in field.attributes:
        if name not in attributes:
            problems.append(Problem(array, None, f"must carry the attribute {name!r}", "none"))
    if field.dtype == "string":
        if "nonempty" in field.rules:
            report("must not be empty", values == 0)
        return problems
    if values.dtype.name != field.dtype:
        return [*problems, Problem(array, None, f"must be {field.dtype}", values.dtype.name)]
    wrong = shape_problem(field, values.shape[1:], attributes)
    if wrong is not None:
        return [*problems, wrong]
    if len(values) == 0:
        return problems
    if "finite" in field.rules:
        report("must be finite: missing values are said otherwise", ~np.isfinite(values))
    if "confidence" in field.rules:
        report("confidence must not be negative", values[..., -1] < 0)
    if "positive_size" in field.rules:
        report(
            "width and height must be positive where the confidence is",
            (values[:, 4] > 0) & ~(values[:, 2:4] > 0).all(axis=1),
        )
    if field.minimum is not None:
        report(f"must be at least {field.minimum}", values < field.minimum)
    if field.vocabulary:
        words = attributes.get("vocabulary", field.vocabulary)
        report(f"must be a code below {len(words)}", values >= len(words))
    if field.refers_to is not None:
        limit = rows_of.get(field.refers_to, 0)
        lowest = 0 if "assigned" in field.rules else -1
        report(
            f"must be a row of {field.refers_to} ({limit} rows)",
            (values < lowest) | (values >= limit),
        )
    if "unique" in field.rules:
        order = np.argsort(values, kind="stable")
        same = np.zeros(len(values), bool)
        same[order[1:]] = values[order[1:]] == values[order[:-1]]
        report("must be unique", same)
    return problems


def shape_problem(
    field: Field, shape: tuple[int, ...], attributes: Mapping[str, Any]
) -> Problem | None:
    """What is wrong with the axes after the row axis, or None."""
    wanted = list(field.shape)
    if "K" in wanted and "convention" in attributes:
        from humandata import keypoints

        wanted[wanted.index("K")] = len(keypoints.names(attributes["convention"]))
    fits = len(shape) == len(wanted) and all(
        isinstance(w, str) or w == n for w, n in zip(wanted, shape, strict=True)
    )
    if fits:
        return None
    text = ", ".join(map(str, ["rows", *wanted]))
    return Problem(
        f"{field.table}/{field.name}", None, f"must have shape ({text})", f"(rows, {shape})"
    )


def row_ids(namespace: str, keys: Array) -> NDArray[np.uint64]:
    """Stable 64-bit ids of rows from the release's own numbers.

    The namespace is hashed (BLAKE2b, 8 bytes), the keys are added, and the sum is mixed by the
    finaliser of SplitMix64, a bijection: ids never collide within a namespace, and between
    namespaces with the probability of random 64-bit numbers.

    Parameters
    ----------
    namespace : str
        Dataset, split and whatever else the keys are numbered within: ``"coco/train2017"``.
    keys : integer ndarray, shape (N,)

    Returns
    -------
    uint64 ndarray, shape (N,)

    Examples
    --------
    >>> int(row_ids("coco/val2017", np.array([442619]))[0])
    17909740967593723817
    """
    digest = hashlib.blake2b(namespace.encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        z = np.asarray(keys).astype(np.int64).view(np.uint64) + np.uint64(
            int.from_bytes(digest, "little")
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return result
