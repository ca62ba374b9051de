"""The EFT converter gives back the bodies that were fitted, on the pictures they were fitted to."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import eft_release as release
import lspet_release
import mpii_release
import numpy as np
import pytest
from eft_release import Fit
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

import humandata
from humandata import DataError, HumandataError, bodymodel, eft_sources
from humandata.converters.converter import Report, convert
from humandata.reprojection import check_body_reprojection

COCO = "COCO2014-All-ver01.json"
NUMBER = itertools.count()


def converted(
    raw: Path, split: str = "coco_all", pictures: str = "none", **options: str
) -> tuple[humandata.Store, Report]:
    out = raw.parent / f"{next(NUMBER)}.zarr"
    report = convert("eft", raw, out, workers=1, split=split, pictures=pictures, options=options)
    assert report.records == (
        report.instances + sum(report.filtered.values()) + sum(report.rejected.values())
    )
    return humandata.open(out), report


def rejects(report: Report) -> list[dict[str, str]]:
    assert report.rejects_file is not None
    return [json.loads(line) for line in Path(report.rejects_file).read_text().splitlines()]


def path(store: humandata.Store, row: int) -> str:
    return str(store.images["path"][int(store.instances["image"][row])])


def pose(store: humandata.Store, row: int) -> np.ndarray:
    at = store.instances
    return np.vstack([at["smpl/global_orient"][row][None], at["smpl/body_pose"][row]])


def assert_fits(store: humandata.Store, fits: list[Fit], folder: str) -> None:
    at = store.instances
    assert len(store) == len(fits)
    for row, fit in enumerate(fits):
        assert path(store, row) == folder + fit.picture
        angle = Rotation.from_rotvec(fit.pose).inv() * Rotation.from_rotvec(pose(store, row))
        assert np.abs(angle.magnitude()).max() < 1e-5
        assert_allclose(at["smpl/betas"][row], fit.betas, rtol=1e-6)
        assert_allclose(at["bbox_xywh"][row], fit.box(), rtol=1e-5)
        assert_allclose(at["extra/weak_camera"][row], fit.camera, rtol=1e-6)
        labelled = fit.keypoints[:, 2:] > 0
        assert_allclose(at["keypoints2d"][row], np.where(labelled, fit.keypoints, 0), rtol=1e-5)
    assert at["smpl/valid"][:].all()
    assert set(at["smpl/source"][:].tolist()) == {3}
    assert at["smpl/source"].attributes["vocabulary"][3] == "eft"
    assert set(at["gender"][:].tolist()) == {1}
    assert store.convention("keypoints2d") == "smpl_49"


def test_every_record_is_written_with_its_pose_shape_camera_box_and_joints(tmp_path: Path) -> None:
    fits = release.write_coco(tmp_path / "raw")
    store, report = converted(tmp_path / "raw")
    assert_fits(store, fits, "train2014/")
    assert store.instances["source_id"][:].tolist() == [442619, 1001, 1002, 900100000009, -1]
    assert_array_equal(
        store.instances["extra/openpose18_valid"][0], np.array(fits[0].valid18, bool)
    )
    assert (report.records, report.images) == (5, 3)
    assert store.instances["bbox_xywh"].attributes["factor"] == 1.2


def test_the_stored_body_projects_onto_the_keypoints_by_the_documented_formula(
    tmp_path: Path,
) -> None:
    fits = release.write_coco(tmp_path / "raw")
    store, _ = converted(tmp_path / "raw")
    at = store.instances
    for row in range(len(fits)):
        body = release.joints(pose(store, row), at["smpl/betas"][row])
        s, tx, ty = at["extra/weak_camera"][row]
        x, y, side, _, _ = at["bbox_xywh"][row]
        onto = [x + side / 2, y + side / 2] + (s * body[:, :2] + [tx, ty]) * side / 2
        keypoints = at["keypoints2d"][row][25:]
        away = np.abs(onto[25:] - keypoints[:, :2])[keypoints[:, 2] > 0]
        assert len(away) >= 23
        assert away.max() < 0.01


@pytest.mark.parametrize("place", ["", "eft_fit/", "eft/coco_2014_train_fit/"])
def test_files_are_found_in_the_customary_folders(tmp_path: Path, place: str) -> None:
    fits = release.write_coco(tmp_path / "raw", place + COCO)
    store, _ = converted(tmp_path / "raw")
    assert len(store) == len(fits)


def test_raw_may_be_the_file_itself(tmp_path: Path) -> None:
    fits = release.write_coco(tmp_path / "raw")
    release.write_coco(tmp_path / "raw", "COCO2014-Part-ver01.json")
    store, _ = converted(tmp_path / "raw" / COCO, pictures="original")
    assert_fits(store, fits, "train2014/")
    with pytest.raises(DataError, match="COCO2014-Part-ver01"):
        converted(tmp_path / "raw" / COCO, "coco_part")


def test_pictures_are_stored_and_a_missing_one_is_counted_with_its_persons(tmp_path: Path) -> None:
    fits = release.write_coco(tmp_path / "raw")
    (tmp_path / "raw/coco/train2014" / release.coco(25)).unlink()
    store, report = converted(tmp_path / "raw", pictures="original")
    assert report.rejected == {"missing_picture": 2}
    assert_fits(store, [fits[0], fits[2], fits[3]], "train2014/")
    assert store.images["width"][:].tolist() == [release.SIZE[1]] * 2


def test_pictures_lie_beside_raw_or_where_the_option_says(tmp_path: Path) -> None:
    release.write_coco(tmp_path / "raw/fits")
    (tmp_path / "raw/fits/coco").rename(tmp_path / "raw/coco")
    store, report = converted(tmp_path / "raw/fits", pictures="original")
    assert store.images["height"][0] == release.SIZE[0]
    (tmp_path / "raw/coco").rename(tmp_path / "elsewhere")
    _, report = converted(tmp_path / "raw/fits")
    assert any("--option pictures_root=coco=FOLDER" in note for note in report.notes)
    for said in (f"coco={tmp_path}/elsewhere,mpii=/absent", f"{tmp_path}/elsewhere"):
        store, _ = converted(tmp_path / "raw/fits", pictures="original", pictures_root=said)
        assert len(store) == 5
    with pytest.raises(HumandataError, match="source datasets are"):
        converted(tmp_path / "raw/fits", pictures_root="cocoa=/x")
    with pytest.raises(DataError, match="no such folder"):
        converted(tmp_path / "raw/fits", pictures_root="coco=/absent")


def test_fits_are_held_against_the_source_by_id_and_box(tmp_path: Path) -> None:
    fits = release.write_coco(tmp_path / "raw")
    release.write_coco_annotations(tmp_path / "raw", fits)
    store, report = converted(tmp_path / "raw")
    assert_fits(store, fits, "train2014/")
    words = store.instances["extra/verified"].attributes["vocabulary"]
    assert [words[c] for c in store.instances["extra/verified"][:]] == (
        ["by_id_and_box"] * 4 + ["by_box"]
    )
    # The one without an id is found by its box, and so has the source's id.
    assert store.instances["source_id"][4] == 777
    assert any("4 agree by id and box, 1 by picture and box, 0 differ" in n for n in report.notes)


def test_an_id_of_another_picture_or_person_is_rejected(tmp_path: Path) -> None:
    fits = release.write_coco(tmp_path / "raw")
    release.write_coco_annotations(tmp_path / "raw", fits)
    fits[0].annotation, fits[2].annotation = 1002, 442619  # exchanged within one picture
    fits[1].annotation = 900100000009  # of another picture
    fits[3].annotation = 5  # not in the file, but the box is
    release.write(tmp_path / "raw" / COCO, fits)
    store, report = converted(tmp_path / "raw")
    assert report.rejected == {"box_differs": 2, "another_picture": 1}
    assert store.instances["source_id"][:].tolist() == [5, 777]
    assert store.instances["extra/verified"][:].tolist() == [2, 2]


def test_fits_whose_person_the_source_does_not_have_are_kept_and_counted(tmp_path: Path) -> None:
    fits = release.write_coco(tmp_path / "raw")
    release.write_coco_annotations(tmp_path / "raw", [fits[0], fits[1], fits[4]])
    store, report = converted(tmp_path / "raw")
    assert store.instances["extra/verified"][:].tolist() == [1, 1, 0, 0, 2]
    assert any("2 are not among them" in note for note in report.notes)


def test_mpii_fits_find_their_person_by_box(tmp_path: Path) -> None:
    pictures = mpii_release.release()
    mpii_release.write_mat(tmp_path / "raw/mpii", pictures)
    fits = []
    for seed, (picture, at) in enumerate([(pictures[3], 1), (pictures[3], 0), (pictures[5], 0)]):
        person = picture.people[at]
        fit = release.fit(picture.name, seed)
        assert person.objpos is not None
        assert person.scale is not None
        fit.centre = np.add(person.objpos, [0, 15 * person.scale])
        fit.scale = 1.25 * person.scale
        fits.append(fit)
    fits.append(release.fit(pictures[5].name, 9))
    fits[3].centre = np.array([900.0, 900.0])
    release.write(tmp_path / "raw/MPII_ver01.json", fits, "mpii")
    store, report = converted(tmp_path / "raw", "mpii")
    assert_fits(store, fits[:3], "images/")
    assert store.instances["person"][:].tolist() == [1, 0, 0]
    assert report.rejected == {"box_differs": 1}
    assert store.instances["bbox_xywh"].attributes["factor"] == 1.25


def test_lspet_fits_are_held_against_the_joints_of_hr_lspet(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    joints = lspet_release.write_hr(raw / "hr-lspet")
    fits = [release.fit(f"im{number:05d}.png", number) for number in lspet_release.HR_NUMBERS]
    for fit, points in zip(fits, joints[..., :2], strict=True):
        low, high = points.min(axis=0), points.max(axis=0)
        fit.centre, fit.scale = (low + high) / 2, 1.2 * (high - low).max() / 200
    fits[1].centre = fits[1].centre + 400
    release.write(raw / "LSPet_train_ver10.json", fits, "lspet")
    store, report = converted(raw, "lspet")
    assert_fits(store, [fits[0], fits[2]], "")
    assert store.instances["extra/verified"][:].tolist() == [2, 2]
    assert report.rejected == {"box_differs": 1}
    (raw / "hr-lspet/im00007.png").unlink()  # which joints are whose is not known any more
    store, report = converted(raw, "lspet")
    assert len(store) == 3
    assert any("not held against" in note for note in report.notes)


def test_posetrack_names_hold_the_sequence_or_take_it_from_the_subject(tmp_path: Path) -> None:
    fits = [
        release.fit("015828_mpii_train/000054.jpg", 1, subject="015828_mpii_train_3"),
        release.fit("000007.jpg", 2, subject="000001_bonn_train_0"),
        release.fit("000008.jpg", 3),
    ]
    release.write(tmp_path / "raw/PoseTrack_ver01.json", fits, "posetrack")
    release.write_picture(tmp_path / "raw/posetrack/images/train/015828_mpii_train/000054.jpg")
    store, report = converted(tmp_path / "raw", "posetrack")
    assert report.rejected == {"no_picture": 1}
    assert [path(store, row) for row in (0, 1)] == [
        "images/train/015828_mpii_train/000054.jpg",
        "images/train/000001_bonn_train/000007.jpg",
    ]
    assert store.instances["person"][:].tolist() == [3, 0]
    image = [int(store.instances["image"][row]) for row in (0, 1)]
    assert [int(store.images["frame"][i]) for i in image] == [54, 7]
    sequences = [store.sequences["name"][int(store.images["sequence"][i])] for i in image]
    assert sequences == ["015828_mpii_train", "000001_bonn_train"]


def test_posetrack_fits_are_held_against_the_sequences_by_id(tmp_path: Path) -> None:
    name = "015828_mpii_train/000054.jpg"
    fits = [release.fit(name, 1, 10158280005403), release.fit(name, 2, 10158280005404)]
    release.write(tmp_path / "raw/PoseTrack_ver01.json", fits, "posetrack")
    annotations = [
        {"id": fit.annotation, "image_id": 101582800054, "bbox": fit.source_box()} for fit in fits
    ]
    annotations[1]["bbox"] = [900, 900, 20, 40]
    annotations.append({"id": 1, "image_id": 101582800054})  # PoseTrack has people without a box
    image = {"id": 101582800054, "file_name": f"images/train/{name}"}
    folder = tmp_path / "raw/posetrack/posetrack_data/annotations/train"
    folder.mkdir(parents=True)
    content = {"images": [image], "annotations": annotations}
    (folder / "015828_mpii_train.json").write_text(json.dumps(content))
    store, report = converted(tmp_path / "raw", "posetrack")
    assert store.instances["extra/verified"][:].tolist() == [1]
    assert report.rejected == {"box_differs": 1}


def test_lspet_is_the_union_of_both_files_and_the_filtered_one_wins(tmp_path: Path) -> None:
    old = [release.fit(f"im{n:05d}.png", n) for n in (1, 3, 7)]
    new = [release.fit(f"im{n:05d}.png", 10 + n) for n in (7, 9)]
    raw = tmp_path / "raw"
    release.write(raw / "LSPet_ver01.json", old, "lspet")
    both = raw.with_name("both")
    release.write(both / "LSPet_ver01.json", old, "lspet")
    release.write(both / "LSPet_train_ver10.json", new, "lspet")
    for fit in old:
        release.write_picture(both / "hr-lspet" / fit.picture)
    store, report = converted(both, "lspet")
    assert report.filtered == {"replaced_by_ver10": 1}
    assert_fits(store, [*new, *old[:2]], "")
    alone, _ = converted(raw, "lspet")
    assert_fits(alone, old, "")
    # A picture keeps its id, whichever file its fit is from.
    assert alone.instances["id"][2] == store.instances["id"][0]


@pytest.mark.parametrize(
    ("split", "file", "folder"),
    [
        ("ochuman", "OCHuman_train_ver10.json", "images/"),
        ("ochuman_test", "OCHuman_test_ver10.json", "images/"),
        ("lspet_test", "LSPet_test_ver10.json", ""),
        ("coco_part", "COCO2014-Part-ver01.json", "train2014/"),
        ("coco_val", "COCO2014-Val-ver10.json", "val2014/"),
    ],
)
def test_every_release_has_a_split_of_its_own(
    tmp_path: Path, split: str, file: str, folder: str
) -> None:
    fits = [release.fit("000001.jpg", 1), release.fit("000002.jpg", 2)]
    release.write(tmp_path / "raw" / file, fits, split)
    store, report = converted(tmp_path / "raw", split)
    assert_fits(store, fits, folder)
    assert report.split == split


def test_several_files_ask_for_a_choice(tmp_path: Path) -> None:
    release.write_coco(tmp_path)
    release.write_coco(tmp_path, "COCO2014-Part-ver01.json")
    with pytest.raises(HumandataError, match="coco_all, coco_part.*--split"):
        convert("eft", tmp_path, tmp_path / "s.zarr")


def test_rotations_that_are_slightly_off_are_made_orthonormal(tmp_path: Path) -> None:
    fit = release.fit("a.jpg", 1, 1)
    record = release.record(fit)
    record["parm_pose"] = (np.array(record["parm_pose"]) * (1 + 1e-4)).tolist()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / COCO).write_text(json.dumps({"ver": 1.0, "data": [record]}))
    store, _ = converted(tmp_path / "raw")
    assert_fits(store, [fit], "train2014/")


def test_axis_angle_in_place_of_matrices_is_understood(tmp_path: Path) -> None:
    fit = release.fit("a.jpg", 1, 1)
    record = release.record(fit) | {"parm_pose": fit.pose.ravel().tolist()}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / COCO).write_text(json.dumps({"ver": 1.0, "data": [record]}))
    store, _ = converted(tmp_path / "raw")
    assert_fits(store, [fit], "train2014/")


def test_ankles_at_the_border_are_switched_off_as_eft_does(tmp_path: Path) -> None:
    fits = release.write_coco(tmp_path / "raw")
    height = release.SIZE[0]
    fits[1].keypoints[25] = [100, height - 3, 1]  # OpenPose saw nobody
    fits[1].keypoints[30] = [100, height - 30, 1]  # not at the border
    fits[2].keypoints[30] = [100, height - 3, 1]
    fits[2].keypoints[14] = [100, height - 3, 0.8]  # OpenPose is sure
    fits[3].keypoints[25] = [100, height - 3, 1]  # picture missing: no height
    (tmp_path / "raw/coco/train2014" / fits[3].picture).unlink()
    release.write(tmp_path / "raw" / COCO, fits)
    store, _ = converted(tmp_path / "raw")
    assert_fits(store, fits, "train2014/")
    store, report = converted(tmp_path / "raw", ankles="eft")
    fits[1].keypoints[25] = 0
    assert_fits(store, fits, "train2014/")
    assert any("picture is missing" in note for note in report.notes)


def spoil(key: str, value: Any) -> Any:
    def change(data: list[dict[str, Any]]) -> None:
        data[1][key] = value

    return change


def nan_joint(data: list[dict[str, Any]]) -> None:
    data[1]["gt_keypoint_2d"][30][0] = float("nan")


def mirrored(data: list[dict[str, Any]]) -> None:
    data[1]["parm_pose"][3][0] = [-x for x in data[1]["parm_pose"][3][0]]


def repeated(data: list[dict[str, Any]]) -> None:
    data[1]["annotId"] = data[0]["annotId"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (nan_joint, "not_finite"),
        (spoil("parm_cam", [float("inf"), 0, 0]), "not_finite"),
        (spoil("parm_shape", [0.0] * 9), "malformed"),
        (spoil("parm_pose", None), "malformed"),
        (spoil("parm_pose", "none"), "malformed"),
        (spoil("annotId", "unknown"), "malformed"),
        (spoil("imageName", 7), "malformed"),
        (spoil("imageName", ""), "no_picture"),
        (spoil("bbox_scale", 0), "empty_box"),
        (mirrored, "not_a_rotation"),
        (repeated, "duplicate"),
    ],
)
def test_a_wrong_record_is_counted_and_listed_and_the_others_stay(
    tmp_path: Path, change: Any, reason: str
) -> None:
    fits = release.write_coco(tmp_path / "raw")
    file = tmp_path / "raw" / COCO
    content = json.loads(file.read_text())
    change(content["data"])
    file.write_text(json.dumps(content))
    store, report = converted(tmp_path / "raw")
    assert report.rejected == {reason: 1}
    assert_fits(store, [fits[0], *fits[2:]], "train2014/")
    (listed,) = rejects(report)
    assert (listed["file"], listed["record"][:8]) == (COCO, "record 1")


def test_records_without_keypoints_are_kept_and_told(tmp_path: Path) -> None:
    release.write_coco(tmp_path / "raw")
    file = tmp_path / "raw" / COCO
    content = json.loads(file.read_text())
    del content["data"][3]["gt_keypoint_2d"]
    file.write_text(json.dumps(content))
    store, report = converted(tmp_path / "raw")
    assert len(store) == 5
    assert not store.instances["keypoints2d"][3].any()
    assert "1 records hold no gt_keypoint_2d" in report.notes


def test_truncated_empty_and_foreign_files_are_named(tmp_path: Path) -> None:
    release.write_coco(tmp_path / "raw")
    file = tmp_path / "raw" / COCO
    whole = file.read_bytes()
    for content, words in (
        (whole[:-300], "complete JSON"),
        (b"", "an empty file"),
        (b'{"images": []}', "the list data"),
        (b"[1, 2]", "the list data"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            converted(tmp_path / "raw")
        assert str(file) in str(caught.value)


def test_a_damaged_source_file_is_named(tmp_path: Path) -> None:
    fits = release.write_coco(tmp_path / "raw")
    file = release.write_coco_annotations(tmp_path / "raw", fits)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match="held against") as caught:
        converted(tmp_path / "raw")
    assert str(file) in str(caught.value)


def test_with_smpl_at_hand_the_fits_are_measured_and_mistakes_are_put_into_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bodymodel.body_files(tmp_path / "body")
    monkeypatch.setenv("HUMANDATA_BODY_MODELS", str(folder))
    fits = release.write_coco(tmp_path / "raw")
    store, report = converted(tmp_path / "raw")
    assert 0 <= store.instances["smpl/fit_error"][:].max() < 0.01
    assert not any("miss the 2D" in note for note in report.notes)
    assert check_body_reprojection(store).verdict == "passed"
    for mistake, words, inspected in (
        (transpose, "the rotations are transposed", "all rotations of the bodies are transposed"),
        (exchange, "left and right are exchanged", "left and right of the 3D joints are exchanged"),
        (hang, "the body hangs upside down", "the bodies hang upside down"),
    ):
        fits = release.write_coco(tmp_path / "raw")
        for fit in fits:
            mistake(fit)
        release.write(tmp_path / "raw" / COCO, fits)
        store, report = converted(tmp_path / "raw")
        assert any(words in note for note in report.notes)
        check = check_body_reprojection(store)
        assert check.verdict == "failed"
        assert inspected in check.summary


def transpose(fit: Fit) -> None:
    fit.pose = -fit.pose


def exchange(fit: Fit) -> None:
    fit.keypoints = fit.keypoints[humandata.keypoints.flip_permutation("smpl_49")]


def hang(fit: Fit) -> None:
    upside_down = Rotation.from_euler("x", 180, degrees=True)
    fit.pose[0] = (upside_down * Rotation.from_rotvec(fit.pose[0])).as_rotvec()


def test_all_records_may_be_wrong(tmp_path: Path) -> None:
    release.write(tmp_path / "raw" / COCO, [release.fit("", 1), release.fit("", 2)])
    store, report = converted(tmp_path / "raw")
    assert len(store) == 0
    assert report.rejected == {"no_picture": 2}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 8)), min_size=2))
def test_the_overlap_of_squares_is_that_of_the_pixels_they_cover(
    squares: list[tuple[int, int, int]],
) -> None:
    """Left, top, side; counted on a grid."""
    masks = np.zeros((len(squares), 24, 24), bool)
    for mask, (left, top, side) in zip(masks, squares, strict=True):
        mask[top : top + side, left : left + side] = True
    expected = [(mask & masks[0]).sum() / (mask | masks[0]).sum() for mask in masks]
    centred = np.array([(x + s / 2, y + s / 2, s) for x, y, s in squares], np.float64)
    assert_allclose(eft_sources.overlap(centred, centred[0]), expected, atol=1e-12)


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("source", ["coco", "posetrack"])
def test_fits_of_real_people_find_them_by_id_and_in_crowds_by_box(
    samples: Path, tmp_path: Path, source: str, with_ids: bool
) -> None:
    """Boxes by EFT's rule from the real annotations; the pictures are the real ones."""
    raw = tmp_path / "raw"
    if source == "coco":
        content = json.loads(
            (samples / "coco/annotations/person_keypoints_val2017.json").read_text()
        )
        file, pictures = "annotations/person_keypoints_train2014.json", samples / "coco/val2017"
        split, name, folder = "coco_all", COCO, "train2014"
    else:
        content = json.loads((samples / "posetrack18/annotations/posetrack18_val.json").read_text())
        file = "posetrack_data/annotations/train/all.json"
        pictures = samples / "posetrack18/images/val"
        split, name, folder = "posetrack", "PoseTrack_ver01.json", "images/train"
    (raw / source / file).parent.mkdir(parents=True)
    (raw / source / file).write_text(json.dumps(content))
    shutil.copytree(pictures, raw / source / folder)
    names = {
        image["id"]: image["file_name"].removeprefix("images/val/") for image in content["images"]
    }
    people = [a for a in content["annotations"] if a.get("bbox")]
    fits = []
    for person in people:
        x, y, width, height = person["bbox"]
        fit = release.fit(names[person["image_id"]], 1, person["id"] if with_ids else None)
        fit.centre = np.array([x + width / 2, y + height / 2])
        fit.scale = 1.2 * max(width, height) / 200
        fits.append(fit)
    release.write(raw / name, fits, source)
    store, report = converted(raw, split, pictures="original")
    assert (len(store), report.rejected) == (len(people), {})
    assert store.instances["source_id"][:].tolist() == [person["id"] for person in people]
    assert set(store.instances["extra/verified"][:].tolist()) == {1 if with_ids else 2}
    assert len(people) == 14
