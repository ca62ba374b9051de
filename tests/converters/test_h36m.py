"""The Human3.6M converter recovers the ground truth of a release it has never seen."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from h36m_release import (
    CAMERAS,
    DIRECTIONS,
    PICKED,
    H36mTruth,
    grey_of,
    make_rig,
    write_cdf,
    write_h36m,
    write_metadata,
    write_video,
)
from scipy.spatial.transform import Rotation

import humandata
from humandata import DataError, h36m_boxes, h36m_metadata, keypoints, pictures, reprojection
from humandata.bodymodel import body_files
from humandata.converters.converter import Report, convert

KEPT = [0, 5, 10]
"""Poses of eleven that the default stride keeps."""


def converted(raw: Path, out: Path, split: str = "train", **settings: Any) -> tuple[Any, Report]:
    settings = {"pictures": "none"} | settings
    report = convert("h36m", raw, out, split=split, workers=1, **settings)
    return humandata.open(out), report


def rows_of(store: Any) -> list[tuple[int, tuple[str, str, str], int]]:
    """(row, (subject, prefix, camera), pose) of every row."""
    image = store.instances["image"][:]
    sequence, pose = store.images["sequence"][:][image], store.images["frame"][:][image]
    names, cameras = store.sequences["name"][:], store.sequences["camera"][:]
    subjects = store.sequences["subject"][:]
    found = []
    for row, (number, frame) in enumerate(zip(sequence.tolist(), pose.tolist(), strict=True)):
        prefix = names[number].split("/", 1)[1].removesuffix(f".{cameras[number]}")
        found.append((row, (subjects[number], prefix, cameras[number]), frame))
    return found


def check_joints(store: Any, truth: H36mTruth) -> None:
    """Every row's joints and camera are those of the ground truth."""
    at = store.instances
    for row, key, pose in rows_of(store):
        wanted = truth.recordings[key]
        # The files hold float32 millimetres and pixels.
        np.testing.assert_allclose(
            at["keypoints3d"][row][:, :3], wanted.camera[pose, PICKED], atol=2e-6
        )
        np.testing.assert_allclose(
            at["keypoints2d"][row][:, :2], wanted.pixels[pose, PICKED], atol=2e-4
        )
        assert (at["keypoints3d"][row][:, 3] == 1).all()
        assert (at["keypoints2d"][row][:, 2] == 1).all()
        image = int(at["image"][row])
        camera = {name: store.images[name][image] for name in store.images if name != "path"}
        np.testing.assert_allclose(camera["extrinsics"], wanted.extrinsics, atol=2e-6)
        np.testing.assert_allclose(camera["intrinsics"], wanted.intrinsics, rtol=1e-6)
        np.testing.assert_allclose(camera["distortion"], wanted.distortion, rtol=1e-6)
        assert (camera["width"], camera["height"]) == (wanted.width, wanted.height)


def test_every_fifth_pose_of_every_camera_is_a_row_with_the_joints_of_the_truth(
    tmp_path: Path,
) -> None:
    truth = write_h36m(tmp_path)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    keys = [(key, pose) for _, key, pose in rows_of(store)]
    assert keys == [(("S1", "Directions 1", camera), pose) for camera in CAMERAS for pose in KEPT]
    check_joints(store, truth)
    assert (report.records, report.instances) == (44, 12)
    assert report.filtered == {"stride_5": 32}
    assert report.rejected == {}
    assert any("S5, S6, S7, S8" in note for note in report.notes)
    assert store.sequences["action"][:] == ["Directions"] * 4
    assert store.convention("keypoints2d") == "h36m_spin"
    assert store.instances["keypoints3d"].attributes["root"] == "absolute"
    assert "smpl/valid" not in store.instances


def test_the_release_projects_with_its_own_lens_and_not_with_opencvs(tmp_path: Path) -> None:
    truth = write_h36m(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    assert (store.instances["reprojection_error"][:] < 1e-3).all()
    recording = truth.recordings["S1", "Directions 1", CAMERAS[0]]
    points = recording.camera[0]
    ours = h36m_metadata.project(points, recording.intrinsics, recording.distortion)
    np.testing.assert_allclose(ours, recording.pixels[0], atol=1e-9)
    theirs, _ = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), recording.intrinsics, recording.distortion
    )
    assert np.abs(theirs[:, 0] - ours).max() > 0.01
    # It is the tangential term that differs; k1, k2 and k3 mean the same.
    plain = recording.distortion.copy()
    plain[2:4] = 0
    theirs, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), recording.intrinsics, plain)
    same = h36m_metadata.project(points, recording.intrinsics, plain)
    np.testing.assert_allclose(theirs[:, 0], same, atol=1e-9)


def test_inspect_projects_through_the_stored_lens(tmp_path: Path) -> None:
    write_h36m(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    people = reprojection.placed_joints(store, slice(None))
    assert people is not None
    stored = store.instances["reprojection_error"][:]
    np.testing.assert_allclose(people.residual(), stored, atol=1e-3)
    assert (people.residual() < 1e-3).all()


def test_angles_and_centres_of_metadata_give_world_to_camera(tmp_path: Path) -> None:
    write_metadata(tmp_path, {"S1": DIRECTIONS}, 11, make_rig())
    cameras = h36m_metadata.read(tmp_path / "metadata.xml").cameras
    assert len(cameras) == 44
    rig = make_rig()
    angles = rig.angles[2, 6]
    expected = Rotation.from_euler("XYZ", angles).as_matrix()
    np.testing.assert_allclose(h36m_metadata.rotation(angles), expected, atol=1e-12)
    camera = cameras["S7", CAMERAS[2]].extrinsics
    centre = np.append(rig.centres[2, 6] / 1000, 1)
    np.testing.assert_allclose((camera @ centre)[:3], 0, atol=1e-12)


def test_world_poses_give_the_same_joints_as_those_of_the_cameras(tmp_path: Path) -> None:
    truth = write_h36m(tmp_path, mono=False, world=True)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    check_joints(store, truth)
    assert report.instances == 12


def test_the_folders_of_h36m_fetch_are_found(tmp_path: Path) -> None:
    truth = write_h36m(tmp_path, {"S1": DIRECTIONS})
    features, fetched = tmp_path / "S1" / "MyPoseFeatures", tmp_path / "extracted" / "S1"
    fetched.mkdir(parents=True)
    for kind in ("D2_Positions", "D3_Positions_mono"):
        (features / kind).rename(fetched / f"Poses_{kind}")
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    check_joints(store, truth)
    assert report.instances == 12


def test_world_poses_are_taken_where_asked_for(tmp_path: Path) -> None:
    truth = write_h36m(
        tmp_path, world=True, change_pose=lambda kind, v: v * 0 if kind == "mono" else v
    )
    store, _ = converted(tmp_path, tmp_path / "s.zarr", options={"poses": "world"})
    check_joints(store, truth)


def test_protocol_1_tests_all_cameras_and_protocol_2_the_frontal_one(tmp_path: Path) -> None:
    write_h36m(tmp_path, {"S9": DIRECTIONS, "S11": [(2, 1, "Directions")]})
    first, _ = converted(tmp_path, tmp_path / "1.zarr", "test_p1")
    second, _ = converted(tmp_path, tmp_path / "2.zarr", "test_p2")
    assert [key for _, key, pose in rows_of(first) if pose == 0] == [
        *(("S9", "Directions 1", camera) for camera in CAMERAS),
        *(("S11", "Directions", camera) for camera in CAMERAS),
    ]
    assert {camera for _, (_, _, camera), _ in rows_of(second)} == {"60457274"}
    assert len(second) == 6


def test_subjects_cameras_and_stride_can_be_chosen(tmp_path: Path) -> None:
    write_h36m(tmp_path)
    options = {"subjects": "1,9", "cameras": "55011271", "stride": "4"}
    store, report = converted(tmp_path, tmp_path / "s.zarr", options=options)
    assert [(key[0], pose) for _, key, pose in rows_of(store)] == [
        (subject, pose) for subject in ("S1", "S9") for pose in (0, 4, 8)
    ]
    assert report.filtered == {"stride_4": 16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": "0"}, "stride=0"),
        ({"subjects": "S12"}, "numbers from 1 to 11"),
        ({"cameras": "4"}, "the cameras are 54138969"),
    ],
)
def test_wrong_choices_are_named(tmp_path: Path, options: dict[str, str], message: str) -> None:
    write_h36m(tmp_path)
    with pytest.raises(humandata.HumandataError, match=message):
        converted(tmp_path, tmp_path / "s.zarr", options=options)


def test_file_names_come_from_the_mapping_and_heights_from_the_subject(tmp_path: Path) -> None:
    takes = {
        "S1": [(12, 1, "TakingPhoto 1"), (15, 2, "WalkDog")],
        "S7": [(12, 1, "Photo"), (15, 1, "WalkDog 1")],
    }
    truth = write_h36m(tmp_path, takes)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    check_joints(store, truth)
    actions = dict(zip(store.sequences["name"][:], store.sequences["action"][:], strict=True))
    assert actions["S7/Photo.54138969"] == "TakingPhoto"
    assert actions["S1/WalkDog.54138969"] == "WalkingDog"
    assert truth.recordings["S7", "Photo", "55011271"].height == 1002
    assert truth.recordings["S1", "WalkDog", "55011271"].height == 1000


def test_joints_have_the_names_of_spin_or_of_mmhuman3d_at_the_same_places(tmp_path: Path) -> None:
    write_h36m(tmp_path)
    ours, _ = converted(tmp_path, tmp_path / "1.zarr")
    theirs, _ = converted(tmp_path, tmp_path / "2.zarr", options={"convention": "h36m"})
    assert theirs.convention("keypoints3d") == "h36m"
    np.testing.assert_array_equal(ours.instances["keypoints3d"][:], theirs.instances["keypoints3d"])
    raw = keypoints.names("h36m_spin")
    assert (raw[0], raw[1], raw[9], raw[10]) == (
        "pelvis_extra", "left_hip_extra", "jaw_extra", "head_extra",
    )  # fmt: skip


# Boxes -----------------------------------------------------------------------------------------


def test_boxes_hold_the_17_joints_enlarged_and_unclipped(tmp_path: Path) -> None:
    truth = write_h36m(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    box = store.instances["bbox_xywh"]
    assert box.attributes["factor"] == 1.2
    for row, key, pose in rows_of(store):
        points = truth.recordings[key].pixels[pose, PICKED]
        low, high = points.min(axis=0), points.max(axis=0)
        wanted = [*((low + high) / 2 - 0.6 * (high - low)), *(1.2 * (high - low)), 1]
        np.testing.assert_allclose(box[row], wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        # ground_truth_bs: columns 410..579, rows 320..689; ground_truth_bb: 400..599, 300..699.
        ("mmhuman3d", [410 + 0.05 * 170, 320 + 0.05 * 370, 0.9 * 170, 0.9 * 370]),
        ("spin", [500 - 180, 500 - 180, 360, 360]),
    ],
)
def test_boxes_of_peers_are_those_of_the_masks(
    tmp_path: Path, rule: str, wanted: list[float]
) -> None:
    takes = {"S1": DIRECTIONS}
    truth = write_h36m(tmp_path, takes, masks=True, cameras=("60457274",))
    options = {"box": rule, "cameras": "60457274"}
    store, report = converted(tmp_path, tmp_path / "s.zarr", options=options)
    box = store.instances["bbox_xywh"]
    assert box.attributes["factor"] == 0.9
    np.testing.assert_allclose(box[0], [*wanted, 1])
    # The mask of pose 5 is empty: its box is that of the joints.
    points = truth.recordings["S1", "Directions 1", "60457274"].pixels[5, PICKED]
    np.testing.assert_allclose(box[1][2:4], 1.2 * np.ptp(points, axis=0), rtol=1e-5)
    np.testing.assert_allclose(box[2][:2], np.add(wanted[:2], [10, 0]))
    assert any("1 masks are empty" in note for note in report.notes)


def test_boxes_of_joints_as_mmpose_and_mks0601_make_them(tmp_path: Path) -> None:
    truth = write_h36m(tmp_path)
    points = truth.recordings["S1", "Directions 1", CAMERAS[0]].pixels[0, PICKED]
    extent, centre = np.ptp(points, axis=0), (points.min(axis=0) + points.max(axis=0)) / 2
    for rule, size in (("mmpose", 1.2 * extent.max().repeat(2)), ("mks0601", 1.2 * (extent - 1))):
        store, _ = converted(tmp_path, tmp_path / f"{rule}.zarr", options={"box": rule})
        wanted = [*(centre - size / 2), *size, 1]
        np.testing.assert_allclose(store.instances["bbox_xywh"][0], wanted, atol=1e-3)


def test_masks_that_are_asked_for_and_not_there_are_named(tmp_path: Path) -> None:
    write_h36m(tmp_path)
    with pytest.raises(DataError, match=r"ground_truth_bs/Directions 1.54138969.mat"):
        converted(tmp_path, tmp_path / "s.zarr", options={"box": "mmhuman3d"})


@pytest.mark.parametrize("what", ["numbers", "no reference", "a group", "cut off"])
def test_masks_that_are_none_are_named(tmp_path: Path, what: str) -> None:
    file = tmp_path / "Directions 1.54138969.mat"
    with h5py.File(file, "w") as content:
        group = content.create_group("#refs#")
        if what == "numbers":
            content["Masks"] = np.zeros((3, 1))
        else:
            pointers = content.create_dataset("Masks", (3, 1), dtype=h5py.ref_dtype)
            pointers[1, 0] = group.ref if what == "a group" else h5py.Reference()
    if what == "cut off":
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"54138969\.mat: expected a MATLAB 7.3 file with Masks"):
        h36m_boxes.mask_boxes(file, np.array([1]))


# Bodies ----------------------------------------------------------------------------------------


def test_mosh_bodies_stand_upright_in_the_frame_of_their_camera(tmp_path: Path) -> None:
    truth = write_h36m(tmp_path, mosh=True)
    (tmp_path / "h36m_mosh" / "S1" / "Directions 1_cam2_aligned.pkl").unlink()
    store, report = converted(tmp_path, tmp_path / "s.zarr", options={"stride": "1"})
    at = store.instances
    assert report.instances == 44
    for row, key, pose in rows_of(store):
        fitted = pose % 5 == 0 and key[2] != CAMERAS[2]
        assert at["smpl/valid"][row] == fitted
        if not fitted:
            assert not at["smpl/body_pose"][row].any()
            continue
        root = Rotation.from_rotvec(at["smpl/global_orient"][row]).as_matrix()
        np.testing.assert_allclose(root, truth.roots[key][pose // 5], atol=2e-6)
        wanted = truth.poses[key][pose // 5, 3:].reshape(23, 3)
        np.testing.assert_allclose(at["smpl/body_pose"][row], wanted, rtol=1e-6)
        np.testing.assert_allclose(at["smpl/betas"][row], np.linspace(-1, 1, 10), rtol=1e-6)
    valid = at["smpl/valid"][:]
    for name, word in (("smpl/source", "mosh"), ("gender", "neutral")):
        vocabulary = at[name].attributes["vocabulary"]
        assert {vocabulary[code] for code in at[name][:][valid]} == {word}
    assert "smpl/transl_valid" not in at


def test_bodies_are_held_against_the_mocap_where_smpl_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_h36m(tmp_path, mosh=True)
    monkeypatch.setenv("HUMANDATA_BODY_MODELS", str(body_files(tmp_path / "bodies")))
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    # The mocap figure of the fixture is no human body, and the random poses are none of its.
    assert (store.instances["smpl/fit_error"][:] > 5).all()
    assert any("MoSh bodies miss the mocap" in note for note in report.notes)


# Pictures --------------------------------------------------------------------------------------


def level(data: bytes | memoryview) -> float:
    return float(np.mean(pictures.decode(bytes(data))))


def test_frames_of_the_videos_go_straight_into_the_store(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_h36m(raw, {"S1": DIRECTIONS}, videos=True)
    before = sorted(raw.rglob("*"))
    store, report = converted(raw, tmp_path / "s.zarr", pictures="original")
    assert report.instances == 12
    for row, (_, _, camera), pose in rows_of(store):
        assert store.images["path"][row] == (
            f"S1/images/S1_Directions_1.{camera}/S1_Directions_1.{camera}_{pose + 1:06d}.jpg"
        )
        assert store.images["video"][row] == f"S1/Videos/Directions 1.{camera}.mp4"
        assert abs(level(store.picture(row)) - grey_of(pose)) < 4
    assert "decoded" in store.images["video"].attributes["pictures"]
    assert sorted(raw.rglob("*")) == before


def test_a_store_of_paths_says_that_its_pictures_are_in_a_video(tmp_path: Path) -> None:
    write_h36m(tmp_path, {"S1": DIRECTIONS}, videos=True, cameras=CAMERAS[:1])
    store, _ = converted(tmp_path, tmp_path / "s.zarr", options={"cameras": CAMERAS[0]})
    with pytest.raises(DataError, match=r"frame of the video S1/Videos/Directions 1.54138969.mp4"):
        store.picture(0)


@pytest.mark.parametrize(
    "name",
    [
        "S1/images/S1_Directions_1.{camera}/S1_Directions_1.{camera}_{number:06d}.jpg",
        "S1/images/S1_Directions_1.{camera}/S1_Directions_1.{camera}_{number:05d}.jpg",
        "images/S1/S1_Directions_1.{camera}/S1_Directions_1.{camera}_{number:06d}.jpg",
        "images/S1_Directions_1.{camera}_{number:06d}.jpg",
        "images/s_01_act_02_subact_01_ca_0{place}/s_01_act_02_subact_01_ca_0{place}_{number:06d}.jpg",
        "processed/S1/Directions-1/imageSequence/{camera}/img_{number:06d}.jpg",
    ],
)
def test_extracted_frames_keep_the_names_they_have(tmp_path: Path, name: str) -> None:
    write_h36m(tmp_path, {"S1": DIRECTIONS})
    data = {camera: cv2.imencode(".jpg", np.full((1000, 1000), 90, np.uint8))[1].tobytes()
            for camera in CAMERAS[1:3]}  # fmt: skip
    for place, camera in enumerate(CAMERAS, 1):
        for pose in KEPT:
            file = tmp_path / name.format(camera=camera, number=pose + 1, place=place)
            file.parent.mkdir(parents=True, exist_ok=True)
            if camera in data:
                file.write_bytes(data[camera])
    options = {"cameras": ",".join(data)}
    store, _ = converted(tmp_path, tmp_path / "s.zarr", pictures="original", options=options)
    assert len(store) == 6
    for row, (_, _, camera), pose in rows_of(store):
        place = CAMERAS.index(camera) + 1
        path = name.format(camera=camera, number=pose + 1, place=place)
        assert store.images["path"][row] == path
        assert store.images["video"][row] == ""
        assert bytes(store.picture(row)) == data[camera]


def test_persons_are_cut_out_of_the_frames(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_h36m(raw, {"S1": DIRECTIONS}, videos=True, cameras=CAMERAS[:1])
    options = {"cameras": CAMERAS[0]}
    store, report = converted(raw, tmp_path / "s.zarr", pictures=None, crop=64, options=options)
    assert report.crops == report.instances == 3
    for row, pose in enumerate(KEPT):
        crop = store.crop(row)
        pixels = pictures.decode(bytes(crop.data))
        assert abs(np.median(pixels) - grey_of(pose)) < 4


def test_missing_short_and_damaged_videos_are_reported_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    takes = {"S11": [(2, 2, "Directions")]}
    write_h36m(tmp_path, takes, videos=True)
    folder = tmp_path / "S11" / "Videos"
    (folder / f"Directions.{CAMERAS[0]}.mp4").unlink()
    write_video(folder / f"Directions.{CAMERAS[1]}.mp4", 7, (1000, 1000))
    damaged = folder / f"Directions.{CAMERAS[2]}.mp4"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    store, report = converted(tmp_path, tmp_path / "s.zarr", "test_p1", pictures="original")
    assert report.rejected == {"missing_picture": 3, "video_too_short": 1, "damaged_video": 3}
    assert report.lost_files == 0  # as with pictures: counted, and no reason to fail
    assert report.instances == len(store) == 5
    assert report.records == 5 + 7 + report.filtered["stride_5"]
    assert report.rejects_file is not None
    lines = [json.loads(line) for line in Path(report.rejects_file).read_text().splitlines()]
    said = " ".join(line["detail"] for line in lines)
    assert f"there is no video S11/Videos/Directions.{CAMERAS[0]}.mp4" in said
    assert f"Directions.{CAMERAS[1]}.mp4 ends after 7 frames" in said
    assert f"Directions.{CAMERAS[2]}.mp4 cannot be opened" in said


# The shift of S9 -------------------------------------------------------------------------------


def test_three_sequences_of_s9_are_moved_if_asked_and_kept_otherwise(tmp_path: Path) -> None:
    truth = write_h36m(tmp_path, {"S9": [(5, 1, "Greeting"), (5, 2, "Greeting 1")]})
    kept, report = converted(tmp_path, tmp_path / "1.zarr", "test_p1")
    check_joints(kept, truth)
    assert sum("0.2 m" in note for note in report.notes) == 1
    moved, _ = converted(tmp_path, tmp_path / "2.zarr", "test_p1", options={"s9": "corrected"})
    assert (moved.instances["reprojection_error"][:] < 1e-3).all()
    for row, key, pose in rows_of(moved):
        recording = truth.recordings[key]
        world = np.linalg.inv(recording.extrinsics)
        points = moved.instances["keypoints3d"][row][:, :3] @ world[:3, :3].T + world[:3, 3]
        before = recording.camera[pose, PICKED] @ world[:3, :3].T + world[:3, 3]
        wanted = [-0.2, 0, 0] if key[1] == "Greeting" else [0, 0, 0]
        np.testing.assert_allclose(points - before, np.tile(wanted, (17, 1)), atol=5e-6)


# Bad input -------------------------------------------------------------------------------------


def test_metadata_that_is_missing_is_asked_for_by_name(tmp_path: Path) -> None:
    write_h36m(tmp_path)
    (tmp_path / "metadata.xml").unlink()
    with pytest.raises(DataError, match=r"metadata.xml.*large scale prediction"):
        converted(tmp_path, tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "complete XML"),
        (lambda text: text.replace("w0", "w1"), "the element w0"),
        (lambda text: text.replace("<w0>[", "<w0>[7 "), "found 301 numbers"),
        (lambda text: text.replace("54138969", "54138960"), "dbcameras/index2id"),
        (lambda text: text.replace("[1002 1000;1000", "[nought;1000"), "sizes of S1"),
        (lambda text: text.replace("_ALL 1", "Directions 1"), "'Directions 1' twice"),
        (lambda text: text.replace("<mapping>", "<mapping><tr/>"), "mapping"),
    ],
)
def test_metadata_of_another_form_is_named_with_its_element(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    write_h36m(tmp_path, change=change)
    with pytest.raises(DataError, match=message) as caught:
        converted(tmp_path, tmp_path / "s.zarr")
    assert "metadata.xml" in str(caught.value)


def test_a_damaged_cdf_file_is_one_reject_and_the_others_stay(tmp_path: Path) -> None:
    write_h36m(tmp_path)
    folder = tmp_path / "S1" / "MyPoseFeatures"
    damaged = folder / "D3_Positions_mono" / f"Directions 1.{CAMERAS[0]}.cdf"
    damaged.write_bytes(damaged.read_bytes()[:700])
    (folder / "D2_Positions" / f"Directions 1.{CAMERAS[1]}.cdf").unlink()
    write_cdf(folder / "D2_Positions" / f"Directions 1.{CAMERAS[2]}.cdf", np.zeros((11, 96)))
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.rejected == {"damaged_poses": 2, "missing_poses": 1}
    assert {key[2] for _, key, _ in rows_of(store)} == {CAMERAS[3]}
    assert report.records == 3 + 11
    assert report.rejects_file is not None
    said = Path(report.rejects_file).read_text()
    assert "cut off or damaged" in said
    assert "no CDF file of the 2D" in said
    assert "expected shape (1, N, 64)" in said
    # A file that is not there may be meant so; one that cannot be read is not.
    assert report.lost_files == 2


def test_a_damaged_mosh_file_is_one_reject_as_a_damaged_cdf_file_is(tmp_path: Path) -> None:
    write_h36m(tmp_path, {"S1": DIRECTIONS}, mosh=True)
    folder = tmp_path / "h36m_mosh" / "S1"
    cut, other = (folder / f"Directions 1_cam{number}_aligned.pkl" for number in (0, 1))
    cut.write_bytes(cut.read_bytes()[:300])
    other.write_bytes(pickle.dumps({"new_poses": np.zeros((3, 70)), "betas": np.zeros(10)}))
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.rejected == {"damaged_bodies": 2}
    assert report.lost_files == 2
    assert {key[2] for _, key, _ in rows_of(store)} == set(CAMERAS[2:])
    assert store.instances["smpl/valid"][:].all()
    said = Path(str(report.rejects_file)).read_text()
    assert "Directions 1_cam0_aligned.pkl" in said
    assert "(3, 70)" in said


def test_the_exit_status_says_that_a_file_of_poses_could_not_be_read(tmp_path: Path) -> None:
    write_h36m(tmp_path, {"S1": DIRECTIONS})
    folder = tmp_path / "S1" / "MyPoseFeatures" / "D3_Positions_mono"
    damaged = folder / f"Directions 1.{CAMERAS[0]}.cdf"
    damaged.write_bytes(damaged.read_bytes()[:700])
    words = ["convert", "h36m", str(tmp_path), str(tmp_path / "s.zarr"), "--split", "train"]
    words += ["--pictures", "none", "--workers", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "humandata.cli.main", *words], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "1 file of annotations cannot be used" in run.stderr
    assert "s.zarr.rejects.jsonl says which and why" in run.stderr
    assert "s.zarr holds the rest" in run.stderr
    assert "rejected: damaged_poses" in run.stdout
    assert len(humandata.open(tmp_path / "s.zarr")) == 3 * len(KEPT)


def test_a_camera_without_files_is_named_and_the_others_stay(tmp_path: Path) -> None:
    write_h36m(tmp_path, {"S1": DIRECTIONS}, cameras=CAMERAS[1:])
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert (report.rejected, report.lost_files) == ({"missing_poses": 1}, 0)
    assert {key[2] for _, key, _ in rows_of(store)} == set(CAMERAS[1:])
    assert report.rejects_file is not None
    (line,) = Path(report.rejects_file).read_text().splitlines()
    assert json.loads(line)["file"] == f"S1/Directions 1.{CAMERAS[0]}"


def test_2d_that_is_shorter_than_3d_is_reported_and_the_common_part_kept(tmp_path: Path) -> None:
    write_h36m(tmp_path, change_pose=lambda kind, v: v[:8] if kind == "pixels" else v)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert {pose for _, _, pose in rows_of(store)} == {0, 5}
    assert report.rejected == {"poses_differ": 4}
    assert report.records == 44
    assert any("8 poses in 2D, 11 in 3D" in note for note in report.notes)


def test_joints_that_are_not_numbers_are_rejected_by_pose(tmp_path: Path) -> None:
    def spoil(kind: str, values: np.ndarray) -> np.ndarray:
        values = values.copy()
        if kind == "mono":
            values[5, PICKED[3]] = np.nan
        return values

    write_h36m(tmp_path, change_pose=spoil)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.rejected == {"not_finite": 4}
    assert len(store) == 8
    assert report.rejects_file is not None
    first = json.loads(Path(report.rejects_file).read_text().splitlines()[0])
    assert (first["file"], first["record"]) == (f"S1/Directions 1.{CAMERAS[0]}", "pose 5")


def test_poses_and_cameras_that_do_not_belong_together_are_said_in_words(tmp_path: Path) -> None:
    mirrored = [0, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, *range(11, 16), *range(24, 32), *range(16, 24)]
    wrong: dict[str, Callable[[str, np.ndarray], np.ndarray]] = {
        "left and right": lambda kind, v: v[:, mirrored] if kind == "mono" else v,
        "universal": lambda kind, v: v[:, :1] + 1.3 * (v - v[:, :1]) if kind == "mono" else v,
    }
    for words, change in wrong.items():
        raw = tmp_path / words
        write_h36m(raw, change_pose=change)
        _, report = converted(raw, tmp_path / f"{words}.zarr")
        assert report.rejected == {"does_not_reproject": 4}
        assert report.rejects_file is not None
        assert words in Path(report.rejects_file).read_text()


def test_world_joints_in_the_place_of_the_cameras_are_recognised(tmp_path: Path) -> None:
    write_h36m(tmp_path, world=True)
    folder = tmp_path / "S1" / "MyPoseFeatures"
    world = (folder / "D3_Positions" / "Directions 1.cdf").read_bytes()
    (folder / "D3_Positions_mono" / f"Directions 1.{CAMERAS[0]}.cdf").write_bytes(world)
    _, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.rejected == {"does_not_reproject": 1}
    assert report.rejects_file is not None
    assert "in the world frame" in Path(report.rejects_file).read_text()


def test_extrinsics_are_held_against_the_world_where_its_joints_are_there(tmp_path: Path) -> None:
    write_h36m(tmp_path / "sound", world=True)
    _, report = converted(tmp_path / "sound", tmp_path / "1.zarr")
    assert not any("extrinsics" in note for note in report.notes)
    write_h36m(
        tmp_path / "wrong", world=True, change_pose=lambda kind, v: v + 50 * (kind == "world")
    )
    _, report = converted(tmp_path / "wrong", tmp_path / "2.zarr")
    assert sum("87 mm (median) beside" in note for note in report.notes) == 4


def test_fewer_poses_than_metadata_says_are_told(tmp_path: Path) -> None:
    write_h36m(tmp_path, change_pose=lambda kind, v: v[:8])
    _, report = converted(tmp_path, tmp_path / "s.zarr")
    assert f"S1/Directions 1.{CAMERAS[0]}: 8 poses; metadata.xml says 11" in report.notes


def test_the_store_passes_every_check(tmp_path: Path) -> None:
    from humandata import inspection

    write_h36m(tmp_path, mosh=True)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    failed = [c for c in inspection.verify(store) if c.verdict == "failed"]
    # The stick figure has no human proportions, and the bodies are not its; all else must hold.
    assert {check.name for check in failed} <= {"bone_lengths", "sides_3d", "body_joints"}
    reprojection = next(c for c in inspection.verify(store) if c.name == "reprojection")
    assert reprojection.passed


# Real fragments --------------------------------------------------------------------------------


def test_real_frames_come_out_as_others_converted_them(tmp_path: Path, samples: Path) -> None:
    """Cameras and joints of four real frames, through metadata.xml, CDF files and JPEGs."""
    folder = samples / "h36m"
    known = np.load(folder / "test_h36m_body3d.npz")
    table = pickle.loads((folder / "cameras.pkl").read_bytes())
    rig = make_rig()
    for (subject, camera), entry in table.items():
        number, column = CAMERAS.index(camera), int(subject[1:]) - 1
        turn = entry["R"].T
        rig.angles[number, column] = Rotation.from_matrix(turn).as_euler("XYZ")
        rig.centres[number, column] = 1000 * entry["T"].ravel()
    lenses = [
        np.concatenate([table["S1", c][k].ravel() for k in ("f", "c", "k", "p")]) for c in CAMERAS
    ]
    rig.numbers = lambda: [  # type: ignore[method-assign]
        *np.concatenate([rig.angles, rig.centres], axis=2).ravel().tolist(),
        *np.concatenate(lenses).tolist(),
    ]
    takes = {
        "S1": [(2, 1, "Directions 1")], "S5": [(10, 1, "SittingDown")],
        "S7": [(5, 1, "Greeting")], "S8": [(15, 1, "WalkDog 1")],
    }  # fmt: skip
    write_metadata(tmp_path, takes, 11, rig)
    # The fragment lists the right leg first.
    order_b = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
    wanted = {}
    for row, name in enumerate(known["imgname"].tolist()):
        subject, stem = name.split("/")[0], Path(name).stem
        recording, number = stem.rsplit("_", 1)
        prefix, camera = recording.split("_", 1)[1].replace("_", " ").rsplit(".", 1)
        pose = int(number) - 1
        space, plane = np.zeros((pose + 1, 32, 3)), np.zeros((pose + 1, 32, 2))
        space[pose, order_b] = 1000 * known["S"][row, :, :3]
        plane[pose, order_b] = known["part"][row, :, :2]
        space[pose, [11, 24]], plane[pose, [11, 24]] = space[pose, [0, 13]], plane[pose, [0, 13]]
        features = tmp_path / subject / "MyPoseFeatures"
        write_cdf(features / "D3_Positions_mono" / f"{prefix}.{camera}.cdf", space)
        write_cdf(features / "D2_Positions" / f"{prefix}.{camera}.cdf", plane)
        picture = tmp_path / subject / "images" / recording / f"{stem}.jpg"
        picture.parent.mkdir(parents=True)
        picture.write_bytes((folder / name).read_bytes())
        wanted[subject] = (plane[pose, PICKED], space[pose, PICKED] / 1000, picture)
    for subject, (plane, space, picture) in wanted.items():
        pose = int(picture.stem.rsplit("_", 1)[1]) - 1
        options = {"subjects": subject, "stride": str(max(pose, 1))}
        # Poses before the real one are zeros, and behind the camera.
        store, report = converted(
            tmp_path, tmp_path / f"{subject}.zarr", pictures="original", options=options
        )
        assert len(store) == 1, report.rejected
        np.testing.assert_allclose(store.instances["keypoints2d"][0][:, :2], plane, atol=1e-4)
        np.testing.assert_allclose(store.instances["keypoints3d"][0][:, :3], space, atol=1e-6)
        assert store.instances["reprojection_error"][0] < 1e-3
        assert bytes(store.picture(0)) == picture.read_bytes()
        assert store.sequences["subject"][0] == subject
