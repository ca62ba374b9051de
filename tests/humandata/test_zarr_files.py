"""Arrays are written as Zarr v3 that every Zarr library reads, and mapped without one."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from humandata import DataError
from humandata.zarr_files import MappedArray, chunk_rows, crc32c, write_array

DTYPES = ["float32", "float64", "int32", "int64", "uint8", "uint32", "uint64", "bool"]


def write(folder: Path, values: np.ndarray, rows: int | None = None, blocks: int = 1) -> None:
    names = ["instance", *(f"axis{i}" for i in range(values.ndim - 1))]
    parts = np.array_split(values, blocks)
    write_array(folder, parts, values.shape, values.dtype, names, rows_per_chunk=rows)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(0, 40),
    shape=st.sampled_from([(), (3,), (4, 2)]),
    dtype=st.sampled_from(DTYPES),
    per_chunk=st.integers(1, 16),
    blocks=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_zarr_python_and_the_map_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    shape: tuple[int, ...],
    dtype: str,
    per_chunk: int,
    blocks: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("array")
    values = np.random.default_rng(seed).integers(0, 200, (rows, *shape)).astype(dtype)
    write(folder, values, per_chunk, blocks)
    array = zarr.open_array(folder, mode="r")
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array[...], values)
    mapped = MappedArray(folder)
    np.testing.assert_array_equal(np.asarray(mapped), values)
    if rows:
        picks = np.random.default_rng(seed).integers(-rows, rows, 7)
        np.testing.assert_array_equal(mapped[picks], values[picks])
        np.testing.assert_array_equal(mapped[rows // 2], values[rows // 2])
        np.testing.assert_array_equal(mapped[1 : rows - 1], values[1 : rows - 1])
        np.testing.assert_array_equal(mapped[::2], values[::2])
        mask = values.reshape(rows, -1)[:, 0] > 0
        np.testing.assert_array_equal(mapped[mask], values[mask])


def test_checksum_is_crc32c_of_the_published_test_vector() -> None:
    # RFC 3720, appendix B.4: 32 bytes of zeros.
    assert crc32c(bytes(32)) == 0x8A9136AA
    big = np.random.default_rng(0).integers(0, 255, 3 * 2**20 + 5, np.uint8)
    assert crc32c(big) == google_crc32c.value(big.tobytes())


def test_a_flipped_bit_is_found_by_verify_and_by_zarr(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(100.0).reshape(20, 5), rows=8)
    file = tmp_path / "a" / "c" / "1" / "0"
    content = bytearray(file.read_bytes())
    content[17] ^= 4
    file.write_bytes(content)
    (problem,) = MappedArray(tmp_path / "a").verify()
    assert str(file) in problem
    with pytest.raises(ValueError, match="[Cc]hecksum"):
        zarr.open_array(tmp_path / "a", mode="r")[...]


def test_a_cut_off_chunk_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(100.0))
    file = tmp_path / "a" / "c" / "0"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="expected a chunk of 804 bytes, found 795"):
        MappedArray(tmp_path / "a")[3]


def test_a_missing_chunk_reads_as_the_fill_value_as_zarr_has_it(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(10.0), rows=4)
    (tmp_path / "a" / "c" / "1").unlink()
    np.testing.assert_array_equal(MappedArray(tmp_path / "a")[:], [0, 1, 2, 3, 0, 0, 0, 0, 8, 9])


def test_views_of_the_map_cannot_be_written_to(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(10.0))
    with pytest.raises(ValueError, match="read-only"):
        MappedArray(tmp_path / "a")[:5][0] = 1


def test_compressed_arrays_of_an_archive_are_read_through_zarr(tmp_path: Path) -> None:
    values = np.arange(60.0).reshape(20, 3)
    array = zarr.create_array(tmp_path / "z", data=values, chunks=(7, 3), compressors="auto")
    assert array.metadata.codecs[-1].to_dict()["name"] == "zstd"  # type: ignore[union-attr]
    np.testing.assert_array_equal(MappedArray(tmp_path / "z")[4:15], values[4:15])


def test_other_axes_are_indexed_as_in_numpy(tmp_path: Path) -> None:
    values = np.arange(240.0).reshape(20, 4, 3)
    write(tmp_path / "a", values, rows=7)
    array = MappedArray(tmp_path / "a")
    picks = np.array([3, 19, 0])
    np.testing.assert_array_equal(array[:, 2, :2], values[:, 2, :2])
    np.testing.assert_array_equal(array[5, 1], values[5, 1])
    np.testing.assert_array_equal(array[picks, ..., 1], values[picks, ..., 1])
    np.testing.assert_array_equal(array[values[:, 0, 0] > 50, 3], values[values[:, 0, 0] > 50, 3])
    for index in ((slice(None), [0, 1]), "keypoints", 0.5):
        with pytest.raises(IndexError):
            array[index]


def test_rows_out_of_range_raise(tmp_path: Path) -> None:
    write(tmp_path / "a", np.arange(10.0))
    array = MappedArray(tmp_path / "a")
    for index in (10, -11, np.array([3, 10]), np.array([True, False])):
        with pytest.raises(IndexError):
            array[index]


@given(st.integers(0, 10**7))
def test_chunks_are_equal_and_waste_less_than_a_row_each(rows: int) -> None:
    per_chunk = chunk_rows(rows)
    assert 1 <= per_chunk <= 65_536
    chunks = -(-rows // per_chunk)
    assert chunks * per_chunk - rows <= max(chunks, 1)
