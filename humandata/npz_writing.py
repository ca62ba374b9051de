"""Write ``.npz`` files that the tools of their time can read.

NumPy 2 names ``numpy._core`` in pickles, which NumPy below 1.26 does not have, and mmhuman3d runs
with older ones. Object members written here name ``numpy.core``, which all versions know, in
protocol 4 (Python 3.4 and newer).
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROTOCOL = 4


# The one in C cannot be told how to spell a global.
class _OldNames(pickle._Pickler):
    def save_global(self, obj: Any, name: str | None = None) -> None:
        # The type stubs know none of its methods.
        pickler: Any = self
        above: Any = super()
        module = str(getattr(obj, "__module__", ""))
        if not module.startswith("numpy._core"):
            above.save_global(obj, name)
            return
        spelt = module.replace("numpy._core", "numpy.core", 1)
        pickler.write(pickle.GLOBAL + f"{spelt}\n{name or obj.__qualname__}\n".encode())
        pickler.memoize(obj)


def text(words: Sequence[str]) -> NDArray[np.str_]:
    """Words as an array of fixed width, which needs no pickle; of none, an empty one."""
    return np.array(list(words), dtype=np.str_)


def objects(entries: Sequence[Any]) -> NDArray[np.object_]:
    """A row of Python objects, whatever their own lengths."""
    row = np.empty(len(entries), dtype=object)
    row[:] = entries
    return row


def write_npz(file: Path, members: Mapping[str, Any]) -> None:
    """Write arrays, plain values and dictionaries of them as one compressed ``.npz``.

    Dictionaries and other objects become 0-d object members, as :func:`numpy.savez` makes them.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for name, value in members.items():
            made = np.asanyarray(value) if not isinstance(value, dict) else np.array(value, object)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if made.dtype.hasobject:
                    _write_objects(member, made)
                else:
                    np.lib.format.write_array(member, made, allow_pickle=False)


def _write_objects(member: Any, made: NDArray[Any]) -> None:
    header = {"descr": "|O", "fortran_order": False, "shape": made.shape}
    np.lib.format.write_array_header_1_0(member, header)
    stream = io.BytesIO()
    _OldNames(stream, PROTOCOL).dump(made)
    member.write(stream.getvalue())
