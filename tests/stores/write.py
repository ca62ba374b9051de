"""Writes format_1.zarr with the version installed; run once per format, never over an old store."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "releases"))

from pw3d_release import write_pw3d

from humandata.converters.converter import convert
from humandata.schema import FORMAT_VERSION

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as raw:
        for i in range(2):
            write_pw3d(Path(raw), name=f"walk_{i:02d}", frames=3, size=(54, 96), seed=i)
        convert("pw3d", Path(raw), Path(__file__).parent / f"format_{FORMAT_VERSION}.zarr")
