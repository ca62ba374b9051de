"""humandata: one store for every human pose and shape dataset, and the engine that trains from it.

>>> import humandata
>>> store = humandata.open("pw3d_test.zarr")        # doctest: +SKIP
>>> store.instances["keypoints2d"][:64].shape       # doctest: +SKIP
(64, 18, 3)
"""

from __future__ import annotations

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
    "open",
]
