"""The LSP converter divides by number, reads the flag for what it is, and knows the releases."""

from __future__ import annotations

import json
from pathlib import Path

import lsp_release as release
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import humandata
from humandata import DataError, HumandataError
from humandata.converters.converter import Report, convert

SUBSET = (1, 2, 1001, 1002)


def joints(count: int = 2000) -> np.ndarray:
    """Of full size, a few of them occluded; the second person reaches 2 px beyond the picture."""
    found = release.people(count)
    found[::3, 9, 2] = 1
    found[1, 0, :2] = (release.SIZE[1] + 2, 100)
    return found


def write(root: Path, found: np.ndarray, pictures: tuple[int, ...] = SUBSET) -> None:
    release.write_joints(root / "joints.mat", found, extended=False)
    release.write_pictures(root / "images", [f"im{n:04d}.jpg" for n in pictures])


def small() -> tuple[np.ndarray, tuple[int, int]]:
    """Joints and picture size of the small release: people 150 px long."""
    return release.people(2000, seed=5, low=5, high=155), (160, 170)


def converted(
    raw: Path, split: str, out: str = "", pictures: str = "none", **options: str
) -> tuple[humandata.Store, Report]:
    file = raw.parent / f"{split}{out}.zarr"
    report = convert("lsp", raw, file, workers=1, split=split, pictures=pictures, options=options)
    assert report.records == (
        report.instances + sum(report.filtered.values()) + sum(report.rejected.values())
    )
    return humandata.open(file), report


@pytest.mark.parametrize(("split", "first"), [("train", 1), ("test", 1001)])
def test_the_border_between_train_and_test_is_1000_whatever_pictures_are_there(
    tmp_path: Path, split: str, first: int
) -> None:
    truth = joints()
    write(tmp_path / "raw", truth)
    store, report = converted(tmp_path / "raw", split)
    assert store.instances["source_id"][:].tolist() == list(range(first, first + 1000))
    assert store.images["path"][0] == f"images/im{first:04d}.jpg"
    mine = truth[first - 1 : first + 999]
    assert_allclose(store.instances["keypoints2d"][:][..., :2], mine[..., :2], rtol=1e-6)
    assert report.records == 1000
    assert store.convention("keypoints2d") == "lsp"


def test_the_flag_means_occluded_and_is_no_confidence(tmp_path: Path) -> None:
    truth = joints()
    write(tmp_path / "raw", truth)
    store, _ = converted(tmp_path / "raw", "train")
    assert (store.instances["keypoints2d"][:][..., 2] == 1).all()
    visibility = store.instances["keypoints2d_visibility"]
    words = visibility.attributes["vocabulary"]
    assert_array_equal(visibility[:] == words.index("occluded"), truth[:1000, :, 2] == 1)
    assert_array_equal(visibility[:] == words.index("visible"), truth[:1000, :, 2] == 0)


def test_the_box_is_the_extent_enlarged_about_its_centre(tmp_path: Path) -> None:
    truth = joints(4)
    truth[0, :, :2] = 60, 120
    truth[0, :2, :2] = [[10, 20], [110, 220]]
    truth[1:, 3, :2] = 380, 390
    write(tmp_path / "raw", truth, (1, 2, 3, 4))
    store, report = converted(tmp_path / "raw", "train")
    assert_allclose(store.instances["bbox_xywh"][0], [0, 0, 120, 240, 1], atol=1e-4)
    assert store.instances["bbox_xywh"].attributes["factor"] == 1.2
    assert "joints.mat holds 4 pictures; the release has 2,000" in report.notes


def test_pictures_that_are_there_are_stored_and_the_others_counted(tmp_path: Path) -> None:
    write(tmp_path / "raw", joints())
    (tmp_path / "raw/images/notes.jpg").write_bytes(b"stray")
    store, report = converted(tmp_path / "raw", "test", pictures="original")
    assert store.instances["source_id"][:].tolist() == [1001, 1002]
    assert report.rejected == {"missing_picture": 998}
    assert store.picture(0) == (tmp_path / "raw/images/im1001.jpg").read_bytes()


def test_the_rule_of_mmhuman3d_leaves_out_joints_beyond_the_picture(tmp_path: Path) -> None:
    write(tmp_path / "raw", joints(4), (1, 2, 3, 4))
    everyone, _ = converted(tmp_path / "raw", "train")
    assert everyone.instances["extra/outside"][:].sum(axis=1).tolist() == [0, 1, 0, 0]
    store, report = converted(tmp_path / "raw", "train", "peer", filter="mmhuman3d")
    assert store.instances["source_id"][:].tolist() == [1, 3, 4]
    assert report.filtered == {"mmhuman3d": 1}


def test_of_two_releases_train_is_the_originals_and_test_the_small_ones(tmp_path: Path) -> None:
    write(tmp_path / "raw/lsp_dataset_original", joints())
    little, size = small()
    release.write_joints(tmp_path / "raw/lsp_dataset/joints.mat", little, extended=False)
    names = [f"im{n:04d}.jpg" for n in SUBSET]
    release.write_pictures(tmp_path / "raw/lsp_dataset/images", names, size)
    train, report = converted(tmp_path / "raw", "train")
    assert train.instances["keypoints2d"].attributes["release"] == "original"
    assert train.images["width"][0] == release.SIZE[1]
    assert any("train is the original's" in note for note in report.notes)
    test, _ = converted(tmp_path / "raw", "test")
    assert test.instances["keypoints2d"].attributes["release"] == "small"
    assert test.images["width"][0] == size[1]
    other, _ = converted(tmp_path / "raw", "test", "o", release="original")
    assert_allclose(other.instances["keypoints2d"][0][:, :2], joints()[1000, :, :2], rtol=1e-6)


def test_a_folder_of_another_release_than_asked_for_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "raw", joints())
    with pytest.raises(HumandataError, match="original release.*not of the small one"):
        converted(tmp_path / "raw", "train", release="small")


def test_joints_of_one_release_beside_pictures_of_the_other_are_refused(tmp_path: Path) -> None:
    little, size = small()
    write(tmp_path / "a", joints())
    release.write_pictures(tmp_path / "a/images", [f"im{n:04d}.jpg" for n in SUBSET], size)
    with pytest.raises(DataError, match="100 % of the people reach beyond"):
        converted(tmp_path / "a", "train")
    write(tmp_path / "b", little, tuple(range(1, 25)))
    with pytest.raises(DataError, match="put those of one release together"):
        converted(tmp_path / "b", "train", "b")


def test_the_file_of_lsp_extended_is_refused_by_its_shape(tmp_path: Path) -> None:
    release.write_joints(tmp_path / "raw/joints.mat", joints(8), extended=True)
    with pytest.raises(DataError, match=r"\(3, 14, N\).*\(14, 3, 8\).*convert lspet'"):
        converted(tmp_path / "raw", "train")


def test_bad_joints_are_rejected_and_the_others_stay(tmp_path: Path) -> None:
    truth = joints(5)
    truth[0, 2, 1] = np.nan
    truth[2, 2, 2] = 0.5
    truth[3, :, :2] = 7
    write(tmp_path / "raw", truth, (1, 2, 3, 4, 5, 6))
    store, report = converted(tmp_path / "raw", "train")
    assert report.rejected == {"not_finite": 1, "flag": 1, "empty_box": 1}
    assert store.instances["source_id"][:].tolist() == [2, 5]
    assert any("1 pictures have no joints: im0006.jpg" in note for note in report.notes)
    assert report.rejects_file is not None
    records = [json.loads(line) for line in Path(report.rejects_file).read_text().splitlines()]
    assert [record["record"] for record in records] == ["im0001.jpg", "im0003.jpg", "im0004.jpg"]


def test_a_copy_whose_first_record_is_not_the_releases_is_told(tmp_path: Path) -> None:
    truth = joints(4)
    write(tmp_path / "raw", truth, ())
    _, report = converted(tmp_path / "raw", "train")
    assert any("not that of the official joints.mat" in note for note in report.notes)
    truth[0, 0] = (473.95, 552.63, 0)  # measured on the release
    write(tmp_path / "official", truth, ())
    _, report = converted(tmp_path / "official", "train", "official")
    assert not any("official" in note for note in report.notes)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "raw", joints(4))
    file = tmp_path / "raw/joints.mat"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged") as caught:
        converted(tmp_path / "raw", "train")
    assert str(file) in str(caught.value)
