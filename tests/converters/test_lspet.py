"""The LSP-Extended converter pairs joints and pictures rightly in both releases."""

from __future__ import annotations

import json
from pathlib import Path

import lsp_release
import lspet_release as release
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import humandata
from humandata import DataError, HumandataError, lsp_files
from humandata.converters.converter import Report, convert


def converted(
    raw: Path, out: str = "s.zarr", pictures: str = "none", **options: str
) -> tuple[humandata.Store, Report]:
    file = raw.parent / out
    report = convert("lspet", raw, file, workers=1, pictures=pictures, options=options)
    assert report.records == (
        report.instances + sum(report.filtered.values()) + sum(report.rejected.values())
    )
    return humandata.open(file), report


def paths(store: humandata.Store) -> list[str]:
    return [str(store.images["path"][int(row)]) for row in store.instances["image"][:]]


def box_of(points: np.ndarray) -> np.ndarray:
    """The extent of some joints, enlarged 1.2 about its centre."""
    low, high = points.min(axis=0), points.max(axis=0)
    return np.array([*(low + high) / 2 - 0.6 * (high - low), *1.2 * (high - low), 1])


def test_unlabelled_joints_have_no_confidence_and_do_not_move_the_box(tmp_path: Path) -> None:
    joints = release.original()
    release.write_original(tmp_path / "raw", joints)
    store, report = converted(tmp_path / "raw")
    kept = [0, 1, 2, 4, 5]  # nobody labelled a joint of the fourth
    assert paths(store) == [f"images/im{row + 1:05d}.jpg" for row in kept]
    assert report.filtered == {"no_labelled_joint": 1}
    for at, row in enumerate(kept):
        labelled = joints[row, :, 2] > 0
        keypoints = store.instances["keypoints2d"][at]
        assert_array_equal(keypoints[:, 2], labelled)
        assert_allclose(keypoints[labelled, :2], joints[row, labelled, :2], rtol=1e-6)
        assert not keypoints[~labelled].any()
        box = box_of(joints[row, labelled, :2])
        assert_allclose(store.instances["bbox_xywh"][at], box, rtol=1e-5)
        assert store.instances["source_id"][at] == row + 1
    assert store.convention("keypoints2d") == "lsp"
    assert store.instances["bbox_xywh"].attributes["factor"] == 1.2
    assert store.instances["keypoints2d"].attributes["release"] == "original"


def test_in_the_original_the_number_of_a_picture_says_which_joints_are_its_own(
    tmp_path: Path,
) -> None:
    joints = release.original()
    release.write_original(tmp_path / "raw", joints, pictures=(3, 6))
    store, report = converted(tmp_path / "raw", pictures="original")
    assert paths(store) == ["images/im00003.jpg", "images/im00006.jpg"]
    assert report.rejected == {"missing_picture": 3}
    labelled = joints[2, :, 2] > 0
    found = store.instances["keypoints2d"][0]
    assert_allclose(found[labelled, :2], joints[2, labelled, :2], rtol=1e-6)


@pytest.mark.parametrize("folder", ["", "images", "images_highres"])
def test_in_hr_lspet_joints_follow_the_sorted_names_with_their_gaps(
    tmp_path: Path, folder: str
) -> None:
    joints = release.write_hr(tmp_path / "raw", folder)
    store, report = converted(tmp_path / "raw", pictures="original")
    prefix = f"{folder}/" if folder else ""
    assert paths(store) == [f"{prefix}im{n:05d}.png" for n in release.HR_NUMBERS]
    assert_allclose(store.instances["keypoints2d"][:], joints, rtol=1e-6)
    assert store.instances["source_id"][:].tolist() == list(release.HR_NUMBERS)
    assert store.instances["keypoints2d"].attributes["release"] == "hr"
    assert "this is the high resolution release" in report.notes
    assert store.picture(1) == (tmp_path / "raw" / folder / "im00003.png").read_bytes()


def test_hr_lspet_with_a_picture_missing_is_refused(tmp_path: Path) -> None:
    release.write_hr(tmp_path / "raw")
    (tmp_path / "raw/im00003.png").unlink()
    with pytest.raises(DataError, match="2 pictures.*joints of 3.*all would be wrong"):
        converted(tmp_path / "raw")


def test_hr_lspet_without_any_flag_counts_all_joints(tmp_path: Path) -> None:
    joints = release.write_hr(tmp_path / "raw")
    joints[..., 2] = 0
    lsp_release.write_joints(tmp_path / "raw/joints.mat", joints, extended=True)
    store, report = converted(tmp_path / "raw")
    assert store.instances["keypoints2d"][:, :, 2].all()
    assert any("flag is not used" in note for note in report.notes)


def test_both_releases_in_one_folder_ask_for_a_choice(tmp_path: Path) -> None:
    release.write_original(tmp_path / "raw/lspet_dataset", release.original())
    release.write_hr(tmp_path / "raw/hr-lspet")
    with pytest.raises(HumandataError, match="release=original or hr"):
        converted(tmp_path / "raw")
    assert len(converted(tmp_path / "raw", "a.zarr", release="hr")[0]) == 3
    assert len(converted(tmp_path / "raw", "b.zarr", release="original")[0]) == 5


def test_pictures_of_the_original_directly_in_the_root_are_found(tmp_path: Path) -> None:
    joints = release.original()
    lsp_release.write_joints(tmp_path / "raw/joints.mat", joints, extended=True)
    lsp_release.write_pictures(tmp_path / "raw", ["im00001.jpg", "im00006.jpg"])
    store, _ = converted(tmp_path / "raw", pictures="original")
    assert paths(store) == ["im00001.jpg", "im00006.jpg"]


def test_the_peers_count_all_joints_and_get_larger_boxes(tmp_path: Path) -> None:
    joints = release.original()
    release.write_original(tmp_path / "raw", joints)
    store, _ = converted(tmp_path / "raw", joints="all")
    assert store.instances["keypoints2d"][:, :, 2].all()
    assert_allclose(store.instances["bbox_xywh"][1], box_of(joints[1, :, :2]), rtol=1e-5)


def test_filters_of_peers(tmp_path: Path) -> None:
    release.write_original(tmp_path / "raw", release.original())
    store, report = converted(tmp_path / "raw", "a.zarr", filter="eft")
    assert store.instances["source_id"][:].tolist() == [1, 2, 5, 6]
    assert report.filtered == {"no_labelled_joint": 1, "eft": 1}
    store, report = converted(tmp_path / "raw", "b.zarr", filter="mmhuman3d")
    assert store.instances["source_id"][:].tolist() == [1, 6]
    release.write_hr(tmp_path / "hr")
    store, report = converted(tmp_path / "hr", "c.zarr", filter="mmhuman3d")
    assert store.instances["source_id"][:].tolist() == [1, 7]
    assert report.filtered == {"mmhuman3d": 1}


def test_joints_beyond_the_picture_and_contradicting_sides_are_marked(tmp_path: Path) -> None:
    release.write_original(tmp_path / "raw", release.original())
    store, _ = converted(tmp_path / "raw")
    outside = store.instances["extra/outside"][:]
    assert np.argwhere(outside).tolist() == [[3, 13]]
    assert store.instances["extra/sides_disagree"][:].tolist() == [False] * 4 + [True]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_sides_disagree_neither_after_mirroring_nor_after_exchanging_all(seed: int) -> None:
    """A mirrored picture, or a wholly exchanged body, contradicts itself no more than before."""
    rng = np.random.default_rng(seed)
    points, valid = rng.uniform(0, 100, (20, 14, 2)), rng.random((20, 14)) < 0.9
    size = lsp_files.long_sides(points, valid)
    said = lsp_files.sides_disagree(points, valid, size)
    mirrored = points * [-1, 1]
    assert_array_equal(lsp_files.sides_disagree(mirrored, valid, size), said)
    flip = humandata.keypoints.flip_permutation("lsp")
    assert_array_equal(lsp_files.sides_disagree(points[:, flip], valid[:, flip], size), said)


def test_the_file_of_lsp_is_refused_by_its_shape(tmp_path: Path) -> None:
    lsp_release.write_joints(tmp_path / "raw/joints.mat", release.original(), extended=False)
    with pytest.raises(DataError, match=r"\(14, 3, N\).*\(3, 14, 6\).*convert lsp'"):
        converted(tmp_path / "raw")


def test_bad_joints_are_rejected_and_the_others_stay(tmp_path: Path) -> None:
    joints = release.original()
    joints[0, 3, 0] = np.nan
    joints[1, :, 2] = 0
    joints[1, 3] = (40, 50, 1)  # a single joint spans no box
    release.write_original(tmp_path / "raw", joints)
    store, report = converted(tmp_path / "raw")
    assert report.rejected == {"not_finite": 1, "empty_box": 1}
    assert store.instances["source_id"][:].tolist() == [3, 5, 6]
    assert report.rejects_file is not None
    first = json.loads(Path(report.rejects_file).read_text().splitlines()[0])
    assert (first["file"], first["record"]) == ("joints.mat", "im00001.jpg")


def test_a_copy_whose_first_record_is_not_the_releases_is_told(tmp_path: Path) -> None:
    joints = release.original()
    release.write_original(tmp_path / "raw", joints)
    _, report = converted(tmp_path / "raw")
    assert any("not that of the official joints.mat" in note for note in report.notes)
    joints[0, :2] = [(0, -26.11, 0), (26.03, 86.41, 1)]  # measured on the release
    release.write_original(tmp_path / "official", joints)
    _, report = converted(tmp_path / "official", "o.zarr")
    assert not any("official" in note for note in report.notes)


def test_pictures_without_joints_are_told(tmp_path: Path) -> None:
    release.write_original(tmp_path / "raw", release.original(3), pictures=(1, 2, 8))
    _, report = converted(tmp_path / "raw")
    assert any("1 pictures have no joints: im00008.jpg" in note for note in report.notes)


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    release.write_original(tmp_path / "raw", release.original())
    file = tmp_path / "raw/joints.mat"
    whole = file.read_bytes()
    file.write_bytes(whole[:-200])
    with pytest.raises(DataError, match="damaged"):
        converted(tmp_path / "raw")
    scipy.io.savemat(file, {"points": np.zeros(3)})
    with pytest.raises(DataError, match="no joints"):
        converted(tmp_path / "raw")
    scipy.io.savemat(file, {"joints": np.zeros((16, 3, 9))})
    with pytest.raises(DataError, match=r"\(16, 3, 9\)"):
        converted(tmp_path / "raw")
