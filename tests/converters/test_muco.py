"""The MuCo-3DHP converter gives joints in metres, the picture's camera, and bodies where sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import muco_release as release
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import humandata
from humandata import DataError, HumandataError
from humandata.converters import muco as converter
from humandata.converters.converter import Columns, convert
from humandata.keypoints import names
from humandata.reprojection import check_body_reprojection, check_reprojection

SOUND = [500, 501, 502, 503, 504]
"""The sixth person's box has no width."""


def read(raw: Path, unit: int = 0, **options: str) -> Columns:
    columns = converter.read(converter.plan(raw, "train", options)[unit])
    accounted = sum(columns.filtered.values()) + len(columns.rejects) + columns.rows("instances")
    assert columns.records == accounted
    return columns


def persons(columns: Columns) -> list[int]:
    return [int(number) for number in columns.instances["source_id"]]


def test_joints_are_metres_before_the_pictures_own_camera(tmp_path: Path) -> None:
    release.write_json(tmp_path)
    columns = read(tmp_path)
    at = columns.instances
    assert persons(columns) == SOUND
    for row, (image, person) in enumerate(release.PEOPLE[:5]):
        assert columns.images["path"][at["image"][row]] == release.NAMES[image]
        there = np.ones(21, bool)
        there[list(release.HIDDEN.get(person, ()))] = False
        assert_array_equal(at["keypoints3d"][row, :, 3] > 0, there)
        assert_array_equal(at["keypoints2d"][row, :, 2] > 0, there)
        assert_allclose(at["keypoints3d"][row, there, :3], release.joints(person)[there], rtol=1e-6)
        assert not at["keypoints3d"][row, ~there].any()
        # Projected by OpenCV with the stored camera, they are the pixels but for hips and spine.
        camera = columns.images["intrinsics"][at["image"][row]].astype(np.float64)
        points = at["keypoints3d"][row, :, :3].astype(np.float64)
        seen = cv2.projectPoints(points[there], np.zeros(3), np.zeros(3), camera, None)[0][:, 0]
        off = np.linalg.norm(seen - at["keypoints2d"][row, there, :2], axis=1)
        shifted = np.isin(np.flatnonzero(there), release.SHIFTED)
        assert off[~shifted].max() < 1e-3
        assert_allclose(off[shifted], np.sqrt(0.5), atol=1e-3)
    assert at["reprojection_error"].max() < 1e-3
    assert columns.images["intrinsics_source"].tolist() == [1] * 3
    assert columns.field_attributes["keypoints3d"] == {"convention": "muco", "root": "absolute"}
    assert names("muco")[14] == "pelvis_extra"


def test_bodies_are_those_of_their_annotation_in_metres(tmp_path: Path) -> None:
    release.write_json(tmp_path)
    columns = read(tmp_path)
    at = columns.instances
    assert at["smpl/valid"].tolist() == [True, False, True, False, True]
    for row in (0, 2, 4):
        truth = release.body(SOUND[row])
        assert_allclose(at["smpl/global_orient"][row], truth["pose"][:3], rtol=1e-6)
        assert_allclose(at["smpl/body_pose"][row].ravel(), truth["pose"][3:], rtol=1e-6)
        assert_allclose(at["smpl/betas"][row], truth["shape"], rtol=1e-6)
        assert_allclose(at["smpl/transl"][row], truth["trans"], rtol=1e-6)
    assert at["gender"].tolist() == [1, 0, 1, 0, 1]
    assert not at["smpl/body_pose"][[1, 3]].any()
    assert any(note.startswith("1 fits hold NaN or null") for note in columns.notes)


def test_a_null_in_a_fit_costs_its_body_only(tmp_path: Path) -> None:
    release.write_json(tmp_path)
    file = tmp_path / "smpl_param.json"
    fits = json.loads(file.read_text())
    fits["500"]["trans"] = None
    fits["502"]["shape"] = [None] * 10
    fits["504"]["pose"] = [0.0] * 69
    file.write_text(json.dumps(fits))
    columns = read(tmp_path)
    assert persons(columns) == SOUND
    assert not columns.instances["smpl/valid"].any()
    (tmp_path / "smpl_param.json").unlink()
    columns = read(tmp_path)
    assert "smpl/valid" not in columns.instances
    assert any("smpl_param.json is not there" in note for note in columns.notes)


def test_the_rule_of_hmr_benchmarks_keeps_bodies_with_a_flagged_pelvis(tmp_path: Path) -> None:
    release.write_json(tmp_path)
    columns = read(tmp_path, filter="hmr-benchmarks", keypoints3d="drop")
    assert persons(columns) == [500, 504]
    assert columns.filtered == {"hmr-benchmarks": 3}
    assert "keypoints3d" not in columns.instances
    # Its boxes are the file's, as they are.
    pixels = release.project(release.joints(504), 2)
    box = [*pixels.min(axis=0), *np.ptp(pixels, axis=0), 1]
    assert_allclose(columns.instances["bbox_xywh"][1], box, rtol=1e-5)
    assert columns.field_attributes["bbox_xywh"]["factor"] == 1.0


def test_the_sets_are_told_by_the_start_of_the_name(tmp_path: Path) -> None:
    release.write_json(tmp_path)
    assert persons(read(tmp_path, pictures_of="augmented")) == [500, 501, 504]
    columns = read(tmp_path, pictures_of="unaugmented")
    assert persons(columns) == [502, 503]
    assert columns.filtered == {"other_set": 3}
    assert columns.images["path"] == [release.NAMES[1]]
    everyone = read(tmp_path).instances["extra/augmented"]
    assert everyone.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("places", "pictures"),
    [
        (("MuCo-3DHP.json", "SMPLX/smpl_param.json"), "images"),
        (("data/MuCo-3DHP.json", "data/smpl_param.json"), "data"),
        (("../extras/MuCo-3DHP.json", "../SMPLX/smpl_param.json"), ""),
    ],
)
def test_the_layouts_of_its_users_are_found_and_stored(
    tmp_path: Path, places: tuple[str, str], pictures: str
) -> None:
    raw = tmp_path / "muco"
    raw.mkdir()
    release.write_json(raw, places=places)
    release.write_pictures(raw / pictures, size=8)
    columns = read(raw)
    assert all((raw / path).is_file() for path in columns.images["path"])
    assert columns.instances["smpl/valid"].sum() == 3


def test_a_store_is_made_with_its_pictures(tmp_path: Path) -> None:
    release.write_json(tmp_path / "raw")
    release.write_pictures(tmp_path / "raw")
    report = convert("muco", tmp_path / "raw", tmp_path / "s.zarr", workers=1, pictures="original")
    assert (report.instances, report.images, report.rejected) == (5, 3, {"empty_box": 1})
    store = humandata.open(tmp_path / "s.zarr")
    # Joints fall on the pixels, bodies on the joints: the store says so of itself.
    for check in (check_reprojection(store), check_body_reprojection(store)):
        assert check.passed, check.summary
    assert store.picture(1) == (tmp_path / "raw" / release.NAMES[1]).read_bytes()


def spoil(content: dict[str, Any]) -> None:
    people = content["annotations"]
    people[0]["image_id"] = 999
    people[1]["keypoints_cam"] = people[1]["keypoints_cam"][:17]
    people[2]["keypoints_img"][1][0] = float("nan")
    people[3]["id"] = 502
    people[4]["keypoints_vis"] = [[0]] * 21
    content["images"][1]["f"] = [750.0, 750.0]


def test_persons_that_cannot_be_used_are_rejected_with_the_reason(tmp_path: Path) -> None:
    release.write_json(tmp_path, spoil)
    columns = read(tmp_path)
    assert [(reject.record, reject.reason) for reject in columns.rejects] == [
        ("annotation 500", "image_not_listed"), ("annotation 501", "keypoints"),
        ("annotation 502", "not_finite"), ("annotation 505", "empty_box"),
        ("annotation 502", "duplicate_id"),
    ]  # fmt: skip
    assert columns.filtered == {"no_labelled_joint": 1}
    assert columns.rows("instances") == 0


def test_pictures_that_cannot_be_told_apart_or_lack_a_camera_reject_their_people(
    tmp_path: Path,
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"][0]["f"] = [0, 750]
        content["images"][2]["file_name"] = "../elsewhere.jpg"
        content["images"].append(dict(content["images"][1]))

    release.write_json(tmp_path, change)
    reasons = [reject.reason for reject in read(tmp_path).rejects]
    assert sorted(reasons) == sorted(
        ["no_camera"] * 2 + ["duplicate_image"] * 2 + ["picture_path"] * 2
    )


def test_files_of_another_form_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither MuCo-3DHP.json nor chunks"):
        converter.find_splits(tmp_path)
    release.write_json(tmp_path)
    file = tmp_path / "MuCo-3DHP.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"MuCo-3DHP.json: expected complete JSON.*cut off"):
        read(tmp_path)
    file.write_text('{"images": [], "annotations": [{"id": "a"}]}')
    with pytest.raises(DataError, match=r"MuCo-3DHP.json, annotations: expected images with f"):
        read(tmp_path)
    file.write_text('{"images": [], "annotations": []}')
    assert read(tmp_path).rows("instances") == 0
    with pytest.raises(DataError, match="form chunks.*only the JSON"):
        converter.plan(tmp_path, "train", {"form": "chunks"})


@pytest.mark.parametrize("count", [17, 21, 28])
def test_chunks_of_the_official_build_are_relative_to_the_pelvis(
    tmp_path: Path, count: int
) -> None:
    pixels, space = release.write_chunk(tmp_path, count)
    columns = read(tmp_path)
    convention = {17: "mpi_inf_3dhp_test", 21: "muco", 28: "mpi_inf_3dhp"}[count]
    assert columns.field_attributes["keypoints3d"] == {"convention": convention, "root": "pelvis"}
    at = columns.instances
    assert at["image"].tolist() == [0, 0, 0, 0, 1, 1]  # two places of the second are empty
    assert at["person"].tolist() == [0, 1, 2, 3, 0, 1]
    true = np.concatenate([pixels[0], pixels[1, :2]])
    assert_allclose(at["keypoints2d"][..., :2], true, rtol=1e-6)
    assert_allclose(at["keypoints3d"][:4, :, :3], space[0], rtol=1e-5, atol=1e-7)
    low, high = true.min(axis=1), true.max(axis=1)
    box = np.hstack([(low + high) / 2 - 0.6 * (high - low), 1.2 * (high - low), np.ones((6, 1))])
    assert_allclose(at["bbox_xywh"], box, rtol=1e-5)
    assert columns.images["path"][1] == "unaugmented_set_001/000002.jpg"
    assert columns.images["width"].tolist() == [2048, 2048]
    assert "intrinsics" not in columns.images


def test_chunks_make_one_store_and_the_json_goes_before_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in (1, 2):
        release.write_chunk(raw, number=number)
    release.write_chunk(raw, folder="augmented_set_001")
    report = convert("muco", raw, tmp_path / "s.zarr", workers=1, pictures="none")
    assert (report.instances, report.images) == (18, 6)
    store = humandata.open(tmp_path / "s.zarr")
    assert len(set(store.instances["id"][:].tolist())) == 18
    assert store.instances["extra/augmented"][:].sum() == 6
    release.write_json(raw)
    assert read(raw).records == 6
    assert len(converter.plan(raw, "train", {"form": "chunks"})) == 3
    with pytest.raises(HumandataError, match="needs bodies"):
        converter.plan(raw, "train", {"form": "chunks", "filter": "hmr-benchmarks"})


def test_bad_chunks_are_refused_or_their_people_rejected(tmp_path: Path) -> None:
    def nan(content: dict[str, Any]) -> None:
        content["joint_loc3"][1, 3, 2, 0] = np.nan

    release.write_chunk(tmp_path / "a", change=nan)
    (reject,) = read(tmp_path / "a").rejects
    assert (reject.reason, reject.record) == (
        "not_finite", "picture 0 (unaugmented_set_001/000001.jpg), person 2",
    )  # fmt: skip
    spoils = {
        r"joint_loc2: expected \(2, 17, 21 or 28 joints": lambda c: c.update(
            joint_loc2=c["joint_loc2"][:, :5]
        ),
        "joint_loc3: expected people and joints of": lambda c: c.update(
            joint_loc3=c["joint_loc3"][:, :, :2]
        ),
        "joint_loc3: expected joints relative to the pelvis": lambda c: c["joint_loc3"].__iadd__(9),
        "the variables": lambda c: c.pop("joint_loc2"),
    }
    for number, (message, change) in enumerate(spoils.items()):
        release.write_chunk(tmp_path / str(number), change=change)
        with pytest.raises(DataError, match=message):
            read(tmp_path / str(number))
    file = tmp_path / "a/unaugmented_set_001/chunk_00001_annot.mat"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match="damaged"):
        read(tmp_path / "a")
