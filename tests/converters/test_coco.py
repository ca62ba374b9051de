"""The COCO converter gives back what the release says, and says what it left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from coco_release import CocoTruth, edit, write_coco

import humandata
from humandata import DataError, HumandataError
from humandata.converters.converter import Report, convert
from humandata.pictures import decode


def converted(raw: Path, out: Path, **settings: object) -> tuple[humandata.Store, Report]:
    report = convert("coco", raw, out, workers=1, **settings)  # type: ignore[arg-type]
    return humandata.open(out), report


def rejects(report: Report) -> list[dict[str, str]]:
    assert report.rejects_file is not None
    return [json.loads(line) for line in Path(report.rejects_file).read_text().splitlines()]


def assert_matches(store: humandata.Store, truth: CocoTruth, ids: list[int]) -> None:
    assert store.instances["source_id"][:].tolist() == ids
    for row, identity in enumerate(ids):
        labels = truth.keypoints[identity]
        labelled = labels[:, 2] > 0
        np.testing.assert_array_equal(store.instances["keypoints2d"][row][:, :2], labels[:, :2])
        np.testing.assert_array_equal(store.instances["keypoints2d"][row][:, 2], labelled)
        np.testing.assert_array_equal(store.instances["keypoints2d_visibility"][row], labels[:, 2])
        box = [*truth.boxes[identity], 1]
        np.testing.assert_allclose(store.instances["bbox_xywh"][row], box, rtol=1e-7)
        image = int(store.instances["image"][row])
        path = store.images["path"][image]
        assert path == truth.picture[identity]
        size = (store.images["width"][image], store.images["height"][image])
        assert size == truth.size[path]


@pytest.mark.parametrize("split", ["train2017", "val2017", "train2014", "val2014"])
def test_every_labelled_person_of_every_split_is_written_unchanged(
    tmp_path: Path, split: str
) -> None:
    truth = write_coco(tmp_path / "raw", split)
    store, report = converted(tmp_path / "raw", tmp_path / "s.zarr")
    assert_matches(store, truth, truth.labelled)
    assert report.split == split
    assert store.convention("keypoints2d") == "coco"
    assert store.instances["bbox_xywh"].attributes["factor"] == 1.0


def test_original_pictures_are_kept_byte_for_byte(tmp_path: Path) -> None:
    truth = write_coco(tmp_path / "raw")
    store, _ = converted(tmp_path / "raw", tmp_path / "s.zarr", pictures="original")
    for row in range(store.images.rows):
        path = store.images["path"][row]
        assert path in truth.size
        assert store.picture(row) == (tmp_path / "raw" / path).read_bytes()


@pytest.mark.parametrize("folder", ["images/{split}", "train_2017/{split}"])
def test_pictures_are_found_in_the_customary_folders(tmp_path: Path, folder: str) -> None:
    truth = write_coco(tmp_path / "raw", folder=folder)
    store, _ = converted(tmp_path / "raw", tmp_path / "s.zarr")
    assert set(store.images["path"][:]) == set(truth.size)


def test_the_mmhuman3d_filter_keeps_persons_with_all_twelve_limb_joints(tmp_path: Path) -> None:
    truth = write_coco(tmp_path / "raw")
    store, report = converted(
        tmp_path / "raw", tmp_path / "s.zarr", options={"filter": "mmhuman3d"}
    )
    assert_matches(store, truth, truth.twelve_limbs)
    assert report.filtered == {"no_labelled_joint": 2, "mmhuman3d_twelve_limb_joints": 1}


def test_records_read_are_all_accounted_for(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    _, report = converted(tmp_path / "raw", tmp_path / "s.zarr")
    assert report.records == 5
    assert report.instances + sum(report.filtered.values()) == 5
    assert report.rejected == {}
    assert report.rejects_file is None


def test_row_ids_stay_when_other_persons_are_left_out(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    everyone, _ = converted(tmp_path / "raw", tmp_path / "a.zarr")
    some, _ = converted(tmp_path / "raw", tmp_path / "b.zarr", options={"filter": "mmhuman3d"})
    ids = dict(zip(everyone.instances["source_id"][:], everyone.instances["id"][:], strict=True))
    for source, identity in zip(
        some.instances["source_id"][:], some.instances["id"][:], strict=True
    ):
        assert ids[source] == identity


def spoil_image_id(content: dict) -> None:  # type: ignore[type-arg]
    content["annotations"][0]["image_id"] = 77


def spoil_keypoints(content: dict) -> None:  # type: ignore[type-arg]
    content["annotations"][0]["keypoints"].pop()


def spoil_box(content: dict) -> None:  # type: ignore[type-arg]
    content["annotations"][0]["bbox"][2] = 0


def drop_box(content: dict) -> None:  # type: ignore[type-arg]
    del content["annotations"][0]["bbox"]


def repeat(content: dict) -> None:  # type: ignore[type-arg]
    content["annotations"][1]["id"] = 442619


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (spoil_image_id, "image_not_listed"),
        (spoil_keypoints, "keypoints"),
        (spoil_box, "empty_box"),
        (drop_box, "no_box"),
        (repeat, "duplicate_id"),
    ],
)
def test_a_wrong_record_is_counted_and_listed_and_the_others_stay(
    tmp_path: Path, change: object, reason: str
) -> None:
    write_coco(tmp_path / "raw")
    edit(tmp_path / "raw", "train2017", change)
    store, report = converted(tmp_path / "raw", tmp_path / "s.zarr")
    assert len(store) == 2
    assert report.rejected == {reason: 1}
    (listed,) = rejects(report)
    assert listed["file"] == "annotations/person_keypoints_train2017.json"
    assert listed["record"] == "annotation 442619"
    with pytest.raises(DataError, match=f"annotation 442619.*{reason}"):
        converted(tmp_path / "raw", tmp_path / "t.zarr", strict=True)


def test_a_truncated_json_is_named_and_leaves_no_store(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    file = tmp_path / "raw" / "annotations" / "person_keypoints_train2017.json"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(DataError, match="complete JSON") as caught:
        converted(tmp_path / "raw", tmp_path / "s.zarr")
    assert str(file) in str(caught.value)
    with pytest.raises(DataError, match="not finished"):
        humandata.open(tmp_path / "s.zarr")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"images": []}', b'{"annotations": 3}'])
def test_json_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    write_coco(tmp_path / "raw")
    file = tmp_path / "raw" / "annotations" / "person_keypoints_train2017.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match="COCO keypoint JSON"):
        converted(tmp_path / "raw", tmp_path / "s.zarr")


def test_a_missing_picture_and_half_a_header_are_rejected_with_their_persons(
    tmp_path: Path,
) -> None:
    truth = write_coco(tmp_path / "raw")
    first, second = truth.size
    (tmp_path / "raw" / first).unlink()
    store, report = converted(tmp_path / "raw", tmp_path / "a.zarr")
    assert report.rejected == {"missing_picture": 1}
    assert store.instances["source_id"][:].tolist() == [442619, 1002]
    picture = tmp_path / "raw" / second
    picture.write_bytes(picture.read_bytes()[:100])
    _, report = converted(tmp_path / "raw", tmp_path / "b.zarr")
    assert report.rejected == {"missing_picture": 1, "damaged_picture": 2}
    assert {r["file"] for r in rejects(report)} == {first, second}


def test_a_picture_that_ends_early_is_kept_as_it_is_and_said(tmp_path: Path) -> None:
    truth = write_coco(tmp_path / "raw")
    picture = tmp_path / "raw" / list(truth.size)[1]
    picture.write_bytes(picture.read_bytes()[:-400])
    for pictures in ("original", "tiled"):
        store, report = converted(
            tmp_path / "raw", tmp_path / f"{pictures}.zarr", pictures=pictures
        )
        assert report.rejected == {}
        assert report.kept_untiled == {"damaged": 1}
        assert any("ends early" in note and picture.name in note for note in report.notes)
        assert picture.read_bytes() in [store.picture(row) for row in range(len(truth.size))]


def test_a_picture_of_another_size_than_annotated_is_rejected(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    edit(tmp_path / "raw", "train2017", lambda c: c["images"][0].update(width=100))
    store, report = converted(tmp_path / "raw", tmp_path / "s.zarr")
    assert report.rejected == {"picture_size": 1}
    assert store.instances["source_id"][:].tolist() == [442619, 1002]


def test_without_pictures_the_store_keeps_paths_and_reads_them_from_the_raw_folder(
    tmp_path: Path,
) -> None:
    write_coco(tmp_path / "raw")
    store, _ = converted(tmp_path / "raw", tmp_path / "s.zarr", pictures="none")
    assert not store.has_pictures
    path = tmp_path / "raw" / store.images["path"][0]
    assert store.picture(0) == path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match="keep the raw folder in place"):
        store.picture(0)


def test_a_wrong_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations/person_keypoints"):
        convert("coco", tmp_path, tmp_path / "s.zarr")
    with pytest.raises(DataError, match="nothing there"):
        convert("coco", tmp_path / "absent", tmp_path / "s.zarr")


def test_two_splits_on_the_disk_ask_for_a_choice(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw", "train2017")
    write_coco(tmp_path / "raw", "val2017")
    with pytest.raises(HumandataError, match="choose one with --split"):
        convert("coco", tmp_path / "raw", tmp_path / "s.zarr")


def test_the_real_fragment_gives_every_person_keypoints_boxes_and_pictures_right(
    samples: Path, tmp_path: Path
) -> None:
    raw = json.loads((samples / "coco/annotations/person_keypoints_val2017.json").read_text())
    store, report = converted(samples / "coco", tmp_path / "s.zarr")
    people = [a for a in raw["annotations"] if any(a["keypoints"][2::3])]
    assert (report.records, len(store), store.images.rows) == (14, 12, 4)
    names = {image["id"]: image["file_name"] for image in raw["images"]}
    for row, annotation in enumerate(people):
        keypoints = np.reshape(annotation["keypoints"], (17, 3))
        np.testing.assert_array_equal(store.instances["keypoints2d"][row][:, :2], keypoints[:, :2])
        np.testing.assert_allclose(store.instances["bbox_xywh"][row][:4], annotation["bbox"])
        path = store.images["path"][int(store.instances["image"][row])]
        assert path == f"val2017/{names[annotation['image_id']]}"
        picture = decode(store.picture(int(store.instances["image"][row])))
        np.testing.assert_array_equal(picture, decode((samples / "coco" / path).read_bytes()))


def test_the_real_fragment_under_the_peer_rule_keeps_the_published_ids(
    samples: Path, tmp_path: Path
) -> None:
    store, _ = converted(samples / "coco", tmp_path / "s.zarr", options={"filter": "mmhuman3d"})
    known = {442619, 460541, 488308, 1724673, 437295, 467657, 533949}
    assert set(store.instances["source_id"][:].tolist()) == known
