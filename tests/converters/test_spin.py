"""The import of SPIN files gives back what they hold, by joint and row, and invents nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spin_release as release
from numpy.testing import assert_allclose, assert_array_equal

import humandata
from humandata import DataError, unpickle
from humandata.converters import spin as converter
from humandata.converters.converter import Columns, convert
from humandata.keypoints import names
from humandata.unpickle import UnsafePickle

ROWS = release.ROWS
SMPL_SOURCE = converter.FIT_SOURCES


def read(file: Path, **options: str) -> Columns:
    chosen = {option.name: option.default for option in converter.INFO.options} | options
    (unit,) = converter.plan(file, converter.find_splits(file)[0], chosen)
    columns = converter.read(unit)
    accounted = sum(columns.filtered.values()) + len(columns.rejects) + columns.rows("instances")
    assert columns.records == accounted
    return columns


def joint(columns: Columns, field: str, name: str) -> np.ndarray:
    convention = columns.field_attributes[field]["convention"]
    return np.asarray(columns.instances[field][:, names(convention).index(name)])


def test_joints_boxes_and_pictures_are_those_of_the_file(tmp_path: Path) -> None:
    columns = read(release.write(tmp_path / "coco_2014_train.npz", release.coco_values()))
    rows = np.arange(ROWS)
    # SPIN's order, by the names that its constants.py gives: slot 2 is LSP's right hip.
    for name, slot in (("right_ankle", 0), ("right_hip_extra", 2), ("left_wrist", 11), ("nose", 19),
                       ("right_ear", 23)):  # fmt: skip
        expected = np.stack([10 * slot + rows, 0 * rows + 5 * slot, 0 * rows + 1], 1)
        assert_array_equal(joint(columns, "keypoints2d", name), expected)
    assert not joint(columns, "keypoints2d", "headtop").any()
    assert_allclose(joint(columns, "keypoints2d", "left_knee_openpose")[1], [130, 65, 0.7])
    assert not joint(columns, "keypoints2d", "left_knee_openpose")[0].any()
    side = 200 * (0.5 + 0.25 * rows)
    box = np.stack([100 + rows - side / 2, 200 + rows - side / 2, side, side, 0 * rows + 1], 1)
    assert_allclose(columns.instances["bbox_xywh"], box)
    assert columns.field_attributes["bbox_xywh"]["factor"] == 1.2
    assert_array_equal(columns.instances["image"], [0, 0, 1, 1])
    assert_array_equal(columns.instances["person"], [0, 1, 0, 1])
    assert columns.images["path"][1] == "train2014/COCO_train2014_000000000001.jpg"
    assert "smpl/valid" not in columns.instances
    assert "keypoints3d" not in columns.instances


def test_3d_joints_and_bodies_count_where_the_file_says_so(tmp_path: Path) -> None:
    data = release.mocap_values()
    columns = read(release.write(tmp_path / "mpi_inf_3dhp_train.npz", data))
    assert_allclose(columns.instances["keypoints3d"], data["S"], rtol=1e-6)
    assert columns.field_attributes["keypoints3d"] == {"convention": "smpl_24", "root": "pelvis"}
    at = columns.instances
    assert at["smpl/valid"].tolist() == [True, False, True, False]
    pose = data["pose"].reshape(ROWS, 24, 3)
    assert_allclose(at["smpl/global_orient"][::2], pose[::2, 0], rtol=1e-6)
    assert_allclose(at["smpl/body_pose"][::2], pose[::2, 1:], rtol=1e-6)
    assert_allclose(at["smpl/betas"][::2], data["shape"][::2], rtol=1e-6)
    assert not at["smpl/body_pose"][1::2].any()
    assert [SMPL_SOURCE[code] for code in at["smpl/source"]] == ["spin", "unknown"] * 2
    assert at["gender"].tolist() == [1, 0, 1, 0]
    assert "smpl/transl" not in at


def test_a_test_file_with_bytes_genders_and_no_joints(tmp_path: Path) -> None:
    columns = read(release.write(tmp_path / "3dpw_test.npz", release.evaluation_values()))
    assert columns.images["path"][0] == "imageFiles/walk_00/image_00000.jpg"
    assert columns.instances["gender"].tolist() == [2, 3, 2, 3]
    assert columns.instances["smpl/valid"].all()
    assert "keypoints2d" not in columns.instances
    assert converter.find_splits(tmp_path) == ["test"]


def test_genders_in_numbers_are_those_of_spins_loader(tmp_path: Path) -> None:
    data = release.evaluation_values() | {"gender": np.array([0, 1, -1, 0])}
    columns = read(release.write(tmp_path / "3dpw_test.npz", data))
    words = humandata.schema.field("instances", "gender").vocabulary
    found = [words[code] for code in columns.instances["gender"]]
    assert found == ["male", "female", "neutral", "male"]


def test_names_may_be_objects_and_scales_a_column(tmp_path: Path) -> None:
    data = release.coco_values()
    same = read(release.write(tmp_path / "a_train.npz", data))
    data |= {"imgname": data["imgname"].astype(object), "scale": data["scale"][:, None]}
    columns = read(release.write(tmp_path / "b_train.npz", data))
    assert columns.images["path"] == same.images["path"]
    assert_array_equal(columns.instances["bbox_xywh"], same.instances["bbox_xywh"])


def test_a_store_is_made_with_its_pictures(tmp_path: Path) -> None:
    data = release.mocap_values()
    file = release.write(tmp_path / "extras" / "mpi_inf_3dhp_train.npz", data)
    release.write_pictures(tmp_path / "pictures", data)
    options = {"pictures_root": str(tmp_path / "pictures")}
    report = convert("spin", file, tmp_path / "s.zarr", workers=1, options=options)
    assert (report.split, report.instances, report.images) == ("train", ROWS, ROWS)
    store = humandata.open(tmp_path / "s.zarr")
    assert store.images["width"][0] == 640
    assert_allclose(store.instances["keypoints3d"][:], data["S"], rtol=1e-6)


def test_static_fits_are_joined_row_by_row(tmp_path: Path) -> None:
    fits = np.random.default_rng(5).normal(size=(ROWS, 82)).astype(np.float32)
    fits[2] = 0
    np.save(tmp_path / "coco_fits.npy", fits)
    file = release.write(tmp_path / "coco_2014_train.npz", release.coco_values())
    columns = read(file, fits=str(tmp_path / "coco_fits.npy"))
    assert columns.instances["smpl/valid"].tolist() == [True, True, False, True]
    assert_array_equal(columns.instances["smpl/global_orient"][1], fits[1, :3])
    assert_array_equal(columns.instances["smpl/betas"][3], fits[3, 72:])
    assert SMPL_SOURCE[columns.instances["smpl/source"][0]] == "spin"
    # People whose body the file itself gives keep it.
    file = release.write(tmp_path / "mpi_inf_3dhp_train.npz", data := release.mocap_values())
    columns = read(file, fits=str(tmp_path / "coco_fits.npy"), fit_source="mosh")
    assert_allclose(columns.instances["smpl/betas"][0], data["shape"][0], rtol=1e-6)
    assert_array_equal(columns.instances["smpl/betas"][1], fits[1, 72:])
    assert [SMPL_SOURCE[code] for code in columns.instances["smpl/source"]] == [
        "mosh", "spin", "mosh", "spin",
    ]  # fmt: skip


@pytest.mark.parametrize(("shape", "flag"), [("betas", "valid_fit"), ("shape", "has_smpl")])
def test_final_and_multi_view_fits_say_which_are_valid(
    tmp_path: Path, shape: str, flag: str
) -> None:
    body = release.bodies(ROWS, seed=8)
    data = {"pose": body["pose"], shape: body["shape"], flag: np.array([1, 0, 1, 1])}
    np.savez(tmp_path / "fits.npz", **data)
    file = release.write(tmp_path / "coco_2014_train.npz", release.coco_values())
    columns = read(file, fits=str(tmp_path / "fits.npz"))
    assert columns.instances["smpl/valid"].tolist() == [True, False, True, True]
    assert_allclose(columns.instances["smpl/betas"][2], body["shape"][2], rtol=1e-6)


def test_fits_of_another_file_are_refused(tmp_path: Path) -> None:
    file = release.write(tmp_path / "coco_2014_train.npz", release.coco_values())
    np.save(tmp_path / "lsp_fits.npy", np.ones((ROWS + 1, 82)))
    with pytest.raises(DataError, match=r"lsp_fits.npy, fits: expected 4 entries"):
        read(file, fits=str(tmp_path / "lsp_fits.npy"))
    np.save(tmp_path / "odd_fits.npy", np.ones((ROWS, 72)))
    with pytest.raises(DataError, match=r"odd_fits.npy, fits: expected shape \(4, 82\)"):
        read(file, fits=str(tmp_path / "odd_fits.npy"))
    with pytest.raises(DataError, match="no such file"):
        read(file, fits=str(tmp_path / "absent.npy"))


def test_zeros_of_eft_are_no_3d_truth(tmp_path: Path) -> None:
    data = release.coco_values() | release.bodies(ROWS)
    data |= {"S": np.zeros((ROWS, 24, 4)), "annotIds": np.arange(7, 7 + ROWS)}
    columns = read(release.write(tmp_path / "eft_coco_train.npz", data))
    assert "keypoints3d" not in columns.instances
    assert SMPL_SOURCE[columns.instances["smpl/source"][0]] == "eft"
    assert_array_equal(columns.instances["source_id"], np.arange(7, 7 + ROWS))


@pytest.mark.parametrize("gone", ["part", "openpose"])
def test_a_missing_half_of_the_joints_is_unlabelled(tmp_path: Path, gone: str) -> None:
    data = release.coco_values()
    del data[gone]
    columns = read(release.write(tmp_path / "x_train.npz", data))
    labelled = columns.instances["keypoints2d"][..., 2].any(axis=0)
    half = slice(25, 49) if gone == "part" else slice(25)
    assert not labelled[half].any()
    assert labelled.any()


def test_lsp_joints_outside_of_the_picture_are_unlabelled(tmp_path: Path) -> None:
    data = release.coco_values()
    data["part"] = release.points(ROWS, list(range(14)))
    data["part"][0, 3, 0] = -8  # SPIN gives it confidence 1
    data["part"][2, 5, 1] = 480  # the pictures are 640 x 480
    file = release.write(tmp_path / "lsp_dataset_original_train.npz", data)
    release.write_pictures(tmp_path, {"imgname": data["imgname"][2:]})
    columns = read(file)
    points = columns.instances["keypoints2d"][:, 25:]
    gone = np.argwhere(points[:, :14, 2] == 0)
    assert gone.tolist() == [[0, 3], [2, 5]]
    assert columns.field_attributes["keypoints2d"]["outside_joints"] == 2
    assert any("1 pictures are not there" in note for note in columns.notes)
    kept = read(file, outside="keep").instances["keypoints2d"][:, 25:39]
    assert (kept[..., 2] == 1).all()


def test_further_keys_are_kept_or_named(tmp_path: Path) -> None:
    data = release.coco_values()
    data |= {
        "smpl_2dkps": np.ones((ROWS, 24, 3)),
        "maskname": np.array([f"mask_{r}.png" for r in range(ROWS)]),
        "ragged": np.zeros((2, 100_000)),
    }
    columns = read(release.write(tmp_path / "x_train.npz", data))
    assert columns.instances["extra/smpl_2dkps"].shape == (ROWS, 24, 3)
    words = columns.field_attributes["extra/maskname"]["vocabulary"]
    assert words[columns.instances["extra/maskname"][2]] == "mask_2.png"
    assert set(columns.field_attributes["source_id"]["left_out"]) == {"ragged"}
    assert any(note.startswith("ragged is not kept") for note in columns.notes)


def test_rows_that_cannot_be_used_are_rejected_and_counted(tmp_path: Path) -> None:
    data = release.coco_values(6)
    data["scale"][1] = 0
    data["center"][2] = np.nan
    data["imgname"][3] = "/etc/passwd"
    data["part"][4], data["openpose"][4] = 0, 0
    data["part"][5, 0, 1] = np.nan
    file = release.write(tmp_path / "coco_2014_train.npz", data)
    columns = read(file)
    assert [(r.record, r.reason) for r in columns.rejects] == [
        ("row 1", "box_without_size"), ("row 2", "box_without_size"), ("row 3", "picture_path"),
    ]  # fmt: skip
    assert columns.filtered == {"no_labelled_joint": 1}
    assert columns.instances["source_id"].tolist() == [0, 5]
    assert columns.field_attributes["keypoints2d"]["damaged_joints"] == 1
    assert not columns.instances["keypoints2d"][1, 25].any()
    report = convert("spin", file, tmp_path / "s.zarr", workers=1, pictures="none")
    assert (report.records, report.instances, report.rejected) == (
        6, 2, {"box_without_size": 2, "picture_path": 1},
    )  # fmt: skip


def test_bodies_that_are_not_finite_are_not_valid(tmp_path: Path) -> None:
    data = release.evaluation_values()
    data["pose"][1, 5] = np.nan
    columns = read(release.write(tmp_path / "3dpw_test.npz", data))
    # Nothing else is known of that person.
    assert columns.filtered == {"no_labelled_joint": 1}
    assert np.isfinite(columns.instances["smpl/body_pose"]).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("part", np.ones((ROWS, 17, 3)), r"part: expected shape \(4, 24, 3\), found \(4, 17, 3\)"),
        ("center", np.ones((ROWS, 3)), r"center: expected shape \(4, 2\)"),
        ("scale", np.ones((ROWS, 2)), r"scale: expected shape \(4,\)"),
        ("openpose", np.ones((ROWS + 1, 25, 3)), "openpose: expected 4 entries"),
        ("S", np.ones((ROWS, 24, 3)), r"S: expected shape \(4, 24, 4\)"),
        ("shape", None, "shape: expected betas beside pose"),
        ("pose", np.array([["a"] * 72] * ROWS), "pose: expected numbers"),
        ("imgname", np.array("a.jpg"), "imgname: expected a path per person"),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_key(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    data = release.mocap_values()
    if value is None:
        del data[key]
    else:
        data[key] = value
    with pytest.raises(DataError, match=f"x_train.npz, {message}"):
        read(release.write(tmp_path / "x_train.npz", data))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    file = release.write(tmp_path / "x_train.npz", release.coco_values())
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"x_train.npz: expected a .npz file"):
        converter.find_splits(file)
    data = release.coco_values()
    del data["center"]
    with pytest.raises(DataError, match="another kind of file"):
        converter.find_splits(release.write(tmp_path / "x_train.npz", data))
    data = release.coco_values()
    data["imgname"] = np.array([print] * ROWS, dtype=object)
    with pytest.raises(UnsafePickle, match="print"):
        read(release.write(tmp_path / "x_train.npz", data))


def test_two_files_of_a_split_have_to_be_named(tmp_path: Path) -> None:
    for name in ("coco_2014_train.npz", "mpii_train.npz"):
        release.write(tmp_path / name, release.coco_values())
    with pytest.raises(DataError, match="coco_2014_train.npz, mpii_train.npz"):
        converter.plan(tmp_path, "train", {})


def test_the_real_fragment_of_human36m(samples: Path) -> None:
    """Its joints in metres, projected by the release's cameras, fall on its joints in pixels."""
    file = samples / "h36m" / "test_h36m.npz"
    columns = read(file, keypoints3d_root="absolute")
    assert columns.rows("instances") == 4
    assert columns.instances["smpl/valid"].all()
    assert columns.field_attributes["bbox_xywh"]["factor"] == 0.9
    assert "extra/iuv_names" in columns.instances
    cameras = unpickle.load(samples / "h36m" / "cameras.pkl")
    for row, path in enumerate(columns.images["path"]):
        subject, camera = path.split("_")[0], path.split(".")[1].split("_")[0]
        found = cameras[subject, camera]
        focal, middle = np.ravel(found["f"]), np.ravel(found["c"])
        radial, tangential = np.ravel(found["k"]), np.ravel(found["p"])
        have = columns.instances["keypoints3d"][row, :, 3] > 0
        ray = columns.instances["keypoints3d"][row, have, :3].astype(np.float64)
        ray = ray[:, :2] / ray[:, 2:]
        r2 = (ray**2).sum(axis=1)
        # The model of Human3.6M's own code, which adds the tangential part once.
        factor = 1 + radial @ np.stack([r2, r2**2, r2**3]) + ray @ tangential[::-1]
        bent = ray * factor[:, None] + np.outer(r2, tangential[::-1])
        pixels = bent * focal + middle
        labelled = columns.instances["keypoints2d"][row, 25:][have][:, :2]
        off = np.abs(pixels - labelled).max(axis=1)
        pelvis = np.flatnonzero(have) == 14  # made of the hips, in 2D and in 3D apart
        assert off[~pelvis].max() < 1e-3
        assert off[pelvis].max() < 0.05
