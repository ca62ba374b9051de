"""Synthetic releases have the true formats, and say the truth about their pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import humandata
from humandata import geometry, keypoints
from humandata.bodymodel import body_model, forward
from humandata.converters.converter import convert
from humandata.pictures import decode
from humandata.synthetic import sample_scene
from humandata.synthetic_releases import write_coco, write_pw3d

SIZE = (160, 120)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, {"train2017": 12, "val2017": 3}, seed=5, size=SIZE)
    return folder


@pytest.fixture(scope="module")
def pw3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pw3d")
    write_pw3d(folder, {"train": 1, "test": 3}, frames=5, seed=2, size=SIZE)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files_whatever_the_number_of_processes(
    coco: Path, tmp_path: Path
) -> None:
    write_coco(tmp_path / "two", {"train2017": 12, "val2017": 3}, seed=5, size=SIZE, workers=2)
    assert files(tmp_path / "two") == files(coco)
    write_coco(tmp_path / "other", {"train2017": 12, "val2017": 3}, seed=6, size=SIZE)
    assert files(tmp_path / "other") != files(coco)


def test_a_coco_release_has_what_every_coco_file_has(coco: Path) -> None:
    content = json.loads((coco / "annotations/person_keypoints_train2017.json").read_text())
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    names = content["categories"][0]["keypoints"]
    assert names[:3] == ["nose", "left_eye", "right_eye"]
    assert names[11:13] == ["left_hip", "right_hip"]
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for row in content["annotations"]:
        points = np.reshape(row["keypoints"], (17, 3))
        assert row["num_keypoints"] == (points[:, 2] > 0).sum()
        assert (points[points[:, 2] == 0] == 0).all()
        width, height = sizes[row["image_id"]]
        x, y, w, h = row["bbox"]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        seen = points[points[:, 2] == 2, :2]
        assert (seen >= np.array([x, y]) - 6).all()
        assert (seen <= np.array([x + w, y + h]) + 6).all()


def test_the_box_of_a_person_is_that_of_its_pixels(coco: Path) -> None:
    content = json.loads((coco / "annotations/person_keypoints_train2017.json").read_text())
    scene = sample_scene(5, 0, SIZE)
    rows = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
    assert len(rows) == len(scene.people)
    for row, mask in zip(rows, scene.masks, strict=True):
        ys, xs = np.nonzero(mask)
        assert row["bbox"][:2] == [xs.min(), ys.min()]
        assert row["area"] == mask.sum()


def test_converting_a_coco_release_loses_nobody(coco: Path, tmp_path: Path) -> None:
    report = convert("coco", coco, tmp_path / "s.zarr", split="train2017", workers=1)
    assert report.rejected == {}
    assert report.images == 12
    picture = decode(humandata.open(report.store).picture(0))
    assert picture.shape == (SIZE[1], SIZE[0], 3)


def test_stored_bodies_stand_where_the_joints_and_the_detections_are(
    pw3d: Path, tmp_path: Path
) -> None:
    report = convert("pw3d", pw3d, tmp_path / "s.zarr", split="test", workers=1)
    assert report.rejected == {}
    store = humandata.open(report.store)
    data = store.instances
    words = data["gender"].attributes["vocabulary"]
    for row in range(len(store)):
        _, joints = forward(
            body_model(words[data["gender"][row]]),
            data["smpl/global_orient"][row][None],
            data["smpl/body_pose"][row][None],
            data["smpl/betas"][row][None],
            data["smpl/transl"][row][None],
        )
        np.testing.assert_allclose(joints[0], data["keypoints3d"][row][:, :3], atol=2e-5)
    error = data["reprojection_error"][:]
    assert 0.2 < np.median(error[error >= 0]) < 3  # a pixel of noise was added
    feet = store.instances["keypoints3d"][:, 7, :2]
    assert np.isfinite(feet).all()


def test_people_of_a_3dpw_release_stand_upright_and_in_the_picture(
    pw3d: Path, tmp_path: Path
) -> None:
    report = convert("pw3d", pw3d, tmp_path / "s.zarr", split="test", workers=1)
    store = humandata.open(report.store)
    joints = store.instances["keypoints3d"][:][..., :3]
    image = store.instances["image"][:]
    pixels = geometry.project(joints, store.images["intrinsics"][image])
    inside = (pixels > 0).all(axis=-1) & (pixels < np.array(SIZE)).all(axis=-1)
    assert inside.mean() > 0.9
    pelvis, neck = (keypoints.index("smpl", name) for name in ("pelvis", "neck"))
    above = joints[:, neck, 1] < joints[:, pelvis, 1]  # y points down
    assert above.mean() > 0.9


def test_left_is_the_person_s_own_left(coco: Path) -> None:
    """Whoever faces the camera has the left shoulder at the larger x."""
    facing = turned = 0
    for number in range(40):
        for person in sample_scene(9, number, SIZE, crowd=0).people:
            left, right = person.joints[16], person.joints[17]
            nose, ears = person.joints[24], person.joints[[27, 28]].mean(axis=0)
            if nose[2] < ears[2] - 0.06:  # looks towards the camera
                facing += left[0] > right[0]
                turned += left[0] <= right[0]
    assert facing > 5
    assert turned <= 0.15 * facing
