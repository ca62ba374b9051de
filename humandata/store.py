"""Read a store: its tables as arrays, its pictures as bytes.

Nothing here writes; :mod:`humandata.writer` does. A :class:`Store` holds memory maps only, so it
costs no start-up, is shared by threads, and pickles as its path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError
from humandata.schema import FORMAT_VERSION, TABLES
from humandata.zarr_files import Array, MappedArray, crc32c, is_group, read_metadata

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

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._columns = dict(_columns(folder))
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


def _columns(folder: Path, prefix: str = "") -> Iterator[tuple[str, Any]]:
    blobs = set()
    entries = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    for name in entries:
        if name.endswith("_offset") and f"{name.removesuffix('_offset')}_bytes" in entries:
            text = name.removesuffix("_offset")
            blobs.update({name, f"{text}_bytes"})
            blob, offsets = MappedArray(folder / f"{text}_bytes"), MappedArray(folder / name)
            yield prefix + text, StringColumn(blob, offsets)
    for name in entries:
        # Packs hold pictures, not rows.
        if name in blobs or name == "packs":
            continue
        if not prefix and is_group(folder / name):
            yield from _columns(folder / name, f"{name}/")
        else:
            yield prefix + name, MappedArray(folder / name)


class Store:
    """A committed store, open for reading. Use :func:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attributes = _root_attributes(path)
        self.images = Table(path / "images", "images")
        self.instances = Table(path / "instances", "instances")
        self.sequences = Table(path / "sequences", "sequences")
        self._packs: dict[int, MappedArray] = {}

    def __len__(self) -> int:
        """Number of instances: persons in pictures."""
        return self.instances.rows

    def __repr__(self) -> str:
        return (
            f"<Store {self.dataset} {self.split}: {len(self):,} instances in "
            f"{self.images.rows:,} pictures at {self.path}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path,)

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
        return "pack" in self.images

    def picture(self, row: int) -> bytes:
        """The encoded picture of one row of ``images``, as it lay in the release.

        Raises
        ------
        DataError
            If the store keeps paths only and the file is not at
            ``attributes["picture_root"]``, or if a pack is missing.
        """
        if self.has_pictures and int(self.images["length"][row]) > 0:
            pack, offset = int(self.images["pack"][row]), int(self.images["offset"][row])
            return self._slice(pack, offset, int(self.images["length"][row]))
        root = self.attributes.get("picture_root")
        name = str(self.images["path"][row])
        if root is None:
            raise DataError(
                self.path,
                f"picture {name}",
                expected="pictures in the store or a folder to find them in",
                found="paths only",
                hint="Convert again with --pictures original",
            )
        try:
            return (Path(root) / name).read_bytes()
        except OSError as error:
            raise DataError(
                Path(root) / name,
                f"image row {row} of {self.path}",
                expected="the picture",
                found=error.strerror or str(error),
                hint="This store keeps paths only (--pictures none): keep the raw folder in place",
            ) from error

    def _slice(self, pack: int, offset: int, length: int) -> bytes:
        if pack not in self._packs:
            folder = self.path / "images" / "packs" / f"{pack:05d}"
            self._packs[pack] = MappedArray(folder)
        # No picture crosses a chunk, so this is a copy out of one map.
        data: Array = self._packs[pack][offset : offset + length]
        return data.tobytes()

    def verify_pictures(self) -> list[str]:
        """Compare every stored picture with its checksum; one sentence per damaged one."""
        problems: list[str] = []
        if not self.has_pictures:
            return problems
        sums, lengths = np.asarray(self.images["crc32c"]), np.asarray(self.images["length"])
        for row in np.flatnonzero(lengths > 0):
            name = f"{self.path}, picture {self.images['path'][int(row)]} (image row {row})"
            try:
                data = self.picture(int(row))
            except DataError as error:
                problems.append(f"{name}: {error}")
                continue
            if len(data) != lengths[row] or crc32c(data) != sums[row]:
                problems.append(f"{name}: content and checksum differ")
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
