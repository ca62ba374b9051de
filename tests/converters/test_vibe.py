"""The import of VIBE's databases gives back frames, people and joints, without joblib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vibe_release as release
from numpy.testing import assert_allclose, assert_array_equal

import humandata
from humandata import DataError
from humandata.converters import vibe as converter
from humandata.converters.converter import Columns, convert
from humandata.keypoints import names


def read(file: Path, **options: str) -> Columns:
    chosen = {option.name: option.default for option in converter.INFO.options} | options
    (unit,) = converter.plan(file, converter.find_splits(file)[0], chosen)
    columns = converter.read(unit)
    accounted = sum(columns.filtered.values()) + len(columns.rejects) + columns.rows("instances")
    assert columns.records == accounted
    return columns


@pytest.mark.parametrize("form", [{}, {"aligned": True}, {"compress": True}])
def test_a_database_of_3dpw(tmp_path: Path, form: dict[str, bool]) -> None:
    data = release.pw3d()
    columns = read(release.dump(tmp_path / "3dpw_test_db.pt", data, **form))
    at = columns.instances
    assert_allclose(at["bbox_xywh"][0], [75, 170, 50, 60, 1])
    assert columns.field_attributes["bbox_xywh"]["factor"] == 1.1
    assert columns.field_attributes["keypoints2d"]["convention"] == "lsp"
    ankle, wrist = names("lsp").index("right_ankle"), names("lsp").index("left_wrist")
    assert_allclose(at["keypoints2d"][0, [ankle, wrist]], [[0, 0, 0.8], [11, 22, 0.8]])
    assert not at["keypoints2d"][:, 12:].any()
    assert_allclose(at["keypoints3d"][:3, :, :3], data["joints3D"][:3])
    assert columns.field_attributes["keypoints3d"]["root"] == "unknown"
    assert at["smpl/valid"].tolist() == [True, True, True, False]
    assert_allclose(at["smpl/betas"][:3], data["shape"][:3], rtol=1e-6)
    assert "smpl/transl" not in at
    # The row that the file calls not valid keeps its 2D joints only.
    assert not at["keypoints3d"][3].any()
    assert at["keypoints2d"][3].any()


def test_two_people_of_a_frame_share_its_picture_and_sequence(tmp_path: Path) -> None:
    columns = read(release.dump(tmp_path / "3dpw_test_db.pt", release.pw3d()))
    assert columns.images["path"] == [
        "imageFiles/downtown_walking_00/image_00000.jpg",
        "imageFiles/downtown_walking_00/image_00001.jpg",
    ]
    assert columns.instances["image"].tolist() == [0, 1, 0, 1]
    assert columns.sequences["name"] == ["downtown_walking_00"]
    assert columns.images["frame"].tolist() == [3, 4]
    words = columns.field_attributes["extra/vid_name"]["vocabulary"]
    assert [words[code] for code in columns.instances["extra/vid_name"]] == [
        "downtown_walking_00_0", "downtown_walking_00_0",
        "downtown_walking_00_1", "downtown_walking_00_1",
    ]  # fmt: skip


def test_absent_joints_of_mpi_inf_3dhp_are_not_points_at_minus_the_pelvis(tmp_path: Path) -> None:
    data = release.mpii3d()
    columns = read(release.dump(tmp_path / "mpii3d_train_db.pt", data))
    joints = columns.instances["keypoints3d"]
    there = joints[..., 3] > 0
    assert (there.sum(axis=1) == 17).all()
    assert data["joints3D"][:, 0].any()  # absent, and yet not zero
    assert not joints[:, 0].any()
    for name in ("headtop", "head_extra", "pelvis_extra", "spine_extra", "left_hip_extra"):
        slot = names("smpl_49").index(name)
        assert there[:, slot].all()
        assert_allclose(joints[:, slot, :3], data["joints3D"][:, slot], rtol=1e-6)
    assert columns.field_attributes["keypoints3d"]["root"] == "pelvis"
    assert columns.images["path"][0] == "S1/Seq1/imageFrames/video_0/frame_000001.jpg"
    assert columns.images["frame"].tolist() == [1, 2, 3]
    assert columns.sequences["name"] == ["S1_Seq1_vid0"]


def test_frames_that_mpi_inf_3dhp_calls_invalid_keep_their_2d_joints_only(tmp_path: Path) -> None:
    data = release.mpii3d() | {"valid_i": np.array([1, 0, 1])}
    at = read(release.dump(tmp_path / "mpii3d_val_db.pt", data)).instances
    assert at["keypoints3d"][..., 3].any(axis=1).tolist() == [True, False, True]
    assert at["keypoints2d"][1].any()
    assert at["extra/valid_i"].tolist() == [1, 0, 1]


def test_in_other_files_slots_that_share_one_point_are_absent(tmp_path: Path) -> None:
    data = release.mpii3d()
    columns = read(release.dump(tmp_path / "h36m_train_db.pt", data))
    assert (columns.instances["keypoints3d"][..., 3].sum(axis=1) == 17).all()
    data["joints3D"] = np.random.default_rng(1).normal(size=(3, 49, 3))
    columns = read(release.dump(tmp_path / "3dpw_train_db.pt", data))
    assert columns.instances["keypoints3d"][..., 3].all()


def test_features_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    file = release.dump(tmp_path / "3dpw_test_db.pt", release.pw3d())
    columns = read(file)
    assert "extra/features" not in columns.instances
    assert any("features were left out" in note for note in columns.notes)
    assert read(file, features="keep").instances["extra/features"].shape == (4, 2048)


def test_a_store_is_made(tmp_path: Path) -> None:
    release.dump(tmp_path / "vibe_db" / "3dpw_test_db.pt", release.pw3d())
    report = convert("vibe", tmp_path / "vibe_db", tmp_path / "s.zarr", workers=1, pictures="none")
    assert (report.split, report.instances, report.images) == ("test", 4, 2)
    store = humandata.open(tmp_path / "s.zarr")
    assert_array_equal(store.instances["image"][:], [0, 1, 0, 1])


def test_motion_without_pictures_is_refused(tmp_path: Path) -> None:
    data = {"vid_name": np.array(["a"]), "theta": np.zeros((1, 82))}
    with pytest.raises(DataError, match="no img_name, bbox.*AMASS"):
        read(release.dump(tmp_path / "amass_db.pt", data))


def test_paths_below_no_known_folder_are_rejected(tmp_path: Path) -> None:
    data = release.pw3d()
    data["img_name"] = np.array(["/home/x/a.jpg"] * 4)
    columns = read(release.dump(tmp_path / "3dpw_test_db.pt", data))
    assert [r.reason for r in columns.rejects] == ["picture_path"] * 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("joints2D", np.ones((4, 25, 3)), r"joints2D: expected \(4, 49 or 14, 3\)"),
        ("joints3D", np.ones((3, 14, 3)), "joints3D: expected 4 entries"),
        ("bbox", np.ones((4, 5)), r"bbox: expected shape \(4, 4\)"),
        ("pose", np.ones((4, 24, 3)), r"pose: expected shape \(4, 72\)"),
        ("vid_name", np.array(["a"]), "vid_name: expected 4 entries"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, key: str, value: Any, message: str) -> None:
    data = release.pw3d() | {key: value}
    with pytest.raises(DataError, match=f"3dpw_test_db.pt, {message}"):
        read(release.dump(tmp_path / "3dpw_test_db.pt", data))


def test_values_that_are_not_finite_and_cut_files(tmp_path: Path) -> None:
    data = release.pw3d()
    data["joints2D"][1, 0, 0] = np.nan
    data["bbox"][2, 2] = np.nan
    data["pose"][0, 0] = np.inf
    file = release.dump(tmp_path / "3dpw_test_db.pt", data)
    columns = read(file)
    assert [(r.record, r.reason) for r in columns.rejects] == [("row 2", "box_without_size")]
    assert columns.instances["smpl/valid"].tolist() == [False, True, False]
    assert not columns.instances["keypoints2d"][1, 0].any()
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DataError, match="3dpw_test_db.pt"):
        read(file)
