"""Rotations on tensors: against scipy, roma and the published codes; gradients; compilation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from humandata import HumandataError
from humandata import rotations as in_numpy
from humandata.training import rotations

Array = NDArray[Any]

REFERENCE = Path(__file__).parent / "references" / "geometry.npz"

FORMS: dict[str, tuple[int, ...]] = {
    "axis_angle_to_matrix": (3,),
    "axis_angle_to_quaternion": (3,),
    "quaternion_to_axis_angle": (4,),
    "quaternion_to_matrix": (4,),
    "rotation6d_to_matrix": (6,),
    "matrix_to_axis_angle": (3, 3),
    "matrix_to_quaternion": (3, 3),
    "matrix_to_rotation6d": (3, 3),
}


@pytest.fixture(scope="module")
def reference() -> dict[str, Array]:
    with np.load(REFERENCE) as file:
        return dict(file)


def of_seed(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def angles(exponent: float) -> Tensor:
    axis = torch.tensor([2.0, -3.0, 6.0], dtype=torch.float64) / 7
    return axis * 10.0**exponent


@given(st.integers(0, 2**32 - 1), st.floats(0, 7))
def test_every_map_equals_scipy(seed: int, length: float) -> None:
    vectors = of_seed(seed, 5, 3)
    vectors = length * vectors / vectors.norm(dim=-1, keepdim=True)
    truth = Rotation.from_rotvec(vectors.numpy())
    matrices = rotations.axis_angle_to_matrix(vectors)
    np.testing.assert_allclose(matrices, truth.as_matrix(), atol=2e-15)
    quaternions = rotations.axis_angle_to_quaternion(vectors)
    same = np.sign(truth.as_quat()[:, 3] * quaternions[:, 0].numpy())[:, None]
    np.testing.assert_allclose(
        np.where(same == 0, 1, same) * quaternions.numpy()[:, [1, 2, 3, 0]],
        truth.as_quat(),
        atol=2e-15,
    )
    for back in (
        rotations.matrix_to_axis_angle(matrices),
        rotations.quaternion_to_axis_angle(3 * quaternions),
    ):
        assert (back.norm(dim=-1) <= np.pi * (1 + 1e-15)).all()
        again = Rotation.from_rotvec(back.numpy())
        assert ((again.inv() * truth).magnitude() < 1e-14).all()
    np.testing.assert_allclose(
        rotations.quaternion_to_matrix(-2 * quaternions), matrices, atol=4e-15
    )


def test_every_map_equals_roma() -> None:
    vectors, block = 2 * of_seed(3, 50, 3), of_seed(4, 50, 3, 2)
    matrices = rotations.axis_angle_to_matrix(vectors)
    torch.testing.assert_close(matrices, roma.rotvec_to_rotmat(vectors), atol=1e-13, rtol=0)
    torch.testing.assert_close(
        rotations.matrix_to_axis_angle(matrices),
        roma.rotmat_to_rotvec(matrices),
        atol=1e-12,
        rtol=0,
    )
    quaternions = rotations.matrix_to_quaternion(matrices)
    theirs = roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(matrices))
    sign = (quaternions * theirs).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(quaternions, sign * theirs, atol=1e-14, rtol=0)
    torch.testing.assert_close(
        rotations.rotation6d_to_matrix(block.flatten(1)),
        roma.special_gramschmidt(block),
        atol=1e-13,
        rtol=0,
    )


def test_every_map_equals_the_published_codes(reference: dict[str, Array]) -> None:
    vectors, six = torch.from_numpy(reference["axis_angle"]), torch.from_numpy(reference["six"])
    # They add 1e-8 to every component before taking the angle.
    np.testing.assert_allclose(
        rotations.axis_angle_to_matrix(vectors), reference["matrices"], atol=3e-8
    )
    np.testing.assert_allclose(
        rotations.matrix_to_axis_angle(torch.from_numpy(reference["matrices"])),
        reference["logarithm"],
        atol=1e-12,
    )
    for layout in ("interleaved", "columns"):
        np.testing.assert_allclose(
            rotations.rotation6d_to_matrix(six, layout), reference[f"six_{layout}"], atol=1e-14
        )
        np.testing.assert_allclose(
            in_numpy.rotation6d_to_matrix(reference["six"], layout),
            reference[f"six_{layout}"],
            atol=1e-14,
        )


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_and_arrays_give_the_same_numbers(name: str, dtype: torch.dtype) -> None:
    shape = FORMS[name]
    if shape == (3, 3):
        values = torch.from_numpy(
            Rotation.random(40, random_state=np.random.default_rng(0)).as_matrix()
        ).view(5, 8, 3, 3)
    else:
        values = of_seed(2, 5, 8, *shape)
    result = getattr(rotations, name)(values.to(dtype))
    expected = getattr(in_numpy, name)(values.to(dtype).double().numpy())
    assert result.dtype == dtype
    tolerance = 1e-13 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(result.double(), expected, atol=tolerance)


@pytest.mark.parametrize("layout", ["interleaved", "columns", "rows"])
def test_six_numbers_of_every_layout_give_back_the_rotation(layout: Any) -> None:
    matrices = torch.from_numpy(Rotation.random(30, random_state=1).as_matrix())
    six = rotations.matrix_to_rotation6d(matrices, layout)
    torch.testing.assert_close(rotations.rotation6d_to_matrix(six, layout), matrices)
    np.testing.assert_array_equal(six, in_numpy.matrix_to_rotation6d(matrices.numpy(), layout))


def test_an_unknown_layout_is_named() -> None:
    for function in (rotations.matrix_to_rotation6d, in_numpy.matrix_to_rotation6d):
        with pytest.raises(HumandataError, match="no order 'zhou'.*interleaved"):
            function(torch.eye(3), "zhou")
    for function in (rotations.rotation6d_to_matrix, in_numpy.rotation6d_to_matrix):
        with pytest.raises(HumandataError, match="no order 'zhou'.*interleaved"):
            function(torch.zeros(6), "zhou")


@pytest.mark.parametrize("exponent", range(-20, 1))
def test_small_angles_keep_their_digits(exponent: int) -> None:
    vector = angles(exponent)
    matrix = rotations.axis_angle_to_matrix(vector)
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector.numpy()).as_matrix(), atol=2e-16)
    torch.testing.assert_close(rotations.matrix_to_axis_angle(matrix), vector, rtol=1e-14, atol=0)
    quaternion = rotations.axis_angle_to_quaternion(vector)
    torch.testing.assert_close(
        rotations.quaternion_to_axis_angle(quaternion), vector, rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("short", [0.0, 1e-16, 1e-12, 1e-8, 1e-4])
def test_half_turns_are_exact(short: float) -> None:
    for axis in ([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [2 / 7, -3 / 7, 6 / 7], [-0.6, 0.8, 0]):
        vector = torch.tensor(axis, dtype=torch.float64) * (np.pi - short)
        matrix = rotations.axis_angle_to_matrix(vector)
        back = rotations.matrix_to_axis_angle(matrix)
        assert min((back - vector).abs().max(), (back + vector).abs().max()) < 4e-15
        if short > 1e-15:
            assert (back - vector).abs().max() < 4e-15
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
    torch.testing.assert_close(rotations.matrix_to_axis_angle(half_turns), torch.pi * torch.eye(3))


@pytest.mark.parametrize("exponent", [-1.01, -0.99, -3, -8, 0])
@pytest.mark.parametrize("name", ["axis_angle_to_matrix", "axis_angle_to_quaternion"])
def test_gradients_are_those_of_differences(name: str, exponent: float) -> None:
    function: Callable[[Tensor], Tensor] = getattr(rotations, name)
    vector = angles(exponent).requires_grad_()
    assert torch.autograd.gradcheck(function, vector, eps=1e-6, atol=1e-8)
    assert torch.autograd.gradgradcheck(function, vector, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["axis_angle_to_matrix", "axis_angle_to_quaternion"])
def test_gradients_at_no_rotation_are_exact(name: str) -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(getattr(rotations, name), zero)
    if name == "axis_angle_to_quaternion":
        assert jacobian.tolist() == [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    else:
        generators = [np.cross(np.eye(3)[k], np.eye(3)).T for k in range(3)]
        np.testing.assert_array_equal(jacobian, np.stack(generators, axis=-1))


def test_the_logarithm_has_the_gradient_that_undoes_the_exponential() -> None:
    def there_and_back(vector: Tensor) -> Tensor:
        return rotations.matrix_to_axis_angle(rotations.axis_angle_to_matrix(vector))

    for exponent in (-12, -3, -1.01, -0.99, 0, 0.3):
        jacobian = torch.autograd.functional.jacobian(there_and_back, angles(exponent))
        torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORMS)
def test_gradients_are_finite_everywhere(name: str, dtype: torch.dtype) -> None:
    half = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
    inputs = {
        (3,): torch.tensor([[0.0, 0, 0], [1e-30, 0, 0], [torch.pi, 0, 0], [0, 2 * torch.pi, 0]]),
        (4,): torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [1, 1e-30, 0, 0]]),
        (6,): torch.tensor([[0.0] * 6, [1.0, 0, 0, 1, 0, 0], [1.0, 1, 1, 1, 1, 1]]),
        (3, 3): torch.cat([half, torch.eye(3)[None]]),
    }[FORMS[name]]
    values = inputs.to(dtype).requires_grad_()
    result = getattr(rotations, name)(values)
    assert torch.isfinite(result).all()
    result.sum().backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()


@pytest.mark.parametrize("name", FORMS)
def test_every_map_compiles_without_a_break(name: str) -> None:
    function = getattr(rotations, name)
    values = of_seed(0, 4, *FORMS[name])
    if FORMS[name] == (3, 3):
        values = rotations.axis_angle_to_matrix(of_seed(0, 4, 3))
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(values), function(values))
