"""Files of joblib are read as joblib reads them, and nothing in them is run."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from vibe_release import dump

from humandata import DataError, unpickle_joblib
from humandata.unpickle import UnsafePickle

PICKLES = Path(__file__).parent / "pickles"


def assert_value(found: dict[str, Any]) -> None:
    """What tests/humandata/pickles/write_joblib.py gave to joblib."""
    assert found["vid_name"].tolist() == ["walk_0", "walk_1"]
    assert_array_equal(found["joints"], np.arange(24, dtype=np.float32).reshape(2, 4, 3))
    assert_array_equal(found["fortran"], [[0, 1, 2], [3, 4, 5]])
    assert_array_equal(found["objects"][0], [0, 1, 2])
    assert found["objects"][1] == {"a": "word"}
    assert found["features"].shape == (2, 300)
    assert found["empty"].shape == (0, 3)
    assert found["lists"] == {"k": [1, 2]}
    assert found["number"] == 7


@pytest.mark.parametrize("name", ["plain", "zlib", "bz2"])
def test_what_joblib_wrote_is_read(name: str) -> None:
    assert_value(unpickle_joblib.load(PICKLES / f"joblib_{name}.pt"))


COMPRESSED = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
}
"""What joblib's compressors write, but for their settings."""


@pytest.mark.parametrize("name", COMPRESSED)
def test_whatever_python_can_decompress_is_read(tmp_path: Path, name: str) -> None:
    plain = (PICKLES / "joblib_plain.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(COMPRESSED[name](plain))
    assert_value(unpickle_joblib.load(tmp_path / "a.pt"))


def test_lz4_is_refused_by_name_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x04\x22\x4d\x18" + bytes(50))
    with pytest.raises(DataError, match=r"a.pt: expected .* xz or lzma, found lz4. Write it again"):
        unpickle_joblib.load(tmp_path / "a.pt")


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_files_that_are_cut_or_changed_end_in_a_sentence(
    tmp_path: Path, name: str
) -> None:
    whole = COMPRESSED[name]((PICKLES / "joblib_plain.pt").read_bytes())
    rng = np.random.default_rng(1)
    for left in range(1, len(whole) - 1, 61):
        (tmp_path / "a.pt").write_bytes(whole[:left])
        with pytest.raises((DataError, UnsafePickle)):
            unpickle_joblib.load(tmp_path / "a.pt")
    for _ in range(100):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "a.pt").write_bytes(data)
        with contextlib.suppress(DataError, UnsafePickle):
            unpickle_joblib.load(tmp_path / "a.pt")


@pytest.mark.parametrize("aligned", [True, False])
def test_arrays_may_follow_with_or_without_padding(tmp_path: Path, aligned: bool) -> None:
    """joblib pads since 1.2; older files, which VIBE's are, hold the bytes at once."""
    value = {"a": np.arange(5), "b": np.asfortranarray(np.arange(6.0).reshape(3, 2))}
    found = unpickle_joblib.load(dump(tmp_path / "a.pt", value, aligned=aligned))
    assert_array_equal(found["a"], value["a"])
    assert_array_equal(found["b"], value["b"])


def test_arrays_that_are_not_wanted_are_passed_over() -> None:
    found = unpickle_joblib.load(PICKLES / "joblib_plain.pt", skip=("features", "joints"))
    assert found["features"] == unpickle_joblib.Skipped((2, 300), np.dtype(np.float32))
    assert found["joints"].shape == (2, 4, 3)
    assert_array_equal(found["fortran"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("name", ["plain", "zlib"])
def test_cut_files_end_in_a_sentence(tmp_path: Path, name: str) -> None:
    whole = (PICKLES / f"joblib_{name}.pt").read_bytes()
    for left in (0, 1, 5, *range(20, len(whole) - 1, 37)):
        (tmp_path / "a.pt").write_bytes(whole[:left])
        with pytest.raises((DataError, UnsafePickle)):
            unpickle_joblib.load(tmp_path / "a.pt")


def test_changed_bytes_end_in_a_sentence_or_a_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = (PICKLES / "joblib_plain.pt").read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "a.pt").write_bytes(data)
        with contextlib.suppress(DataError, UnsafePickle):
            unpickle_joblib.load(tmp_path / "a.pt")


def test_nothing_is_run_in_the_outer_or_the_inner_pickle(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(UnsafePickle, match="print"):
        unpickle_joblib.load(tmp_path / "a.pt")
    inner = np.empty(1, dtype=object)
    inner[0] = print
    dump(tmp_path / "b.pt", {"a": inner})
    with pytest.raises(UnsafePickle, match="print"):
        unpickle_joblib.load(tmp_path / "b.pt")


def test_a_compressed_file_may_not_grow_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(zlib.compress(bytes(2**26), 9))
    with pytest.raises(DataError, match="grows at most"):
        unpickle_joblib.load(tmp_path / "a.pt")


def test_a_bomb_is_not_unpacked_before_it_is_found_out(tmp_path: Path) -> None:
    """72 MB of zeros in 11 kB: what is unpacked stays near the bound, in pieces of 64 MiB."""
    packer = lzma.LZMACompressor(preset=0)
    file = tmp_path / "a.pt"
    with open(file, "wb") as stream:
        for _ in range(18):
            stream.write(packer.compress(bytes(4_000_000)))
        stream.write(packer.flush())
    with pytest.raises(DataError, match=f"found {2**26} bytes out of {file.stat().st_size}"):
        unpickle_joblib.load(file)
