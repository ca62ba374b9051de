"""Pickles of annotation releases, read without running anything from them.

SMPL models, 3DPW sequences, AGORA frames and the object members of `.npz` files are pickles, and
an ordinary unpickler runs whatever code a pickle names. This reader knows a fixed list of harmless
names and refuses every other one:

- Python containers, numbers, text and bytes; protocols 0 to 5, written by Python 2 or 3;
- NumPy arrays, scalars and types (numbers, text, raw bytes, objects, records of these);
- scipy.sparse csc, csr and coo matrices, as `SparseMatrix`;
- pandas frames of numbers, text and objects, as `Frame`;
- chumpy arrays, as ndarrays of their values;
- torch tensors written by plain pickle (not by `torch.save`), as ndarrays;
- scikit-learn's old GMM, as the dictionary of its attributes.

None of those packages but NumPy needs to be installed.

    >>> from humandata import unpickle
    >>> import pickle
    >>> unpickle.loads(pickle.dumps({"gender": "m", "betas": [0.0] * 3}))
    {'gender': 'm', 'betas': [0.0, 0.0, 0.0]}
"""

from __future__ import annotations

import math
import mmap
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any, BinaryIO

import numpy as np

from humandata import unpickle_objects, unpickle_pandas, unpickle_torch
from humandata.errors import DataError
from humandata.unpickle_machine import Known, Machine, UnsafePickle
from humandata.unpickle_objects import Array, SparseMatrix, check_text
from humandata.unpickle_opcodes import run
from humandata.unpickle_pandas import Frame

__all__ = [
    "Frame", "NpzFile", "SparseMatrix", "UnsafePickle", "load", "load_npy", "load_npz", "loads",
]  # fmt: skip

Path = str | os.PathLike[str]

_TABLE: Mapping[tuple[str, str], Known] = {
    **unpickle_objects.TABLE,
    **unpickle_pandas.TABLE,
    **unpickle_torch.TABLE,
}
_NPY_MAGIC = b"\x93NUMPY"
_CHUNK = 2**20


def load(
    file: Path | BinaryIO,
    encoding: str = "latin1",
    skipped: Collection[int] = (),
    mapped_from: int | None = None,
) -> Any:
    """Read a pickle.

    Parameters
    ----------
    file : path or binary file
    encoding : {"latin1", "bytes"}
        What the 8-bit strings of a Python 2 pickle become: str, or bytes.
    skipped : collection of int
        Arrays of these numbers of bytes are not read and come out with no elements: vertices that
        nobody wants, of files larger than the memory. (Protocols 3 and later.)
    mapped_from : int, optional
        Arrays of numbers of at least so many bytes are not read: they are read-only maps of the
        file, in its byte order, perhaps not aligned. Of a path only; the file must hold no other
        strings as long as that. (Not in protocols 0 and 1, nor in what Python 3 wrote by
        protocol 2: such arrays are read.)

    Returns
    -------
    The pickled value, of Python's own types, ndarrays, `SparseMatrix` and `Frame`. Arrays of
    numbers are writable and in native byte order.

    Raises
    ------
    UnsafePickle
        The pickle names something outside the list; nothing was run.
    DataError
        The file is missing, truncated or damaged.
    """
    if not isinstance(file, str | os.PathLike):
        name = str(getattr(file, "name", "pickle"))
        return run(Machine(file.read(), name, _TABLE, encoding, skipped=frozenset(skipped)))
    try:
        with open(file, "rb") as opened:
            if os.fstat(opened.fileno()).st_size == 0:
                return loads(b"", str(file), encoding)
            # Mapped, because AGORA's frames are larger than some machines' memory can hold twice.
            with closing(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)) as data:
                machine = Machine(
                    data,
                    str(file),
                    _TABLE,
                    encoding,
                    skipped=frozenset(skipped),
                    mapped_from=mapped_from,
                )
                return run(machine)
    except OSError as error:
        raise _unreadable(file, error) from error


def loads(data: bytes, file: str = "pickle", encoding: str = "latin1") -> Any:
    """Read a pickle from memory; `file` is its name in messages. See `load`."""
    return run(Machine(data, file, _TABLE, encoding))


def load_npy(file: Path) -> Any:
    """Read a `.npy` file: an ndarray; object arrays go through the restricted reader.

    Raises
    ------
    UnsafePickle, DataError
        As `load`.
    """
    try:
        with open(file, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            return _read_npy(opened, size, str(file))
    except OSError as error:
        raise _unreadable(file, error) from error


def load_npz(file: Path, mapped_from: int | None = None) -> NpzFile:
    """Open a `.npz` file; its members are read when asked for.

    Parameters
    ----------
    file : path
    mapped_from : int, optional
        Members of numbers that are not compressed and of at least so many bytes are not read: they
        are read-only maps of the file, in its byte order, and unchecked by the zip's checksum.

    Raises
    ------
    DataError
        The file is missing, or is not a zip of `.npy` members.
    """
    return NpzFile(file, mapped_from)


class NpzFile(Mapping[str, Any]):
    """The members of a `.npz` file by name, each read at every access.

    Members of numbers and text are ndarrays; object members go through the restricted reader, and
    a 0-d object member (a dictionary saved by `numpy.savez`) is the object itself.
    """

    def __init__(self, file: Path, mapped_from: int | None = None) -> None:
        self.file = str(file)
        self.mapped_from = mapped_from
        try:
            with zipfile.ZipFile(file) as archive:
                members = {info.filename: info.file_size for info in archive.infolist()}
        except OSError as error:
            raise _unreadable(file, error) from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(
                self.file,
                expected="a .npz file (a zip of .npy members)",
                found=str(error),
                hint="The file is truncated, damaged or of another kind; fetch it again",
            ) from error
        self._members = {name.removesuffix(".npy"): (name, n) for name, n in members.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def __getitem__(self, key: str) -> Any:
        """Read one member.

        Raises
        ------
        KeyError
            There is no such member.
        UnsafePickle, DataError
            As `load`; both name the file and the member.
        """
        name, size = self._members[key]
        source = f"{self.file}, member {key}"
        try:
            with zipfile.ZipFile(self.file) as archive:
                info = archive.getinfo(name)
                if self.mapped_from is not None and size >= self.mapped_from:
                    mapped = _map_member(self.file, info, source)
                    if mapped is not None:
                        return mapped
                with archive.open(info) as member:
                    value = _read_npy(member, size, source)
        except (DataError, UnsafePickle):
            raise
        except OSError as error:
            raise _unreadable(self.file, error) from error
        except _DAMAGED_ZIP as error:
            # zlib.error and the like are documented nowhere as a closed set.
            raise _damaged(source, f"{type(error).__name__}: {error}") from error
        is_object = isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0
        return value.item() if is_object else value


def _damaged_zip() -> tuple[type[Exception], ...]:
    import zlib

    return (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError)


_DAMAGED_ZIP = _damaged_zip()


def _map_member(file: str, info: zipfile.ZipInfo, source: str) -> Array | None:
    """A member as a map of the file; None where it is compressed, or not an array of numbers."""
    if info.compress_type != zipfile.ZIP_STORED:
        return None
    with open(file, "rb") as opened:
        # Local header of the zip format: 30 bytes, then name and extra field, lengths at 26 and 28.
        opened.seek(info.header_offset + 26)
        name, extra = np.frombuffer(opened.read(4), "<u2").tolist()
        start = opened.seek(name + extra, os.SEEK_CUR)
        shape, fortran, dtype = _read_header(opened, source)
        if dtype.kind not in "biufc":
            return None
        at = opened.tell()
        if math.prod(shape) * dtype.itemsize > info.file_size - (at - start):
            raise _damaged(
                source, f"shape {shape} of {dtype} in a member of {info.file_size} bytes"
            )
        return np.memmap(file, dtype, "r", at, shape, "F" if fortran else "C")


def _read_npy(stream: Any, size: int, source: str) -> Any:
    """The array of a `.npy` stream of `size` bytes, nothing allocated beyond that size."""
    shape, fortran, dtype = _read_header(stream, source)
    if dtype.hasobject:
        return _read_objects(stream.read(), source, shape)
    count = math.prod(shape)
    if any(length < 0 for length in shape) or count * max(dtype.itemsize, 1) > size:
        raise _damaged(source, f"shape {shape} of {dtype} in a member of {size} bytes")
    raw = np.empty(count * dtype.itemsize, np.uint8)
    view, filled = memoryview(raw), 0
    while filled < len(raw):
        got = stream.readinto(view[filled : filled + _CHUNK])
        if not got:
            raise _damaged(source, f"{filled} of {len(raw)} bytes")
        filled += got
    try:
        flat = raw.view(dtype) if dtype.itemsize else np.zeros(count, dtype)
        check_text(flat)
    except ValueError as error:
        raise _damaged(source, str(error)) from error
    native = dtype.newbyteorder("=")
    ordered = flat if native == dtype else flat.astype(native)
    return ordered.reshape(shape, order="F" if fortran else "C")


def _read_objects(pickled: bytes, source: str, shape: tuple[int, ...]) -> Array:
    value = loads(pickled, source)
    if not isinstance(value, np.ndarray) or value.shape != shape:
        raise _damaged(source, "a pickle of something else than the array its header describes")
    return value


def _read_header(stream: Any, source: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    npy = np.lib.format
    try:
        version = npy.read_magic(stream)
        if version == (1, 0):
            header = npy.read_array_header_1_0(stream)
        elif version == (2, 0):
            header = npy.read_array_header_2_0(stream)
        else:
            raise ValueError(f"version {version}")
    # The header is Python source that NumPy parses as a literal; what ast raises is not fixed.
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, EOFError) as error:
        raise _damaged(source, f"a header that says {str(error)[:200]!r}") from error
    shape, fortran, dtype = header
    return tuple(int(length) for length in shape), bool(fortran), dtype


def _damaged(source: str, found: str) -> DataError:
    return DataError(
        source,
        expected="a complete .npy array of version 1 or 2",
        found=found,
        hint="The file is truncated or damaged; fetch it again",
    )


def _unreadable(file: Path, error: OSError) -> DataError:
    return DataError(
        file,
        expected="a readable file",
        found=error.strerror or str(error),
        hint="Check the path and its permissions",
    )
