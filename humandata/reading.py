"""Read the units of a plan, each into a part of its own: what worker processes do first."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from humandata.columns import Columns, Part, Reject, take, write_part
from humandata.errors import DataError, HumandataError

if TYPE_CHECKING:
    from humandata.converters.converter import Unit
    from humandata.writer import StoreWriter


def read_unit(
    partial: str, part: str, module: str, unit: Unit, strict: bool, limit: int | None
) -> tuple[int, list[dict[str, Any]]]:
    """Read one unit and write its part; runs in a worker process.

    Parameters
    ----------
    partial, part : str
        The ``STORE.partial`` folder, and the part's file within it.
    module : str
        The converter's full name.
    unit : Unit
    strict : bool
        Fail on the first record that cannot be used.
    limit : int, optional
        Keep this many instances at most.

    Returns
    -------
    records : int
        How many were read.
    files : list of dict
        What the provenance says of the unit's files.
    """
    columns: Columns = importlib.import_module(module).read(unit)
    if strict and columns.rejects:
        raise strict_error(columns.rejects[0])
    accounted = columns.rows("instances") + sum(columns.filtered.values()) + len(columns.rejects)
    if columns.records != accounted:
        raise HumandataError(
            f"the converter lost count in unit {unit.name}: {columns.records} records read, "
            f"{accounted} accounted for. This is a bug; please report it"
        )
    if limit is not None and columns.rows("instances") > limit:
        columns = _cut(columns, limit)
    write_part(Path(partial) / part, columns)
    return columns.records, [_digest(unit.raw, file) for file in unit.files]


def stamp(unit: Unit) -> list[list[Any]]:
    """Size and time of the unit's files: cheap to compare on resuming."""
    stats = [(file, file.stat()) for file in unit.files if file.exists()]
    return [[str(file.absolute()), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def forget_changed_inputs(writer: StoreWriter, units: list[Unit]) -> None:
    """Do a finished unit anew if its files have changed since, and its pictures with it."""
    for number, unit in enumerate(units):
        done = writer.finished.get(f"unit {number}")
        if done is not None and done.get("stamp") != stamp(unit):
            # Packs first: were the unit forgotten alone, a crash in between would leave its packs.
            for piece in [p for p in writer.finished if p.startswith("pack ")]:
                writer.forget(piece)
            writer.forget(f"unit {number}")


def cut_to_limit(writer: StoreWriter, limit: int) -> None:
    """Cut later units so that all together hold ``limit`` instances."""
    left = limit
    for number, part in enumerate(writer.parts()):
        rows = part.rows["instances"]
        if rows > left:
            write_part(writer.unit_file(number), _cut(part.columns(), left))
        left -= min(left, rows)


def refuse_repeated_ids(units: list[Unit], parts: list[Part]) -> None:
    """Ids must be unique in the whole store, and units are read without knowing each other.

    Raises
    ------
    DataError
        A picture or person occurs twice: which one, and in which two files.
    """
    for table in ("images", "instances"):
        found = [part.array(table, "id") for part in parts]
        sizes = [0 if ids is None else len(ids) for ids in found]
        ids = np.concatenate([ids for ids in found if ids is not None] or [np.zeros(0, np.uint64)])
        order = np.argsort(ids, kind="stable")
        same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
        if not len(same):
            continue
        ends = np.cumsum(sizes)
        said, places = [], []
        for row in order[same[0] : same[0] + 2].tolist():
            number = int(np.searchsorted(ends, row, side="right"))
            row -= int(ends[number]) - sizes[number]
            unit = units[number]
            places.append(unit.files[0] if len(unit.files) == 1 else unit.raw / unit.name)
            image = parts[number].array("instances", "image")
            picture = row if table == "images" or image is None else int(image[row])
            said.append(f"{places[-1]}, {parts[number].strings('images', 'path')[picture]}")
        what = "picture" if table == "images" else "person"
        raise DataError(
            places[1], f"{table} id {ids[order[same[0]]]}", expected=f"each {what} once",
            found=f"the {what} of {said[0]}, again as {said[1]}",
            hint="Does a copy of a file lie in RAW? Move one of the two away and convert again",
        )  # fmt: skip


def strict_error(reject: Reject) -> DataError:
    """The error that ``--strict`` makes of a record that would else be counted."""
    return DataError(
        reject.file,
        reject.record or None,
        expected="a record that can be used (--strict)",
        found=f"{reject.reason}: {reject.detail}",
        hint="Without --strict such records are counted and listed",
    )


def _cut(columns: Columns, limit: int) -> Columns:
    rows = columns.rows("instances")
    cut = take(columns, np.arange(limit))
    cut.filtered["limit"] = cut.filtered.get("limit", 0) + rows - limit
    return cut


def _digest(raw: Path, file: Path) -> dict[str, Any]:
    shown = file.relative_to(raw) if file.is_relative_to(raw) else Path(file.name)
    with open(file, "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": shown.as_posix(), "bytes": file.stat().st_size, "sha256": sha256}
