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


def single(model: BodyModel) -> BodyModel:
    """The model with float32 numbers in float64: smplx rounds what it reads, whatever it is asked.

    A comparison in float64 would otherwise see that rounding and nothing else.
    """
    arrays = {
        n: getattr(model, n).astype(np.float32).astype(np.float64)
        for n in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")
    }
    return replace(model, **arrays)


@pytest.fixture(scope="module")
def female() -> BodyModel:
    return single(with_correctives(body_model("female")))


@pytest.fixture(scope="module")
def file(female: BodyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "SMPL_FEMALE.pkl"
    bodymodel.write_pkl(female, path, chumpy=False)
    return path


def posed_by_smplx(
    file: Path, bodies: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices and 45 joints."""
    smplx = pytest.importorskip("smplx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = smplx.SMPL(str(file), gender="female", dtype=bodies["betas"].dtype)
    found = peer(
        global_orient=bodies["rotations"][:, :1],
        body_pose=bodies["rotations"][:, 1:],
        betas=bodies["betas"],
        transl=bodies["transl"],
        pose2rot=False,
    )
    return found.vertices, found.joints


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_equals_smplx(female: BodyModel, file: Path, dtype: torch.dtype, tolerance: float) -> None:
    bodies = random_bodies(5, dtype)
    bodies["transl"] /= 2
    vertices, joints = posed_by_smplx(file, bodies)
    body = SMPL(female, dtype)
    mesh = body(**bodies)
    close = {"atol": tolerance, "rtol": 0}
    assert mesh.vertices.dtype == mesh.joints.dtype == dtype
    torch.testing.assert_close(mesh.vertices, vertices, **close)
    torch.testing.assert_close(mesh.joints[:, :45], joints, **close)
    torch.testing.assert_close(body.joints(**bodies, of="smpl_45"), joints, **close)
    for name in ("h36m", "extra"):
        regressed = torch.tensor(female.regressors[name], dtype=dtype) @ vertices
        torch.testing.assert_close(body.joints(**bodies, of=name), regressed, **close)


def test_gradients_equal_those_of_smplx(female: BodyModel, file: Path) -> None:
    bodies = random_bodies(3)
    body = SMPL(female, torch.float64)
    extra = torch.tensor(female.regressors["extra"])
    to_vertices, to_joints = torch.randn(3, 6890, 3).double(), torch.randn(3, 54, 3).double()
    found = []
    for ours in (True, False):
        leaves = {name: values.clone().requires_grad_() for name, values in bodies.items()}
        if ours:
            vertices, joints = body(**leaves)
        else:
            vertices, joints = posed_by_smplx(file, leaves)
            joints = torch.cat([joints, extra @ vertices], dim=1)
        loss = (vertices * to_vertices).sum() + (joints * to_joints).sum()
        found.append(torch.autograd.grad(loss, list(leaves.values())))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-9)


def test_joints_without_the_mesh_are_those_of_the_mesh() -> None:
    body = SMPL(body_model("male"), torch.float64)
    bodies = random_bodies(4)
    torch.testing.assert_close(body.joints(**bodies), body.skin(**bodies)[1])
    torch.testing.assert_close(body.joints(**bodies), body(**bodies).joints[:, :24])


def test_joints_of_any_regressor_are_sums_of_the_posed_mesh() -> None:
    # Dense, of both signs, rows that do not add up to one: nothing a body part would be.
    mine = np.random.default_rng(8).normal(0, 0.01, (3, 6890))
    model = with_correctives(body_model("male"))
    body = SMPL(replace(model, regressors={"mine": mine}), torch.float64)
    bodies = random_bodies(2)
    expected = torch.tensor(mine) @ body.skin(**bodies)[0]
    torch.testing.assert_close(body.joints(**bodies, of="mine"), expected, atol=1e-11, rtol=0)
    numpy = {name: values.numpy() for name, values in bodies.items()}
    pose = roma.rotmat_to_rotvec(bodies["rotations"]).numpy()
    given = (pose[:, 0], pose[:, 1:], numpy["betas"], numpy["transl"])
    found = bodymodel.forward_joints(
        replace(model, regressors={"mine": mine}), *given, regressor="mine"
    )
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1, 3, 65, 130])
def test_batches_of_any_size_are_cut_without_a_seam(count: int) -> None:
    model = with_correctives(body_model())
    body = SMPL(model, torch.float64)
    bodies = random_bodies(count)
    pose = roma.rotmat_to_rotvec(bodies["rotations"]).numpy()
    transl = bodies["transl"].requires_grad_()
    vertices, _ = body.skin(**bodies)
    chosen = np.arange(count)[:: max(1, count // 6)]  # NumPy's whole meshes take their time
    expected, _ = bodymodel.forward(
        model,
        pose[chosen, 0],
        pose[chosen, 1:],
        bodies["betas"].numpy()[chosen],
        transl.detach().numpy()[chosen],
    )
    assert vertices.shape == (count, 6890, 3)
    np.testing.assert_allclose(vertices.detach()[chosen], expected, atol=1e-10)
    weight = torch.randn(vertices.shape, dtype=torch.float64)
    (vertices * weight).sum().backward()
    torch.testing.assert_close(transl.grad, weight.sum(1))


def test_gradients_equal_finite_differences() -> None:
    body = SMPL(few_vertices(with_correctives(body_model()), 7), torch.float64)

    def everything(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return *body.skin(*given), body.joints(*given, of="few")

    # Every number of one body, and a random direction through several.
    for count, fast in ((1, False), (3, True)):
        inputs = tuple(t.requires_grad_() for t in random_bodies(count).values())
        assert torch.autograd.gradcheck(everything, inputs, fast_mode=fast)


def test_gradients_can_be_differentiated_again() -> None:
    # Learning to adapt needs it: the outer gradient flows through the inner one.
    body = SMPL(few_vertices(with_correctives(body_model()), 3), torch.float64)
    bodies = random_bodies(1)
    inputs = tuple(t.requires_grad_() for t in bodies.values())
    fast = {"fast_mode": True, "atol": 1e-4}
    assert torch.autograd.gradgradcheck(lambda *a: body.skin(*a), inputs, **fast)
    assert torch.autograd.gradgradcheck(lambda *a: body.joints(*a, of="few"), inputs, **fast)


def test_joints_keep_next_to_nothing_for_their_gradient() -> None:
    body = SMPL(with_correctives(body_model()))
    constant = {buffer.untyped_storage().data_ptr() for buffer in body.buffers()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    bodies = {k: v.requires_grad_() for k, v in random_bodies(64, torch.float32).items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        joints = body.joints(**bodies, of="smpl_54")
    bytes_kept = sum(size for pointer, size in kept.items() if pointer not in constant)
    assert joints.requires_grad
    assert 0 < bytes_kept < 1e6  # one coordinate of the vertices would be 1.8 MB


# Genders


@pytest.fixture(scope="module")
def three() -> tuple[SMPL, list[SMPL]]:
    """One module of three models, and a module of each."""
    models = [
        with_correctives(body_model("neutral")),
        body_model("male"),
        replace(with_correctives(body_model("female")), weights=body_model().weights[:, ::-1]),
    ]
    return SMPL(models, torch.float64), [SMPL(model, torch.float64) for model in models]


@pytest.mark.parametrize("gender", [[2, 0, 1, 1, 0, 2, 2], [1, 1, 1, 1, 1, 1, 1]])
def test_every_row_is_posed_in_the_model_of_its_gender(
    three: tuple[SMPL, list[SMPL]], gender: list[int]
) -> None:
    together, alone = three
    bodies = {name: values.requires_grad_() for name, values in random_bodies(7).items()}
    codes = torch.tensor(gender)
    mesh = together(**bodies, gender=codes)
    h36m = together.joints(**bodies, gender=codes, of="h36m")
    rest = together.rest_joints(bodies["betas"], codes)
    for row, code in enumerate(gender):
        body, mine = alone[code], {name: values[row : row + 1] for name, values in bodies.items()}
        vertices, joints = body(**mine)
        torch.testing.assert_close(mesh.vertices[row], vertices[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(mesh.joints[row], joints[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(h36m[row], body.joints(**mine, of="h36m")[0])
        torch.testing.assert_close(rest[row], body.rest_joints(mine["betas"])[0])
        inputs = list(bodies.values())
        one = torch.autograd.grad(mesh.vertices[row].sum(), inputs, retain_graph=True)
        other = torch.autograd.grad(vertices.sum(), inputs)
        for ours, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_genders_are_asked_for_and_checked(three: tuple[SMPL, list[SMPL]]) -> None:
    together, alone = three
    bodies = random_bodies(2)
    assert together.title.count("stand-in") == 3
    with pytest.raises(ValueError, match="several models needs gender"):
        together(**bodies)
    with pytest.raises(ValueError, match="of one takes none"):
        alone[0](**bodies, gender=torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"expected gender \(2,\), numbers below 3"):
        together(**bodies, gender=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="cannot be one module"):
        SMPL([body_model(), replace(body_model("male"), regressors={})])


# The compiler


@pytest.mark.slow
@pytest.mark.parametrize("genders", [False, True])
def test_the_module_compiles_to_one_graph(genders: bool, three: tuple[SMPL, list[SMPL]]) -> None:
    body = three[0] if genders else three[1][0]
    bodies = random_bodies(4)
    more = {"gender": torch.tensor([1, 0, 2, 0])} if genders else {}

    def everything(rotations: torch.Tensor, betas: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mesh = body(rotations, betas, bodies["transl"], **more)
        return *mesh, body.joints(rotations, betas, **more, of="h36m")

    torch._dynamo.reset()
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    results = []
    for function in (everything, compiled):
        leaves = [bodies[name].clone().requires_grad_() for name in ("rotations", "betas")]
        found = function(*leaves)
        weight = [torch.linspace(-1, 1, f.numel(), dtype=f.dtype).view_as(f) for f in found]
        loss = sum((f * w).sum() for f, w in zip(found, weight, strict=True))
        results.append((*found, *torch.autograd.grad(loss, leaves)))
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(plain, other, atol=1e-9, rtol=1e-9)


# The module


def test_without_the_mesh_every_joint_stays() -> None:
    body = SMPL(with_correctives(body_model()), torch.float64)
    small = body.without_mesh()
    bodies = random_bodies(2)
    vertices, joints = small(**bodies)
    assert vertices.shape == (2, 0, 3)
    torch.testing.assert_close(joints, body(**bodies).joints)
    torch.testing.assert_close(small.skin(**bodies)[1], body.joints(**bodies))
    held = sum(buffer.nbytes for buffer in small.buffers())
    assert held < sum(buffer.nbytes for buffer in body.buffers()) / 10
    assert len(body.v_template) == 6890


def test_a_module_that_was_converted_poses_on() -> None:
    body = SMPL(with_correctives(body_model()))
    bodies = random_bodies(2)
    body.skin(**{name: values.float() for name, values in bodies.items()})
    double = body.double().skin(**bodies)[0]
    assert double.dtype == torch.float64
    exact = SMPL(with_correctives(body_model()), torch.float64).skin(**bodies)[0]
    torch.testing.assert_close(double, exact, atol=1e-6, rtol=0)


def test_one_row_of_betas_serves_a_whole_batch() -> None:
    body = SMPL(body_model(), torch.float64)
    bodies = random_bodies(3)
    one = bodies | {"betas": bodies["betas"][:1]}
    same = bodies | {"betas": bodies["betas"][:1].repeat(3, 1)}
    torch.testing.assert_close(body(**one), body(**same))
    with pytest.raises(ValueError, match=r"expected betas \(B, up to 10\)"):
        body(**(bodies | {"betas": torch.zeros(3, 16)}))


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
    bodymodel.write_pkl(body_model(), tmp_path / "SMPL_NEUTRAL.pkl", chumpy=False)
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
