"""Is a store whole: its bytes, its schema, its references, its fingerprint.

These checks need no idea of a human body; those that do are in :mod:`humandata.plausibility` and
:mod:`humandata.reprojection`. All of them read a store block by block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import schema
from humandata.errors import HumandataError
from humandata.store import Store, StringColumn, Table
from humandata.zarr_files import MappedArray

BLOCK_ROWS = 16_384
MAX_DETAILS = 20

Array = NDArray[Any]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes
    ----------
    name : str
        In snake_case: ``checksums``, ``schema``, ``reprojection`` ...
    passed : bool or None
        None: the store lacks what the check looks at.
    summary : str
        One sentence for a person, with the figures.
    details : tuple of (where, what)
        The rows or chunks that are wrong, the worst first, twenty at most.
    fatal : bool
        Whether failing makes the store unsound. A check that is not fatal warns.
    """

    name: str
    passed: bool | None
    summary: str
    details: tuple[tuple[str, str], ...] = ()
    fatal: bool = True

    @property
    def verdict(self) -> str:
        """``passed``, ``failed``, ``warning`` or ``not applicable``."""
        if self.passed is None:
            return "not applicable"
        if self.passed:
            return "passed"
        return "failed" if self.fatal else "warning"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields and the verdict."""
        return {**asdict(self), "details": [list(d) for d in self.details], "verdict": self.verdict}


def blocks(rows: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices that cover ``rows`` rows in order."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def spread_rows(rows: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``rows`` row numbers, evenly spread."""
    count = min(rows, most)
    return np.unique(np.linspace(0, max(rows - 1, 0), count).astype(np.int64))


def name_row(store: Store, row: int, table: str = "instances") -> str:
    """How messages call a row: its number and its stable id."""
    return f"{table} row {int(row)} (id {int(store.tables()[table]['id'][int(row)])})"


def check_checksums(store: Store) -> Check:
    """Every chunk of every array, packs of pictures included, against its CRC-32C."""
    problems: list[tuple[str, str]] = []
    chunks = 0
    for array in _arrays(store):
        chunks += array.chunk_count
        where = str(array.folder.relative_to(store.path))
        # Zarr reads an absent chunk as fill values; a store never leaves one out.
        for number in range(array.chunk_count):
            if not array.chunk_file(number).is_file():
                file = array.chunk_file(number).relative_to(store.path)
                problems.append((where, f"{file} is missing; its rows read as nothing"))
        problems.extend((where, problem) for problem in array.verify())
    if problems:
        summary = f"{len(problems)} of {chunks:,} chunks damaged or missing"
        return Check("checksums", False, summary, tuple(problems[:MAX_DETAILS]))
    return Check("checksums", True, f"all {chunks:,} chunks are as they were written")


def arrays_of(table: Table, name: str, column: Any) -> list[MappedArray]:
    """The Zarr arrays behind one field: one, or blob and offsets of strings."""
    if isinstance(column, StringColumn):
        return [MappedArray(table.folder / f"{name}_{part}") for part in ("bytes", "offset")]
    return [column]


def _arrays(store: Store) -> Iterator[MappedArray]:
    for table in store.tables().values():
        for name, column in table.items():
            yield from arrays_of(table, name, column)
    for name in store.tables():
        packs = store.path / name / "packs"
        for folder in sorted(packs.iterdir()) if packs.is_dir() else []:
            if folder.is_dir():
                yield MappedArray(folder)


def check_pictures(store: Store) -> Check:
    """Every stored picture and crop against its checksum, and tiled ones against their index."""
    if not (store.has_pictures or store.has_crops):
        text = "the store keeps paths only; the pictures lie outside of it"
        return Check("pictures", None, text)
    problems = store.verify_pictures()
    kinds = [(store.images, "length", "pictures"), (store.instances, "crop_length", "crops")]
    count = " and ".join(
        f"{int((np.asarray(table[name]) > 0).sum()):,} {kind}"
        for table, name, kind in kinds
        if name in table
    )
    if problems:
        details = tuple(("images", problem) for problem in problems[:MAX_DETAILS])
        return Check("pictures", False, f"{len(problems)} of {count} damaged", details)
    return Check("pictures", True, f"all {count} are as they were written")


def check_structure(store: Store) -> Check:
    """Every array against its field in ``schemas/store.json``: rows, dtype, shape, attributes."""
    problems = [
        f"{table}/{name}: is required; found no such array"
        for (table, name), field in schema.fields().items()
        if field.required and name not in store.tables()[table]
    ]
    for table in store.tables().values():
        for name, column in table.items():
            problems += structure_problems(table, name, column)
    fields = sum(len(table) for table in store.tables().values())
    if problems:
        details = tuple(("schema", problem) for problem in problems[:MAX_DETAILS])
        return Check("structure", False, f"{len(problems)} arrays are not as they should", details)
    return Check("structure", True, f"{fields} fields have the rows, types and shapes they should")


def structure_problems(table: Table, name: str, column: Any) -> list[str]:
    """What is wrong with a field before a single value is read."""
    problems = []
    if len(column) != table.rows:
        problems.append(f"{table.name}/{name}: must have {table.rows} rows; found {len(column)}")
    try:
        # Of an array without rows, only type, shape and attributes can be wrong.
        found = schema.check(
            _field(table, name, column), _values(column, slice(0)), column.attributes, {}
        )
    except KeyError as error:  # no such field
        return [*problems, str(error.args[0])]
    except HumandataError as error:  # an unknown convention
        return [*problems, f"{table.name}/{name}: {error}"]
    return problems + [str(problem) for problem in found]


def _field(table: Table, name: str, column: Any) -> schema.Field:
    if isinstance(column, StringColumn):
        return schema.field(table.name, name)
    return schema.field(table.name, name, np.empty((0, *column.shape[1:]), column.dtype))


def _values(column: Any, rows: slice) -> Array:
    """Values of some rows as :func:`humandata.schema.check` wants them: of strings, lengths."""
    if isinstance(column, StringColumn):
        return column.lengths()[rows]
    values: Array = column[rows]
    return values


def check_schema(store: Store) -> Check:
    """Every value against the rules of its field: vocabularies, limits, unique ids, references."""
    problems: list[str] = []
    rows_of = {name: table.rows for name, table in store.tables().items()}
    for table in store.tables().values():
        for name, column in table.items():
            if not structure_problems(table, name, column):
                problems += _broken_rules(_field(table, name, column), column, rows_of)
    if problems:
        details = tuple(("schema", problem) for problem in problems[:MAX_DETAILS])
        return Check("schema", False, f"{len(problems)} rules broken", details)
    return Check("schema", True, "all values obey the rules of their fields")


def _broken_rules(field: schema.Field, column: Any, rows_of: dict[str, int]) -> list[str]:
    found = [
        problem
        for rows in blocks(len(column))
        for problem in schema.check(
            field, _values(column, rows), column.attributes, rows_of, rows.start
        )
    ]
    if "unique" in field.rules and not found:
        found = schema.check(field, np.asarray(column), column.attributes, rows_of)
    # One sentence per rule: a rule broken in every block is named where it is first broken.
    first = {problem.rule: str(problem) for problem in reversed(found)}
    return list(first.values())


def check_finite(store: Store) -> Check:
    """No NaN and no infinity anywhere, free fields included."""
    details: list[tuple[str, str]] = []
    count = 0
    floats = [
        (f"{table.name}/{name}", column)
        for table in store.tables().values()
        for name, column in table.items()
        if column.dtype.kind == "f"
    ]
    for array, column in floats:
        for rows in blocks(len(column)):
            values = column[rows].reshape(rows.stop - rows.start, -1)
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            count += len(bad)
            for row in bad[: MAX_DETAILS - len(details)]:
                number = values[row][~np.isfinite(values[row])][0]
                details.append((f"{array}, row {rows.start + row}", f"holds {number}"))
    if count:
        text = f"{count:,} rows hold NaN or infinity; missing is said by confidence 0 or a flag"
        return Check("finite", False, text, tuple(details))
    return Check("finite", True, "no NaN, no infinity")


def check_references(store: Store) -> Check:
    """Instances point to images, images to sequences and to bytes inside their pack."""
    problems: list[tuple[str, str]] = []

    def report(table: str, field: str, bad: Array, what: str) -> None:
        for row in np.flatnonzero(bad)[:MAX_DETAILS]:
            value = store.tables()[table][field][int(row)]
            problems.append((f"{table}/{field}, row {row}", f"is {value}; {what}"))

    if "image" in store.instances:
        image = np.asarray(store.instances["image"])
        limit = store.images.rows
        report("instances", "image", (image < 0) | (image >= limit), f"there are {limit} images")
    if "sequence" in store.images:
        sequence = np.asarray(store.images["sequence"])
        limit = store.sequences.rows
        bad = (sequence < -1) | (sequence >= limit)
        report("images", "sequence", bad, f"there are {limit} sequences")
    for table, prefix in ((store.images, ""), (store.instances, "crop_")):
        if f"{prefix}pack" in table:
            beyond = _beyond_pack(table, prefix)
            what = "the picture would end outside of its pack"
            report(table.name, f"{prefix}offset", beyond, what)
    if problems:
        text = "rows point to what is not there"
        return Check("references", False, text, tuple(problems[:MAX_DETAILS]))
    return Check("references", True, "all references point to rows and bytes that are there")


def _beyond_pack(table: Table, prefix: str) -> NDArray[np.bool_]:
    pack, offset, length = (
        np.asarray(table[prefix + name]).astype(np.int64) for name in ("pack", "offset", "length")
    )
    end = offset + length
    if f"{prefix}tile_count" in table:
        end += 2 * np.asarray(table[f"{prefix}tile_count"])
    size = np.zeros(len(pack), np.int64)
    for number in np.unique(pack[length > 0]):
        folder = table.folder / "packs" / f"{number:05d}"
        size[pack == number] = len(MappedArray(folder)) if folder.is_dir() else 0
    return (length > 0) & ((offset < 0) | (end > size))


def check_fingerprint(store: Store) -> Check:
    """The digest of the content against the fingerprint in the root attributes."""
    digest = content_digest(store)
    if digest == store.fingerprint:
        return Check("fingerprint", True, f"the content gives {digest[:16]} again")
    text = (
        f"the content gives {digest[:16]}, the store says {store.fingerprint[:16]}: "
        "it was changed after the commit"
    )
    return Check("fingerprint", False, text)


def content_digest(store: Store) -> str:
    """SHA-256 over the content of a store: what its fingerprint was at the commit.

    Dataset and split; then field by field, in the order of the schema, name, dtype, what the
    converter said of it, and its bytes (:mod:`humandata.commit`).
    """
    digest = hashlib.sha256()
    for name in ("dataset", "split"):
        digest.update(f"{name}={store.attributes.get(name, '')}\n".encode())
    for table in store.tables().values():
        for name in in_schema_order(table.name, list(table)):
            column = table[name]
            says = {key: column.attributes.get(key) for key in column.attributes.get("says", ())}
            text = isinstance(column, StringColumn)
            dtype = "string" if text else column.dtype.name
            line = f"{table.name}/{name} {dtype} {json.dumps(says, sort_keys=True)}\n"
            digest.update(line.encode())
            for array in arrays_of(table, name, column):
                for rows in blocks(len(array), 2**20 if text else BLOCK_ROWS):
                    digest.update(np.ascontiguousarray(array[rows]).data)
    return digest.hexdigest()


def in_schema_order(table: str, names: Sequence[str]) -> list[str]:
    """Fields as ``schemas/store.json`` orders them, free ones last."""
    order = {name: i for i, (of, name) in enumerate(schema.fields()) if of == table}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))
