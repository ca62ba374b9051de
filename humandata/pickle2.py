"""Write pickles as Python 2 did: what SMPL's and 3DPW's official files are.

Python 3's own pickler cannot: it writes text as unicode and NumPy's present module names, and it
needs every class it names to be importable. Files written here name chumpy and SciPy classes where
neither is installed. Reading is `humandata.unpickle`'s part.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Instance:
    """An object of a class given by name, and the state (``__dict__``) it is restored with."""

    module: str
    name: str
    state: Any


def chumpy_array(values: np.ndarray[Any, Any]) -> Instance:
    """An array as ``chumpy.ch.Ch`` 0.70 pickles itself."""
    state = {
        "x": values,
        "_dirty_vars": set(),
        "_itr": None,
        "_depends_on_deps": {},
        "_make_dense": False,
        "_make_sparse": False,
    }
    return Instance("chumpy.ch", "Ch", state)


def csc_matrix(dense: np.ndarray[Any, Any], module: str = "scipy.sparse.csc") -> Instance:
    """A matrix as ``scipy.sparse.csc_matrix`` pickles itself (SciPy 0.1x's attributes).

    Parameters
    ----------
    dense : (rows, columns) ndarray
    module : str
        ``scipy.sparse.csc`` as in SMPL's files; ``scipy.sparse._csc`` for SciPy 1.8 and newer.
    """
    columns, rows = np.nonzero(dense.T)
    state = {
        "_shape": dense.shape,
        "maxprint": 50,
        "data": dense[rows, columns],
        "indices": rows.astype(np.int32),
        "indptr": np.searchsorted(columns, np.arange(dense.shape[1] + 1)).astype(np.int32),
    }
    return Instance(module, "csc_matrix", state)


def dumps(value: Any) -> bytes:
    """Pickle a value, protocol 2, with 8-bit strings and NumPy's old module names.

    Parameters
    ----------
    value : Any
        ``None``, bool, int, float, str, bytes, list, tuple, dict, set, NumPy scalars and arrays
        (of numbers or objects), `Instance`, nested as wished.

    Raises
    ------
    TypeError
        Something else is in it.
    """
    parts = [b"\x80\x02"]
    _put(value, parts)
    parts.append(b".")
    return b"".join(parts)


def _put(value: Any, out: list[bytes]) -> None:
    if value is None or isinstance(value, bool):
        out.append({None: b"N", True: b"\x88", False: b"\x89"}[value])
    elif isinstance(value, int):
        _put_int(value, out)
    elif isinstance(value, np.generic):
        _call("numpy.core.multiarray", "scalar", (value.dtype, value.tobytes()), out)
    elif isinstance(value, float):
        out.append(b"G" + struct.pack(">d", value))
    elif isinstance(value, str | bytes):
        _put_string(value, out)
    elif isinstance(value, tuple):
        out.append(b"(")
        for item in value:
            _put(item, out)
        out.append(b"t")
    elif isinstance(value, list):
        out.append(b"](")
        for item in value:
            _put(item, out)
        out.append(b"e")
    elif isinstance(value, dict):
        out.append(b"}(")
        for key, item in value.items():
            _put(key, out)
            _put(item, out)
        out.append(b"u")
    elif isinstance(value, set):
        _call("__builtin__", "set", (sorted(value),), out)
    else:
        _put_object(value, out)


def _put_int(value: int, out: list[bytes]) -> None:
    if -(2**31) <= value < 2**31:
        out.append(b"J" + struct.pack("<i", value))
    else:
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        out.append(b"\x8a" + struct.pack("<B", len(data)) + data)


def _put_string(value: str | bytes, out: list[bytes]) -> None:
    try:
        data = value if isinstance(value, bytes) else value.encode("ascii")
    except UnicodeEncodeError:
        data = value.encode("utf-8")  # type: ignore[union-attr]
        out.append(b"X" + struct.pack("<I", len(data)) + data)
        return
    length = len(data)
    out.append(
        struct.pack("<cB", b"U", length) if length < 256 else struct.pack("<ci", b"T", length)
    )
    out.append(data)


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode("ascii")


def _call(module: str, name: str, arguments: tuple[Any, ...], out: list[bytes]) -> None:
    out.append(_global(module, name))
    _put(arguments, out)
    out.append(b"R")


def _put_object(value: Any, out: list[bytes]) -> None:
    if isinstance(value, np.dtype):
        is_object = value == np.dtype(object)
        code = "O8" if is_object else value.str[1:]
        _call("numpy", "dtype", (code, 0, 1), out)
        order = "|" if value.str[0] == "|" else value.str[0]
        width = (value.itemsize, value.alignment) if value.kind in "SUV" else (-1, -1)
        _put((3, order, None, None, None, *width, 63 if is_object else 0), out)
        out.append(b"b")
    elif isinstance(value, np.ndarray):
        out.append(_global("numpy.core.multiarray", "_reconstruct"))
        out.append(b"(" + _global("numpy", "ndarray"))
        _put((0,), out)
        _put("b", out)
        out.append(b"tR")
        plain = value.ravel().tolist() if value.dtype == object else value.tobytes()
        _put((1, value.shape, value.dtype, False, plain), out)
        out.append(b"b")
    elif isinstance(value, Instance):
        out.append(_global(value.module, value.name) + b")\x81")
        _put(value.state, out)
        out.append(b"b")
    else:
        raise TypeError(f"Python 2 pickles written here cannot hold a {type(value).__name__}")
