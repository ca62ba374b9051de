"""The torch body model against the NumPy one, smplx, finite differences and autocast."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from humandata import bodymodel
from humandata.bodymodel import BodyModel, body_model
from humandata.errors import DataError
from humandata.training.smpl import SMPL, axis_angle_to_matrix, rotation6d_to_matrix


def with_correctives(model: BodyModel) -> BodyModel:
    """The stand-in with made-up pose correctives, which its own are not."""
    correctives = np.random.default_rng(3).normal(0, 0.002, (6890, 3, 207))
    return replace(model, posedirs=correctives)


def few_vertices(model: BodyModel, count: int) -> BodyModel:
    """Every n-th vertex only, for finite differences; joints as regressed from those."""
    chosen = np.linspace(0, 6889, count).astype(int)
    kept = {
        n: getattr(model, n)[chosen] for n in ("v_template", "shapedirs", "posedirs", "weights")
    }
    regressor = np.random.default_rng(5).random((24, count))
    regressor /= regressor.sum(1, keepdims=True)
    few = {"few": np.random.default_rng(6).random((2, count))}
    return replace(model, **kept, J_regressor=regressor, regressors=few)


def random_bodies(count: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pose = torch.randn(count, 24, 3, generator=generator, dtype=torch.float64) * 0.5
    return {
        "rotations": axis_angle_to_matrix(pose).to(dtype),
        "betas": torch.randn(count, 10, generator=generator, dtype=torch.float64).to(dtype),
        "transl": torch.randn(count, 3, generator=generator, dtype=torch.float64).to(dtype),
    }


@pytest.mark.parametrize("gender", ["neutral", "male", "female"])
def test_equals_the_numpy_body_model(gender: str) -> None:
    model = with_correctives(body_model(gender))
    bodies = random_bodies(3)
    pose = roma.rotmat_to_rotvec(bodies["rotations"]).numpy()
    vertices, joints = bodymodel.forward(
        model, pose[:, 0], pose[:, 1:], bodies["betas"].numpy(), bodies["transl"].numpy()
    )
    body = SMPL(model, torch.float64)
    mesh = body(**bodies)
    np.testing.assert_allclose(mesh.vertices, vertices, atol=1e-10)
    expected = bodymodel.joints_smpl54(model, vertices, joints)
    np.testing.assert_allclose(mesh.joints, expected, atol=1e-10)
    np.testing.assert_allclose(
        body.joints_h36m(mesh.vertices), bodymodel.joints_h36m(model, vertices), atol=1e-10
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_equals_smplx(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    smplx = pytest.importorskip("smplx")
    model = with_correctives(body_model("female"))
    bodymodel.write_pkl(model, tmp_path / "SMPL_FEMALE.pkl", chumpy=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = smplx.SMPL(str(tmp_path), gender="female", dtype=dtype)
    bodies = random_bodies(3, dtype)
    theirs = peer(
        global_orient=bodies["rotations"][:, :1],
        body_pose=bodies["rotations"][:, 1:],
        betas=bodies["betas"],
        transl=bodies["transl"],
        pose2rot=False,
    )
    mesh = SMPL(model, dtype)(**bodies)
    assert mesh.vertices.dtype == mesh.joints.dtype == dtype
    torch.testing.assert_close(mesh.vertices, theirs.vertices, atol=tolerance, rtol=0)
    torch.testing.assert_close(mesh.joints[:, :45], theirs.joints, atol=tolerance, rtol=0)


def test_joints_without_the_mesh_are_those_of_the_mesh() -> None:
    body = SMPL(body_model("male"), torch.float64)
    bodies = random_bodies(4)
    torch.testing.assert_close(body.joints(**bodies), body.skin(**bodies)[1])
    torch.testing.assert_close(body.joints(**bodies), body(**bodies).joints[:, :24])


def test_gradients_equal_finite_differences() -> None:
    body = SMPL(few_vertices(with_correctives(body_model()), 9), torch.float64)
    bodies = random_bodies(2)
    inputs = tuple(t.requires_grad_() for t in bodies.values())
    assert torch.autograd.gradcheck(lambda *a: body.skin(*a), inputs)
    assert torch.autograd.gradcheck(lambda *a: body.joints(*a), inputs)


def test_autocast_does_not_coarsen_the_body() -> None:
    body = SMPL(body_model())
    bodies = random_bodies(2, torch.float32)
    expected = body(**bodies)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mesh = body(**bodies)
        h36m = body.joints_h36m(mesh.vertices)
    assert mesh.vertices.dtype == h36m.dtype == torch.float32
    torch.testing.assert_close(mesh.vertices, expected.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(mesh.joints, expected.joints, atol=1e-6, rtol=0)


def test_the_module_has_one_graph_for_every_pose() -> None:
    body = SMPL(few_vertices(body_model(), 20))
    explanation = torch._dynamo.explain(body.skin)(**random_bodies(2, torch.float32))
    assert explanation.graph_count == 1
    assert explanation.graph_break_count == 0


def test_no_body_data_enters_a_checkpoint() -> None:
    body = SMPL(body_model())
    assert body.state_dict() == {}
    assert list(body.parameters()) == []
    assert (body.name, body.title) == ("standin", "stand-in, not SMPL (neutral)")


def test_fewer_betas_than_the_model_has_are_enough() -> None:
    body = SMPL(body_model(), torch.float64)
    bodies = random_bodies(2)
    bodies["betas"][:, 4:] = 0
    short = bodies | {"betas": bodies["betas"][:, :4]}
    torch.testing.assert_close(body(**short).joints, body(**bodies).joints)


def test_a_missing_regressor_is_named_and_the_mesh_works_without(tmp_path: Path) -> None:
    bodymodel.write_npz(body_model(), tmp_path / "SMPL_NEUTRAL.npz")
    body = SMPL(body_model("neutral", tmp_path))
    bodies = random_bodies(1, torch.float32)
    vertices, _ = body.skin(**bodies)
    with pytest.raises(DataError, match="J_regressor_extra.npy"):
        body(**bodies)
    with pytest.raises(DataError, match="J_regressor_h36m.npy"):
        body.joints_h36m(vertices)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 3.0, 30.0]))
def test_axis_angle_becomes_the_matrix_of_roma(seed: int, size: float) -> None:
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = roma.rotvec_to_rotmat(vectors * size)
    torch.testing.assert_close(axis_angle_to_matrix(vectors * size), expected, atol=1e-12, rtol=0)


def test_axis_angle_has_a_gradient_at_no_rotation() -> None:
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    axis_angle_to_matrix(zero)[..., 2, 1].sum().backward()
    torch.testing.assert_close(zero.grad, torch.tensor([[1.0, 0, 0]] * 2, dtype=torch.float64))
    near = torch.full((1, 3), 0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(axis_angle_to_matrix, (near,))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_six_numbers_become_the_rotation_whose_columns_they_are(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    rotation = roma.rotvec_to_rotmat(vectors)
    six = rotation[..., :2].reshape(4, 6)
    torch.testing.assert_close(rotation6d_to_matrix(six), rotation)
    noisy = rotation6d_to_matrix(torch.randn(4, 6, generator=generator, dtype=torch.float64))
    assert roma.is_rotation_matrix(noisy, epsilon=1e-9)


def test_six_zeros_become_zeros_and_not_nan() -> None:
    assert not rotation6d_to_matrix(torch.zeros(1, 6)).isnan().any()
