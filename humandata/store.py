"""Read a store: its tables as arrays, its pictures as bytes.

Nothing here writes; :mod:`humandata.writer` does. A :class:`Store` holds memory maps only, so it
costs no start-up, is shared by threads, and pickles as its path.

Maps are opened when they are first touched. A store that is replaced or written anew at its path
while it is read is noticed at that moment, by the ``zarr.json`` at its root: rows of one store are
never mixed with pictures of another. `Store.check_unchanged` looks at any other moment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError
from humandata.packs import Crop, Encoded, Packs, index_fits
from humandata.schema import FORMAT_VERSION, TABLES
from humandata.zarr_files import Array, Guard, MappedArray, crc32c, is_group, read_metadata

__all__ = ["Column", "Crop", "Encoded", "Store", "StringColumn", "Table", "file_bytes", "open"]

PARTIAL = ".partial"
"""Ending of the folder that a conversion works in until it commits."""

Column = MappedArray


class StringColumn:
    """Strings of a table: one UTF-8 blob and the offset of each string's first byte."""

    dtype = np.dtype(object)

    def __init__(self, blob: MappedArray, offsets: MappedArray) -> None:
        self._blob = blob
        self._offsets = offsets
        self.attributes = offsets.attributes

    @property
    def shape(self) -> tuple[int, ...]:
        return self._offsets.shape

    @property
    def arrays(self) -> tuple[MappedArray, MappedArray]:
        """The blob and the offsets."""
        return self._blob, self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice | Array | list[int]) -> list[str]: ...

    def __getitem__(self, index: Any) -> str | list[str]:
        if isinstance(index, (int, np.integer)):
            row = int(index) % len(self) if -len(self) <= index < 0 else int(index)
            start = int(self._offsets[row])
            last = row + 1 == len(self)
            stop = len(self._blob) if last else int(self._offsets[row + 1])
            return str(self._blob[start:stop].tobytes(), "utf-8")
        rows = np.arange(len(self))[index]
        return [self[int(row)] for row in rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self[:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self[:], dtype=object)

    def lengths(self) -> NDArray[np.int64]:
        """Length of every string in bytes, int64 (rows,)."""
        starts = np.asarray(self._offsets)
        return np.diff(starts, append=len(self._blob))

    def verify(self) -> list[str]:
        """Check the checksums of both arrays; one sentence per damaged chunk."""
        problems = self._blob.verify() + self._offsets.verify()
        if not problems and len(self) and (self.lengths() < 0).any():
            problems.append(f"{self._offsets.folder}: offsets are not in order")
        return problems


class Table(Mapping[str, Any]):
    """One table of a store: field name -> column. Nested names are flat: ``smpl/betas``."""

    def __init__(self, folder: Path, name: str, guard: Guard | None = None) -> None:
        self.folder = folder
        self.name = name
        self._columns = dict(_columns(folder, guard))
        self.rows = max((len(column) for column in self._columns.values()), default=0)

    def __getitem__(self, field: str) -> Any:
        try:
            return self._columns[field]
        except KeyError:
            raise KeyError(
                f"{self.name} has no field {field!r}; it has {', '.join(self._columns)}"
            ) from None

    def __contains__(self, field: object) -> bool:
        return field in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """Number of fields; the number of rows is ``rows``."""
        return len(self._columns)


def _columns(folder: Path, guard: Guard | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    blobs = set()
    entries = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    for name in entries:
        if name.endswith("_offset") and f"{name.removesuffix('_offset')}_bytes" in entries:
            text = name.removesuffix("_offset")
            blobs.update({name, f"{text}_bytes"})
            blob = MappedArray(folder / f"{text}_bytes", guard)
            yield prefix + text, StringColumn(blob, MappedArray(folder / name, guard))
    for name in entries:
        # Packs hold pictures, not rows.
        if name in blobs or name == "packs":
            continue
        if not prefix and is_group(folder / name):
            yield from _columns(folder / name, guard, f"{name}/")
        else:
            yield prefix + name, MappedArray(folder / name, guard)


class Store:
    """A committed store, open for reading. Use :func:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp, self._root = _stamp(path), _root_digest(path)
        self.attributes = _root_attributes(path)
        self.images = Table(path / "images", "images", self.check_unchanged)
        self.instances = Table(path / "instances", "instances", self.check_unchanged)
        self.sequences = Table(path / "sequences", "sequences", self.check_unchanged)
        self._pictures = Packs(self.images, self.images.folder, self.check_unchanged)
        self._crops = Packs(self.instances, self.instances.folder, self.check_unchanged, "crop_")
        self.check_unchanged()

    def __len__(self) -> int:
        """Number of instances: persons in pictures."""
        return self.instances.rows

    def __repr__(self) -> str:
        return (
            f"<Store {self.dataset} {self.split}: {len(self):,} instances in "
            f"{self.images.rows:,} pictures at {self.path}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_same, (self.path, self.fingerprint)

    def check_unchanged(self) -> None:
        """Hold the store at the path against the one that was opened, by its ``zarr.json``.

        Done whenever a map is opened; loaders do it once for each batch (a look at the file's
        status, some microseconds), since maps that are open go on showing a store that is gone.

        Raises
        ------
        DataError
            If the store was replaced, written anew or removed.
        """
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        # Some network file systems number files anew, and tools touch them: the content decides.
        if _root_digest(self.path) != self._root:
            raise DataError(
                self.path,
                expected="the store that was opened",
                found="another one, or none: it changed while it was being read",
                hint="Open it again; convert into a new path while a store is in use",
            )
        self._stamp = stamp

    @property
    def dataset(self) -> str:
        return str(self.attributes["dataset"])

    @property
    def split(self) -> str:
        return str(self.attributes["split"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content; equal for two conversions of the same input."""
        return str(self.attributes["fingerprint"])

    def tables(self) -> dict[str, Table]:
        return {name: getattr(self, name) for name in TABLES}

    def convention(self, field: str) -> str:
        """Joint convention of ``keypoints2d`` or ``keypoints3d``."""
        return str(self.instances[field].attributes["convention"])

    @property
    def has_pictures(self) -> bool:
        """Whether encoded pictures lie in the store itself."""
        return self._pictures.there

    @property
    def has_crops(self) -> bool:
        """Whether crops of the persons lie in the store (``convert --crop``)."""
        return self._crops.there

    def picture(self, row: int) -> bytes:
        """The encoded picture of one row of ``images``, a copy.

        As it lay in the release, or with the same pixels and restart markers where it is tiled.

        Raises
        ------
        DataError
            If the store keeps paths only and the file is not at
            ``attributes["picture_root"]``, if a pack is missing, or if the store has changed since
            it was opened.
        """
        return bytes(self.encoded(row).data)

    def encoded(self, row: int) -> Encoded:
        """The encoded picture of one row of ``images``, in place, and how it is tiled.

        Raises
        ------
        DataError
            As :meth:`picture`.
        """
        found = self._pictures.find(row)
        return Encoded(memoryview(self._file(row))) if found is None else found

    def crop(self, row: int) -> Crop | None:
        """The crop of one row of ``instances``; None where it has none, as a person without a box.

        Raises
        ------
        DataError
            If a pack is missing, or if the store has changed since it was opened.
        """
        found = self._crops.find(row)
        if found is None:
            return None
        return Crop(found.data, *self.instances["crop_square"][row].tolist())

    def _file(self, row: int) -> bytes:
        """A picture that lies outside: read, not mapped.

        A map saves 4 to 20 microseconds of some milliseconds, and kills the process when someone
        cuts off the file.
        """
        root = self.attributes.get("picture_root")
        name = str(self.images["path"][row])
        if root is None:
            raise DataError(
                self.path,
                f"picture {name}",
                expected="pictures in the store or a folder to find them in",
                found="crops of the persons only" if self.has_crops else "paths only",
                hint="Convert again with --pictures tiled",
            )
        file = f"{root}/{name}"
        try:
            handle = os.open(file, os.O_RDONLY)
            try:
                size = os.fstat(handle).st_size
                data = os.read(handle, size)
                while len(data) < size and (more := os.read(handle, size - len(data))):
                    data += more
            finally:
                os.close(handle)
        except OSError as error:
            hint = "This store keeps paths only (--pictures none): keep the raw folder in place"
            if "video" in self.images and (video := str(self.images["video"][row])):
                hint = f"It is a frame of the video {video}: convert again with --pictures tiled"
            raise DataError(
                file,
                f"image row {row} of {self.path}",
                expected="the picture",
                found=error.strerror or str(error),
                hint=hint,
            ) from error
        return data

    def check_picture(self, row: int) -> None:
        """Hold one picture, of a row of ``images``, against its checksum.

        For readers whose decoder has failed: is the store damaged, or was the picture never sound?
        A picture outside of the store has no checksum and passes.

        Raises
        ------
        DataError
            Naming the picture and both checksums; or as :meth:`picture`.
        """
        found = self._pictures.find(row)
        if found is not None:
            self._compare(found, self.images["crc32c"].item(row), self._picture_name(row))

    def check_crop(self, row: int) -> None:
        """The same for the crop of a row of ``instances``."""
        found = self._crops.find(row)
        if found is not None:
            self._compare(found, self.instances["crop_crc32c"].item(row), self._crop_name(row))

    def _picture_name(self, row: int) -> str:
        return f"picture {self.images['path'][row]} (image row {row})"

    def _crop_name(self, row: int) -> str:
        return f"crop of instances row {row} (id {self.instances['id'].item(row)})"

    def _compare(self, picture: Encoded, expected: int, name: str) -> None:
        found = crc32c(picture.data)
        if found != expected:
            raise DataError(
                self.path,
                name,
                expected=f"the checksum {expected:08x}",
                found=f"{found:08x}",
                hint="Content and checksum differ, the store is damaged: copy it again or convert "
                "again",
            )
        if not index_fits(picture):
            raise DataError(
                self.path,
                name,
                expected="an index of its restart intervals",
                found="lengths that do not lead from marker to marker",
                hint="The store is damaged: copy it again or convert again",
            )

    def verify_pictures(self) -> list[str]:
        """Compare every stored picture and crop with its checksum; one sentence per damaged one."""
        problems: list[str] = []
        for packs, check, name in (
            (self._pictures, self.check_picture, self._picture_name),
            (self._crops, self.check_crop, self._crop_name),
        ):
            for row in packs.rows():
                try:
                    check(row)
                except DataError as error:
                    said = str(error)
                    problems.append(said if name(row) in said else f"{name(row)}: {said}")
        return problems


def open(path: str | PathLike[str]) -> Store:
    """Open a store for reading.

    Parameters
    ----------
    path : str or path
        The folder a conversion committed.

    Returns
    -------
    Store

    Raises
    ------
    DataError
        If there is no store, if a conversion into it has not been committed, or if it was written
        by a newer release.
    """
    return Store(Path(path))


def _open_same(path: Path, fingerprint: str) -> Store:
    """Open a store in another process: the one that was sent there, not one that replaced it."""
    store = open(path)
    if store.fingerprint != fingerprint:
        raise DataError(
            path,
            expected=f"the store of fingerprint {fingerprint[:16]}",
            found=f"{store.fingerprint[:16]}: it changed while it was being read",
            hint="Open it again; convert into a new path while a store is in use",
        )
    return store


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What tells one ``zarr.json`` from another: file, size and time; None where there is none."""
    try:
        found = os.stat(path / "zarr.json")
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _root_digest(path: Path) -> bytes:
    """Digest of the root's ``zarr.json``, which holds the fingerprint of all content."""
    try:
        return hashlib.sha256((path / "zarr.json").read_bytes()).digest()
    except OSError:
        return b""


def _root_attributes(path: Path) -> dict[str, Any]:
    partial = path.with_name(path.name + PARTIAL)
    unfinished = "a conversion that has not finished; run the same command again, and it resumes"
    if PARTIAL in path.suffixes or (not path.exists() and partial.exists()):
        raise DataError(path, expected="a committed store", found=unfinished)
    if not path.exists():
        raise DataError(path, expected="a humandata store", found="nothing there")
    attributes = read_metadata(path, "group").get("attributes", {}).get("humandata")
    if not isinstance(attributes, dict):
        raise DataError(
            path,
            expected="a humandata store",
            found="a Zarr group without the attribute 'humandata'",
            hint="Make one with: humandata convert DATASET RAW STORE",
        )
    if not attributes.get("complete"):
        raise DataError(path, expected="a committed store", found=unfinished)
    version = attributes.get("format")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DataError(
            path,
            expected=f"store format {FORMAT_VERSION} or older",
            found=f"format {version!r}",
            hint="Install a newer humandata",
        )
    missing = [name for name in TABLES if not (path / name / "zarr.json").is_file()]
    if missing:
        raise DataError(path, expected="the tables " + ", ".join(TABLES), found=f"no {missing[0]}")
    return attributes


def file_bytes(path: Path) -> int:
    """Bytes of all files below ``path``."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
