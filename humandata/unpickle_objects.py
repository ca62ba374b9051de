"""What stands in for the globals that annotation pickles name: NumPy, SciPy, chumpy, builtins.

Each function here gets plain values that the machine made, checks them, and builds an array by
itself. None of them calls `__setstate__` of a library: NumPy's trusts its input and can be made to
read raw bytes as object pointers.

Class names and states were read from files written by Python 2.7 (numpy 1.16, scipy 1.2,
chumpy 0.70) and Python 3 (numpy 1.19 to 2.4, scipy 1.17).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.errors import HumandataError
from humandata.unpickle_machine import InFile, Known, Machine, Pending, hashable

Array = NDArray[Any]

# Of NumPy's type codes, those of numbers, text, raw bytes and objects. Dates are left out: no
# release has them.
_TYPE_CODE = re.compile(r"[<>=|]?(\?|[biufcSaUV]\d{1,9}|[SUVbhilqBHILQfdFD]|O\d?)")
_LARGEST_DENSE = 2**31


@dataclass(frozen=True)
class SparseMatrix:
    """A scipy.sparse matrix as its plain arrays.

    Attributes
    ----------
    data : (nnz,) ndarray
    indices : (nnz,) integer ndarray
        Row of each value for layout "csc" and "coo", column for "csr".
    indptr : (columns + 1,) or (rows + 1,) integer ndarray
        Where each column ("csc") or row ("csr") begins; for "coo" the (nnz,) columns instead.
    shape : (int, int)
    layout : {"csc", "csr", "coo"}
    """

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, int]
    layout: str

    def triplets(self) -> tuple[Array, Array, Array]:
        """Row, column and value of every stored entry; entries of one place are to be added."""
        if self.layout == "coo":
            return self.indices, self.indptr, self.data
        other = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        if self.layout == "csc":
            return self.indices, other, self.data
        return other, self.indices, self.data

    def toarray(self) -> Array:
        """The matrix with its zeros: (rows, columns) ndarray.

        Raises
        ------
        HumandataError
            The dense form has more than 2^31 entries.
        """
        if math.prod(self.shape) > _LARGEST_DENSE:
            raise HumandataError(f"a matrix of shape {self.shape} is too large to be made dense")
        rows, columns, values = self.triplets()
        dense = np.zeros(self.shape, self.data.dtype)
        np.add.at(dense, (rows, columns), values)
        return dense


def text(value: Any) -> str:
    """A name from a pickle: Python 2 strings are bytes when read with encoding "bytes"."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise ValueError(f"text expected, not {type(value).__name__}")


def attributes(state: Any) -> dict[str, Any]:
    """The attribute dictionary of a pickled instance, with names as str."""
    if type(state) is not dict:
        raise ValueError(f"a dictionary of attributes expected, not {type(state).__name__}")
    return {text(key): value for key, value in state.items()}


def array_of(value: Any) -> Array:
    """`value`, which must be a numeric array or one number."""
    if isinstance(value, int | float | bool | np.generic) and not isinstance(value, np.void):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
        raise ValueError(f"a numeric array expected, not {type(value).__name__}")
    return value


def dimensions(value: Any) -> tuple[int, ...]:
    """`value` as a shape of at most 32 axes."""
    if type(value) is int:
        value = (value,)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu":
        value = value.tolist()
    if type(value) not in (tuple, list) or len(value) > 32:
        raise ValueError("a shape expected")
    if not all(isinstance(length, int | np.integer) and 0 <= length < 2**62 for length in value):
        raise ValueError("lengths of axes expected")
    return tuple(int(length) for length in value)


def make_array(machine: Machine, raw: Any, dtype: Any, shape: Any, fortran: bool) -> Array:
    """An array from its raw bytes, or from a list where the type is object.

    Numbers come out in the machine's byte order, in memory of their own.
    """
    lengths = dimensions(shape)
    count = math.prod(lengths)
    if not isinstance(dtype, np.dtype):
        raise ValueError(f"a NumPy type expected, not {type(dtype).__name__}")
    if dtype.hasobject:
        if type(raw) is not list or len(raw) != count:
            raise ValueError("an object array needs a list of its elements")
        machine.spend(8 * count)
        # NumPy lists the elements in C order whatever the array's layout was.
        return np.fromiter(raw, dtype=object, count=count).reshape(lengths)
    if type(raw) is InFile:
        return _map(machine, raw, dtype, lengths, fortran)
    if type(raw) is str:
        raw = raw.encode("latin1")
    if type(raw) in (bytes, bytearray) and not raw and count * dtype.itemsize in machine.skipped:
        return np.zeros(0, dtype.newbyteorder("="))
    if type(raw) not in (bytes, bytearray) or len(raw) != count * dtype.itemsize:
        size = len(raw) if isinstance(raw, bytes | bytearray) else "no"
        raise ValueError(f"shape {lengths} of {dtype} does not fit {size} bytes")
    if dtype.itemsize == 0:
        # Elements without width cost nothing in the file; a row of them could be endless.
        machine.spend(count)
        return np.zeros(lengths, dtype)
    machine.spend(len(raw) + 64 * len(dtype.names or ()))
    flat = np.frombuffer(raw, dtype=dtype)
    check_text(flat)
    return flat.astype(dtype.newbyteorder("=")).reshape(lengths, order="F" if fortran else "C")


def _map(
    machine: Machine, raw: InFile, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool
) -> Array:
    """An array of numbers that stays in the file."""
    if dtype.kind not in "biufc" or math.prod(shape) * dtype.itemsize != raw.length:
        raise ValueError(f"shape {shape} of {dtype} does not fit {raw.length} bytes")
    return np.memmap(machine.file, dtype, "r", raw.start, shape, "F" if fortran else "C")


def check_text(flat: Array) -> None:
    """Refuse text whose code points do not exist: NumPy raises only when an element is read."""
    if flat.dtype.kind == "U" and flat.size and flat.dtype.itemsize:
        points = flat.view(np.dtype(np.uint32).newbyteorder(flat.dtype.byteorder))
        surrogate = (points >= 0xD800) & (points < 0xE000)
        if points.max() > 0x10FFFF or surrogate.any():
            raise ValueError("text with impossible code points")


def _type_from_code(code: Any) -> np.dtype[Any]:
    name = text(code)
    if not _TYPE_CODE.fullmatch(name):
        raise ValueError(f"NumPy type code {name[:20]!r} is not one of plain data")
    return np.dtype(object) if "O" in name else np.dtype(name)


def _dtype(machine: Machine, args: tuple[Any, ...]) -> Pending:
    plain = _type_from_code(args[0])
    return Pending("numpy.dtype", lambda machine, state: _dtype_from_state(machine, plain, state))


def _dtype_from_state(machine: Machine, plain: np.dtype[Any], state: Any) -> np.dtype[Any]:
    """The type of a `numpy.dtype.__reduce__` state.

    (version, byte order, (base, shape) | None, names, fields, itemsize, alignment, flags, ...)
    """
    if type(state) is not tuple or len(state) < 5:
        raise ValueError("the state of a NumPy type expected")
    order, subarray, names, fields = text(state[1]), state[2], state[3], state[4]
    if names is None and subarray is None:
        return plain.newbyteorder(">") if order == ">" else plain
    if plain.kind != "V":
        raise ValueError(f"fields in a type {plain}")
    if subarray is not None:
        base, shape = subarray
        made = np.dtype((_plain_data(base), dimensions(shape)))
    else:
        machine.spend(64 * len(names))
        parts = [fields[name] for name in names]
        spec = {
            "names": [text(name) for name in names],
            "formats": [_plain_data(part[0]) for part in parts],
            "offsets": [dimensions(part[1])[0] for part in parts],
            "itemsize": dimensions(state[5])[0],
        }
        made = np.dtype(spec)  # type: ignore[call-overload]
    return made


def _plain_data(dtype: Any) -> np.dtype[Any]:
    # An object field inside raw bytes would be read as a pointer; fields within fields can be
    # made to double at every level.
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.base.names is not None:
        raise ValueError("a field of plain data expected")
    return dtype


def _empty_array(machine: Machine, args: tuple[Any, ...]) -> Pending:
    kind = args[0]
    if not isinstance(kind, Known) or kind.name not in ("numpy.ndarray", "numpy.matrix"):
        raise machine.damaged("numpy._reconstruct of something that is no array")
    return Pending("numpy.ndarray", _array_from_state)


def _array_from_state(machine: Machine, state: Any) -> Array:
    # (version, shape, dtype, is Fortran, data); before NumPy 1.0 without the version.
    if type(state) is not tuple or len(state) not in (4, 5):
        raise ValueError("the state of a NumPy array expected")
    shape, dtype, fortran, raw = state[-4:]
    return make_array(machine, raw, dtype, shape, bool(fortran))


def _array_from_buffer(machine: Machine, args: tuple[Any, ...]) -> Array:
    raw, dtype, shape, order = args[:4]
    made = make_array(machine, raw, dtype, shape, order == "F")
    # NumPy 2.3 writes an array of transposed memory as it lies, and the order of its axes.
    return made.transpose(dimensions(args[4])) if order == "K" and len(args) > 4 else made


def _scalar(machine: Machine, args: tuple[Any, ...]) -> Any:
    dtype, raw = args
    if isinstance(dtype, np.dtype) and dtype.hasobject:
        raise ValueError("a scalar of plain data expected")
    return make_array(machine, raw, dtype, (1,), False)[0]


def _encode(machine: Machine, args: tuple[Any, ...]) -> bytes:
    # Protocol 2 has no bytes: Python 3 writes them as text and this call.
    value, encoding = args
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are written as latin1")
    machine.spend(len(value))
    return value.encode("latin1") if isinstance(value, str) else bytes(_bytes(value))


def _bytes(value: Any) -> bytes | bytearray:
    if type(value) not in (bytes, bytearray):
        raise ValueError(f"bytes expected, not {type(value).__name__}")
    raw: bytes | bytearray = value
    return raw


def _bytearray(machine: Machine, args: tuple[Any, ...]) -> bytearray:
    if not args:
        return bytearray()
    raw = args[0].encode("latin1") if isinstance(args[0], str) else _bytes(args[0])
    machine.spend(len(raw))
    return bytearray(raw)


def _set_of(kind: type) -> Callable[[Machine, tuple[Any, ...]], Any]:
    def make(machine: Machine, args: tuple[Any, ...]) -> Any:
        items = args[0] if args else []
        if type(items) not in (list, tuple):
            raise ValueError("a list expected")
        machine.spend(64 * len(items))
        return kind(hashable(machine, item) for item in items)

    return make


def _complex(machine: Machine, args: tuple[Any, ...]) -> complex:
    return complex(float(args[0]), float(args[1]))


def _slice(machine: Machine, args: tuple[Any, ...]) -> slice:
    if not all(item is None or type(item) is int for item in args):
        raise ValueError("a slice of whole numbers expected")
    return slice(*args)


def _ordered(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    # Every dict keeps its order. Python 2 lists the pairs in the call, Python 3 sets them after.
    pairs = args[0] if args else []
    if type(pairs) is not list or not all(type(pair) in (list, tuple) for pair in pairs):
        raise ValueError("a list of pairs expected")
    machine.spend(64 * len(pairs))
    return {text(key): value for key, value in pairs}


def _reconstructor(machine: Machine, args: tuple[Any, ...]) -> Pending:
    # Protocols 0 and 1 make every instance this way: class, base class, state of the base.
    cls, base, state = args
    if not isinstance(cls, Known) or cls.instance is None:
        raise machine.damaged("copy_reg._reconstructor of something that is no known class")
    if not isinstance(base, Known) or base.name != "builtins.object" or state is not None:
        raise machine.damaged("copy_reg._reconstructor with a base that is not object")
    return Pending(cls.name, cls.instance)


def _compressed(layout: str) -> Callable[[Machine, Any], SparseMatrix]:
    def finish(machine: Machine, state: Any) -> SparseMatrix:
        fields = attributes(state)
        shape = dimensions(fields.get("_shape", fields.get("shape")))
        data, indices = _vector(fields["data"]), _whole(fields["indices"])
        indptr = _whole(fields["indptr"])
        rows, columns = shape
        majors, minors = (columns, rows) if layout == "csc" else (rows, columns)
        machine.spend(data.nbytes + indices.nbytes + indptr.nbytes)
        falls = bool((indptr[1:] < indptr[:-1]).any())
        if len(indptr) != majors + 1 or indptr[0] != 0 or falls:
            raise ValueError(f"a {layout} matrix of shape {shape} with unfitting indptr")
        # SciPy may leave spare room behind the last entry.
        count = int(indptr[-1])
        data, indices = data[:count], indices[:count]
        if len(data) != count or len(indices) != count or _outside(indices, minors):
            raise ValueError(f"a {layout} matrix of shape {shape} with unfitting indices")
        return SparseMatrix(data, indices, indptr, (rows, columns), layout)

    return finish


def _coordinates(machine: Machine, state: Any) -> SparseMatrix:
    fields = attributes(state)
    rows, columns = dimensions(fields.get("_shape", fields.get("shape")))
    # `coords` replaced `row` and `col` in SciPy 1.13.
    row, column = fields["coords"] if "coords" in fields else (fields["row"], fields["col"])
    row, column, data = _whole(row), _whole(column), _vector(fields["data"])
    machine.spend(data.nbytes + row.nbytes + column.nbytes)
    if not len(row) == len(column) == len(data) or _outside(row, rows) or _outside(column, columns):
        raise ValueError(f"a coo matrix of shape {(rows, columns)} with unfitting coordinates")
    return SparseMatrix(data, row, column, (rows, columns), "coo")


def _vector(value: Any) -> Array:
    made = array_of(value)
    if made.ndim != 1:
        raise ValueError("a row of numbers expected")
    return made


def _whole(value: Any) -> Array:
    made = _vector(value)
    if made.dtype.kind not in "iu":
        raise ValueError("whole numbers expected")
    return made


def _outside(indices: Array, length: int) -> bool:
    return bool(len(indices)) and bool(indices.min() < 0 or indices.max() >= length)


def _chumpy_value(machine: Machine, state: Any) -> Array:
    return array_of(attributes(state)["x"])


def _chumpy_select(machine: Machine, state: Any) -> Array:
    fields = attributes(state)
    source, indices = array_of(fields["a"]), _whole(fields["idxs"])
    shape = dimensions(fields["preferred_shape"])
    if _outside(indices, source.size):
        raise ValueError("a selection outside its array")
    machine.spend(len(indices) * source.itemsize + source.nbytes)
    return source.ravel()[indices].reshape(shape)


def _chumpy_reshape(machine: Machine, state: Any) -> Array:
    fields = attributes(state)
    shape = fields["newshape"]
    lengths = (shape,) if type(shape) is int else shape
    if type(lengths) is not tuple or not all(type(length) is int for length in lengths):
        raise ValueError("a shape expected")
    source = array_of(fields["a"])
    machine.spend(source.nbytes)
    return source.reshape(lengths)


def _chumpy_transpose(machine: Machine, state: Any) -> Array:
    fields = attributes(state)
    axes = fields.get("axes")
    source = array_of(fields["a"])
    return source.T if axes is None else source.transpose(dimensions(axes))


def _stub(machine: Machine, state: Any) -> dict[str, Any]:
    return attributes(state)


def _refuse_call(machine: Machine, args: tuple[Any, ...]) -> Any:
    raise machine.damaged("a call of a type that only serves as a name")


def _table() -> Mapping[tuple[str, str], Known]:
    table: dict[tuple[str, str], Known] = {}

    def add(modules: str, name: str, **use: Any) -> None:
        known = Known(f"{modules.split()[0]}.{name}", **use)
        table.update({(module, name): known for module in modules.split()})

    builtins = "builtins __builtin__"
    add(builtins, "object", call=_refuse_call)
    add(builtins, "set", call=_set_of(set))
    add(builtins, "frozenset", call=_set_of(frozenset))
    add(builtins, "bytearray", call=_bytearray)
    add(builtins, "bytes", call=lambda machine, args: bytes(_bytearray(machine, args)))
    add(builtins, "complex", call=_complex)
    add(builtins, "slice", call=_slice)
    add("collections", "OrderedDict", call=_ordered)
    add("_codecs", "encode", call=_encode)
    add("copyreg copy_reg", "_reconstructor", call=_reconstructor)

    # NumPy 2 moved numpy.core to numpy._core; both name the same functions.
    multiarray = "numpy.core.multiarray numpy._core.multiarray"
    add("numpy", "ndarray", call=_refuse_call)
    add("numpy numpy.matrixlib.defmatrix", "matrix", call=_refuse_call)
    add("numpy", "dtype", call=_dtype)
    add(multiarray, "_reconstruct", call=_empty_array)
    add(multiarray, "scalar", call=_scalar)
    add("numpy.core.numeric numpy._core.numeric", "_frombuffer", call=_array_from_buffer)

    # SciPy 1.8 put an underscore before the modules; the `_array` classes came with it.
    for layout in ("csc", "csr"):
        for kind in ("matrix", "array"):
            modules = f"scipy.sparse.{layout} scipy.sparse._{layout}"
            add(modules, f"{layout}_{kind}", instance=_compressed(layout))
    for kind in ("matrix", "array"):
        add("scipy.sparse.coo scipy.sparse._coo", f"coo_{kind}", instance=_coordinates)

    # SMPL, SMPL-H and MANO files of 2015 to 2017 hold chumpy's lazy arrays.
    add("chumpy.ch chumpy", "Ch", instance=_chumpy_value)
    add("chumpy.reordering", "Select", instance=_chumpy_select)
    add("chumpy.reordering", "Reshape", instance=_chumpy_reshape)
    add("chumpy.reordering", "transpose", instance=_chumpy_transpose)

    # The pose prior of classner/up is an instance of scikit-learn's old mixture.
    add("sklearn.mixture.gmm", "GMM", instance=_stub)
    return table


TABLE = _table()
