"""humandata: one store for every human pose and shape dataset, and the engine that trains from it.

>>> import humandata
>>> store = humandata.open("pw3d_test.zarr")        # doctest: +SKIP
>>> store.instances["keypoints2d"][:64].shape       # doctest: +SKIP
(64, 18, 3)

Names are imported when they are first used, so that ``import humandata`` and ``humandata --help``
do not wait for NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from humandata import geometry, keypoints
    from humandata.errors import DataError, HumandataError, MissingExtra
    from humandata.store import Store, open
    from humandata.writer import StoreWriter, concatenate, create

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "HumandataError",
    "MissingExtra",
    "Store",
    "StoreWriter",
    "concatenate",
    "create",
    "geometry",
    "keypoints",
    "open",
]

_HOME = {
    "DataError": "errors",
    "HumandataError": "errors",
    "MissingExtra": "errors",
    "Store": "store",
    "open": "store",
    "StoreWriter": "writer",
    "concatenate": "writer",
    "create": "writer",
}
_MODULES = {"geometry", "keypoints"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"humandata.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"humandata.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'humandata' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
