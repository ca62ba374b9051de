"""CLIFF comes in with bodies, translations and the camera in which they fall on the joints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cliff_release as release
import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import humandata
from humandata import DataError
from humandata.bodymodel import body_model, forward, joints_smpl54
from humandata.converters import cliff as converter
from humandata.converters.converter import Columns, convert
from humandata.keypoints import names


def read(file: Path, **options: str) -> Columns:
    (unit,) = converter.plan(file, converter.find_splits(file)[0], options)
    columns = converter.read(unit)
    accounted = sum(columns.filtered.values()) + len(columns.rejects) + columns.rows("instances")
    assert columns.records == accounted
    return columns


@pytest.fixture
def file(tmp_path: Path) -> Path:
    release.write_pictures(tmp_path)
    return release.write(tmp_path / "coco2014part_cliffGT.npz", release.make().values)


def test_bodies_projected_by_the_stored_camera_fall_on_the_stored_joints(
    file: Path, tmp_path: Path
) -> None:
    report = convert("cliff", file, tmp_path / "s.zarr", workers=1)
    assert (report.split, report.instances, report.images, report.rejected) == ("train", 3, 2, {})
    store = humandata.open(tmp_path / "s.zarr")
    at = store.instances
    body = [at[f"smpl/{n}"][:] for n in ("global_orient", "body_pose", "betas", "transl")]
    assert at["smpl/transl_valid"][:].all()
    vertices, kinematic = forward(body_model(), *body)
    points = joints_smpl54(body_model(), vertices, kinematic)
    for row, image in enumerate(at["image"][:]):
        camera = store.images["intrinsics"][image].astype(np.float64)
        pixels, _ = cv2.projectPoints(
            points[row].astype(np.float64), np.zeros(3), np.zeros(3), camera, None
        )
        for slot in release.SLOTS:
            joint = names("smpl_24")[slot]
            at54 = names("smpl_54").index(joint)
            assert_allclose(pixels[at54, 0], at["keypoints2d"][row, slot, :2], atol=0.01)


def test_the_camera_is_assumed_from_the_diagonal(file: Path) -> None:
    columns = read(file)
    images = columns.images
    assert_allclose(images["intrinsics"][0], [[800, 0, 320], [0, 800, 240], [0, 0, 1]])
    assert_allclose(images["intrinsics"][1], [[625, 0, 250], [0, 625, 187.5], [0, 0, 1]])
    words = humandata.schema.field("images", "intrinsics_source").vocabulary
    assert [words[code] for code in images["intrinsics_source"]] == ["assumed"] * 2
    assert "diagonal" in columns.field_attributes["intrinsics"]["rule"]
    assert_allclose(columns.instances["extra/focal_l"], [800, 800, 625])


def test_rows_of_one_picture_share_it_and_keep_their_annotation_ids(file: Path) -> None:
    columns = read(file)
    assert columns.instances["image"].tolist() == [0, 0, 1]
    assert columns.instances["person"].tolist() == [0, 1, 0]
    assert columns.instances["source_id"].tolist() == [453981, 1215, 7]
    values = release.make().values
    side = 200 * values["scale"]
    assert_allclose(columns.instances["bbox_xywh"][:, 2:4], np.stack([side, side], 1))
    middle = columns.instances["bbox_xywh"][:, :2] + columns.instances["bbox_xywh"][:, 2:4] / 2
    assert_allclose(middle, values["center"], rtol=1e-5)
    assert_allclose(columns.instances["keypoints3d"], values["S"], atol=1e-6)
    assert "not measured" in columns.field_attributes["keypoints3d"]["source"]
    words = humandata.schema.field("instances", "smpl/source").vocabulary
    assert {words[code] for code in columns.instances["smpl/source"]} == {"cliff"}
    assert_array_equal(columns.instances["gender"], [1, 1, 1])


def test_without_the_pictures_the_camera_is_unknown_but_its_focal_length_kept(
    tmp_path: Path,
) -> None:
    columns = read(release.write(tmp_path / "mpii_cliffGT.npz", release.make().values))
    assert not columns.images["intrinsics"].any()
    assert not columns.images["intrinsics_source"].any()
    assert_allclose(columns.instances["extra/focal_l"], [800, 800, 625])
    assert columns.instances["smpl/transl_valid"].all()
    assert any("2 pictures are not there" in note for note in columns.notes)


def test_pictures_of_another_release_are_recognised_by_their_diagonal(
    file: Path, tmp_path: Path
) -> None:
    other = tmp_path / next(iter(release.SIZES))
    cv2.imwrite(str(other), np.zeros((240, 320, 3), np.uint8))
    columns = read(file)
    assert [(r.record.split(" ")[1], r.reason) for r in columns.rejects] == [
        ("0", "other_picture"), ("1", "other_picture"),
    ]  # fmt: skip
    assert columns.instances["source_id"].tolist() == [7]


def test_an_annotation_that_comes_again_is_rejected(file: Path) -> None:
    values = release.make().values
    values["annot_id"][2] = values["annot_id"][0]
    columns = read(release.write(file, values))
    assert [(r.record.split(" ")[1], r.reason) for r in columns.rejects] == [("2", "duplicate_id")]
    assert columns.instances["source_id"].tolist() == [453981, 1215]


def test_bad_rows_are_not_valid_or_rejected(file: Path, tmp_path: Path) -> None:
    values = release.make().values
    values["pose"][0, 3] = np.nan
    values["global_t"][1, 0] = np.inf
    values["scale"][2] = np.nan
    columns = read(release.write(file, values))
    assert columns.instances["smpl/valid"].tolist() == [False, True]
    assert columns.instances["smpl/transl_valid"].tolist() == [False, False]
    assert [(r.record, r.reason) for r in columns.rejects] == [("row 2", "box_without_size")]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pose", None, "expected the keys of a CLIFF file, found no pose"),
        ("pose", np.ones((3, 24, 3)), r"pose: expected shape \(3, 72\)"),
        ("global_t", np.ones((2, 3)), "global_t: expected 3 entries"),
        ("part", np.ones((3, 17, 3)), r"part: expected shape \(3, 24, 3\)"),
        ("annot_id", np.array([1, 2, np.nan]), "annot_id: expected whole numbers"),
        ("focal_l", np.array(["a"] * 3), "focal_l: expected numbers"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, key: str, value: Any, message: str) -> None:
    values = release.make().values
    values.pop(key) if value is None else values.update({key: value})
    with pytest.raises(DataError, match=message):
        read(release.write(tmp_path / "mpii_cliffGT.npz", values))


def test_a_cut_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match="coco2014part_cliffGT.npz: expected a .npz file"):
        converter.find_splits(file)
