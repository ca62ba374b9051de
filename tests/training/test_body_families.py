"""SMPL-H and SMPL-X: files in the official layout, read and posed as smplx does it."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import body_release
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from humandata import bodymodel, posing
from humandata.bodymodel import BodyModel, body_model, load
from humandata.errors import DataError, HumandataError
from humandata.rotations import matrix_to_axis_angle
from humandata.training.smpl import SMPL, axis_angle_to_matrix

JOINTS = {"smplh": 52, "smplx": 55}


@pytest.fixture(scope="module")
def contents() -> dict[str, dict[str, Any]]:
    return {"smplh": body_release.smplh(), "smplx": body_release.smplx()}


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, dict[str, Any]]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bodies")
    return {
        "smplh": body_release.write_pkl(contents["smplh"], folder / "SMPLH_MALE.pkl", False),
        "smplx": body_release.write_npz(contents["smplx"], folder / "SMPLX_NEUTRAL.npz"),
    }


@pytest.fixture(scope="module")
def models(files: dict[str, Path]) -> dict[str, BodyModel]:
    return {"smplh": load(files["smplh"], "male"), "smplx": load(files["smplx"], "neutral")}


@pytest.fixture(scope="module")
def modules(models: dict[str, BodyModel]) -> dict[tuple[str, torch.dtype], SMPL]:
    double = {name: SMPL(model, torch.float64) for name, model in models.items()}
    return {
        (name, dtype): copy.deepcopy(body).to(dtype)
        for name, body in double.items()
        for dtype in (torch.float32, torch.float64)
    }


def peer(file: Path, layer: bool, **options: Any) -> Any:
    """smplx's module for the file; a layer takes rotation matrices, the others axis-angle."""
    smplx = pytest.importorskip("smplx")
    name = "SMPLH" if file.stem.startswith("SMPLH") else "SMPLX"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(smplx, name + ("Layer" if layer else ""))(str(file), **options)


def random_bodies(family: str, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

    bodies = {
        "rotations": axis_angle_to_matrix(normal(JOINTS[family], 3) * 0.3),
        "betas": normal(10),
        "transl": normal(3) * 0.3,
    }
    if family == "smplx":
        bodies["expression"] = normal(10)
    return {name: values.to(dtype) for name, values in bodies.items()}


def as_parts(bodies: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same bodies as the arguments of smplx's layers."""
    rotations = bodies["rotations"]
    parts = {k: v for k, v in bodies.items() if k != "rotations"}
    parts |= {"global_orient": rotations[:, :1], "body_pose": rotations[:, 1:22]}
    parts |= {"left_hand_pose": rotations[:, -30:-15], "right_hand_pose": rotations[:, -15:]}
    if rotations.shape[1] == 55:
        names = ("jaw_pose", "leye_pose", "reye_pose")
        parts |= {name: rotations[:, 22 + i, None] for i, name in enumerate(names)}
    return parts


# Posing


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("family", ["smplh", "smplx"])
def test_vertices_and_all_joints_are_those_of_smplx(
    family: str, dtype: torch.dtype, tolerance: float, files: dict[str, Path], modules: Any
) -> None:
    bodies = random_bodies(family, 3, dtype)
    with torch.no_grad():
        theirs = peer(files[family], layer=True, dtype=dtype, batch_size=3)(**as_parts(bodies))
        mesh = modules[family, dtype](**bodies)
    assert mesh.joints.shape == (3, {"smplh": 73, "smplx": 127}[family], 3)
    torch.testing.assert_close(mesh.vertices, theirs.vertices, atol=tolerance, rtol=0)
    torch.testing.assert_close(mesh.joints, theirs.joints, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", ["smplh", "smplx"])
def test_joints_without_the_mesh_are_those_of_smplx(
    family: str, files: dict[str, Path], modules: Any
) -> None:
    bodies = random_bodies(family, 2, torch.float64)
    theirs = peer(files[family], layer=True, dtype=torch.float64, batch_size=2)(**as_parts(bodies))
    body = modules[family, torch.float64]
    kinematic = JOINTS[family]
    close = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(body.joints(**bodies), theirs.joints[:, :kinematic], **close)
    torch.testing.assert_close(body.joints(**bodies, of=body.whole), theirs.joints, **close)
    if family == "smplx":
        face = body.joints(**bodies, of="face")
        torch.testing.assert_close(face, theirs.joints[:, 76:], **close)


@pytest.mark.parametrize("family", ["smplh", "smplx"])
def test_numpy_poses_the_same_body(family: str, models: Any, modules: Any) -> None:
    bodies = random_bodies(family, 2, torch.float64)
    pose = matrix_to_axis_angle(bodies["rotations"].numpy())
    betas = np.concatenate([bodies[k].numpy() for k in ("betas", "expression") if k in bodies], 1)
    given = (models[family], pose[:, 0], pose[:, 1:], betas, bodies["transl"].numpy())
    vertices, joints = posing.forward(*given)
    mesh = modules[family, torch.float64](**bodies)
    assert_allclose(vertices, mesh.vertices, atol=1e-7)
    assert_allclose(joints, mesh.joints[:, : JOINTS[family]], atol=1e-7)
    if family == "smplx":
        assert_allclose(
            posing.forward_joints(*given, regressor="face"), mesh.joints[:, 76:], atol=1e-7
        )


@pytest.mark.parametrize(
    ("components", "flat"), [(None, False), (None, True), (6, False), (6, True), (45, False)]
)
@pytest.mark.parametrize("family", ["smplh", "smplx"])
def test_hands_become_the_pose_that_smplx_makes_of_them(
    family: str, components: int | None, flat: bool, files: dict[str, Path], modules: Any
) -> None:
    generator = torch.Generator().manual_seed(1)
    body = torch.randn(2, 22, 3, generator=generator, dtype=torch.float64)
    hands = torch.randn(2, 2, components or 45, generator=generator, dtype=torch.float64)
    face = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    parts = {"global_orient": body[:, 0], "body_pose": body[:, 1:].flatten(1)}
    parts |= {"left_hand_pose": hands[:, 0], "right_hand_pose": hands[:, 1]}
    if family == "smplx":
        names = ("jaw_pose", "leye_pose", "reye_pose")
        parts |= {name: face[:, i] for i, name in enumerate(names)}
    oracle = peer(
        files[family],
        layer=False,
        dtype=torch.float64,
        batch_size=2,
        use_pca=components is not None,
        num_pca_comps=components or 45,
        flat_hand_mean=flat,
    )
    theirs = oracle(**parts, return_full_pose=True).full_pose.view(2, -1, 3)
    ours = modules[family, torch.float64].full_pose(
        body,
        hands if components else hands.view(2, 2, 15, 3),
        face if family == "smplx" else None,
        components=components is not None,
        flat_hands=flat,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_hands_and_face_rest_where_nothing_is_said_of_them(modules: Any, contents: Any) -> None:
    pose = modules["smplx", torch.float64].full_pose(torch.ones(1, 22, 3))
    assert (pose[0, :22] == 1).all()
    assert (pose[0, 22:25] == 0).all()
    assert_allclose(pose[0, 25:40].flatten(), contents["smplx"]["hands_meanl"])
    assert_allclose(pose[0, 40:].flatten(), contents["smplx"]["hands_meanr"])
    with pytest.raises(ValueError, match="no hands"):
        SMPL(body_model()).full_pose(torch.ones(1, 22, 3))


def test_rotations_of_another_family_are_refused(modules: Any) -> None:
    bodies = random_bodies("smplh", 1, torch.float32)
    with pytest.raises(ValueError, match=r"SMPL-X \(neutral\): expected rotations \(B, 55, 3, 3\)"):
        modules["smplx", torch.float32](**bodies)
    with pytest.raises(ValueError, match=r"expected expression \(B, up to 0\)"):
        modules["smplh", torch.float32](**bodies, expression=torch.zeros(1, 10))


# Reading


def test_what_is_read_of_smplx_is_what_the_file_holds(models: Any, contents: Any) -> None:
    model, content = models["smplx"], contents["smplx"]
    assert (model.name, model.title) == ("smplx", "SMPL-X (neutral)")
    assert (model.num_betas, model.expressions) == (10, 10)
    assert_array_equal(model.shapedirs[..., :10], content["shapedirs"][..., :10])
    assert_array_equal(model.shapedirs[..., 10:], content["shapedirs"][..., 300:310])
    assert_array_equal(model.parents, body_release.SMPLX_PARENTS)
    triangle = content["f"][content["lmk_faces_idx"][7]]
    row = model.regressors["face"][7]
    assert_allclose(row[triangle], content["lmk_bary_coords"][7])
    assert_allclose(row.sum(), 1, atol=1e-6)


def test_files_of_2019_hold_expression_after_ten_shapes(tmp_path: Path, contents: Any) -> None:
    content = contents["smplx"] | {"shapedirs": contents["smplx"]["shapedirs"][..., :20]}
    path = body_release.write_npz(content, tmp_path / "SMPLX_MALE.npz")
    model = load(path, "male", num_betas=16)
    assert (model.num_betas, model.expressions) == (10, 10)
    assert_array_equal(model.shapedirs, content["shapedirs"])


def test_official_pickles_of_smplh_are_read_as_plain_ones(
    tmp_path: Path, models: Any, contents: Any
) -> None:
    path = body_release.write_pkl(contents["smplh"], tmp_path / "SMPLH_MALE.pkl")
    assert b"chumpy" in path.read_bytes()
    model = load(path, "male")
    for name in ("shapedirs", "J_regressor", "weights", "hand_means", "hand_components"):
        assert_array_equal(getattr(model, name), getattr(models["smplh"], name), err_msg=name)
    assert load(path, "male", num_betas=16).num_betas == 16


def test_files_of_amass_have_no_hands_and_their_own_folders(tmp_path: Path) -> None:
    (tmp_path / "smplh" / "female").mkdir(parents=True)
    content = body_release.smplh(seed=2, hands=False)
    path = body_release.write_npz(content, tmp_path / "smplh" / "female" / "model.npz")
    model = body_model("female", tmp_path, family="smplh")
    assert (model.title, model.path) == ("SMPL-H (female)", str(path))
    assert model.hand_means is None


def test_a_folder_is_asked_for_the_family_and_gender(files: dict[str, Path]) -> None:
    folder = files["smplx"].parent
    assert bodymodel.find(folder, "neutral", "smplx") == files["smplx"]
    with pytest.raises(DataError, match=r"SMPLX_FEMALE.npz.*smpl-x.is.tue.mpg.de"):
        body_model("female", folder, family="smplx")
    with pytest.raises(DataError, match=r"SMPL_NEUTRAL.pkl"):
        body_model("neutral", folder)


def test_a_file_of_another_family_is_refused_by_name(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = tmp_path / "SMPL_NEUTRAL.npz"
    renamed.symlink_to(files["smplx"])
    with pytest.raises(DataError, match=r"expected 24 joints \(SMPL\), found 55"):
        body_model("neutral", tmp_path)
    with pytest.raises(HumandataError, match="'star'; read are smpl, smplh, smplx"):
        load(files["smplx"], "neutral", family="star")
    monkeypatch.delenv("HUMANDATA_BODY_MODELS", raising=False)
    with pytest.raises(HumandataError, match="SMPL-X has no stand-in"):
        body_model("neutral", family="smplx")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["smplh", "smplx"])
def test_every_family_compiles_to_one_graph(family: str, modules: Any) -> None:
    body = modules[family, torch.float64]
    bodies = random_bodies(family, 2, torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(body.forward, fullgraph=True, backend="aot_eager")
    for ours, plain in zip(compiled(**bodies), body(**bodies), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=0)
