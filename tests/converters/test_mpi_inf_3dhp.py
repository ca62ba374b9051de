"""The MPI-INF-3DHP converter recovers the ground truth of a release it has never seen."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.optimize
from mpi_inf_3dhp_release import (
    LEFT,
    OUTDOOR,
    RIGHT,
    USED,
    View,
    grey_of,
    intrinsics_of,
    picture,
    write_calibration,
    write_mat73,
    write_spin,
    write_test,
    write_train,
)

import humandata
from humandata import DataError, keypoints, mpi_inf_3dhp_files, pictures
from humandata.converters import mpi_inf_3dhp
from humandata.converters.converter import Report, convert


def converted(raw: Path, out: Path, split: str = "train", **settings: Any) -> tuple[Any, Report]:
    settings = {"pictures": "none"} | settings
    report = convert("mpi_inf_3dhp", raw, out, split=split, workers=1, **settings)
    return humandata.open(out), report


def rows_of(store: Any) -> list[tuple[int, str, int]]:
    """(row, name of the sequence, frame) of every row."""
    image = store.instances["image"][:]
    names = store.sequences["name"][:]
    sequence, frame = store.images["sequence"][:][image], store.images["frame"][:][image]
    return [
        (row, names[s], f)
        for row, (s, f) in enumerate(zip(sequence.tolist(), frame.tolist(), strict=True))
    ]


def check_row(store: Any, row: int, view: View, frame: int) -> None:
    at = store.instances
    np.testing.assert_allclose(at["keypoints3d"][row][:, :3], view.joints[frame], rtol=1e-6)
    np.testing.assert_allclose(at["keypoints3d_univ"][row][:, :3], view.universal[frame], rtol=1e-6)
    np.testing.assert_allclose(at["keypoints2d"][row][:, :2], view.pixels[frame], rtol=1e-6)
    for name in ("keypoints3d", "keypoints3d_univ", "keypoints2d"):
        assert (at[name][row][:, -1] == 1).all()
    image = int(at["image"][row])
    np.testing.assert_allclose(store.images["intrinsics"][image], view.intrinsics, rtol=1e-6)


# Training --------------------------------------------------------------------------------------


def test_every_tenth_frame_of_eight_cameras_is_a_row_with_the_joints_of_the_truth(
    tmp_path: Path,
) -> None:
    views = write_train(tmp_path, outside=10)
    write_train(tmp_path, "S2", "Seq2", seed=1)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    wanted = [(f"S1/Seq1/video_{c}", frame) for c in USED for frame in (0, 10)]
    found = [(name, frame) for _, name, frame in rows_of(store)]
    assert found[:16] == wanted
    assert found[16] == ("S2/Seq2/video_0", 0)
    for row, name, frame in rows_of(store)[:16]:
        view = views[int(name.rsplit("_", 1)[1])]
        check_row(store, row, view, frame)
        image = int(store.instances["image"][row])
        np.testing.assert_allclose(store.images["extrinsics"][image], view.extrinsics, atol=1e-6)
        assert store.images["width"][image] == store.images["height"][image] == 2048
    assert (report.records, report.instances) == (2 * 8 * 12, 32)
    assert report.filtered == {"stride_10": 160}
    assert any("S1/Seq2, S2/Seq1" in note for note in report.notes)
    for name in ("keypoints2d", "keypoints3d", "keypoints3d_univ"):
        assert store.convention(name) == "mpi_inf_3dhp"
    assert store.instances["keypoints3d"].attributes["root"] == "absolute"


def test_the_metric_joints_project_and_hips_and_spine_are_left_out_of_the_check(
    tmp_path: Path,
) -> None:
    write_train(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    at = store.instances
    assert (at["reprojection_error"][:] < 0.01).all()
    intrinsics = store.images["intrinsics"][int(at["image"][0])].astype(float)
    for name, limit in (("keypoints3d", 0.01), ("keypoints3d_univ", np.inf)):
        points = at[name][0][:, :3] @ intrinsics.T
        away = np.linalg.norm(points[:, :2] / points[:, 2:] - at["keypoints2d"][0][:, :2], axis=1)
        loose = {keypoints.index("mpi_inf_3dhp", f"{n}_extra") for n in ("left_hip", "right_hip")}
        loose.add(keypoints.index("mpi_inf_3dhp", "spine_extra"))
        assert all(away[j] == pytest.approx(1, abs=0.01) for j in loose) or name.endswith("univ")
        firm = [j for j in range(28) if j not in loose]
        assert away[firm].max() < limit
        assert (away[firm].max() > 1) == name.endswith("univ")


def test_cameras_and_stride_can_be_chosen_by_set_or_number(tmp_path: Path) -> None:
    write_train(tmp_path, frames=7)
    options = {"cameras": "ceiling", "stride": "3"}
    store, _ = converted(tmp_path, tmp_path / "1.zarr", options=options)
    names = {name for _, name, _ in rows_of(store)}
    assert names == {f"S1/Seq1/video_{c}" for c in (11, 12, 13)}
    assert len(store) == 9
    store, _ = converted(tmp_path, tmp_path / "2.zarr", options={"cameras": "8,3"})
    assert [name for _, name, _ in rows_of(store)] == ["S1/Seq1/video_8", "S1/Seq1/video_3"]
    for wrong in ("15", "front", ""):
        with pytest.raises(humandata.HumandataError, match="cameras="):
            converted(tmp_path, tmp_path / "3.zarr", options={"cameras": wrong})
    with pytest.raises(humandata.HumandataError, match="stride=x"):
        converted(tmp_path, tmp_path / "3.zarr", options={"stride": "x"})


def peers_rows(views: list[dict[int, View]], joints: list[int]) -> list[tuple[int, int, int]]:
    """SPIN's loop: one counter over the run, every tenth frame whose joints are all inside."""
    kept, counter = [], 0
    for number, sequence in enumerate(views):
        for camera in USED:
            for frame, pixels in enumerate(sequence[camera].pixels):
                looked_at = pixels[joints]
                if ((looked_at >= 0) & (looked_at < 2048)).all():
                    counter += 1
                    if counter % 10 == 1:
                        kept.append((number, camera, frame))
    return kept


@pytest.mark.parametrize(
    ("peer", "joints"), [("spin", list(mpi_inf_3dhp.RELEVANT)), ("mmhuman3d", list(range(28)))]
)
def test_the_rules_of_peers_keep_the_rows_of_their_loops(
    tmp_path: Path, peer: str, joints: list[int]
) -> None:
    views = [
        write_train(tmp_path, outside=3),
        write_train(tmp_path, "S1", "Seq2", seed=1, outside=0),
        write_train(tmp_path, "S3", "Seq1", seed=2),
    ]
    store, report = converted(tmp_path, tmp_path / "s.zarr", options={"filter": peer})
    order = ["S1/Seq1", "S1/Seq2", "S3/Seq1"]
    found = [
        (order.index(name[:7]), int(name.rsplit("_", 1)[1]), frame)
        for _, name, frame in rows_of(store)
    ]
    assert found == peers_rows(views, joints)
    assert report.records == 3 * 8 * 12
    # Joint 27, a toe, is none of the 17.
    outside = 0 if peer == "spin" else 16
    assert report.filtered.get(f"{peer}_joint_outside", 0) == outside


def test_frames_beyond_the_official_number_are_filtered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mpi_inf_3dhp.FRAMES, "S3", (10, 10))
    write_train(tmp_path, "S3", frames=11)
    _, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.filtered == {"beyond_official_frames": 8, "stride_10": 72}
    assert report.instances == 8


def test_boxes_hold_all_joints_or_are_the_square_of_spin(tmp_path: Path) -> None:
    views = write_train(tmp_path)
    for rule in ("joints", "spin"):
        store, _ = converted(tmp_path, tmp_path / f"{rule}.zarr", options={"box": rule})
        assert store.instances["bbox_xywh"].attributes["factor"] == 1.2
        pixels = views[0].pixels[0]
        if rule == "spin":
            pixels = pixels[list(mpi_inf_3dhp.RELEVANT)]
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        size = 1.2 * (high - low)
        if rule == "spin":
            size = size.max().repeat(2)
        wanted = [*((low + high) / 2 - size / 2), *size, 1]
        np.testing.assert_allclose(store.instances["bbox_xywh"][0], wanted, atol=1e-3)


def test_the_exchanged_rows_of_s4_seq2_are_put_right_where_the_joints_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpi_inf_3dhp, "EXCHANGED", ("S4", "Seq2", 4, 7))
    raw, sound = tmp_path / "raw", tmp_path / "sound"
    views = write_train(raw, "S4", "Seq2", frames=10, exchanged=(4, 7))
    options = {"stride": "1", "cameras": "0"}
    store, _ = converted(raw, tmp_path / "1.zarr", options=options)
    for row, _, frame in rows_of(store):
        check_row(store, row, views[0], frame)
    marked = [4 <= frame <= 7 for frame in range(10)]
    assert store.instances["extra/sides_exchanged"][:].tolist() == marked
    options |= {"sides": "as_released"}
    left, _ = converted(raw, tmp_path / "2.zarr", options=options)
    assert left.instances["extra/sides_exchanged"][:].tolist() == marked
    wrong = left.instances["keypoints3d"][5][:, :3]
    np.testing.assert_allclose(wrong[LEFT], views[0].joints[5][RIGHT], rtol=1e-6)
    # A copy that has been put right stays as it is.
    views = write_train(sound, "S4", "Seq2", frames=10)
    del options["sides"]
    store, _ = converted(sound, tmp_path / "3.zarr", options=options)
    assert not store.instances["extra/sides_exchanged"][:].any()
    for row, _, frame in rows_of(store):
        check_row(store, row, views[0], frame)


# Test ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("older", [False, True])
def test_valid_rows_of_a_scene_have_the_joints_of_the_truth_and_a_fitted_camera(
    tmp_path: Path, older: bool
) -> None:
    view = write_test(tmp_path, older=older)
    store, report = converted(tmp_path, tmp_path / "s.zarr", "test")
    assert [frame for _, _, frame in rows_of(store)] == [0, 2, 3, 5, 6, 7]
    for row, _, frame in rows_of(store):
        check_row(store, row, view, frame)
        path = f"mpi_inf_3dhp_test_set/TS1/imageSequence/img_{frame + 1:06d}.jpg"
        assert store.images["path"][row] == path
        words = store.instances["extra/activity"].attributes["vocabulary"]
        assert (
            words[store.instances["extra/activity"][row]] == mpi_inf_3dhp.ACTIVITIES[1 + frame % 7]
        )
    assert (report.records, report.filtered) == (8, {"invalid_frame": 2})
    assert (store.instances["reprojection_error"][:] < 0.01).all()
    assert store.convention("keypoints3d") == "mpi_inf_3dhp_test"
    assert "extrinsics" not in store.images
    assert set(store.images["intrinsics_source"][:]) == {1}


@pytest.mark.parametrize(
    "folder", ["mpi_inf_3dhp_test_set/mpi_inf_3dhp_test_set", "mpi_inf_3dhp_test_set", "test", "."]
)
def test_outdoor_scenes_have_their_own_size_and_camera_wherever_they_lie(
    tmp_path: Path, folder: str
) -> None:
    write_test(tmp_path, "TS5", folder=folder, pictures=True)
    store, report = converted(tmp_path, tmp_path / "s.zarr", "test", pictures="original")
    assert report.instances == 6
    assert (store.images["width"][0], store.images["height"][0]) == (1920, 1080)
    (fx, fy), (cx, cy) = OUTDOOR
    wanted = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    np.testing.assert_allclose(store.images["intrinsics"][0], wanted, rtol=1e-6)
    assert bytes(store.picture(0)) == picture((1920, 1080))


def test_peers_look_at_their_own_picture_size_in_the_test_set(tmp_path: Path) -> None:
    write_test(tmp_path, "TS6", low_joint=3)
    found = {}
    for rule in ("none", "spin", "mmhuman3d"):
        store, report = converted(tmp_path, tmp_path / rule, "test", options={"filter": rule})
        found[rule] = [frame for _, _, frame in rows_of(store)]
        assert report.records == 8
    inside = found["mmhuman3d"]
    assert found["none"] == inside == [0, 2, 3, 5, 6, 7]
    assert found["spin"] == [0, 2, 5, 6, 7]


def test_a_scene_that_no_camera_fits_gets_the_known_one_marked_as_assumed(tmp_path: Path) -> None:
    def shake(arrays: dict[str, Any]) -> None:
        noise = np.random.default_rng(0).normal(scale=30, size=arrays["annot2"].shape)
        arrays["annot2"] = arrays["annot2"] + noise

    write_test(tmp_path, change=shake)
    store, report = converted(tmp_path, tmp_path / "s.zarr", "test")
    words = store.images["intrinsics_source"].attributes["vocabulary"]
    assert words[store.images["intrinsics_source"][0]] == "assumed"
    assert any("no camera fits" in note for note in report.notes)


# SPIN's fits -----------------------------------------------------------------------------------


def test_spins_rows_keep_their_joints_bodies_and_boxes(tmp_path: Path) -> None:
    data = write_spin(tmp_path)
    store, report = converted(tmp_path, tmp_path / "s.zarr", "train_spin")
    at = store.instances
    assert report.instances == report.records == 6
    valid = data["has_smpl"].astype(bool)
    np.testing.assert_array_equal(at["smpl/valid"][:], valid)
    np.testing.assert_allclose(
        at["smpl/global_orient"][:][valid], data["pose"][valid, :3], rtol=1e-6
    )
    np.testing.assert_allclose(
        at["smpl/body_pose"][:][valid].reshape(-1, 69), data["pose"][valid, 3:], rtol=1e-6
    )
    np.testing.assert_allclose(at["smpl/betas"][:][valid], data["shape"][valid], rtol=1e-6)
    assert not at["smpl/body_pose"][:][~valid].any()
    assert "smpl/transl_valid" not in at
    points, joints = at["keypoints2d"][:], at["keypoints3d"][:]
    np.testing.assert_allclose(points[:, :25], data["openpose"], rtol=1e-6)
    labelled = data["part"][..., 2] > 0
    np.testing.assert_allclose(points[:, 25:][labelled], data["part"][labelled], rtol=1e-6)
    assert (points[:, 25:][~labelled] == 0).all()
    np.testing.assert_allclose(joints[labelled], data["S"][labelled], rtol=1e-6)
    assert (joints[~labelled] == 0).all()
    assert store.convention("keypoints2d") == "smpl_49"
    assert store.convention("keypoints3d") == "smpl_24"
    assert at["keypoints3d"].attributes["root"] == "pelvis"
    side = 200 * data["scale"]
    wanted = np.column_stack([data["center"] - side[:, None] / 2, side, side, np.ones(6)])
    np.testing.assert_allclose(at["bbox_xywh"][:], wanted, rtol=1e-5)
    assert [name for _, name, _ in rows_of(store)] == ["S1/Seq1/video_0"] * 3 + [
        "S2/Seq1/video_8"
    ] * 3


def test_spins_rows_find_their_pictures_in_any_layout(tmp_path: Path) -> None:
    write_spin(tmp_path)
    folder = tmp_path / "S1" / "Seq1" / "imageSequence"
    folder.mkdir(parents=True)
    for frame in (0, 10, 20):
        (folder / f"img_0_{frame + 1:06d}.jpg").write_bytes(picture(grey=frame))
    store, report = converted(tmp_path, tmp_path / "s.zarr", "train_spin", pictures="original")
    assert report.rejected == {"missing_picture": 3}
    for row, frame in enumerate((0, 10, 20)):
        assert store.images["path"][row] == f"S1/Seq1/imageSequence/img_0_{frame + 1:06d}.jpg"
        assert bytes(store.picture(row)) == picture(grey=frame)


def test_spins_file_with_wrong_rows_and_keys(tmp_path: Path) -> None:
    def spoil(data: dict[str, Any]) -> None:
        data["imgname"] = data["imgname"].copy()
        data["imgname"][1] = data["imgname"][0]
        data["imgname"][2] = "elsewhere.jpg"
        data["S"][3, 0, 0] = np.nan

    write_spin(tmp_path, change=spoil)
    _, report = converted(tmp_path, tmp_path / "s.zarr", "train_spin")
    assert report.rejected == {"duplicate_id": 1, "image_name": 1, "not_finite": 1}
    assert report.instances == 3
    write_spin(tmp_path, change=lambda data: data.pop("S"))
    with pytest.raises(DataError, match=r"mpi_inf_3dhp_train.npz.*no S"):
        converted(tmp_path, tmp_path / "2.zarr", "train_spin")
    write_spin(tmp_path, change=lambda data: data.update(scale=data["scale"][:4]))
    with pytest.raises(DataError, match=r"scale: expected shape \(6,\), found \(4,\)"):
        converted(tmp_path, tmp_path / "3.zarr", "train_spin")


# Pictures --------------------------------------------------------------------------------------


def test_frames_of_the_videos_go_straight_into_the_store_as_far_as_they_go(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_train(raw, videos={0: 12, 1: 6})
    (raw / "S1/Seq1/imageSequence/video_4.avi").write_bytes(b"no video" * 100)
    options = {"cameras": "0,1,2,4", "stride": "5"}
    store, report = converted(raw, tmp_path / "s.zarr", pictures="original", options=options)
    # Video 1 is too short for frame 10; there is no video 2; video 4 is none.
    assert report.rejected == {"video_too_short": 1, "missing_picture": 3, "damaged_video": 3}
    assert report.instances == len(store) == 5
    assert report.records == report.instances + sum(report.filtered.values()) + 7
    assert report.rejects_file is not None
    said = Path(report.rejects_file).read_text()
    assert "S1/Seq1/imageSequence/video_1.avi ends after 6 frames" in said
    assert "there is no video S1/Seq1/imageSequence/video_2.avi" in said
    assert "video_4.avi cannot be opened: it is damaged or empty" in said
    for row, name, frame in rows_of(store):
        camera = name.rsplit("_", 1)[1]
        path = f"S1/Seq1/imageSequence/video_{camera}"
        assert store.images["path"][row] == f"{path}/{frame:06d}.jpg"
        assert store.images["video"][row] == f"{path}.avi"
        grey = float(np.mean(pictures.decode(bytes(store.picture(row)))))
        assert abs(grey - grey_of(frame)) < 4


def test_frames_are_tiled_as_they_are_encoded_and_the_workers_do_not_matter(
    tmp_path: Path,
) -> None:
    raw = tmp_path / "raw"
    write_train(raw, videos={0: 12})
    options = {"cameras": "0", "stride": "2"}
    store, report = converted(raw, tmp_path / "1.zarr", pictures="tiled", options=options)
    assert (report.tiled, report.instances) == (6, 6)
    again = convert(
        "mpi_inf_3dhp", raw, tmp_path / "2.zarr", split="train", workers=2, options=options
    )
    assert again.fingerprint == report.fingerprint
    data = bytes(store.picture(1))
    assert abs(float(np.mean(pictures.decode(data))) - grey_of(2)) < 4


@pytest.mark.parametrize(
    "name",
    [
        "S1/Seq1/imageSequence/img_{camera}_{number:06d}.jpg",
        "S1/Seq1/imageFrames/video_{camera}/frame_{number:06d}.jpg",
        "S1/Seq1/video_{camera}/{number:06d}.jpg",
        "images/S1_Seq1_Cam{camera}_{number:06d}.jpg",
    ],
)
def test_extracted_frames_keep_the_names_they_have(tmp_path: Path, name: str) -> None:
    write_train(tmp_path)
    for camera in (0, 8):
        for frame in (0, 10):
            file = tmp_path / name.format(camera=camera, number=frame + 1)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(grey=camera + frame))
    options = {"cameras": "0,8"}
    store, _ = converted(tmp_path, tmp_path / "s.zarr", pictures="original", options=options)
    assert len(store) == 4
    for row, sequence, frame in rows_of(store):
        camera = int(sequence.rsplit("_", 1)[1])
        assert store.images["path"][row] == name.format(camera=camera, number=frame + 1)
        assert store.images["video"][row] == ""
        assert bytes(store.picture(row)) == picture(grey=camera + frame)


# Bad input -------------------------------------------------------------------------------------


def drop_univ(variables: dict[str, Any]) -> None:
    del variables["univ_annot3"]


def short_cell(variables: dict[str, Any]) -> None:
    variables["annot3"][2, 0] = variables["annot3"][2, 0][:5]


def narrow_cell(variables: dict[str, Any]) -> None:
    variables["annot2"][1, 0] = variables["annot2"][1, 0][:, :34]


def few_cameras(variables: dict[str, Any]) -> None:
    for name in ("annot2", "annot3", "univ_annot3"):
        variables[name] = variables[name][:5]
    variables["cameras"] = variables["cameras"][:, :5]


def camera_twice(variables: dict[str, Any]) -> None:
    variables["cameras"][0, 3] = 2


def frame_twice(variables: dict[str, Any]) -> None:
    variables["frames"][5:] -= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_univ, "no univ_annot3"),
        (short_cell, "annot3, camera 2: expected 12 rows, as annot2 has, found 5"),
        (narrow_cell, r"annot2, camera 1: expected shape \(N, 56\), found shape \(12, 34\)"),
        (few_cameras, "annot2, camera 5: .* no such camera"),
        (camera_twice, "cameras: expected every camera once"),
        (frame_twice, "frames, row 5: expected 5: .* found 4"),
    ],
)
def test_annotations_of_another_form_are_named_with_variable_and_camera(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write_train(tmp_path, change=change)
    with pytest.raises(DataError, match=message) as caught:
        converted(tmp_path, tmp_path / "s.zarr")
    assert "annot.mat" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "comes with every sequence"),
        ("", "blocks of name, size"),
        ("name 0\n  size 2048\n", "camera 0: expected size and 2 numbers, found 2048"),
    ],
)
def test_calibrations_of_another_form_are_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    write_train(tmp_path)
    file = tmp_path / "S1" / "Seq1" / "camera.calibration"
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        converted(tmp_path, tmp_path / "s.zarr")
    assert "camera.calibration" in str(caught.value)


def test_a_camera_that_the_calibration_lacks_is_named(tmp_path: Path) -> None:
    write_train(tmp_path)
    write_calibration(tmp_path / "S1" / "Seq1" / "camera.calibration", [0, 1, 2, 4, 5, 6, 7])
    with pytest.raises(DataError, match="no camera 8"):
        converted(tmp_path, tmp_path / "s.zarr")
    store, _ = converted(tmp_path, tmp_path / "2.zarr", options={"cameras": "0"})
    assert len(store) == 2


def test_a_camera_that_is_calibrated_twice_is_named(tmp_path: Path) -> None:
    write_train(tmp_path)
    write_calibration(tmp_path / "S1" / "Seq1" / "camera.calibration", [0, 1, 2, 2])
    with pytest.raises(DataError, match="camera 2: expected one block, found a second one"):
        converted(tmp_path, tmp_path / "s.zarr")


def turn_extrinsics(file: Path, how: str) -> None:
    """Write other extrinsics into a calibration."""
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.split()[:1] == ["extrinsic"]:
            matrix = np.array(line.split()[1:], float).reshape(4, 4)
            if how == "transposed":
                matrix[:3, :3] = matrix[:3, :3].T
            elif how == "inverse":
                matrix = np.linalg.inv(matrix)
            elif how == "places":
                matrix[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
            else:
                matrix[:3, 3] += 1000 * number
            lines[number] = "  extrinsic " + " ".join(repr(float(v)) for v in matrix.ravel())
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("transposed", "its rotations are transposed"),
        ("inverse", "it is the inverse, camera to world"),
        ("places", "its translations are the cameras' places"),
        ("another", "mm apart (median) in the world of different cameras"),
    ],
)
def test_extrinsics_that_put_one_person_in_several_places_are_told(
    tmp_path: Path, how: str, words: str
) -> None:
    truth = write_train(tmp_path)
    file = tmp_path / "S1" / "Seq1" / "camera.calibration"
    joints = [1000 * truth[camera].joints for camera in (0, 1, 8)]

    def told() -> str | None:
        cameras = mpi_inf_3dhp_files.read_calibration(file)
        return mpi_inf_3dhp_files.compare_cameras(joints, [cameras[c] for c in (0, 1, 8)])

    assert told() is None
    turn_extrinsics(file, how)
    said = told()
    assert said is not None
    assert words in said
    if how == "transposed":
        _, report = converted(tmp_path, tmp_path / "s.zarr", options={"cameras": "0,1,8"})
        assert f"S1/Seq1: {said}" in report.notes


def test_damaged_files_are_named_and_the_same_command_resumes(tmp_path: Path) -> None:
    write_train(tmp_path)
    write_train(tmp_path, "S2", seed=1)
    write_test(tmp_path)
    for file, split in (
        (tmp_path / "S2" / "Seq1" / "annot.mat", "train"),
        (tmp_path / "mpi_inf_3dhp_test_set" / "TS1" / "annot_data.mat", "test"),
    ):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        out = tmp_path / f"{split}.zarr"
        with pytest.raises(DataError, match=r"cut off or damaged"):
            converted(tmp_path, out, split)
        file.write_bytes(whole)
        _, report = converted(tmp_path, out, split)
        assert report.instances == (32 if split == "train" else 6)
        assert report.resumed == (split == "train")


def test_joints_that_are_not_numbers_are_rejected_by_frame(tmp_path: Path) -> None:
    def spoil(variables: dict[str, Any]) -> None:
        variables["annot3"][1, 0][10, 3] = np.nan
        variables["annot2"][2, 0][0, 3] = np.inf
        variables["annot3"][4, 0][0, 3 * 4 + 2] = -100.0

    write_train(tmp_path, change=spoil)
    _, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.rejected == {"not_finite": 2, "behind_camera": 1}
    assert report.records == report.instances + sum(report.filtered.values()) + 3
    assert report.rejects_file is not None
    first = json.loads(Path(report.rejects_file).read_text().splitlines()[0])
    assert (first["file"], first["record"]) == ("S1/Seq1/video_1", "frame 10")


def test_scenes_whose_variables_differ_in_length_are_named(tmp_path: Path) -> None:
    write_test(tmp_path, change=lambda a: a.update(valid_frame=a["valid_frame"][:5]))
    with pytest.raises(DataError, match="as many rows in every variable"):
        converted(tmp_path, tmp_path / "s.zarr", "test")


def test_a_folder_without_the_release_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annot.mat.*none of these"):
        convert("mpi_inf_3dhp", tmp_path, tmp_path / "s.zarr", pictures="none")


def test_the_store_passes_every_check(tmp_path: Path) -> None:
    from humandata import inspection

    write_train(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    found = inspection.verify(store)
    # The stick figure has no human proportions; all else must hold.
    failed = {check.name for check in found if check.verdict == "failed"}
    assert failed <= {"bone_lengths", "sides_3d"}
    assert next(c for c in found if c.name == "reprojection").passed
    summary = inspection.summarise(store)
    assert summary["residuals"]["reprojection_error"]["people"] == len(store)
    assert summary["residuals"]["reprojection_error"]["95%"] < 0.01
    assert any("not on the disk" in note for note in summary["notes"])


def scaled_calibration(raw: Path) -> None:
    """Extrinsics of another camera: not those the joints were seen with."""
    write_train(raw)
    file = raw / "S1" / "Seq1" / "camera.calibration"
    text = file.read_text()
    for camera in range(14):
        old, new = (intrinsics_of(c)[0, 2] for c in (camera, camera + 14))
        text = text.replace(f" {float(old)!r} ", f" {float(new) + 200!r} ")
    file.write_text(text)


def test_another_calibration_is_noticed_at_conversion_and_by_inspect(tmp_path: Path) -> None:
    from humandata import inspection

    scaled_calibration(tmp_path)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert any("do annotations and calibration belong to one sequence" in n for n in report.notes)
    assert (store.instances["reprojection_error"][:] > 100).all()
    check = next(c for c in inspection.verify(store) if c.name == "reprojection")
    assert check.verdict == "failed"


# Real fragments --------------------------------------------------------------------------------


def test_real_frames_project_with_their_cameras(tmp_path: Path, samples: Path) -> None:
    """Two training and two test frames, through MATLAB files, calibration and JPEGs."""
    folder = samples / "mpi_inf_3dhp"
    train, test = (np.load(folder / f"test_3dhp_{split}.npz") for split in ("train", "test"))
    table = pickle.loads((folder / "cameras_train.pkl").read_bytes())
    relevant = list(mpi_inf_3dhp.RELEVANT)
    (tmp_path / "images").mkdir()
    for row, file in enumerate(train["imgname"].tolist()):
        subject, sequence, camera, number = file.removesuffix(".jpg").split("_")
        frame, place = int(number) - 1, int(camera[3:])
        flat, space = np.zeros((frame + 1, 28, 2)), np.zeros((frame + 1, 28, 3))
        flat[frame], space[frame] = train["part"][row][0, :2], 1000 * train["S"][row][0, :3]
        flat[frame, relevant] = train["part"][row][:, :2]
        space[frame, relevant] = 1000 * train["S"][row][:, :3]
        cells = {}
        for name, values in (("annot2", flat), ("annot3", space), ("univ_annot3", space)):
            cell = np.empty((14, 1), object)
            for c in range(14):
                cell[c, 0] = values.reshape(frame + 1, -1) if c == place else np.zeros((0, 0))
            cells[name] = cell
        place_of = tmp_path / subject / sequence
        place_of.mkdir(parents=True)
        cameras = np.arange(14, dtype=np.uint8)[None]
        scipy.io.savemat(place_of / "annot.mat", {**cells, "cameras": cameras})
        known = table[f"{subject}_{sequence}_{camera}"]
        inner, outer = np.eye(4), np.eye(4)
        inner[[0, 1], [0, 1]], inner[:2, 2] = known["f"].ravel(), known["c"].ravel()
        outer[:3, :3], outer[:3, 3] = known["R"], 1000 * known["T"].ravel()
        numbers = [" ".join(map(repr, m.ravel().tolist())) for m in (inner, outer)]
        (place_of / "camera.calibration").write_text(
            f"Skeletool Camera Calibration File V1.0\nname {place}\n  size 2048 2048\n"
            f"  intrinsic {numbers[0]} \n  extrinsic {numbers[1]} \n"
        )
        (tmp_path / "images" / file).write_bytes((folder / file).read_bytes())
        options = {"cameras": str(place), "stride": str(frame)}
        raw, out = tmp_path, tmp_path / f"{subject}.zarr"
        store, report = converted(raw, out, pictures="original", options=options)
        assert len(store) == 1, report.rejected
        assert store.instances["reprojection_error"][0] < 0.01
        assert bytes(store.picture(0)) == (folder / file).read_bytes()
        (place_of / "annot.mat").unlink()
    for row, file in enumerate(test["imgname"].tolist()):
        scene = file[:3]
        arrays = {
            "annot2": test["part"][row][None, None, :, :2],
            "annot3": 1000 * test["S"][row][None, None, :, :3],
            "univ_annot3": 1000 * test["S"][row][None, None, :, :3],
            "valid_frame": np.ones((1, 1)),
        }
        write_mat73(tmp_path / scene / "annot_data.mat", arrays)
    store, _ = converted(tmp_path, tmp_path / "test.zarr", "test")
    assert (store.instances["reprojection_error"][:] < 0.01).all()
    fitted = store.images["intrinsics"][:]
    # Fitted to one frame: TS1 equals training camera 8, TS2 does not.
    known = table["S8_Seq1_Cam8"]
    np.testing.assert_allclose(np.diag(fitted[0])[:2], known["f"].ravel(), atol=0.05)
    assert np.abs(np.diag(fitted[1])[:2] - known["f"].ravel()).max() > 0.5


def test_cameras_fitted_to_noisy_joints_are_the_least_squares_solution() -> None:
    rng = np.random.default_rng(0)
    joints = rng.uniform([-1, -1, 3], [1, 1, 5], (200, 3))
    camera = intrinsics_of(0)
    pixels = (joints / joints[:, 2:] @ camera.T)[:, :2] + rng.normal(scale=0.5, size=(200, 2))
    fitted = mpi_inf_3dhp_files.fit_intrinsics(joints, pixels)
    assert fitted is not None

    def miss(values: np.ndarray) -> np.ndarray:
        fx, fy, cx, cy = values
        u = fx * joints[:, 0] / joints[:, 2] + cx
        v = fy * joints[:, 1] / joints[:, 2] + cy
        return np.concatenate([u - pixels[:, 0], v - pixels[:, 1]])

    best = scipy.optimize.least_squares(miss, [1400, 1400, 1000, 1000], x_scale=100, xtol=1e-14).x
    found = fitted[0][[0, 1, 0, 1], [0, 1, 2, 2]]
    np.testing.assert_allclose(found, best, rtol=1e-6)
    away = np.linalg.norm(miss(best).reshape(2, -1), axis=0)
    assert fitted[1] == pytest.approx(np.median(away), rel=1e-4)
    assert mpi_inf_3dhp_files.fit_intrinsics(joints[:3], pixels[:3]) is None
    assert mpi_inf_3dhp_files.fit_intrinsics(joints[:1].repeat(9, 0), pixels[:9]) is None
