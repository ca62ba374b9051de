"""Body-model files: the official layout written and read back, mean parameters, wrong files."""

from __future__ import annotations

import pickletools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from humandata import bodymodel, pickle2
from humandata.bodymodel import GENDERS, BodyModel, body_model, forward_joints
from humandata.errors import DataError, HumandataError


def assert_same(one: BodyModel, other: BodyModel) -> None:
    for name in (
        "v_template",
        "shapedirs",
        "posedirs",
        "J_regressor",
        "weights",
        "parents",
        "faces",
    ):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("chumpy", [True, False])
def test_official_pickles_are_read_back_equal(tmp_path: Path, chumpy: bool) -> None:
    model = body_model("male")
    path = tmp_path / "basicmodel_m_lbs_10_207_0_v1.0.0.pkl"
    bodymodel.write_pkl(model, path, chumpy=chumpy)
    loaded = bodymodel.load(path, "male")
    assert_same(loaded, model)
    assert loaded.parents[0] == -1
    names = {op[1] for op in pickletools.genops(path.read_bytes()) if op[0].name == "GLOBAL"}
    assert ("chumpy.ch Ch" in names) == chumpy
    assert loaded.title == "stand-in, not SMPL (male)"  # also after a round trip


@pytest.fixture(scope="module")
def npz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but a neutral body, which is not marked as the stand-in."""
    folder = tmp_path_factory.mktemp("npz")
    bodymodel.write_npz(replace(body_model(), name="smpl"), folder / "SMPL_NEUTRAL.npz")
    return folder


def test_npz_files_are_read_back_equal(npz_folder: Path) -> None:
    assert_same(body_model("neutral", npz_folder), body_model("neutral"))


def test_a_file_without_our_mark_is_smpl(npz_folder: Path) -> None:
    assert body_model("neutral", npz_folder).title == "SMPL (neutral)"


def test_all_300_directions_of_newer_files_are_cut_to_ten(tmp_path: Path) -> None:
    content = bodymodel._official(body_model("female"))
    directions = np.zeros((6890, 3, 300))
    directions[..., 9] = 1
    content["shapedirs"] = pickle2.chumpy_array(directions)
    (tmp_path / "SMPL_FEMALE.pkl").write_bytes(pickle2.dumps(content))
    loaded = body_model("female", tmp_path)
    assert loaded.shapedirs.shape == (6890, 3, 10)
    assert loaded.shapedirs[0, 0, 9] == 1


def resident(path: Path) -> int:
    """Kilobytes of a mapped file that are in memory, as Linux counts them."""
    total, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            mine = line.endswith(str(path))
        elif mine and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_joints_need_no_copy_of_the_pose_correctives_that_fill_a_file(
    tmp_path: Path, suffix: str
) -> None:
    correctives = np.random.default_rng(0).standard_normal((6890, 3, 207), np.float32)
    made = replace(body_model(), posedirs=0.01 * correctives.astype(np.float64))
    path = tmp_path / f"SMPL_NEUTRAL{suffix}"
    if suffix == ".pkl":
        bodymodel.write_pkl(made, path)
    else:
        np.savez(path, allow_pickle=False, **bodymodel._official(made))
    np.save(tmp_path / "J_regressor_h36m.npy", made.regressors["h36m"])
    model = bodymodel.load(path, "neutral")
    in_file: Any = model.posedirs
    while in_file is not None and not isinstance(in_file, np.memmap):
        in_file = in_file.base
    assert in_file is not None
    pose = np.random.default_rng(1).normal(0, 0.4, (3, 24, 3)).astype(np.float32)
    given = pose[:, 0], pose[:, 1:], np.ones((3, 10), np.float32)
    joints = forward_joints(model, *given, regressor="h36m")
    np.testing.assert_array_equal(joints, forward_joints(made, *given, regressor="h36m"))
    assert "single" not in vars(model)
    # What was read of the file has been given back, and is read again.
    if Path("/proc/self/smaps").is_file():
        assert resident(path) == 0
    np.testing.assert_array_equal(model.posedirs[3000], made.posedirs[3000])


def test_the_written_folder_serves_every_part(tmp_path: Path) -> None:
    folder = bodymodel.body_files(tmp_path / "models")
    for gender in GENDERS:
        model = body_model(gender, folder)
        assert_same(model, body_model(gender))
        assert set(model.regressors) == {"h36m", "extra"}
    ours, theirs = bodymodel.mean_parameters(), bodymodel.mean_parameters(folder)
    np.testing.assert_array_equal(ours.pose6d, theirs.pose6d)
    np.testing.assert_array_equal(theirs.camera, np.array([0.9, 0, 0], np.float32))


def test_environment_names_the_folder(npz_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = body_model()
    monkeypatch.setenv("HUMANDATA_BODY_MODELS", str(npz_folder))
    assert body_model().path == str(npz_folder / "SMPL_NEUTRAL.npz")
    assert body_model() is body_model()
    monkeypatch.delenv("HUMANDATA_BODY_MODELS")
    assert body_model() is standin


def test_regressors_of_other_tools_are_brought_to_one_form(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    fourteen, correct = rng.random((14, 6890)), rng.random((17, 6890))
    np.save(tmp_path / "J_regressor_extra.npy", fourteen)
    np.save(tmp_path / "J_regressor_h36m_correct.npy", correct)
    found = bodymodel.load_regressors(tmp_path)
    np.testing.assert_array_equal(found["extra"], fourteen[5:])
    np.testing.assert_array_equal(found["h36m"][1:7], correct[[4, 5, 6, 1, 2, 3]])
    np.testing.assert_array_equal(found["h36m"][[0, 7, 16]], correct[[0, 7, 16]])


# Mean parameters


def test_mean_pose_stands_upright_in_a_camera_frame() -> None:
    mean = bodymodel.mean_parameters()
    assert mean.pose6d.shape == (144,)
    np.testing.assert_allclose(mean.pose6d[:6], [1, 0, 0, -1, 0, 0], atol=1e-6)
    first, second = mean.pose6d.reshape(24, 3, 2).transpose(2, 0, 1)
    matrices = np.stack([first, second, np.cross(first, second)], axis=-1)
    pose = Rotation.from_matrix(matrices).as_rotvec()[None]
    joints = forward_joints(body_model(), pose[:, 0], pose[:, 1:], mean.betas[None])[0]
    assert joints[15, 1] < joints[0, 1] < joints[7, 1]  # y points down
    for shoulder, wrist in ((16, 20), (17, 21)):
        assert joints[wrist, 1] > joints[shoulder, 1] + 0.35  # arms hang


def test_mean_parameters_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "smpl_mean_params.npz", pose=np.zeros(72), shape=np.zeros(10), cam=[0.9, 0, 0]
    )
    with pytest.raises(DataError, match=r"smpl_mean_params.npz, pose: expected shape \(144\)"):
        bodymodel.mean_parameters(tmp_path)


# Wrong files


def test_an_unknown_gender_is_named() -> None:
    with pytest.raises(HumandataError, match=r"'men'.*neutral, male, female"):
        body_model("men")


def test_an_empty_or_absent_folder_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SMPL_MALE.pkl.*no such file.*smpl.is.tue.mpg.de"):
        body_model("male", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        body_model("male", tmp_path / "absent")


def test_a_missing_or_misshapen_key_is_named(tmp_path: Path) -> None:
    # Without its largest array, which is read last.
    content = bodymodel._official(body_model()) | {"posedirs": np.zeros((6890, 3, 2))}
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(pickle2.dumps({k: v for k, v in content.items() if k != "weights"}))
    with pytest.raises(DataError, match=r"SMPL_NEUTRAL.pkl, weights: expected.*\(6890, 24\)"):
        bodymodel.load(path, "neutral")
    path.write_bytes(pickle2.dumps(content | {"weights": np.zeros((6890, 55))}))
    with pytest.raises(DataError, match=r"\(6890, 24\), found \(6890, 55\)"):
        bodymodel.load(path, "neutral")
    path.write_bytes(pickle2.dumps(content | {"v_template": np.zeros((10475, 3))}))
    with pytest.raises(DataError, match="SMPL-X"):
        bodymodel.load(path, "neutral")
    path.write_bytes(pickle2.dumps([1, 2]))
    with pytest.raises(DataError, match="a dictionary of SMPL's arrays, found list"):
        bodymodel.load(path, "neutral")
    with pytest.raises(DataError, match="no such file"):
        bodymodel.load(tmp_path / "absent.pkl", "neutral")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    with pytest.raises(HumandataError, match=r"os\.system|posix\.system"):
        bodymodel.load(path, "neutral")
    assert not (tmp_path / "ran").exists()


def test_a_regressor_of_wrong_width_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "J_regressor_h36m.npy", np.zeros((17, 10475)))
    with pytest.raises(DataError, match=r"\(17, 6890\), found \(17, 10475\)"):
        bodymodel.load_regressors(tmp_path)


def test_joints_that_need_an_absent_regressor_say_which(npz_folder: Path) -> None:
    model = body_model("neutral", npz_folder)
    with pytest.raises(DataError, match=r"J_regressor_h36m.npy beside the body model"):
        bodymodel.joints_h36m(model, model.v_template[None])
