"""Fixtures that every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Small tests on few cores are slowed, not helped, by threaded linear algebra.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real annotation fragments; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "samples"
    folder = Path(os.environ.get("HUMANDATA_SAMPLES", default))
    if not folder.is_dir():
        pytest.skip(f"real samples are not at {folder} (set HUMANDATA_SAMPLES)")
    return folder
