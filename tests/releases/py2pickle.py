"""Writes pickles as Python 2 did, without Python 2.

`dumps(value, protocol=2)`: str and bytes become 8-bit strings (SHORT_BINSTRING, BINSTRING), NumPy's
functions are named by their old place ``numpy.core``, builtins by ``__builtin__``. `Ch`, `Select`,
`Csc` and `Instance` stand for objects of packages that need not be installed.
"""

from __future__ import annotations

import io
import pickle
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Instance:
    """An instance of any class: written by name, with its attributes."""

    module: str
    name: str
    state: dict[str, Any]


def Ch(values: Any) -> Instance:
    """A chumpy array."""
    return Instance("chumpy.ch", "Ch", {"x": np.asarray(values), **_chumpy_state("x")})


def Select(source: Any, idxs: Any, shape: tuple[int, ...]) -> Instance:
    """Elements `idxs` of the chumpy array of `source`, in a shape."""
    state = {"a": Ch(source), "idxs": np.asarray(idxs), "preferred_shape": shape}
    return Instance("chumpy.reordering", "Select", {**state, **_chumpy_state("a", "idxs")})


def Csc(dense: Any, module: str = "scipy.sparse.csc") -> Instance:
    """A scipy csc matrix of a dense one."""
    dense = np.asarray(dense)
    columns, rows = np.nonzero(dense.T)
    state = {
        "_shape": dense.shape,
        "maxprint": 50,
        "data": dense[rows, columns],
        "indices": rows.astype(np.int32),
        "indptr": np.searchsorted(columns, np.arange(dense.shape[1] + 1)).astype(np.int32),
    }
    return Instance(module, "csc_matrix", state)


def dumps(value: Any, protocol: int = 2) -> bytes:
    """Pickle `value` as Python 2 would, with protocol 0, 1 or 2."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol).dump(value)
    return file.getvalue()


def _chumpy_state(*dirty: str) -> dict[str, Any]:
    flags = {"_itr": None, "_depends_on_deps": {}, "_make_dense": False, "_make_sparse": False}
    return {"_dirty_vars": set(dirty), **flags}


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol, fix_imports=False)
        self.protocol = protocol

    def _string(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        if self.protocol == 0:
            self.write(b"S" + repr(raw).removeprefix("b").encode("ascii") + b"\n")
        elif len(raw) < 256:
            self.write(b"U" + bytes([len(raw)]) + raw)
        else:
            self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    def _global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__ or "numpy"
        for new, old in (("numpy._core", "numpy.core"), ("builtins", "__builtin__")):
            module = old if module == new else module.replace(f"{new}.", f"{old}.")
        module = "copy_reg" if module == "copyreg" else module
        self._named(module, value.__name__)
        self.memoize(value)

    def _named(self, module: str, name: str) -> None:
        self.write(f"c{module}\n{name}\n".encode())

    def _instance(self, value: Instance) -> None:
        if self.proto >= 2:
            self._named(value.module, value.name)
            self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        else:
            self._named("copy_reg", "_reconstructor")
            self.write(pickle.MARK)
            self._named(value.module, value.name)
            self._named("__builtin__", "object")
            self.write(pickle.NONE + pickle.TUPLE + pickle.REDUCE)
        self.memoize(value)
        self.save(value.state)
        self.write(pickle.BUILD)

    def _set(self, value: set[Any]) -> None:
        self.save_reduce(set, (list(value),), obj=value)

    dispatch[str] = _string
    dispatch[bytes] = _string
    dispatch[type] = _global
    dispatch[type(np.zeros)] = _global
    dispatch[type(dumps)] = _global
    dispatch[Instance] = _instance
    dispatch[set] = _set
