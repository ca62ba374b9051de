"""Write the joblib files beside this one: run it where joblib is installed, and nowhere else.

``joblib_plain.pt``, ``joblib_zlib.pt`` and ``joblib_bz2.pt`` hold the value below; written with
joblib 1.6.0, NumPy 2.4.6, Python 3.11.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np


def value() -> dict[str, Any]:
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.arange(3), {"a": "word"}]
    return {
        "vid_name": np.array(["walk_0", "walk_1"]),
        "joints": np.arange(24, dtype=np.float32).reshape(2, 4, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "objects": ragged,
        "features": np.zeros((2, 300), np.float32),
        "empty": np.zeros((0, 3), np.int64),
        "lists": defaultdict(list, {"k": [1, 2]}),
        "number": 7,
    }


if __name__ == "__main__":
    import joblib

    here = Path(__file__).parent
    joblib.dump(value(), here / "joblib_plain.pt")
    joblib.dump(value(), here / "joblib_zlib.pt", compress=("zlib", 3))
    joblib.dump(value(), here / "joblib_bz2.pt", compress=("bz2", 3))
