"""Pickles written as Python 2 wrote them, read back by Python and NumPy themselves."""

from __future__ import annotations

import pickle
import warnings
from pathlib import PosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix

from humandata import pickle2, unpickle

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
    | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    | st.tuples(inner, inner),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(plain)
def test_python_2_pickles_hold_what_was_put_in(value: object) -> None:
    assert pickle.loads(pickle2.dumps(value), encoding="latin1") == value


def test_python_2_pickles_of_arrays_are_read_by_numpy_itself() -> None:
    value = {
        "floats": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "flags": np.array([True, False]),
        "scalar": np.float32(1.5),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "words": np.array([b"ab", b"c"]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy.core was renamed
        read = pickle.loads(pickle2.dumps(value), encoding="latin1")
    for key in value:
        np.testing.assert_array_equal(read[key], value[key])
        assert read[key].dtype == value[key].dtype
    with pytest.raises(TypeError, match="cannot hold a PosixPath"):
        pickle2.dumps(PosixPath())


def test_sparse_matrices_are_read_by_scipy_and_by_the_restricted_reader() -> None:
    dense = np.random.default_rng(0).random((4, 9)) * (np.eye(4, 9) + np.eye(4, 9, 3))
    today = pickle2.dumps(pickle2.csc_matrix(dense, "scipy.sparse._csc"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        read = pickle.loads(today, encoding="latin1")
    assert isinstance(read, csc_matrix)
    np.testing.assert_array_equal((read @ np.eye(9)), dense)
    official = unpickle.loads(pickle2.dumps(pickle2.csc_matrix(dense)))
    np.testing.assert_array_equal(official.toarray(), dense)


def test_chumpy_arrays_are_read_as_their_values() -> None:
    values = np.arange(12.0).reshape(2, 6)
    read = unpickle.loads(pickle2.dumps({"shapedirs": pickle2.chumpy_array(values)}))
    np.testing.assert_array_equal(read["shapedirs"], values)
