"""The part of Zarr v3 a store is made of, written and memory-mapped without the zarr library.

A store uses one form only: a regular chunk grid that divides the first axis, codecs ``bytes``
(little endian) and ``crc32c``, no shards. Such a chunk file *is* the array, followed by four bytes
of checksum, so it can be mapped into memory and shared by all workers of a machine. Any Zarr
library reads the result; the tests read it with zarr-python and xarray.

Why not through zarr-python: importing it costs more processor time than converting COCO, one
indexing call costs a millisecond against a microsecond for the map, and its event loop does not
belong into a worker. Arrays in any other form (compressed archives) are read through it.

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html and its crc32c codec.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.errors import DataError

Array = NDArray[Any]
Guard = Callable[[], None]
"""Raises where files are no longer those of the store that was opened."""

MAX_CHUNK_ROWS = 65_536
MAX_BLOB_CHUNK = 64 * 2**20
CHECKSUM_BYTES = 4


def crc32c(data: bytes | memoryview | Array, before: int = 0) -> int:
    """CRC-32C (Castagnoli) of ``data``, as the Zarr codec of that name stores it.

    ``before`` is the checksum of what comes before ``data``.
    """
    import google_crc32c

    if isinstance(data, bytes):
        return int(google_crc32c.extend(before, data))
    view, checksum = memoryview(data), before
    # google_crc32c takes bytes only; slices keep the copy small beside a 64 MiB chunk.
    flat = view.cast("B") if view.nbytes else b""
    for start in range(0, view.nbytes, 2**20):
        checksum = google_crc32c.extend(checksum, bytes(flat[start : start + 2**20]))
    return int(checksum)


def chunk_rows(rows: int, longest: int = MAX_CHUNK_ROWS) -> int:
    """Rows per chunk so that chunks are equal and padding stays below one row per chunk."""
    return max(1, math.ceil(rows / max(1, math.ceil(rows / longest))))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_group(folder: Path, attributes: Mapping[str, Any] | None = None) -> None:
    """Create the group ``folder`` (a directory with a ``zarr.json``)."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}
    write_json(folder / "zarr.json", metadata)


def write_array(
    folder: Path,
    blocks: Iterable[Array],
    shape: Sequence[int],
    dtype: np.dtype[Any] | str,
    dimensions: Sequence[str],
    *,
    rows_per_chunk: int | None = None,
    fill: float | int | bool = 0,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write one array from consecutive blocks of rows.

    Parameters
    ----------
    folder : Path
        Directory of the array; its parents are not made groups here.
    blocks : iterable of ndarray
        Together exactly ``shape[0]`` rows, each block of shape ``(any, *shape[1:])``.
    shape, dtype, dimensions
        Of the whole array; one dimension name per axis.
    rows_per_chunk : int, optional
        Default: equal chunks of at most 65,536 rows.
    fill : scalar
        What the padding of the last chunk holds.

    Raises
    ------
    ValueError
        If the blocks do not add up to ``shape``: a mistake in the calling code.
    OSError
        If the disk is full or the folder cannot be written.
    """
    dtype = np.dtype(dtype).newbyteorder("<")
    rows = rows_per_chunk or chunk_rows(shape[0])
    folder.mkdir(parents=True, exist_ok=True)
    for number, pieces in enumerate(_cut(blocks, rows, tuple(shape), dtype, fill)):
        file = folder.joinpath("c", str(number), *["0"] * (len(shape) - 1))
        file.parent.mkdir(parents=True, exist_ok=True)
        checksum = 0
        with open(file, "wb") as stream:
            for piece in pieces:
                stream.write(piece.data)
                checksum = crc32c(piece.data, checksum)
            stream.write(checksum.to_bytes(CHECKSUM_BYTES, "little"))
            stream.flush()
            os.fsync(stream.fileno())
    codec: dict[str, Any] = {"name": "bytes"}
    if dtype.itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    write_json(
        folder / "zarr.json",
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [rows, *(max(1, n) for n in shape[1:])]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": dtype.type(fill).item(),
            "codecs": [codec, {"name": "crc32c"}],
            "attributes": dict(attributes or {}),
            "dimension_names": list(dimensions),
            "storage_transformers": [],
        },
    )


def _cut(
    blocks: Iterable[Array],
    rows: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fill: float | int | bool,
) -> Iterator[list[Array]]:
    """Cut blocks of any length into the pieces of full chunks, the last one padded.

    The pieces are the blocks themselves where they have the dtype: packs of pictures are large, and
    a chunk put together in memory would cost as much as two more checksums.
    """
    pieces: list[Array] = []
    used = written = 0
    for block in blocks:
        if block.shape[1:] != shape[1:]:
            raise ValueError(f"a block of shape {block.shape} does not belong to {shape}")
        block = np.ascontiguousarray(block, dtype)
        done = 0
        while done < len(block):
            take = min(rows - used, len(block) - done)
            if block.size:
                pieces.append(block[done : done + take])
            used, done, written = used + take, done + take, written + take
            if used == rows:
                yield pieces
                pieces, used = [], 0
    if used:
        padding = np.full((rows - used, *shape[1:]), fill, dtype)
        yield [*pieces, padding] if padding.size else pieces
    if written != shape[0]:
        raise ValueError(f"blocks hold {written} rows, the array {shape[0]}")


class MappedArray:
    """One array of a store, read through memory maps of its chunk files.

    Indexing by an integer or by a slice within one chunk returns a read-only view of the map; an
    index array returns a copy. Reading is safe from many threads; nothing is opened before it is
    touched.

    Parameters
    ----------
    folder : Path
        Directory of the array.
    guard : callable, optional
        Called after a chunk was opened and before it is used; raises where the files are no longer
        those of the store that was opened.
    whole : bool
        A missing chunk is an error; otherwise it reads as the fill value, as Zarr has it.

    Raises
    ------
    DataError
        If the metadata is missing or damaged, or a chunk file cannot be read or has the wrong size.
    """

    def __init__(self, folder: Path, guard: Guard | None = None, whole: bool = False) -> None:
        self.folder = folder
        self._guard = guard
        self._whole = whole
        metadata = read_metadata(folder, "array")
        try:
            self.shape: tuple[int, ...] = tuple(int(n) for n in metadata["shape"])
            self.dtype: np.dtype[Any] = np.dtype(metadata["data_type"])
            self.attributes: dict[str, Any] = dict(metadata.get("attributes", {}))
            self.dimensions: tuple[str, ...] = tuple(metadata.get("dimension_names") or ())
            grid = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
            self.fill = metadata["fill_value"]
            self._mapped = _is_mappable(metadata, self.shape, grid)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                folder / "zarr.json", expected="Zarr v3 array metadata", found=repr(error)
            ) from error
        self._rows = int(grid[0]) if self._mapped else max(1, self.shape[0])
        self._chunk_shape = (self._rows, *self.shape[1:])
        self._chunks: dict[int, Array] = {}

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def rows_per_chunk(self) -> int:
        return self._rows

    @property
    def chunk_count(self) -> int:
        return math.ceil(self.shape[0] / self._rows)

    def chunk(self, number: int) -> Array:
        """All rows of one chunk, padding included, as a read-only array."""
        found = self._chunks.get(number)
        if found is None:
            try:
                found = self._open(number)
            finally:  # also where the chunk is gone: that the store was replaced is the better news
                if self._guard is not None:
                    self._guard()
            self._chunks[number] = found
        return found

    def item(self, row: int) -> Any:
        """One value of a one-dimensional array as a Python number, without a detour over views."""
        if not 0 <= row < self.shape[0]:
            return self[row].item()
        number, offset = divmod(row, self._rows)
        chunk = self._chunks.get(number)
        return (self.chunk(number) if chunk is None else chunk).item(offset)

    def bytes_at(self, start: int, stop: int) -> memoryview:
        """Bytes of a uint8 array, in place where they lie in one chunk.

        Raises
        ------
        DataError
            If the array ends before ``stop``.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise DataError(
                self.folder,
                expected=f"{self.shape[0]:,} bytes or fewer",
                found=f"a reference to bytes {start:,} to {stop:,}",
                hint="The store is damaged: copy it again or convert again",
            )
        number, first = divmod(start, self._rows)
        if first + stop - start <= self._rows:
            chunk = self._chunks.get(number)
            held = (self.chunk(number) if chunk is None else chunk).data
        else:
            held, first = self._range(start, stop).data, 0
        return held[first : first + stop - start]

    def chunk_file(self, number: int) -> Path:
        return self.folder.joinpath("c", str(number), *["0"] * (len(self.shape) - 1))

    def _open(self, number: int) -> Array:
        if not self._mapped:
            return _read_through_zarr(self.folder)
        file = self.chunk_file(number)
        size = math.prod(self._chunk_shape) * self.dtype.itemsize
        try:
            with open(file, "rb") as stream:
                found = os.fstat(stream.fileno()).st_size
                if found != size + CHECKSUM_BYTES:
                    raise DataError(
                        file,
                        expected=f"a chunk of {size + CHECKSUM_BYTES} bytes",
                        found=f"{found} bytes",
                        hint="The store is damaged: copy it again or convert again",
                    )
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            if self._whole:
                raise DataError(
                    file,
                    expected="a chunk of the array",
                    found="no such file",
                    hint="The store is damaged: copy it again or convert again",
                ) from error
            # Zarr lets a writer leave out chunks that hold nothing but the fill value.
            empty = np.full((1,) * len(self.shape), self.fill, self.dtype)
            return np.broadcast_to(empty, self._chunk_shape)
        except OSError as error:
            raise DataError(
                file, expected="a chunk that can be read", found=error.strerror or str(error)
            ) from error
        flat = np.frombuffer(data, self.dtype, count=math.prod(self._chunk_shape))
        return flat.reshape(self._chunk_shape)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (int, np.integer)):
            row = int(index)
            if row < 0:
                row += self.shape[0]
            if not 0 <= row < self.shape[0]:
                raise IndexError(f"row {index} of {self.folder.name} with {self.shape[0]} rows")
            number, offset = divmod(row, self._rows)
            return self.chunk(number)[offset]
        if isinstance(index, slice):
            start, stop, step = index.indices(self.shape[0])
            if step != 1:
                return self.take(np.arange(start, stop, step))
            return self._range(start, max(start, stop))
        if isinstance(index, tuple):
            return self._inner(*index)
        return self.take(np.asarray(index))

    def _inner(self, rows: Any, *rest: Any) -> Any:
        """``array[rows, 3, :2]``: rows first, then integers and slices of the other axes."""
        if any(not isinstance(i, (int, np.integer, slice, type(...))) for i in rest):
            raise IndexError(
                f"{self.folder.name}: after the rows only integers and slices; "
                "np.asarray(column)[...] takes any index"
            )
        taken = self[rows]
        axes = 0 if isinstance(rows, (int, np.integer)) else taken.ndim - len(self.shape) + 1
        return taken[(slice(None),) * axes + rest]

    def _range(self, start: int, stop: int) -> Array:
        pieces = []
        for number in range(start // self._rows, math.ceil(stop / self._rows)):
            first = number * self._rows
            pieces.append(self.chunk(number)[max(start - first, 0) : min(stop - first, self._rows)])
        if len(pieces) == 1:
            return pieces[0]
        if not pieces or start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return np.concatenate(pieces)

    def take(self, rows: Array) -> Array:
        """Rows by index array (integers, negative ones from the end) or by boolean mask; a copy."""
        if rows.dtype.kind not in "biu" and rows.size:
            raise IndexError(f"rows of {self.folder.name} are chosen by numbers or a mask")
        if rows.dtype == bool:
            if rows.shape != self.shape[:1]:
                raise IndexError(f"a mask of shape {rows.shape} for {self.shape[0]} rows")
            rows = np.flatnonzero(rows)
        if rows.size == 0:
            return np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        least, most = int(rows.min()), int(rows.max())
        if least < 0:
            rows = np.where(rows < 0, rows + self.shape[0], rows)
            least, most = int(rows.min()), int(rows.max())
        if least < 0 or most >= self.shape[0]:
            raise IndexError(f"rows outside of {self.folder.name} with {self.shape[0]} rows")
        number = least // self._rows
        if number == most // self._rows:
            chunk = self.chunk(number)
            return np.asarray(chunk[rows - number * self._rows if number else rows])
        numbers = rows // self._rows
        out = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        for number in np.unique(numbers):
            chosen = numbers == number
            out[chosen] = self.chunk(int(number))[rows[chosen] - number * self._rows]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._range(0, self.shape[0]), dtype=dtype)

    def verify(self) -> list[str]:
        """Check every chunk file against its checksum; one sentence per damaged chunk."""
        problems = []
        for number in range(self.chunk_count if self._mapped else 0):
            file = self.chunk_file(number)
            try:
                content = self.chunk(number)
                stored = file.read_bytes()[-CHECKSUM_BYTES:] if file.exists() else None
            except DataError as error:
                problems.append(str(error))
                continue
            if stored is not None and crc32c(content) != int.from_bytes(stored, "little"):
                problems.append(f"{file}: content and checksum differ; the chunk is damaged")
        return problems


def read_metadata(folder: Path, node_type: str | None = None) -> dict[str, Any]:
    """The ``zarr.json`` of a group or an array.

    Raises
    ------
    DataError
        If it is missing, is not JSON, or describes another kind of node than ``node_type``.
    """
    file = folder / "zarr.json"
    try:
        metadata = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        wanted = node_type or "node"
        raise DataError(folder, expected=f"a Zarr v3 {wanted}", found="no zarr.json") from None
    except ValueError as error:
        raise DataError(file, expected="JSON", found=str(error)) from error
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        raise DataError(file, expected="zarr_format 3", found="another format")
    if node_type not in (None, metadata.get("node_type")):
        raise DataError(file, expected=f"a Zarr {node_type}", found=repr(metadata.get("node_type")))
    return metadata


def is_group(folder: Path) -> bool:
    """Whether ``folder`` is a Zarr group (an array has a ``zarr.json`` too)."""
    return bool(read_metadata(folder).get("node_type") == "group")


def _is_mappable(metadata: Mapping[str, Any], shape: Sequence[int], grid: Sequence[int]) -> bool:
    codecs = metadata["codecs"]
    names = [codec["name"] for codec in codecs]
    if names != ["bytes", "crc32c"] or metadata.get("storage_transformers"):
        return False
    endian = codecs[0].get("configuration", {}).get("endian", "little")
    encoding = metadata["chunk_key_encoding"]
    separator = encoding.get("configuration", {}).get("separator", "/")
    whole_rows = all(n == max(1, m) for n, m in zip(grid[1:], shape[1:], strict=True))
    return bool(endian == "little" and separator == "/" and whole_rows)


def _read_through_zarr(folder: Path) -> Array:
    import zarr

    return np.asarray(zarr.open_array(folder, mode="r")[...])
