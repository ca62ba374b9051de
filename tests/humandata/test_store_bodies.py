"""Bodies of a store are posed as smplx poses them: of either family, and children as children."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import body_release
import numpy as np
import pytest
from numpy.testing import assert_allclose
from people_store import make_people_store

from humandata import bodymodel, posing, store_bodies
from humandata.errors import DataError
from humandata.reprojection import check_body_joints
from humandata.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SMPL's neutral file, SMPL-X's, and the templates of children, which stand elsewhere."""
    folder = tmp_path_factory.mktemp("bodies")
    model = bodymodel.standin("neutral")
    bodymodel.write_pkl(model, folder / "SMPL_NEUTRAL.pkl", chumpy=False)
    smplx = body_release.smplx(directions=20)
    body_release.write_npz(smplx, folder / "SMPLX_NEUTRAL.npz")
    for family, template in (("smpl", model.v_template), ("smplx", smplx["v_template"])):
        np.save(folder / f"{family}_kid_template.npy", 0.6 * template + [0.2, 1.1, 0])
    return folder


def peer(folder: Path, family: str, age: str, **options: Any) -> Any:
    """smplx's module, which makes itself a child's."""
    smplx = pytest.importorskip("smplx")
    if age == "kid":
        options |= {"age": "kid", "kid_template_path": str(folder / f"{family}_kid_template.npy")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return smplx.create(str(folder / f"{family.upper()}_NEUTRAL.{_SUFFIX[family]}"), family,
                            gender="neutral", batch_size=3, **options)  # fmt: skip


_SUFFIX = {"smpl": "pkl", "smplx": "npz"}


def test_a_childs_model_is_that_of_smplx(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    pose, betas = rng.normal(0, 0.3, (3, 24, 3)), rng.normal(size=(3, 11))
    betas[:, 10] = [0, 0.4, 1]
    model = store_bodies.child_model("neutral", folder)
    assert model is not None
    assert model.num_betas == 11
    vertices, _ = posing.forward(model, pose[:, 0], pose[:, 1:], betas)
    body = peer(folder, "smpl", "kid", dtype=torch.float64)
    given = {
        "global_orient": pose[:, 0],
        "body_pose": pose[:, 1:].reshape(3, 69),
        "betas": betas,
    }
    wanted = body(**{name: torch.tensor(values) for name, values in given.items()})
    assert_allclose(vertices, wanted.vertices.detach(), atol=1e-5)


def test_without_a_template_there_is_no_childs_model_and_a_wrong_one_is_named(
    tmp_path: Path, folder: Path
) -> None:
    assert store_bodies.child_model("neutral") is None  # the stand-in has no child
    assert store_bodies.child_model("neutral", bodymodel.body_files(tmp_path)) is None
    for number, content in enumerate((np.zeros((10475, 3)), None)):
        place = tmp_path / str(number)
        (place / "smpl").mkdir(parents=True)
        (place / "SMPL_NEUTRAL.pkl").write_bytes((folder / "SMPL_NEUTRAL.pkl").read_bytes())
        file = place / "smpl" / "smpl_kid_template.npy"
        file.write_bytes(b"no array")
        if content is not None:
            np.save(file, content)
        with pytest.raises(DataError, match=r"smpl_kid_template\.npy"):
            store_bodies.child_model("neutral", place)


def test_children_whose_weight_an_import_lost_are_children_and_not_posed(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(columns: dict[str, dict[str, Any]]) -> None:
        columns["instances"]["extra/meta_kid"] = np.array([False, True] * 3)
        columns["instances"]["gender"][:] = 1

    store = make_people_store(tmp_path / "s.zarr", edit, 6, pictures=False)
    assert store_bodies.are_children(store, slice(None)).tolist() == [False, True] * 3
    assert store_bodies.are_children(store, np.array([5, 0])).tolist() == [True, False]
    monkeypatch.setenv("HUMANDATA_BODY_MODELS", str(folder))  # a template without weights
    assert store_bodies.pose(store, slice(None)).rows.tolist() == [0, 2, 4]
    assert store_bodies.unposed_children(store) == 3
    assert store_bodies.mesh(store, 1) is None
    assert "3 children are left out: the weights" in check_body_joints(store).summary


@pytest.fixture(scope="module")
def smplx_store(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Store:
    """Two adults, two children, as AGORA has them: SMPL-X with hands around the mean hand."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    sizes = {"global_orient": 3, "body_pose": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3,
             "left_hand_pose": 45, "right_hand_pose": 45, "expression": 10,
             "transl": 3}  # fmt: skip
    given = {name: rng.normal(0, 0.3, (6, size)) for name, size in sizes.items()}
    given["transl"][:, 2] += 5
    betas = rng.normal(size=(6, 11))
    joints = np.zeros((6, 127, 4), np.float32)
    weight = np.array([0, 0, 0, 0.3, 0.6, 1])
    betas[:, 10] = weight
    for at, age, count in ((slice(0, 3), "adult", 10), (slice(3, 6), "kid", 11)):
        body = peer(folder, "smplx", age, use_pca=False, flat_hand_mean=False, num_betas=10)
        values = {name: v[at] for name, v in given.items()} | {"betas": betas[at, :count]}
        found = body(**{n: torch.tensor(v, dtype=torch.float32) for n, v in values.items()})
        joints[at, :, :3] = found.joints[:, :127].detach().numpy()
    joints[..., 3] = 1

    def edit(columns: dict[str, dict[str, Any]]) -> None:
        rows = columns["instances"]
        for name in [name for name in rows if name.startswith("smpl/")]:
            del rows[name]
        del rows["keypoints2d"], rows["keypoints2d_visibility"]
        for name, values in given.items():
            joint = (-1, 3) if name in ("body_pose", "left_hand_pose", "right_hand_pose") else (-1,)
            rows[f"smplx/{name}"] = values.reshape(6, *joint).astype(np.float32)
        rows["smplx/betas"] = betas[:, :10].astype(np.float32)
        rows["smplx/valid"] = rows["smplx/transl_valid"] = np.ones(6, bool)
        rows["extra/kid_weight"] = weight.astype(np.float32)
        rows["gender"] = np.ones(6, np.uint8)
        rows["keypoints3d"] = joints

    says = {"keypoints3d": {"convention": "agora", "root": "absolute"}}
    says |= {f"smplx/{side}_hand_pose": {"flat_hand_mean": False} for side in ("left", "right")}
    path = tmp_path_factory.mktemp("smplx") / "s.zarr"
    return make_people_store(path, edit, 6, pictures=False, says=says)


def test_bodies_of_smplx_stand_on_their_joints_where_its_file_is_there(
    smplx_store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = check_body_joints(smplx_store)
    assert check.passed is None
    assert "no SMPL-X file for neutral bodies" in check.summary
    monkeypatch.setenv("HUMANDATA_BODY_MODELS", str(folder))
    posed = store_bodies.pose(smplx_store, slice(None))
    wanted = smplx_store.instances["keypoints3d"][:][:, :55, :3]
    assert_allclose(posed.joints[:, :55, :3], wanted, atol=2e-5)
    check = check_body_joints(smplx_store)
    assert check.verdict == "passed"
    assert "over 6 people" in check.summary
