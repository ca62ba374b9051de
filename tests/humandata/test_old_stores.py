"""Stores written by released versions stay readable: one of each format is kept and opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import humandata
from humandata.inspection import is_sound, verify

STORES = Path(__file__).parents[1] / "stores"


@pytest.mark.parametrize("path", sorted(STORES.glob("*.zarr")), ids=lambda path: path.name)
def test_a_store_of_every_format_opens_and_is_sound(path: Path) -> None:
    store = humandata.open(path)
    assert len(store) > 0
    assert is_sound(verify(store))


def test_the_first_format_reads_as_it_was_written() -> None:
    """Two synthetic 3DPW sequences, written by version 0.1.0 (write.py beside the stores)."""
    store = humandata.open(STORES / "format_1.zarr")
    assert store.attributes["format"] == 1
    assert store.dataset == "pw3d"
    assert store.sequences["name"][:] == ["synthetic_test_00", "synthetic_test_01"]
    assert store.images["path"][0] == "imageFiles/synthetic_test_00/image_00000.jpg"
    assert store.convention("keypoints3d") == "smpl"
    np.testing.assert_allclose(
        store.instances["keypoints3d"][0, 0], [0.026478, 0.033799, 4.669215, 1.0], atol=1e-6
    )
    assert store.fingerprint.startswith("eb65b5799a1a9fae")
