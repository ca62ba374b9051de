"""The MPII converter finds the same people in every form of the annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import mpii_release as release
import numpy as np
import pytest
import scipy.io
from mpii_release import Person, Picture
from numpy.testing import assert_allclose, assert_array_equal

import humandata
from humandata import DataError, HumandataError
from humandata.converters.converter import Report, convert
from humandata.pictures import decode

ALL = [picture for picture in release.release() if picture.train]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    pictures = release.release()
    release.write_mat(tmp_path / "raw", pictures)
    for split in ("train", "val"):
        release.write_h5(tmp_path / "raw", pictures, split)
        release.write_json(tmp_path / "raw", pictures, split)
    release.write_pictures(tmp_path / "raw", pictures)
    return tmp_path / "raw"


def converted(
    raw: Path, split: str = "train", pictures: str = "none", **options: str
) -> tuple[humandata.Store, Report]:
    out = raw.parent / f"{split}_{'_'.join(options.values())}_{pictures}.zarr"
    report = convert("mpii", raw, out, workers=1, split=split, pictures=pictures, options=options)
    assert report.records == (
        report.instances + sum(report.filtered.values()) + sum(report.rejected.values())
    )
    return humandata.open(out), report


def picture_of(store: humandata.Store, row: int) -> str:
    return str(store.images["path"][int(store.instances["image"][row])])


def assert_people(
    store: humandata.Store, people: list[tuple[Picture, int, Person]], form: str
) -> None:
    at = store.instances
    assert len(store) == len(people)
    for row, (picture, number, person) in enumerate(people):
        assert picture_of(store, row) == f"images/{picture.name}"
        assert at["person"][row] == (-1 if form == "json" else number)
        labelled = person.labelled()
        keypoints = at["keypoints2d"][row]
        assert_array_equal(keypoints[:, 2], labelled)
        places = person.places(0.0)
        if form == "h5":
            places = np.trunc(places)
        assert_array_equal(keypoints[:, :2], places.astype(np.float32))
        visible = person.visible() if form != "json" else labelled
        assert_array_equal(at["keypoints2d_visibility"][row], labelled * (1 + visible.astype(int)))
        assert person.objpos is not None
        assert person.scale is not None
        # Half of 200 px times 1.25 to each side, the middle moved down by 15 * scale.
        x, y = person.objpos[0], person.objpos[1] + 15 * person.scale
        half = 125 * person.scale
        assert_allclose(
            at["bbox_xywh"][row], [x - half, y - half, 2 * half, 2 * half, 1], rtol=1e-6
        )
        assert_allclose(at["extra/objpos"][row], person.objpos, rtol=1e-6)
        assert_allclose(at["extra/scale"][row], person.scale, rtol=1e-6)


def test_the_official_file_gives_all_people_of_the_training_pictures(raw: Path) -> None:
    store, report = converted(raw, "trainval")
    people = release.written(release.release())
    assert_people(store, people, "mat")
    assert report.filtered == {"test_picture_without_labels": 2, "no_labelled_joint": 4}
    assert report.rejected == {"no_position": 1, "no_scale": 1}
    assert any("mix it with neither" in note for note in report.notes)
    assert store.instances["bbox_xywh"].attributes["factor"] == 1.25


def test_the_official_file_gives_head_boxes_actions_and_who_stands_apart(raw: Path) -> None:
    store, _ = converted(raw, "trainval")
    for row, (picture, number, person) in enumerate(release.written(release.release())):
        assert_array_equal(
            store.instances["extra/head_box"][row], np.array(person.head, np.float32)
        )
        assert store.instances["extra/apart"][row] == (number + 1 in picture.apart)
        place = store.images["sequence"][int(store.instances["image"][row])]
        assert store.sequences["action"][place] == picture.action
        assert store.sequences["name"][place] == ("dCe3dj3eHfo", "b7Sd_dSrvC4")[picture.video - 1]


@pytest.mark.parametrize("form", ["mat", "h5", "json"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_form_gives_the_people_of_tompsons_lists(raw: Path, form: str, split: str) -> None:
    store, report = converted(raw, split, form=form)
    people = [p for p in release.written(release.release()) if p[2].listed == split]
    assert_people(store, people, form)
    assert store.convention("keypoints2d") == "mpii"
    if form == "mat":
        assert report.filtered["other_split"] == 11 - len(people)
    if form != "h5":
        heads = store.instances["extra/head_box"][:]
        assert_array_equal(heads, np.array([p[2].head for p in people], np.float32))


def test_the_same_person_has_the_same_id_in_every_form_that_numbers_people(raw: Path) -> None:
    mat, _ = converted(raw, "train", form="mat")
    h5, _ = converted(raw, "train", form="h5")
    assert_array_equal(mat.instances["id"][:], h5.instances["id"][:])
    both, _ = converted(raw, "trainval", form="mat")
    assert set(mat.instances["id"][:]) < set(both.instances["id"][:])


def test_without_a_list_the_official_file_cannot_tell_train_from_val(tmp_path: Path) -> None:
    release.write_mat(tmp_path, release.release())
    with pytest.raises(DataError, match="does not say who is train"):
        convert("mpii", tmp_path, tmp_path / "s.zarr", split="train")


def test_the_later_single_list_is_raw_and_its_unlabelled_people_are_filtered(
    tmp_path: Path,
) -> None:
    pictures = release.release()
    release.write_one_h5(tmp_path / "raw", pictures)
    store, report = converted(tmp_path / "raw", "trainval", form="h5")
    assert_people(store, release.written(pictures), "one")
    assert report.filtered == {"test_picture_without_labels": 2, "no_labelled_joint": 3}


@pytest.mark.parametrize("form", ["mat", "h5", "json"])
def test_the_rule_of_spin_and_mmhuman3d_drops_gaps_zeros_and_negatives(
    raw: Path, form: str
) -> None:
    """Of the five people of train: complete; three joints missing; on the border; negative."""
    store, report = converted(raw, "train", form=form, filter="mmhuman3d")
    assert [picture_of(store, row) for row in range(len(store))] == ["images/000000101.jpg"]
    assert report.filtered["mmhuman3d"] == 3


@pytest.mark.parametrize("form", ["mat", "h5", "json"])
def test_a_coordinate_below_one_is_zero_in_the_peers_lists_and_drops_its_person(
    tmp_path: Path, form: str
) -> None:
    joints = release.body(1) | {9: (0.6, 40.2)}
    pictures = [Picture("000000101.jpg", [Person(joints)])]
    for write in (release.write_mat, release.write_h5, release.write_json):
        write(tmp_path / "raw", pictures)
    store, report = converted(tmp_path / "raw", "train", form=form, filter="mmhuman3d")
    assert (len(store), report.filtered["mmhuman3d"]) == (0, 1)


def test_posepile_keeps_people_listed_as_single(raw: Path) -> None:
    store, _ = converted(raw, "trainval", filter="posepile")
    assert store.instances["extra/apart"][:].all()
    assert [picture_of(store, r) for r in range(len(store))] == [
        "images/000000404.jpg",
        "images/000000606.jpg",
    ]
    with pytest.raises(HumandataError, match="single_person"):
        converted(raw, "train", form="json", filter="posepile")


@pytest.mark.parametrize(("rule", "moved"), [("mmpose", -1.0), ("posepile", 0.0)])
def test_boxes_of_peers(raw: Path, rule: str, moved: float) -> None:
    store, _ = converted(raw, "val", form="json", box=rule)
    x, y, scale = 80.0 + moved, 90.0 + 15 * 0.725 + moved, 0.725
    expected = [x - 100 * scale, y - 100 * scale, 200 * scale, 200 * scale, 1]
    assert_allclose(store.instances["bbox_xywh"][0], expected, rtol=1e-6)
    assert store.instances["bbox_xywh"].attributes["factor"] == 1.0


def test_pictures_are_stored_and_a_missing_one_is_counted_with_its_people(raw: Path) -> None:
    (raw / "images/000000404.jpg").unlink()
    store, report = converted(raw, "train", "original", form="mat")
    assert report.rejected == {"missing_picture": 2}
    assert len(store) == 2
    assert store.images["height"][0] == release.SIZE[0]
    assert decode(store.picture(0)).shape == (*release.SIZE, 3)


def test_sizes_are_known_without_storing_pictures(raw: Path) -> None:
    store, _ = converted(raw, "val")
    assert (store.images["width"][0], store.images["height"][0]) == release.SIZE[::-1]


def change_h5(raw: Path, key: str, change: Any) -> None:
    with h5py.File(raw / "annot/train.h5", "r+") as content:
        values = content[key][:]
        del content[key]
        content[key] = change(values)


def nan_joint(values: np.ndarray) -> np.ndarray:
    values[0, 4, 1] = np.nan
    return values


def no_scale(values: np.ndarray) -> np.ndarray:
    values[0] = np.nan
    return values


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("part", nan_joint, "not_finite"),
        ("scale", no_scale, "no_position"),
        ("person", lambda v: np.array([0, 0, *v[2:]]), "duplicate_person"),
    ],
)
def test_a_wrong_row_is_rejected_and_the_others_stay(
    raw: Path, key: str, change: Any, reason: str
) -> None:
    change_h5(raw, key, change)
    store, report = converted(raw, "train", form="h5")
    assert report.rejected == {reason: 1}
    assert len(store) == 3
    assert report.rejects_file is not None
    line = json.loads(Path(report.rejects_file).read_text().splitlines()[0])
    assert line["file"] == "train.h5"
    assert "000000101.jpg" in line["record"]


def test_a_repeated_person_of_a_json_list_is_rejected(raw: Path) -> None:
    file = raw / "annotations/mpii_train.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps([*content, content[1]]))
    (raw / "annotations/mpii_gt_train.mat").unlink()
    _, report = converted(raw, "train", form="json")
    assert report.rejected == {"duplicate_person": 1}


def test_a_joint_that_is_nan_in_json_rejects_its_person_only(raw: Path) -> None:
    file = raw / "annotations/mpii_train.json"
    content = json.loads(file.read_text())
    content[1]["joints"][4][0] = float("nan")
    file.write_text(json.dumps(content))
    store, report = converted(raw, "train", form="json")
    assert report.rejected == {"not_finite": 1}
    assert len(store) == 3


def test_a_person_with_a_joint_twice_is_rejected(tmp_path: Path) -> None:
    pictures = release.release()
    file = release.write_mat(tmp_path / "raw", pictures)
    content = scipy.io.loadmat(file)
    points = content["RELEASE"][0, 0]["annolist"][0, 0]["annorect"][0, 0]["annopoints"][0, 0]
    points["point"][0, 3]["id"] = points["point"][0, 0]["id"]
    scipy.io.savemat(file, {"RELEASE": content["RELEASE"]})
    _, report = converted(tmp_path / "raw", "trainval")
    assert report.rejected["joint_id"] == 1


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("h5", "annot/train.h5"),
        ("json", "annotations/mpii_train.json"),
        ("mat", release.MAT),
        ("json", "annotations/mpii_gt_train.mat"),
    ],
)
def test_a_truncated_file_is_named(raw: Path, form: str, file: str) -> None:
    data = (raw / file).read_bytes()
    (raw / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged") as caught:
        converted(raw, "train", form=form)
    assert file in str(caught.value)


def test_files_of_other_forms_are_refused_in_words(raw: Path) -> None:
    (raw / "annotations/mpii_train.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match="COCO-style copies"):
        converted(raw, "train", form="json")
    change_h5(raw, "visible", lambda v: v[:2])
    with pytest.raises(DataError, match="visible"):
        converted(raw, "train", form="h5")
    scipy.io.savemat(raw / release.MAT, {"RELEASE": {"something": 1}})
    with pytest.raises(DataError, match="annolist"):
        converted(raw, "trainval")


def test_lists_of_another_release_are_noticed(raw: Path) -> None:
    change_h5(raw, "index", lambda v: v + 1)
    with pytest.raises(DataError, match="another release"):
        converted(raw, "train", form="mat")


def test_the_real_lists_agree_with_each_other(samples: Path, tmp_path: Path) -> None:
    """Facts measured on the files: 2,958 people, 3,088 unlabelled joints, five of them in JSON."""
    options: dict[str, Any] = {"workers": 1, "split": "val", "pictures": "none"}
    root = samples / "mpii"
    for form in ("h5", "json"):
        convert("mpii", root, tmp_path / f"{form}.zarr", options={"form": form}, **options)
    h5, plain = (humandata.open(tmp_path / f"{form}.zarr").instances for form in ("h5", "json"))
    keypoints = h5["keypoints2d"][:]
    assert len(keypoints) == 2958
    assert (keypoints[..., 2] == 0).sum() == 3088
    assert (keypoints[..., :2] < 0).sum() == 32
    assert_array_equal(np.trunc(plain["keypoints2d"][:]), keypoints[:5])
    # The one list has its factors applied, the other has not: the boxes are the same.
    assert_allclose(plain["bbox_xywh"][:], h5["bbox_xywh"][:5], atol=1e-3)
    raw = json.loads((root / "annotations/mpii_val.json").read_text())
    for row, person in enumerate(raw):
        joints = np.array(person["joints"], np.float32)
        assert_array_equal(plain["keypoints2d"][row][:, :2], np.where(joints == -1, 0, joints))


def test_the_rule_of_the_peers_keeps_1992_of_the_real_list(samples: Path, tmp_path: Path) -> None:
    options = {"form": "h5", "filter": "mmhuman3d"}
    report = convert(
        "mpii", samples / "mpii", tmp_path / "s.zarr", workers=1, split="val", pictures="none",
        options=options,
    )  # fmt: skip
    assert (report.records, report.instances) == (2958, 1992)


def test_the_real_pictures_are_found(samples: Path, tmp_path: Path) -> None:
    report = convert(
        "mpii", samples / "mpii", tmp_path / "s.zarr", workers=1, split="val",
        options={"form": "json"},
    )  # fmt: skip
    assert (report.images, report.instances, report.rejected) == (5, 5, {})
