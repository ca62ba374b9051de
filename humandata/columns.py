"""What a converter hands to the writer: columns of rows, and what became of the records."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from humandata import schema
from humandata.errors import HumandataError
from humandata.zarr_files import Array

Values = Any
"""An ndarray, or a list of str for a string field."""


REFERENCES = {("instances", "image"): "images", ("images", "sequence"): "sequences"}
"""Columns whose values are row numbers, and of which table."""


@dataclass(frozen=True)
class Reject:
    """A record that could not be used, and why.

    Attributes
    ----------
    file, record : str
        Where it is: the annotation file and the record's own key.
    reason : str
        Short, in snake_case, for counting.
    detail : str
        One sentence for a person.
    whole_file : bool
        An annotation file of the release is lost with all its records: damaged, or of another
        kind. The rest is converted, but the command ends with exit status 1.
    """

    file: str
    record: str
    reason: str
    detail: str
    whole_file: bool = False


@dataclass
class Columns:
    """Rows of one unit of work, as columns.

    ``instances["image"]`` and ``images["sequence"]`` count rows within the unit; the writer adds
    what lies before it.

    Attributes
    ----------
    images, instances, sequences : dict of str to ndarray or list of str
        Fields of ``schemas/store.json``, one entry per row.
    field_attributes : dict
        Attributes by field name, such as ``{"keypoints2d": {"convention": "coco"}}``.
    rejects : list of Reject
    filtered : dict of str to int
        Sound records left out by a rule, by the rule's name.
    records : int
        Records read; equals instances + filtered + rejects.
    notes : list of str
        Sentences for the user: what was assumed, or left out of records that were kept.
    """

    images: dict[str, Values]
    instances: dict[str, Values]
    sequences: dict[str, Values] = field(default_factory=dict)
    field_attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    filtered: dict[str, int] = field(default_factory=dict)
    records: int = 0
    notes: list[str] = field(default_factory=list)

    def rows(self, table: str) -> int:
        columns = getattr(self, table)
        return len(next(iter(columns.values()))) if columns else 0


def take(columns: Columns, instances: Array) -> Columns:
    """Keep some instances (by mask or index, in order) and the pictures they lie in."""
    kept = {name: _take(values, instances) for name, values in columns.instances.items()}
    used, image = np.unique(kept["image"], return_inverse=True)
    kept["image"] = image.astype(np.int32)
    return Columns(
        {name: _take(values, used) for name, values in columns.images.items()},
        kept,
        columns.sequences,
        columns.field_attributes,
        columns.rejects,
        dict(columns.filtered),
        columns.records,
        columns.notes,
    )


def join(parts: list[Columns]) -> Columns:
    """Rows of one unit that were read in parts, one after another.

    Parts without rows give their rejects and counts only; the others have the same fields.
    ``instances["image"]`` and ``images["sequence"]`` count within each part and are shifted.
    """
    whole = [part for part in parts if part.images]
    joined = Columns(
        {},
        {},
        field_attributes={k: v for part in parts for k, v in part.field_attributes.items()},
        rejects=[reject for part in parts for reject in part.rejects],
        records=sum(part.records for part in parts),
        notes=[note for part in parts for note in part.notes],
    )
    for part in parts:
        for rule, count in part.filtered.items():
            joined.filtered[rule] = joined.filtered.get(rule, 0) + count
    for (table, name), of in REFERENCES.items():
        before = np.cumsum([0, *(part.rows(of) for part in whole)])
        columns = [getattr(part, table).get(name) for part in whole]
        for part, column, start in zip(whole, columns, before, strict=False):
            if column is not None:
                getattr(part, table)[name] = np.where(column >= 0, column + start, column)
    for table in schema.TABLES:
        for name in getattr(whole[0], table) if whole else ():
            values: list[Values] = [getattr(part, table)[name] for part in whole]
            listed = isinstance(values[0], list)
            getattr(joined, table)[name] = (
                [value for column in values for value in column]
                if listed
                else np.concatenate(values)
            )
    return joined


def _take(values: Values, rows: Array) -> Values:
    if isinstance(values, np.ndarray):
        return values[rows]
    return [values[row] for row in np.arange(len(values))[rows]]


def encode_strings(strings: list[str]) -> tuple[Array, Array]:
    """UTF-8 blob (uint8) and offset of each string's first byte (int64)."""
    encoded = [string.encode() for string in strings]
    lengths = np.array([len(text) for text in encoded], np.int64)
    return (
        np.frombuffer(b"".join(encoded), np.uint8),
        np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: len(lengths)],
    )


def write_part(file: Path, columns: Columns) -> None:
    """Write one unit's columns as one file, visible only when it is whole and on the disk.

    Its first line is JSON: what became of the records, and by table and field dtype, shape and
    place of the arrays. Then come the arrays themselves (of a string field two: text and offsets).

    Raises
    ------
    HumandataError
        If columns of a table differ in length, a field is unknown, or a dtype cannot be kept:
        mistakes of the converter, named by field.
    """
    arrays: list[Array] = []
    index: dict[str, dict[str, list[Any]]] = {}
    end = 0
    for table in schema.TABLES:
        given: dict[str, Values] = getattr(columns, table)
        lengths = {name: len(values) for name, values in given.items()}
        if len(set(lengths.values())) > 1:
            raise HumandataError(f"columns of {table} differ in length: {lengths}")
        index[table] = {name: [] for name in given}
        for name, values in given.items():
            for array in _as_stored(table, name, values):
                arrays.append(np.ascontiguousarray(array))
                index[table][name].append([array.dtype.str, array.shape, end])
                end += _padded(array.nbytes)
    summary = {
        "rows": {table: columns.rows(table) for table in schema.TABLES},
        "field_attributes": columns.field_attributes,
        "rejects": [asdict(reject) for reject in columns.rejects],
        "filtered": columns.filtered,
        "records": columns.records,
        "notes": columns.notes,
        "arrays": index,
    }
    head = json.dumps(summary).encode()
    temporary = file.with_name(file.name + ".tmp")
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as stream:
        stream.write(head.ljust(_padded(len(head) + 1) - 1) + b"\n")
        for array in arrays:
            stream.write(array.data)
            stream.write(bytes(_padded(array.nbytes) - array.nbytes))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def _padded(size: int) -> int:
    """Bytes up to the next place where an array may begin: maps want values aligned."""
    return -(-size // 64) * 64


def _as_stored(table: str, name: str, values: Values) -> tuple[Array, ...]:
    """The arrays that a column is stored as: one, or text and offsets of strings."""
    like = values if isinstance(values, np.ndarray) else None
    try:
        field_ = schema.field(table, name, like)
    except KeyError as error:
        raise HumandataError(str(error.args[0])) from None
    if field_.dtype == "string":
        return encode_strings(list(values))
    return (_cast(np.asarray(values), field_),)


def _cast(values: Array, field_: schema.Field) -> Array:
    """Bring values to the field's dtype, refusing to lose what they say."""
    dtype = np.dtype(field_.dtype)
    if values.dtype == dtype:
        return values
    with np.errstate(all="ignore"):
        cast = values.astype(dtype)
    if dtype.kind != "f" and values.size and not np.array_equal(cast, values):
        raise HumandataError(
            f"{field_.table}/{field_.name} must be {field_.dtype}; "
            f"{values.dtype.name} values do not fit into it"
        )
    return cast


class Part:
    """One unit's columns, read back from disk; large arrays are memory-mapped."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with open(file, "rb") as stream:
            summary = json.loads(stream.readline())
            self._start = stream.tell()
        self.rows: dict[str, int] = summary["rows"]
        self.field_attributes: dict[str, dict[str, Any]] = summary["field_attributes"]
        self.rejects = [Reject(**reject) for reject in summary["rejects"]]
        self.filtered: dict[str, int] = summary["filtered"]
        self.records: int = summary["records"]
        self.notes: list[str] = summary["notes"]
        self._index: dict[str, dict[str, list[Any]]] = summary["arrays"]
        self.recode: dict[str, Array] = {}
        """By extra field: the code in the store for each code in this part."""

    def names(self, table: str) -> list[str]:
        """Fields this part has in ``table``."""
        return sorted(self._index[table])

    def array(self, table: str, name: str) -> Array | None:
        """One numeric column, or None where this part has none."""
        places = self._index[table].get(name, ())
        if len(places) != 1:  # none, or strings
            return None
        values = self._read(places[0])
        return self.recode[name][values] if name in self.recode else values

    def _read(self, place: tuple[str, list[int], int]) -> Array:
        dtype, shape, offset = np.dtype(place[0]), tuple(place[1]), self._start + place[2]
        count = math.prod(shape)
        # Nothing cannot be mapped, and little is read faster than mapped.
        if count * dtype.itemsize < 2**20:
            return np.fromfile(self.file, dtype, count, offset=offset).reshape(shape)
        return np.asarray(np.memmap(self.file, dtype, "r", offset, shape))

    def strings(self, table: str, name: str) -> list[str]:
        places = self._index[table].get(name, ())
        if len(places) != 2:
            return [""] * self.rows[table]
        text = self._read(places[0]).tobytes()
        ends = [*self._read(places[1]).tolist(), len(text)]
        return [text[a:b].decode() for a, b in itertools.pairwise(ends)]

    def columns(self) -> Columns:
        """Everything in memory, as it was before it was written."""
        tables: dict[str, dict[str, Values]] = {}
        for table in schema.TABLES:
            tables[table] = {}
            for name in self.names(table):
                values = self.array(table, name)
                tables[table][name] = (
                    self.strings(table, name) if values is None else np.array(values)
                )
        return Columns(
            tables["images"],
            tables["instances"],
            tables["sequences"],
            self.field_attributes,
            self.rejects,
            self.filtered,
            self.records,
            self.notes,
        )


def merged_attributes(parts: list[Part]) -> dict[str, dict[str, Any]]:
    """Attributes of all parts' fields.

    Vocabularies of extra fields may differ, for parts find different words: the store has the
    words of all, and from here on the parts give their codes among these.

    Raises
    ------
    HumandataError
        If two parts say different things of one field.
    """
    merged: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, attributes in part.field_attributes.items():
            known: Mapping[str, Any] = merged.setdefault(name, {})
            if name.startswith("extra/") and "vocabulary" in known and "vocabulary" in attributes:
                words = _join_words(part, name, known["vocabulary"], attributes["vocabulary"])
                merged[name]["vocabulary"] = words
                attributes = {**attributes, "vocabulary": words}
            for key, value in attributes.items():
                if key in known and known[key] != value:
                    raise HumandataError(
                        f"units disagree on {key} of {name}: {known[key]!r} and {value!r}"
                    )
            merged[name].update(attributes)
    return merged


def _join_words(part: Part, name: str, known: list[str], own: list[str]) -> list[str]:
    """The vocabulary of the parts so far with the words of one more, whose codes change to it."""
    words = list(dict.fromkeys([*known, *own]))
    if words[: len(own)] == own:
        return words
    columns = (part.array(table, name) for table in schema.TABLES)
    dtype = next((column.dtype for column in columns if column is not None), np.dtype(np.uint8))
    if len(words) > int(np.iinfo(dtype).max) + 1:
        raise HumandataError(f"{name}: {len(words)} words do not fit into codes of {dtype}")
    part.recode[name] = np.array([words.index(word) for word in own], dtype)
    return words
