"""Write a store: parts and packs into ``STORE.partial``, then one rename.

Layout of ``STORE.partial`` while the work goes on::

    lock                     held by the one process that may write here
    journal.jsonl            first line: what is being made; then one line per finished piece
    units/00000              columns of one unit of work (humandata.columns)
    pictures/00000.json      where the pictures of one pack lie, their checksums and sizes; those
                             that could not be used, or not be tiled, and why
    crops/00000.npy          where the crops of one pack lie, and what they show
    store/                   becomes STORE; packs are written here directly

Whatever the journal names is whole: it is written after the piece, and flushed to the disk. A
process killed at any moment therefore leaves a folder that the same command picks up again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from humandata.columns import Columns, Part, write_part
from humandata.errors import DataError, HumandataError
from humandata.packing import PICTURES_PER_PACK, write_crops, write_pack
from humandata.packs import Crop, Encoded
from humandata.store import PARTIAL, Store
from humandata.store import open as open_store

LAYOUT = 2
"""Of ``STORE.partial``, kept in its journal: to be raised whenever the above changes."""


class StoreWriter:
    """A store being written. Use :func:`create`, or the converters' runner.

    Parameters
    ----------
    path : Path
        Where the store shall be.
    making : mapping
        What is being made (dataset, split, options ...). A folder left by an interrupted run is
        continued if it says the same, and refused if not.
    restart : bool
        Throw away what an interrupted run left.
    overwrite : bool
        Replace a store that is already at ``path``, at the moment of the commit.
    tiled : bool
        Give pictures that are appended restart markers (:func:`create`).

    Raises
    ------
    DataError
        If a store is there already, if another process is writing it, or if an interrupted run
        with other options is there.
    """

    def __init__(
        self,
        path: Path,
        making: Mapping[str, Any],
        *,
        restart: bool = False,
        overwrite: bool = False,
        tiled: bool = False,
    ) -> None:
        self.path = path
        self.tiled = tiled
        self.kept_untiled: dict[str, int] = {}
        """Pictures that an earlier store kept as they were, by reason; counted at the commit."""
        self.partial = path.with_name(path.name + PARTIAL)
        self.overwrite = overwrite
        self._refuse_existing()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.partial)
        self.finished: dict[str, dict[str, Any]] = {}
        try:
            self._put_back_replaced()
            self._open_journal({"layout": LAYOUT, **making}, restart)
        except BaseException:
            self.close()
            raise

    def _refuse_existing(self) -> None:
        if self.path.exists() and not self.overwrite:
            raise DataError(
                self.path,
                expected="a path for a new store",
                found="something there already",
                hint="Choose another path, or pass --overwrite to replace it",
            )

    def _put_back_replaced(self) -> None:
        """Undo the first half of a commit that was killed between its two renames."""
        replaced = self.partial / "replaced"
        if replaced.exists() and not self.path.exists():
            os.rename(replaced, self.path)
            self._refuse_existing()

    def _open_journal(self, making: dict[str, Any], restart: bool) -> None:
        journal = self.partial / "journal.jsonl"
        if restart:
            for entry in self.partial.iterdir():
                if entry.name != "lock":
                    _remove(entry)
        lines = _read_journal(journal)
        if lines:
            if lines[0] != json.loads(json.dumps(making)):
                raise DataError(
                    self.partial,
                    expected="an interrupted run of this very command",
                    found=_difference(lines[0], making),
                    hint="Repeat that command, or pass --restart to begin anew",
                )
            for line in lines[1:]:
                if line.get("forgotten"):
                    self.finished.pop(line["piece"], None)
                else:
                    self.finished[line["piece"]] = line
        self._journal = journal.open("a", encoding="utf-8")
        if not lines:
            self._note(making)

    def _note(self, line: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def note_finished(self, piece: str, **facts: Any) -> None:
        """Enter a finished piece (``"unit 3"``, ``"pack 7"``) into the journal."""
        line = {"piece": piece, **facts}
        self._note(line)
        self.finished[piece] = line

    def forget(self, piece: str) -> None:
        """Enter that a finished piece no longer counts; a later run must not take it up either."""
        self._note({"piece": piece, "forgotten": True})
        del self.finished[piece]

    def unit_file(self, number: int) -> Path:
        return self.partial / "units" / f"{number:05d}"

    def parts(self) -> list[Part]:
        """Columns of all finished units, in order."""
        return [Part(self.unit_file(number)) for number in range(self._count_finished("unit "))]

    def append(
        self,
        images: Mapping[str, Any],
        instances: Mapping[str, Any],
        sequences: Mapping[str, Any] | None = None,
        pictures: Sequence[bytes | Encoded] | None = None,
        field_attributes: Mapping[str, Mapping[str, Any]] | None = None,
        crops: Sequence[Crop | None] | None = None,
    ) -> None:
        """Add rows.

        Parameters
        ----------
        images, instances, sequences : mapping of field name to ndarray or list of str
            Columns; ``instances["image"]`` and ``images["sequence"]`` count the rows of this call.
        pictures : sequence of bytes or Encoded, optional
            One encoded picture per row of ``images``. One that is damaged is left out together
            with its instances, and counted. What :meth:`Store.encoded` gives is taken over as it
            is, tiled or not.
        field_attributes : mapping, optional
            Such as ``{"keypoints2d": {"convention": "coco"}}``.
        crops : sequence of Crop or None, optional
            One per row of ``instances``.
        """
        number = self._count_finished("unit ")
        columns = Columns(
            dict(images),
            dict(instances),
            dict(sequences or {}),
            {name: dict(values) for name, values in (field_attributes or {}).items()},
        )
        columns.records = columns.rows("instances")
        for table, given, what in (("images", pictures, "pictures"), ("instances", crops, "crops")):
            if given is not None and len(given) != columns.rows(table):
                raise HumandataError(
                    f"{len(given)} {what} for {columns.rows(table)} rows of {table}"
                )
        write_part(self.unit_file(number), columns)
        packs, crop_packs = [], []
        for start in range(0, len(pictures or ()), PICTURES_PER_PACK):
            pack = self._count_finished("pack ")
            block = (pictures or ())[start : start + PICTURES_PER_PACK]
            write_pack(self.partial, pack, block, images["path"][start:], self.tiled)
            self.note_finished(f"pack {pack}", unit=number, start=start)
            packs.append(pack)
        for start in range(0, len(crops or ()), PICTURES_PER_PACK):
            pack = self._count_finished("crops ")
            cut = enumerate((crops or ())[start : start + PICTURES_PER_PACK], start)
            write_crops(self.partial, pack, [(row, crop) for row, crop in cut if crop is not None])
            self.note_finished(f"crops {pack}", unit=number, start=start)
            crop_packs.append(pack)
        self.note_finished(f"unit {number}", packs=packs, crop_packs=crop_packs)

    def _count_finished(self, kind: str) -> int:
        return sum(piece.startswith(kind) for piece in self.finished)

    def commit(self, attributes: Mapping[str, Any]) -> Store:
        """Write the tables, then make the store visible by one rename.

        Parameters
        ----------
        attributes : mapping
            ``dataset``, ``split`` and whatever else the root shall say.

        Raises
        ------
        HumandataError
            If the rows break a rule of the schema: array, row and rule are named. What was
            converted stays in ``STORE.partial``.
        """
        from humandata.commit import write_tables

        root = write_tables(self, dict(attributes))
        old = self.partial / "replaced"
        if self.path.exists():
            os.rename(self.path, old)
        os.rename(root, self.path)
        _flush_folder(self.path.parent)
        self.close()
        shutil.rmtree(self.partial, ignore_errors=True)
        return open_store(self.path)

    def close(self) -> None:
        """Let go of the folder; what is in it stays."""
        with contextlib.suppress(AttributeError):
            self._journal.close()
        self._lock.close()


class _Creation:
    """What :func:`create` returns: a writer that commits when its block ends well."""

    def __init__(self, writer: StoreWriter, attributes: dict[str, Any]) -> None:
        self._writer = writer
        self._attributes = attributes
        self.append = writer.append
        self.kept_untiled = writer.kept_untiled

    def __enter__(self) -> _Creation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._writer.commit(self._attributes)
        else:
            self._writer.close()


def create(
    path: str | PathLike[str],
    *,
    dataset: str,
    split: str = "",
    attributes: Mapping[str, Any] | None = None,
    tiled: bool = False,
    overwrite: bool = False,
    restart: bool = False,
) -> _Creation:
    """Write a store of one's own; committed when the ``with`` block ends without an exception.

    Parameters
    ----------
    path : str or path
    dataset, split : str
    attributes : mapping, optional
        Anything else the root attributes shall say (licence, citation, picture_root ...).
    tiled : bool
        Store JPEG pictures with restart markers, losslessly, as ``humandata convert`` does: the
        pixels stay, the bytes change, and training decodes the part it needs only. By default
        :meth:`Store.picture` gives back the very bytes that were appended.
    overwrite : bool
        Replace a store that is there already.
    restart : bool
        Throw away what an interrupted run left at ``path.partial``.

    Examples
    --------
    >>> with humandata.create("mine.zarr", dataset="mine", tiled=True) as writer:  # doctest: +SKIP
    ...     writer.append(
    ...         images={"id": ids, "path": paths, "height": h, "width": w},
    ...         instances={"id": ids, "image": image, "bbox_xywh": boxes},
    ...         pictures=[open(path, "rb").read() for path in paths],
    ...         field_attributes={"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
    ...     )
    """
    made = {"dataset": dataset, "split": split, **(attributes or {})}
    making = {"create": made, "tiled": tiled}
    writer = StoreWriter(Path(path), making, restart=restart, overwrite=overwrite, tiled=tiled)
    if writer.finished:
        writer.close()
        raise DataError(
            writer.partial,
            expected="no unfinished store",
            found="rows of an interrupted run",
            hint="Pass restart=True to throw them away",
        )
    return _Creation(writer, made)


def concatenate(
    stores: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    overwrite: bool = False,
    restart: bool = False,
) -> Store:
    """Join stores into one; rows keep their order, ids, pictures (tiled or not) and crops.

    Fields that one store lacks are filled with what the schema says for "missing" there. Joint
    conventions and box rules have to agree; stores of different conventions are mixed when a
    batch is made, not on disk.

    Raises
    ------
    HumandataError
        If a field's attributes differ between the stores, or an id occurs twice.
    """
    opened = [open_store(path) for path in stores]
    says: dict[str, Any] = {"concatenated": [store.fingerprint for store in opened]}
    if any(store.has_crops for store in opened):
        says["crops"] = [store.attributes.get("crops") for store in opened]
    roots = {store.attributes.get("picture_root") for store in opened}
    if len(roots) == 1 and None not in roots:  # paths of several folders could not be told apart
        says["picture_root"] = roots.pop()
    with create(
        out,
        dataset="+".join(dict.fromkeys(store.dataset for store in opened)),
        split="+".join(dict.fromkeys(store.split for store in opened)),
        attributes=says,
        overwrite=overwrite,
        restart=restart,
    ) as writer:
        for store in opened:
            where = ("pack", "offset", "length", "crc32c")
            skip = {
                "images": {*where, "tile_width", "tile_count"},
                "instances": {f"crop_{name}" for name in (*where, "square")},
            }
            tables = {
                name: {
                    field: np.asarray(column) if column.dtype != object else column[:]
                    for field, column in table.items()
                    if field not in skip.get(name, ())
                }
                for name, table in store.tables().items()
            }
            attributes = {
                name: {k: column.attributes[k] for k in column.attributes.get("says", ())}
                for name, column in [*store.images.items(), *store.instances.items()]
                if column.attributes.get("says")
            }
            # Pictures are read when a pack is written, so memory holds one pack at a time.
            writer.append(
                **tables,
                pictures=_Lazy(store.encoded, store.images.rows) if store.has_pictures else None,
                crops=_Lazy(store.crop, len(store)) if store.has_crops else None,
                field_attributes=attributes,
            )
            for reason, count in store.attributes["counts"].get("kept_untiled", {}).items():
                writer.kept_untiled[reason] = writer.kept_untiled.get(reason, 0) + count
    return open_store(out)


class _Lazy(Sequence[Any]):
    """A sequence whose elements are read when they are asked for."""

    def __init__(self, read: Callable[[int], Any], rows: int, first: int = 0) -> None:
        self.read = read
        self.rows = range(first, first + rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            rows = self.rows[index]
            return _Lazy(self.read, len(rows), rows.start)
        return self.read(self.rows[index])


def _lock(partial: Path) -> IO[str]:
    partial.mkdir(parents=True, exist_ok=True)
    file = partial / "lock"
    lock = file.open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        raise DataError(
            partial,
            expected="to be the only one writing this store",
            found=f"{owner} at work on it",
            hint="Wait for it to finish, or choose another path",
        ) from None
    if not file.exists():  # the other process has just committed and removed the folder
        lock.close()
        return _lock(partial)
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def _read_journal(journal: Path) -> list[dict[str, Any]]:
    """Lines of the journal; a last line cut off by a crash is dropped, and its piece done anew."""
    if not journal.exists():
        return []
    lines = []
    content = journal.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        journal.write_bytes(whole)
    for line in whole.splitlines():
        lines.append(json.loads(line))
    return lines


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In which way an interrupted run is another one."""
    if old.get("layout") != new["layout"]:
        return "one of another version of humandata, which lays out this folder differently"
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    values = ", ".join(f"{key}: {old.get(key)!r} then, {new.get(key)!r} now" for key in keys)
    return f"one of other input or options ({values[:500]})"


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
