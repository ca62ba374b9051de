"""The layouts of six numbers that different codes take for a rotation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from humandata import rotations
from humandata.rotations import Layout

LAYOUTS: list[Layout] = ["interleaved", "columns", "rows"]


def test_the_layouts_are_what_they_say() -> None:
    matrix = np.arange(9.0).reshape(3, 3)
    six = {layout: rotations.matrix_to_rotation6d(matrix, layout).tolist() for layout in LAYOUTS}
    assert six == {
        "interleaved": [0, 1, 3, 4, 6, 7],
        "columns": [0, 3, 6, 1, 4, 7],
        "rows": [0, 1, 2, 3, 4, 5],
    }
    assert rotations.matrix_to_rotation6d(matrix).tolist() == six["interleaved"]
    identity = {layout: rotations.matrix_to_rotation6d(np.eye(3), layout) for layout in LAYOUTS}
    assert identity["interleaved"].tolist() == [1, 0, 0, 1, 0, 0]
    assert identity["columns"].tolist() == identity["rows"].tolist() == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_back_the_rotation(layout: Layout) -> None:
    matrices = Rotation.random(60, random_state=np.random.default_rng(0)).as_matrix()
    six = rotations.matrix_to_rotation6d(matrices.reshape(6, 10, 3, 3), layout)
    assert six.shape == (6, 10, 6)
    back = rotations.rotation6d_to_matrix(six, layout)
    np.testing.assert_allclose(back.reshape(60, 3, 3), matrices, atol=1e-15)


@given(arrays(np.float64, 6, elements=st.floats(-10, 10)))
def test_layouts_are_orders_of_the_same_numbers(six: NDArray[Any]) -> None:
    """Rows are the columns of the transpose, and columns an unravelled interleaving."""
    columns = rotations.rotation6d_to_matrix(six, "columns")
    np.testing.assert_array_equal(rotations.rotation6d_to_matrix(six, "rows"), columns.T)
    interleaved = six.reshape(2, 3).T.reshape(6)
    np.testing.assert_array_equal(rotations.rotation6d_to_matrix(interleaved), columns)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_six_zeros_are_no_rotation_in_every_layout(layout: Layout) -> None:
    assert not rotations.rotation6d_to_matrix(np.zeros(6), layout).any()
