"""Files of ``joblib.dump`` read without joblib, and without running anything from them.

VIBE's databases are such files although they are named ``.pt``. The stream is an ordinary pickle
in which every array is an instance of ``NumpyArrayWrapper``; directly behind the opcode that sets
its state lie the array's bytes (in newer files after one byte that counts some padding, so that
they are aligned), or, for an array of objects, a complete pickle of its own. Then the outer pickle
goes on. Files may be compressed as a whole by zlib, gzip, bz2, xz or lzma; lz4, which Python does
not bring along, is refused by name.

Source: joblib/joblib, joblib/numpy_pickle.py.
"""

from __future__ import annotations

import bz2
import lzma
import math
import mmap
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from humandata import unpickle_objects, unpickle_torch
from humandata.errors import DataError
from humandata.unpickle_machine import Known, Machine
from humandata.unpickle_objects import attributes, dimensions, make_array, text
from humandata.unpickle_opcodes import run

_LZ4 = b"\x04\x22\x4d\x18"
_CHUNK = 2**22
_MOST_AT_ONCE = 16 * _CHUNK
_LZMA_MEMORY = 2**27  # the strongest preset asks for half of it; a damaged header for anything
LARGEST_GROWTH = 256
"""How many times its size a compressed file may become; features of zeros come near it."""


@dataclass(frozen=True)
class Skipped:
    """An array that was not wanted: its shape and type."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def load(file: Path, skip: Collection[str] = ()) -> Any:
    """Read a file of ``joblib.dump``.

    Parameters
    ----------
    file : Path
    skip : collection of str
        Keys of dictionaries whose arrays are passed over, as `Skipped`: features of gigabytes.

    Returns
    -------
    The value, of Python's own types and ndarrays.

    Raises
    ------
    UnsafePickle
        It names something outside the restricted reader's list; nothing was run.
    DataError
        It is missing, truncated, damaged, or compressed by lz4.
    """
    wanted = frozenset(skip)
    try:
        with open(file, "rb") as stream:
            start = stream.read(8)
            if start.startswith(_LZ4):
                raise DataError(
                    file, expected="a joblib file, uncompressed or by zlib, gzip, bz2, xz or lzma",
                    found="lz4", hint="Write it again with joblib.dump(value, file)",
                )  # fmt: skip
            decompress = next((open_ for magic, open_ in _OPENED if start.startswith(magic)), None)
            if decompress is not None:
                stream.seek(0)
                return _run(_inflate(stream, file, decompress()), file, wanted)
            if not start:
                return _run(b"", file, wanted)
            with closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as data:
                return _run(data, file, wanted)
    except OSError as error:
        raise DataError(
            file, expected="a readable file", found=error.strerror or str(error),
            hint="Check the path and its permissions",
        ) from error  # fmt: skip


class _Zlib:
    """zlib's decompressor with the manners of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._engine = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._engine.decompress(self._engine.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def needs_input(self) -> bool:
        return not self._engine.unconsumed_tail


_Engine = _Zlib | bz2.BZ2Decompressor | lzma.LZMADecompressor


def _lzma() -> _Engine:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_LZMA_MEMORY)


_OPENED: tuple[tuple[bytes, Callable[[], _Engine]], ...] = (
    (b"\x78", _Zlib), (b"\x1f\x8b", _Zlib), (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ", _lzma), (b"\x5d\x00\x00", _lzma),
)  # fmt: skip
"""How a compressed file begins, and what reads it; no pickle begins so."""


def _inflate(stream: Any, file: Path, engine: _Engine) -> bytes:
    pieces, size, read = [], 0, 0
    try:
        while not engine.eof and (chunk := stream.read(_CHUNK)):
            read += len(chunk)
            for piece in _pieces(engine, chunk):
                pieces.append(piece)
                size += len(piece)
                if size > LARGEST_GROWTH * read + _CHUNK:
                    raise DataError(
                        file, expected=f"a file that grows at most {LARGEST_GROWTH} times",
                        found=f"{size} bytes out of {read}", hint="This is no file of VIBE",
                    )  # fmt: skip
    except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    if not engine.eof:
        raise _damaged(file, "the end of the file inside the compressed data")
    return b"".join(pieces)


def _pieces(engine: _Engine, chunk: bytes) -> Iterator[bytes]:
    """What a chunk decompresses to, never more than so much at once."""
    yield engine.decompress(chunk, _MOST_AT_ONCE)
    while not (engine.eof or engine.needs_input):
        yield engine.decompress(b"", _MOST_AT_ONCE)


def _damaged(file: Path, found: str) -> DataError:
    return DataError(
        file, expected="a complete joblib file", found=found,
        hint="The file is truncated or damaged; fetch it again",
    )  # fmt: skip


def _run(data: Any, file: Path, skip: frozenset[str]) -> Any:
    table = _table(skip)
    return run(Machine(data, str(file), table))


def _table(skip: frozenset[str]) -> Mapping[tuple[str, str], Known]:
    table = {**unpickle_objects.TABLE, **unpickle_torch.TABLE}

    def wrapped(machine: Machine, state: Any) -> Any:
        return _array(machine, state, skip, table)

    wrapper = "NumpyArrayWrapper"
    table["joblib.numpy_pickle", wrapper] = Known(f"joblib.{wrapper}", instance=wrapped)
    # Of these only the names occur: what a wrapped array was, what a defaultdict makes.
    for module in ("numpy", "numpy.core.memmap", "numpy._core.memmap"):
        table[module, "memmap"] = Known(f"{module}.memmap")
    for module in ("builtins", "__builtin__"):
        table |= {(module, name): Known(f"builtins.{name}") for name in ("list", "dict")}
    table["collections", "defaultdict"] = Known("collections.defaultdict", call=_default)
    return table


def _default(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    if len(args) > 1 or not all(item is None or isinstance(item, Known) for item in args):
        raise ValueError("a defaultdict of a type expected")
    return {}


def _array(
    machine: Machine,
    state: Any,
    skip: frozenset[str],
    table: Mapping[tuple[str, str], Known],
) -> Any:
    """The array whose bytes follow in the stream."""
    fields = attributes(state)
    shape, dtype = dimensions(fields["shape"]), fields["dtype"]
    order = text(fields["order"])
    if not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise ValueError("a wrapped array with its type and order expected")
    if dtype.hasobject:
        inner = Machine(machine.data, machine.file, table, position=machine.position)
        inner.budget = machine.budget
        value = run(inner)
        machine.position, machine.budget = inner.position, inner.budget
        if not isinstance(value, np.ndarray) or value.shape != shape:
            raise ValueError(f"an object array of shape {shape} expected")
        return value
    if fields.get("numpy_array_alignment_bytes") is not None:
        machine.take(machine.take(1)[0])
    count = math.prod(shape) * dtype.itemsize
    # A value of a dictionary is built while its key is the last thing on the stack.
    key = machine.stack[-1] if machine.stack else None
    if isinstance(key, str) and key in skip:
        if machine.position + count > machine.size:
            raise machine.damaged(f"the end of the file inside {key}")
        machine.position += count
        return Skipped(shape, dtype)
    return make_array(machine, machine.take(count), dtype, shape, order == "F")
