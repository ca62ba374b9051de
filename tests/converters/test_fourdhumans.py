"""The import of 4D-Humans gives back people, boxes and pictures, from tars as from npz files."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import fourdhumans_release as release
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import humandata
from humandata import DataError, fourdhumans_poses
from humandata.converters import fourdhumans as converter
from humandata.converters.converter import Columns, convert
from humandata.keypoints import names
from humandata.unpickle import UnsafePickle


def read(raw: Path, **options: str) -> Columns:
    chosen = {option.name: option.default for option in converter.INFO.options} | options
    (unit,) = converter.plan(raw, converter.find_splits(raw)[0], chosen)
    columns = converter.read(unit)
    accounted = sum(columns.filtered.values()) + len(columns.rejects) + columns.rows("instances")
    assert columns.records == accounted
    return columns


def joint(columns: Columns, field: str, name: str) -> np.ndarray:
    return np.asarray(columns.instances[field][:, names("smpl_44").index(name)])


def tar(folder: Path, members: dict[str, bytes]) -> Path:
    return release.write_tar(folder / "set-v1.0" / "000000.tar", members)


def assert_first_person(columns: Columns) -> None:
    truth = release.person(0)
    assert_allclose(joint(columns, "keypoints2d", "neck_openpose")[0], [10, 5, 0.9])
    # Slot 25 is the first of SPIN's 24, slot 43 its head of Human3.6M.
    assert_allclose(joint(columns, "keypoints2d", "right_ankle")[0], [250, 125, 0.9])
    assert_allclose(joint(columns, "keypoints2d", "head_extra")[0], [430, 215, 0.9])
    assert_allclose(columns.instances["keypoints3d"][0], truth["keypoints_3d"])
    assert_allclose(columns.instances["bbox_xywh"][0], [0, 0, 200, 100, 1])
    assert_allclose(columns.instances["smpl/global_orient"][0], truth["body_pose"][:3])
    assert_allclose(columns.instances["smpl/body_pose"][0].ravel(), truth["body_pose"][3:])
    assert_allclose(columns.instances["smpl/betas"][0], truth["betas"])


def test_a_tar_gives_its_people_and_the_rule_of_the_first_dot(tmp_path: Path) -> None:
    columns = read(tar(tmp_path, release.shard()))
    assert_first_person(columns)
    assert columns.images["path"] == [
        "000000.tar/set-v1.0/000000_a.jpg", "000000.tar/set-v1.0/000001_b.png",
    ]  # fmt: skip
    at = columns.instances
    assert at["image"].tolist() == [0, 1, 1]
    assert at["person"].tolist() == [0, 1, 2]
    assert at["smpl/valid"].tolist() == [True, True, False]
    assert_allclose(at["extra/reprojection_loss"], [100, 101, 102])
    assert at["area"].tolist() == [0, 500, 300]  # detection_npz_idx 1, then 0
    # The third has a pose but no shape; the pose is not lost.
    assert_allclose(at["extra/body_pose"][2], release.person(2)["body_pose"])


def test_a_store_is_made_with_the_pictures_of_the_tars(tmp_path: Path) -> None:
    for number in range(2):
        release.write_tar(tmp_path / "coco-val" / f"{number:06d}.tar", release.shard())
    report = convert("fourdhumans", tmp_path / "coco-val", tmp_path / "s.zarr", workers=1)
    assert (report.split, report.instances, report.images) == ("validation", 6, 4)
    store = humandata.open(tmp_path / "s.zarr")
    assert store.images["width"][:].tolist() == [64] * 4
    assert store.picture(1)[:4] == b"\x89PNG"
    assert len(set(store.instances["id"][:].tolist())) == 6
    plain = convert(
        "fourdhumans", tmp_path / "coco-val", tmp_path / "t.zarr", workers=1, pictures="original"
    )
    assert humandata.open(Path(plain.store)).picture(0) == release.picture()


def test_an_evaluation_file_has_boxes_in_pixels(tmp_path: Path) -> None:
    columns = read(release.write_npz(tmp_path / "3dpw_test.npz", release.evaluation()))
    assert_first_person(columns)
    assert columns.images["path"][2] == "imageFiles/walk/image_00002.jpg"
    assert columns.instances["smpl/valid"].tolist() == [True, False, True]
    assert converter.find_splits(tmp_path) == ["test"]
    assert columns.field_attributes["keypoints2d"]["convention"] == "smpl_44"


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_the_scale_of_an_evaluation_file_may_be_one_number(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    data = release.evaluation() | {"scale": np.full(shape, 200.0)}
    columns = read(release.write_npz(tmp_path / "h36m_val_p2.npz", data))
    assert_allclose(columns.instances["bbox_xywh"][0], [0, -50, 200, 200, 1])


def test_missing_arrays_of_an_evaluation_file_are_unlabelled(tmp_path: Path) -> None:
    data = release.evaluation()
    for key in ("body_keypoints_2d", "body_keypoints_3d", "extra_keypoints_3d", "betas"):
        del data[key]
    columns = read(release.write_npz(tmp_path / "coco_val.npz", data))
    assert not columns.instances["keypoints2d"][:, :25].any()
    assert columns.instances["keypoints2d"][:, 25:, 2].all()
    assert "keypoints3d" not in columns.instances
    assert "smpl/valid" not in columns.instances


def test_the_loaders_steps_are_an_option(tmp_path: Path) -> None:
    few = np.zeros((44, 3), np.float32)
    few[:4] = [1, 1, 0.9]
    few[4] = [1, 1, 0.2]  # suppressed, so four are left
    lossy = np.empty((), dtype=object)
    lossy[()] = {"reprojection_loss": 31000.0}
    bent = np.full(10, 3.5, np.float32)
    people = [
        release.person(0),
        release.person(1, keypoints_2d=few),
        release.person(2, extra_info={"fitting_loss": lossy}),
        release.person(3, betas=bent),
        release.person(4, has_body_pose=np.array(0.0)),
    ]
    corrupt = "aic-train-vitpose/0a047f0124ae48f8eee15a9506ce1449ee1ba669"
    members = {
        "a/b.jpg": release.picture(), "a/b.data.pyd": release.labels(*people),
        f"{corrupt}.jpg": b"", f"{corrupt}.data.pyd": release.labels(release.person(7)),
    }  # fmt: skip
    file = tar(tmp_path, members)
    assert read(file).rows("instances") == 6
    columns = read(file, filter="4dhumans")
    assert columns.filtered == {
        "4dhumans_few_joints": 1, "4dhumans_fit": 1, "4dhumans_corrupt": 1,
    }  # fmt: skip
    assert columns.instances["smpl/valid"].tolist() == [True, False, False]
    assert any("test of poses was not done" in note for note in columns.notes)


def test_poses_that_the_histogram_does_not_have_lose_their_body(tmp_path: Path) -> None:
    """A histogram of 40 bins to an axis, with all of its poses near zero rotation."""
    counts = np.zeros((21, 40, 40, 40))
    counts[:, 19:21, 19:21, 19:21] = 10
    straight, bent, round_about = np.full((3, 72), 0.05)
    bent[3 + 3 * 18] = 1.5  # SMPL's joint 19, an elbow
    round_about[3:6] = [2 * np.pi + 0.05, 0, 0]  # the hip goes round once: the same rotation
    root_only = straight.copy()
    root_only[:3] = 3.0  # the root is not asked, nor are the hands
    root_only[66:] = 3.0
    poses = [straight, bent, round_about, root_only]
    people = [release.person(n, body_pose=pose) for n, pose in enumerate(poses)]
    members = {"a.jpg": release.picture(), "a.data.pyd": release.labels(*people)}
    file = tar(tmp_path / "tars", members)
    np.save(tmp_path / "mine.npy", counts)
    expected = [True, False, True, True]
    given = read(file, filter="4dhumans", pose_histogram=str(tmp_path / "mine.npy"))
    assert given.instances["smpl/valid"].tolist() == expected
    assert not given.notes
    # Where 4D-Humans has it, above the tars, it is found.
    np.save(tmp_path / fourdhumans_poses.FILE, counts)
    assert read(file, filter="4dhumans").instances["smpl/valid"].tolist() == expected
    assert read(file).instances["smpl/valid"].all()
    np.save(tmp_path / "mine.npy", counts[:5])
    with pytest.raises(DataError, match=r"mine.npy: expected counts of shape \(21, 100"):
        read(file, filter="4dhumans", pose_histogram=str(tmp_path / "mine.npy"))
    with pytest.raises(DataError, match=r"nowhere.npy: expected the histogram"):
        read(file, filter="4dhumans", pose_histogram="nowhere.npy")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keypoints_2d": np.zeros((21, 3))}, r"keypoints_2d of float64 \(21, 3\)"),  # HaMeR
        ({"betas": "none"}, "betas of"),
        ({"scale": np.ones(3)}, r"scale of float64 \(3,\)"),
    ],
)
def test_people_that_cannot_be_read_are_rejected(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    members = {
        "a.jpg": release.picture(),
        "a.data.pyd": release.labels(release.person(0), release.person(1, **changes)),
        "b.data.pyd": release.labels(release.person(2)),
        "c.jpg": release.picture(),
        "d.jpg": release.picture(),
        "d.data.pyd": release.labels(release.person(3))[:-50],
        "e.jpg": release.picture(),
        "e.data.pyd": release.labels(release.person(4, center=np.array([np.nan, 1]))),
    }
    columns = read(tar(tmp_path, members))
    assert columns.rows("instances") == 1
    assert [(r.record, r.reason) for r in columns.rejects] == [
        ("a, person 1", "labels"), ("b, person 0", "missing_picture"), ("c", "labels"),
        ("d", "labels"), ("row 1", "box_without_size"),
    ]  # fmt: skip
    assert re.match(reason, columns.rejects[0].detail)


def test_a_key_that_comes_again_is_rejected_and_the_first_stays(tmp_path: Path) -> None:
    file = tar(tmp_path, release.shard())
    with tarfile.open(file, "a") as archive:
        again = release.labels(release.person(7))
        info = tarfile.TarInfo("set-v1.0/000000_a.data.pyd")
        info.size = len(again)
        archive.addfile(info, io.BytesIO(again))
    columns = read(file)
    assert [(r.record, r.reason) for r in columns.rejects] == [
        ("set-v1.0/000000_a", "duplicate_key")
    ]
    assert_first_person(columns)
    assert columns.rows("instances") == 3


def test_labels_that_would_run_code_stop_the_import(tmp_path: Path) -> None:
    members = {"a.jpg": release.picture(), "a.data.pyd": pickle.dumps([print])}
    with pytest.raises(UnsafePickle, match="print"):
        read(tar(tmp_path, members))


@pytest.mark.parametrize("left", [700, 5000])
def test_cut_archives_are_refused(tmp_path: Path, left: int) -> None:
    file = tar(tmp_path, release.shard())
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    with pytest.raises(DataError, match="000000.tar: expected a complete"):
        read(file)
    # A cut exactly behind a member leaves no end mark.
    end = len(whole) - len(whole) % 10240
    while whole[end - 512 : end] == bytes(512):
        end -= 512
    file.write_bytes(whole[:end])
    with pytest.raises(DataError, match="no end mark"):
        read(file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scale", np.ones((3, 3)), r"scale: expected shape \(3,\) or \(3, 2\)"),
        ("body_keypoints_2d", np.ones((3, 24, 3)), r"body_keypoints_2d: expected shape"),
        ("betas", np.ones((3, 11)), r"betas: expected shape \(3, 10\)"),
        ("has_betas", np.ones(2), "has_betas: expected 3 entries"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    data = release.evaluation() | {key: value}
    with pytest.raises(DataError, match=f"3dpw_test.npz, {message}"):
        read(release.write_npz(tmp_path / "3dpw_test.npz", data))


def test_joints_that_are_not_finite_get_confidence_0(tmp_path: Path) -> None:
    data = release.evaluation()
    data["extra_keypoints_2d"][1, 0, 0] = np.nan
    columns = read(release.write_npz(tmp_path / "3dpw_test.npz", data))
    assert_array_equal(joint(columns, "keypoints2d", "right_ankle")[1], [0, 0, 0])
    assert any("1 joints of keypoints2d" in note for note in columns.notes)
