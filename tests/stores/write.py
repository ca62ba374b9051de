"""Writes format_N.zarr with the version installed; run once per format, never over an old store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from humandata.converters.converter import convert
from humandata.schema import FORMAT_VERSION
from humandata.synthetic_releases import write_pw3d

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as raw:
        write_pw3d(Path(raw), {"test": 2}, frames=3, size=(96, 72))
        convert("pw3d", Path(raw), Path(__file__).parent / f"format_{FORMAT_VERSION}.zarr")
