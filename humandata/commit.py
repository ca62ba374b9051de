"""From the parts of a conversion to the tables of a store: what :meth:`StoreWriter.commit` does.

Columns are streamed part by part, so memory holds one chunk of one column.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from humandata import schema
from humandata.columns import Part, Reject, encode_strings, merged_attributes
from humandata.errors import HumandataError
from humandata.zarr_files import MAX_BLOB_CHUNK, Array, write_array, write_group

if TYPE_CHECKING:
    from humandata.writer import StoreWriter

REJECTS = ".rejects.jsonl"
"""Ending of the list of records that could not be used; it lies beside the store, because Zarr
readers warn of files inside a group that are none of theirs."""


@dataclass
class _Selection:
    """One part, what its pictures turned out to be, and which of its rows stay."""

    part: Part
    pictures: Array | None  # (images, 6): pack, offset, length, crc32c, width, height
    rejects: list[Reject]
    images: Array  # bool (images,)
    instances: Array  # bool (instances,)


def write_tables(writer: StoreWriter, attributes: dict[str, Any]) -> Path:
    """Write all tables and the root attributes; return the folder that becomes the store."""
    root = writer.partial / "store"
    selections = [_select(writer, number, part) for number, part in enumerate(writer.parts())]
    _clear(root, {pack for s in selections if s.pictures is not None for pack in s.pictures[:, 0]})
    parts = [selection.part for selection in selections]
    digest = hashlib.sha256()
    for name in ("dataset", "split"):
        digest.update(f"{name}={attributes.get(name, '')}\n".encode())
    rows = _kept_rows(selections)
    field_attributes = merged_attributes(parts)
    for table in schema.TABLES:
        write_group(root / table)
        if table == "images" and any(s.pictures is not None for s in selections):
            write_group(root / table / "packs")
        for name in _field_names(table, selections):
            _write_field(root, table, name, selections, rows, field_attributes, digest)
    counts = _count(selections, rows)
    rejects = [reject for selection in selections for reject in selection.rejects]
    _list_rejects(writer.path.with_name(writer.path.name + REJECTS), rejects)
    write_group(
        root,
        {
            "humandata": {
                "format": schema.FORMAT_VERSION,
                "complete": True,
                **attributes,
                "counts": counts,
                "notes": list(dict.fromkeys(note for part in parts for note in part.notes)),
                "fingerprint": digest.hexdigest(),
            }
        },
    )
    return root


def _clear(root: Path, packs: set[int]) -> None:
    """Remove what an interrupted commit or forgotten pieces left; keep the packs in use."""
    for table in ("instances", "sequences"):
        shutil.rmtree(root / table, ignore_errors=True)
    images = root / "images"
    keep = {images / "packs" / f"{pack:05d}" for pack in packs}
    for folder in [*images.glob("*/"), *images.glob("packs/*/")]:
        if folder.name != "packs" and folder not in keep:
            shutil.rmtree(folder)


def _select(writer: StoreWriter, number: int, part: Part) -> _Selection:
    """Look at a part's pictures and drop images that cannot be used, with their instances."""
    packs = writer.finished[f"unit {number}"].get("packs", [])
    rows = part.rows["images"]
    keep = np.ones(rows, bool)
    rejects = list(part.rejects)
    instance_image = part.array("instances", "image")
    if instance_image is None:
        instance_image = np.zeros(0, np.int32)
    if not packs:
        return _Selection(part, None, rejects, keep, np.ones(len(instance_image), bool))
    folder = writer.partial / "pictures"
    tables = [np.load(folder / f"{pack:05d}.npy") for pack in packs]
    pack_of = np.repeat(packs, [len(table) for table in tables])
    pictures = np.column_stack([pack_of, np.concatenate(tables)])
    picture_rejects = {
        reject["file"]: Reject(**reject)
        for pack in packs
        for reject in json.loads((folder / f"{pack:05d}.json").read_text(encoding="utf-8"))
    }
    names = part.strings("images", "path")
    keep &= pictures[:, 2] > 0
    for axis, column in (("width", 4), ("height", 5)):
        said = part.array("images", axis)
        if said is None:
            continue
        differs = keep & (said > 0) & (said != pictures[:, column])
        for row in np.flatnonzero(differs):
            picture_rejects[names[row]] = Reject(
                names[row],
                "",
                "picture_size",
                f"the release says {axis} {said[row]}, the picture has {pictures[row, column]}",
            )
        keep &= ~differs
    kept_instances = keep[instance_image]
    source = part.array("instances", "source_id")
    for row in np.flatnonzero(~kept_instances):
        reject = picture_rejects[names[instance_image[row]]]
        key = f"row {row}" if source is None else f"annotation {source[row]}"
        rejects.append(Reject(reject.file, key, reject.reason, reject.detail))
    # A picture nobody is left in has nothing to train on; without this, its reject would be lost.
    used = np.zeros(rows, bool)
    used[instance_image] = True
    for row in np.flatnonzero(~keep & ~used):
        rejects.append(picture_rejects[names[row]])
    return _Selection(part, pictures, rejects, keep, kept_instances)


def _list_rejects(file: Path, rejects: list[Reject]) -> None:
    if not rejects:
        file.unlink(missing_ok=True)
        return
    with open(file, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(asdict(reject)) + "\n" for reject in rejects)


def _kept_rows(selections: list[_Selection]) -> dict[str, int]:
    return {
        "images": sum(int(s.images.sum()) for s in selections),
        "instances": sum(int(s.instances.sum()) for s in selections),
        "sequences": sum(s.part.rows["sequences"] for s in selections),
    }


def _field_names(table: str, selections: list[_Selection]) -> list[str]:
    """Fields of a table in the schema's order, free ones last."""
    found = {name for s in selections for name in s.part.names(table)}
    if table == "images" and any(s.pictures is not None for s in selections):
        found |= {"pack", "offset", "length", "crc32c"}
    required = {n for (t, n), f in schema.fields().items() if t == table and f.required}
    order = {name: i for i, (t, name) in enumerate(schema.fields()) if t == table}
    return sorted(found | required, key=lambda name: (order.get(name, len(order)), name))


def _blocks(
    table: str, name: str, field: schema.Field, selections: list[_Selection]
) -> Iterator[Array]:
    """The kept rows of one numeric column, part by part, references shifted."""
    before = {"images": 0, "sequences": 0}
    shape = next(
        (a.shape[1:] for s in selections if (a := s.part.array(table, name)) is not None), ()
    )
    for selection in selections:
        part = selection.part
        rows = part.rows[table]
        values = part.array(table, name)
        if table == "images" and selection.pictures is not None:
            values = _from_pictures(name, selection.pictures, values)
        if values is None:
            values = np.full((rows, *shape), field.fill, field.dtype)
        if table != "sequences":
            values = values[getattr(selection, table)]
        if (table, name) == ("instances", "image"):
            new_row = np.cumsum(selection.images) - 1 + before["images"]
            values = new_row[values].astype(field.dtype)
        elif (table, name) == ("images", "sequence"):
            values = np.where(values >= 0, values + before["sequences"], values)
        before["images"] += int(selection.images.sum())
        before["sequences"] += part.rows["sequences"]
        yield np.ascontiguousarray(values, field.dtype)


def _from_pictures(name: str, pictures: Array, values: Array | None) -> Array | None:
    """Columns that the pictures themselves tell."""
    column = {"pack": 0, "offset": 1, "length": 2, "crc32c": 3, "width": 4, "height": 5}.get(name)
    return values if column is None else np.asarray(pictures[:, column])


def _write_field(
    root: Path,
    table: str,
    name: str,
    selections: list[_Selection],
    rows: dict[str, int],
    field_attributes: dict[str, dict[str, Any]],
    digest: Any,
) -> None:
    like = next((a for s in selections if (a := s.part.array(table, name)) is not None), None)
    field = schema.field(table, name, like)
    says = field_attributes.get(name, {}) if table != "sequences" else {}
    attributes = _describe(field, says)
    digest.update(f"{table}/{name} {field.dtype} {json.dumps(says, sort_keys=True)}\n".encode())
    for parent in Path(name).parents:
        if parent != Path("."):
            write_group(root / table / parent)
    axis = schema.TABLES[table]
    if field.dtype == "string":
        _write_strings(root / table, field, selections, attributes, rows, digest)
        return
    problems: list[schema.Problem] = []
    ids: list[Array] = []

    def checked() -> Iterator[Array]:
        row = 0
        for block in _blocks(table, name, field, selections):
            problems.extend(schema.check(field, block, attributes, rows, row))
            if "unique" in field.rules:
                ids.append(block)
            digest.update(block.data)
            row += len(block)
            yield block

    shape = like.shape[1:] if like is not None else tuple(int(n) for n in field.shape)
    # Zarr axes need names, and xarray wants one length per name within a group.
    dimensions = field.dimensions or tuple(
        f"{name.replace('/', '_')}_{i}" for i in range(len(shape))
    )
    write_array(
        root / table / name,
        checked(),
        (rows[table], *shape),
        field.dtype,
        [axis, *dimensions],
        fill=field.fill,
        attributes=attributes,
    )
    if ids and not problems:
        problems = schema.check(field, np.concatenate(ids), attributes, rows)
    if problems:
        raise HumandataError("the rows break the schema:\n" + "\n".join(map(str, problems)))


def _write_strings(
    folder: Path,
    field: schema.Field,
    selections: list[_Selection],
    attributes: dict[str, Any],
    rows: dict[str, int],
    digest: Any,
) -> None:
    strings: list[str] = []
    for selection in selections:
        values = selection.part.strings(field.table, field.name)
        if field.table == "images":
            values = [values[row] for row in np.flatnonzero(selection.images)]
        strings.extend(values)
    blob, offsets = encode_strings(strings)
    digest.update(blob.data)
    digest.update(offsets.data)
    lengths = np.diff(offsets, append=len(blob))
    problems = schema.check(field, lengths, attributes, rows)
    if problems:
        raise HumandataError("the rows break the schema:\n" + "\n".join(map(str, problems)))
    axis = schema.TABLES[field.table]
    write_array(
        folder / f"{field.name}_bytes",
        [blob],
        blob.shape,
        "uint8",
        [f"{field.name}_byte"],
        rows_per_chunk=min(MAX_BLOB_CHUNK, max(1, len(blob))),
        attributes={"meaning": f"UTF-8 text of {field.name}"},
    )
    write_array(
        folder / f"{field.name}_offset",
        [offsets],
        offsets.shape,
        "int64",
        [axis],
        attributes={**attributes, "unit": f"first byte of the row in {field.name}_bytes"},
    )


def _describe(field: schema.Field, says: dict[str, Any]) -> dict[str, Any]:
    """Attributes of an array: what the schema says of the field, and what the converter adds."""
    described: dict[str, Any] = {"meaning": field.meaning, "missing": field.missing}
    if field.unit:
        described["unit"] = field.unit
    if field.frame:
        described["frame"] = field.frame
    if field.vocabulary:
        described["vocabulary"] = list(field.vocabulary)
    described.update(says)
    # Names of what the converter added, so that a copy of the store can hand it on.
    described["says"] = sorted(says)
    return described


def _count(selections: list[_Selection], rows: dict[str, int]) -> dict[str, Any]:
    """What became of the records; the sums add up."""
    filtered: dict[str, int] = {}
    rejected: dict[str, int] = {}
    for selection in selections:
        for rule, count in selection.part.filtered.items():
            filtered[rule] = filtered.get(rule, 0) + count
        for reject in selection.rejects:
            rejected[reject.reason] = rejected.get(reject.reason, 0) + 1
    return {
        "records": sum(selection.part.records for selection in selections),
        "written": rows["instances"],
        "filtered": dict(sorted(filtered.items())),
        "rejected": dict(sorted(rejected.items())),
        "images": rows["images"],
        "sequences": rows["sequences"],
    }
