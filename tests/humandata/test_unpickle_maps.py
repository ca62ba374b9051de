"""Arrays that stay in their file: the values of reading, in next to no memory."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from humandata import DataError, pickle2, unpickle

Array = np.ndarray[Any, Any]

RANDOM = np.random.default_rng(0)
LARGE = RANDOM.normal(size=(31, 3, 7))
CONTENT: dict[str, Any] = {
    "name": "body",
    "large": LARGE,
    "fortran": np.asfortranarray(LARGE),
    "big_endian": LARGE.astype(">f4"),
    "whole": RANDOM.integers(0, 99, (400,)),
    "small": np.arange(3.0),
    "objects": np.array(["a", None], dtype=object),
}
MAPPED = {"large", "fortran", "big_endian", "whole"}


def python2(content: dict[str, Any]) -> bytes:
    """As the official SMPL files are: 8-bit strings, chumpy around an array, a sparse matrix."""
    return pickle2.dumps(content | {"chumpy": pickle2.chumpy_array(LARGE)})


WRITERS = {
    "python 2": python2,
    "protocol 3": lambda content: pickle.dumps(content, 3),
    "protocol 4": lambda content: pickle.dumps(content, 4),
}


def is_map(value: Any) -> bool:
    while isinstance(value, np.ndarray) and not isinstance(value, np.memmap):
        value = value.base
    return isinstance(value, np.memmap)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_large_arrays_of_a_pickle_are_maps_with_the_values_of_reading(
    writer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "body.pkl"
    path.write_bytes(writer(CONTENT))
    mapped, read = unpickle.load(path, mapped_from=1000), unpickle.load(path)
    assert {name for name in CONTENT if is_map(mapped[name])} == MAPPED
    assert mapped["name"] == "body"
    for name in mapped.keys() - {"name"}:
        np.testing.assert_array_equal(mapped[name], read[name])
        assert mapped[name].shape == read[name].shape
    for name in MAPPED & CONTENT.keys():
        np.testing.assert_array_equal(mapped[name], CONTENT[name])
        assert not mapped[name].flags.writeable
    if "chumpy" in mapped:
        assert is_map(mapped["chumpy"])


def test_members_of_an_npz_are_maps_unless_they_are_compressed(tmp_path: Path) -> None:
    plain, small = tmp_path / "plain.npz", tmp_path / "small.npz"
    np.savez(plain, **CONTENT)
    np.savez_compressed(small, **CONTENT)
    members, compressed = unpickle.load_npz(plain, 1000), unpickle.load_npz(small, 1000)
    for name in MAPPED | {"small"}:
        np.testing.assert_array_equal(members[name], CONTENT[name])
        np.testing.assert_array_equal(compressed[name], CONTENT[name])
        assert is_map(members[name]) == (name in MAPPED)
        assert not is_map(compressed[name])
    assert members["objects"].tolist() == ["a", None]


def test_a_length_that_does_not_fit_its_shape_is_a_data_error(tmp_path: Path) -> None:
    data = python2({"large": LARGE})
    short = data.replace(b"J" + (31).to_bytes(4, "little"), b"J" + (30).to_bytes(4, "little"))
    assert short != data
    path = tmp_path / "body.pkl"
    path.write_bytes(short)
    with pytest.raises(DataError, match="does not fit"):
        unpickle.load(path, mapped_from=1000)


def test_a_cut_file_is_a_data_error_and_no_map_beyond_its_end(tmp_path: Path) -> None:
    data = python2({"large": LARGE})
    path = tmp_path / "body.pkl"
    path.write_bytes(data[: len(data) // 4])
    with pytest.raises(DataError, match="bytes early"):
        unpickle.load(path, mapped_from=1000)


def test_a_member_shorter_than_its_header_says_is_a_data_error(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.savez(held, large=LARGE)
    longer = held.getvalue().replace(b"(31, 3, 7)", b"(91, 3, 7)")
    path = tmp_path / "body.npz"
    path.write_bytes(longer)
    with pytest.raises(DataError, match="in a member of"):
        _ = unpickle.load_npz(path, 1000)["large"]
