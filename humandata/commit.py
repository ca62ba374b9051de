"""From the parts of a conversion to the tables of a store: what :meth:`StoreWriter.commit` does.

Columns are streamed part by part, so memory holds one chunk of one column.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from humandata import schema
from humandata.columns import Part, Reject, encode_strings, merged_attributes
from humandata.errors import HumandataError
from humandata.packing import CROP, FOUND
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
    rejects: list[Reject]
    images: Array  # bool (images,)
    instances: Array  # bool (instances,)
    pictures: dict[str, Array] | None = None  # by column, each (images,): pack and packing.FOUND
    crops: dict[str, Array] | None = None  # by column, each (instances, ...)
    stored: bool = False  # the pictures themselves lie in packs
    kept: dict[int, str] = field(default_factory=dict)  # row of images -> why it is not tiled

    def column(self, table: str, name: str) -> Array | None:
        """A column as its pictures or crops tell it, else as the converter gave it."""
        told = {"images": self.pictures, "instances": self.crops}.get(table)
        if told is not None and name in told:
            return told[name]
        return self.part.array(table, name)


def write_tables(writer: StoreWriter, attributes: dict[str, Any]) -> Path:
    """Write all tables and the root attributes; return the folder that becomes the store."""
    root = writer.partial / "store"
    selections = [_select(writer, number, part) for number, part in enumerate(writer.parts())]
    _clear(root, _packs_in_use(writer))
    parts = [selection.part for selection in selections]
    digest = hashlib.sha256()
    for name in ("dataset", "split"):
        digest.update(f"{name}={attributes.get(name, '')}\n".encode())
    rows = _kept_rows(selections)
    field_attributes = merged_attributes(parts)
    for table in schema.TABLES:
        write_group(root / table)
        if any((root / table / "packs").glob("*/")):
            write_group(root / table / "packs")
        for name in _field_names(table, selections):
            _write_field(root, table, name, selections, rows, field_attributes, digest)
    kept, examples = _kept_untiled(selections)
    counts = _count(selections, rows, _sum(kept, writer.kept_untiled))
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
                "notes": list(dict.fromkeys([*(n for p in parts for n in p.notes), *examples])),
                "fingerprint": digest.hexdigest(),
            }
        },
    )
    return root


def _packs_in_use(writer: StoreWriter) -> dict[str, set[int]]:
    """Numbers of the packs that finished units speak of, by table."""
    found: dict[str, set[int]] = {"images": set(), "instances": set()}
    for number in range(len(writer.parts())):
        unit = writer.finished[f"unit {number}"]
        found["instances"].update(unit.get("crop_packs", ()))
        if unit.get("stored", True):
            found["images"].update(unit.get("packs", ()))
    return found


def _clear(root: Path, packs: dict[str, set[int]]) -> None:
    """Remove what an interrupted commit or forgotten pieces left; keep the packs in use."""
    for table in schema.TABLES:
        keep = {f"{pack:05d}" for pack in packs.get(table, ())}
        for folder in (root / table).glob("*/"):
            if folder.name != "packs" or not keep:
                shutil.rmtree(folder)
        for folder in (root / table / "packs").glob("*/"):
            if folder.name not in keep:
                shutil.rmtree(folder)


def _select(writer: StoreWriter, number: int, part: Part) -> _Selection:
    """Look at a part's pictures and drop images that cannot be used, with their instances."""
    unit = writer.finished[f"unit {number}"]
    packs = unit.get("packs", [])
    rows = part.rows["images"]
    keep = np.ones(rows, bool)
    rejects = list(part.rejects)
    instance_image = part.array("instances", "image")
    if instance_image is None:
        instance_image = np.zeros(0, np.int32)
    crops = (
        _crops(writer.partial / "crops", unit["crop_packs"], part)
        if unit.get("crop_packs")
        else None
    )
    if not packs:
        return _Selection(part, rejects, keep, np.ones(len(instance_image), bool), crops=crops)
    tables: list[Array] = []
    picture_rejects: dict[str, Reject] = {}
    kept: dict[int, str] = {}
    first = 0
    for pack in packs:
        said = json.loads((writer.partial / "pictures" / f"{pack:05d}.json").read_bytes())
        tables.append(np.array(said["rows"], np.int64).reshape(-1, len(FOUND)))
        picture_rejects |= {reject["file"]: Reject(**reject) for reject in said["rejects"]}
        kept |= {first + int(row): reason for row, reason in said["kept"].items()}
        first += len(tables[-1])
    pictures = dict(zip(FOUND, np.concatenate(tables).T, strict=True))
    pictures["pack"] = np.repeat(packs, [len(table) for table in tables])
    names = part.strings("images", "path")
    keep &= pictures["there"] > 0
    for axis in ("width", "height"):
        size = part.array("images", axis)
        if size is None:
            continue
        differs = keep & (size > 0) & (size != pictures[axis])
        for row in np.flatnonzero(differs):
            picture_rejects[names[row]] = Reject(
                names[row],
                "",
                "picture_size",
                f"the release says {axis} {size[row]}, the picture has {pictures[axis][row]}",
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
    if not unit.get("stored", True):  # looked at, but not kept: of crops, the sizes only
        pictures = {axis: pictures[axis] for axis in ("width", "height")}
    stored = "pack" in pictures
    return _Selection(part, rejects, keep, kept_instances, pictures, crops, stored, kept)


def _crops(folder: Path, packs: list[int], part: Part) -> dict[str, Array]:
    """Columns that say where the crops of a unit lie; rows without one as the schema has it."""
    rows = part.rows["instances"]
    found = {
        f"crop_{name}": np.zeros((rows, *CROP[name].shape), CROP[name].base)
        for name in CROP.names or ()
        if name != "row"
    }
    found["crop_pack"] = np.full(rows, -1)
    for pack in packs:
        table = np.load(folder / f"{pack:05d}.npy")
        for name in found:
            value = pack if name == "crop_pack" else table[name.removeprefix("crop_")]
            found[name][table["row"]] = value
    return found


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
    if table == "images" and any(s.stored for s in selections):
        found |= {"pack", "offset", "length", "crc32c"}
        if any(_tiled(s) for s in selections):
            found |= {"tile_width", "tile_count"}
    if table == "instances":
        found |= {name for s in selections for name in s.crops or ()}
    required = {n for (t, n), f in schema.fields().items() if t == table and f.required}
    order = {name: i for i, (t, name) in enumerate(schema.fields()) if t == table}
    return sorted(found | required, key=lambda name: (order.get(name, len(order)), name))


def _blocks(
    table: str, name: str, field: schema.Field, selections: list[_Selection]
) -> Iterator[Array]:
    """The kept rows of one numeric column, part by part, references shifted."""
    before = {"images": 0, "sequences": 0}
    empty = tuple(n for n in field.shape if isinstance(n, int))  # where no unit has a row
    shape = next(
        (a.shape[1:] for s in selections if (a := s.column(table, name)) is not None), empty
    )
    for selection in selections:
        part = selection.part
        rows = part.rows[table]
        values = selection.column(table, name)
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


def _write_field(
    root: Path,
    table: str,
    name: str,
    selections: list[_Selection],
    rows: dict[str, int],
    field_attributes: dict[str, dict[str, Any]],
    digest: Any,
) -> None:
    like = next((a for s in selections if (a := s.column(table, name)) is not None), None)
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


def _tiled(selection: _Selection) -> int:
    """Number of pictures that stay and are tiled."""
    if not selection.stored or selection.pictures is None:
        return 0
    return int((selection.pictures["tile_count"][selection.images] > 0).sum())


def _kept_untiled(selections: list[_Selection]) -> tuple[dict[str, int], list[str]]:
    """How many pictures could not be tiled, by reason, and a sentence with an example of each."""
    counts: dict[str, int] = {}
    examples: dict[str, str] = {}
    for selection in selections:
        names = selection.part.strings("images", "path") if selection.kept else []
        for row, words in selection.kept.items():
            if not selection.images[row]:
                continue
            # Up to the colon the words are the same for the same cause.
            reason, _, detail = words.partition(": ")
            counts[reason] = counts.get(reason, 0) + 1
            example = names[row] + (f": {detail}" if detail else "")
            examples.setdefault(reason, f"kept as it is, {reason}, such as {example}")
    return counts, list(examples.values())


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {key: first.get(key, 0) + second.get(key, 0) for key in {**first, **second}}


def _count(
    selections: list[_Selection], rows: dict[str, int], kept: dict[str, int]
) -> dict[str, Any]:
    """What became of the records; the sums add up."""
    filtered: dict[str, int] = {}
    rejected: dict[str, int] = {}
    pictures: dict[str, Any] = {}
    tiled = sum(map(_tiled, selections))
    if tiled or kept:
        pictures = {"tiled": tiled, "kept_untiled": dict(sorted(kept.items()))}
    lost = sum(reject.whole_file for selection in selections for reject in selection.rejects)
    if any(s.crops is not None for s in selections):
        pictures["crops"] = sum(
            int((s.crops["crop_length"][s.instances] > 0).sum()) for s in selections if s.crops
        )
        pictures["without_crop"] = rows["instances"] - pictures["crops"]
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
        **({"lost_files": lost} if lost else {}),
        **pictures,
    }
