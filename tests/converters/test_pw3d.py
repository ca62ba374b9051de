"""The 3DPW converter recovers the ground truth of a release it has never seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pw3d_release import SHARED, SequenceTruth, write_pw3d
from scipy.spatial.transform import Rotation

import humandata
from humandata import DataError
from humandata.converters.converter import Report, convert

SMALL = (108, 192)


def converted(raw: Path, out: Path, **settings: Any) -> tuple[humandata.Store, Report]:
    report = convert("pw3d", raw, out, workers=1, **settings)
    return humandata.open(out), report


def rows_of(store: humandata.Store, truth: SequenceTruth) -> list[tuple[int, int, int]]:
    """(row, actor, frame) of every row that lies in this sequence."""
    number = store.sequences["name"][:].index(truth.name)
    images = store.instances["image"][:]
    sequence, frame = store.images["sequence"][images], store.images["frame"][images]
    persons = store.instances["person"][:]
    return [
        (int(row), int(persons[row]), int(frame[row])) for row in np.flatnonzero(sequence == number)
    ]


def test_kept_rows_are_the_frames_with_a_valid_camera_actors_first(tmp_path: Path) -> None:
    truth = write_pw3d(tmp_path, size=SMALL)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    wanted = [(a, f) for a in range(2) for f in range(6) if truth.valid[a, f]]
    assert [(a, f) for _, a, f in rows_of(store, truth)] == wanted
    assert (report.records, report.instances) == (12, 10)
    assert report.filtered == {"campose_invalid": 2}


def test_body_joints_and_cameras_are_those_of_the_ground_truth(tmp_path: Path) -> None:
    truth = write_pw3d(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    data = store.instances
    for row, actor, frame in rows_of(store, truth):
        rotation = Rotation.from_rotvec(data["smpl/global_orient"][row]).as_matrix()
        np.testing.assert_allclose(rotation, truth.rotation[actor, frame], atol=2e-6)
        np.testing.assert_allclose(data["smpl/transl"][row], truth.transl[actor, frame], atol=2e-6)
        np.testing.assert_allclose(
            data["smpl/body_pose"][row].ravel(), truth.pose[actor, frame, 3:], rtol=1e-6
        )
        np.testing.assert_allclose(data["smpl/betas"][row], truth.betas[actor][:10], rtol=1e-6)
        joints = data["keypoints3d"][row]
        np.testing.assert_allclose(joints[:, :3], truth.joints[actor, frame], atol=2e-6)
        assert (joints[:, 3] == 1).all()
        image = int(data["image"][row])
        assert store.images["path"][image] == f"imageFiles/{truth.name}/image_{frame:05d}.jpg"
        np.testing.assert_allclose(
            store.images["extrinsics"][image], truth.extrinsics[frame], atol=1e-6
        )
        projected = joints[:, :3] @ store.images["intrinsics"][image].T
        pixels = projected[:, :2] / projected[:, 2:]
        np.testing.assert_allclose(pixels, truth.pixels[actor, frame], atol=0.01)
    words = data["gender"].attributes["vocabulary"]
    genders = {a: words[data["gender"][row]] for row, a, _ in rows_of(store, truth)}
    assert genders == {0: "male", 1: "female"}
    assert data["keypoints3d"].attributes["root"] == "absolute"
    assert store.convention("keypoints3d") == "smpl"


def test_a_known_quarter_turn_of_the_camera_turns_the_root_and_not_the_rest(tmp_path: Path) -> None:
    quarter = np.array([[0, 0, -1, 0.0], [0, 1, 0, 0], [1, 0, 0, 5], [0, 0, 0, 1]])

    def set_camera(data: dict[str, Any]) -> None:
        data["cam_poses"] = np.tile(quarter, (6, 1, 1))

    truth = write_pw3d(tmp_path, size=SMALL, change=set_camera)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    for row, actor, frame in rows_of(store, truth):
        root = Rotation.from_rotvec(truth.pose[actor, frame, :3]).as_matrix()
        found = Rotation.from_rotvec(store.instances["smpl/global_orient"][row]).as_matrix()
        np.testing.assert_allclose(found, quarter[:3, :3] @ root, atol=2e-6)


def test_detections_keep_their_confidence_and_lose_far_outliers(tmp_path: Path) -> None:
    truth = write_pw3d(tmp_path, size=SMALL)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    assert store.convention("keypoints2d") == "pw3d"
    for row, actor, frame in rows_of(store, truth):
        points = store.instances["keypoints2d"][row]
        if (actor, frame) == truth.undetected:
            assert (points == 0).all()
            continue
        assert set(np.flatnonzero(points[:, 2])) == set(SHARED)
        for ours, theirs in SHARED.items():
            away = np.linalg.norm(points[ours, :2] - truth.pixels[actor, frame, theirs])
            assert away < 5


def test_boxes_hold_the_detections_enlarged_and_unclipped(tmp_path: Path) -> None:
    truth = write_pw3d(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    assert store.instances["bbox_xywh"].attributes["factor"] == 1.2
    for row, actor, frame in rows_of(store, truth):
        points = store.instances["keypoints2d"][row]
        seen = points[points[:, 2] > 0, :2]
        if (actor, frame) == truth.undetected:  # then the projected joints make the box
            seen = truth.pixels[actor, frame]
        low, high = seen.min(axis=0), seen.max(axis=0)
        centre, size = (low + high) / 2, (high - low) * 1.2
        box = store.instances["bbox_xywh"][row]
        np.testing.assert_allclose(box[:4], [*(centre - size / 2), *size], rtol=1e-4, atol=0.01)


def test_reprojection_residual_is_the_noise_of_the_detections(tmp_path: Path) -> None:
    truth = write_pw3d(tmp_path)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    error = store.instances["reprojection_error"][:]
    for row, actor, frame in rows_of(store, truth):
        if (actor, frame) == truth.undetected:
            assert error[row] == -1
        else:
            assert 0.3 < error[row] < 3  # one pixel of noise


def test_all_three_splits_come_from_their_folders(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_pw3d(tmp_path, split, f"{split}_00", frames=3, actors=1, size=SMALL)
        write_pw3d(tmp_path, split, f"{split}_01", frames=3, actors=1, size=SMALL, seed=1)
    for split in ("train", "validation", "test"):
        store, _ = converted(tmp_path, tmp_path / f"{split}.zarr", split=split)
        assert store.sequences["name"][:] == [f"{split}_00", f"{split}_01"]


def test_a_doubled_folder_of_the_archive_is_found(tmp_path: Path) -> None:
    write_pw3d(tmp_path, frames=3, actors=1, size=SMALL)
    inner = tmp_path / "sequenceFiles" / "sequenceFiles"
    (tmp_path / "sequenceFiles").rename(tmp_path / "outer")
    inner.parent.mkdir()
    (tmp_path / "outer").rename(inner)
    store, _ = converted(tmp_path, tmp_path / "s.zarr")
    assert len(store) == 2 - 1


def test_pictures_lie_in_the_store(tmp_path: Path) -> None:
    write_pw3d(tmp_path, size=SMALL)
    store, _ = converted(tmp_path, tmp_path / "s.zarr", pictures="original")
    for row in range(store.images.rows):
        assert store.picture(row) == (tmp_path / store.images["path"][row]).read_bytes()


def test_a_missing_frame_is_rejected_with_both_of_its_actors(tmp_path: Path) -> None:
    truth = write_pw3d(tmp_path, size=SMALL)
    (tmp_path / "imageFiles" / truth.name / "image_00003.jpg").unlink()
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.rejected == {"missing_picture": 2}
    assert report.instances == len(store) == 8
    assert report.records == 8 + 2 + report.filtered["campose_invalid"]


def test_a_row_with_nan_is_rejected_by_actor_and_frame(tmp_path: Path) -> None:
    def spoil(data: dict[str, Any]) -> None:
        data["poses"][1][4, 30] = np.nan

    write_pw3d(tmp_path, size=SMALL, change=spoil)
    _, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.rejected == {"not_finite": 1}
    assert report.rejects_file is not None
    assert json.loads(Path(report.rejects_file).read_text())["record"] == "actor 1, frame 4"


def drop_cameras(data: dict[str, Any]) -> None:
    del data["cam_poses"]


def short_poses(data: dict[str, Any]) -> None:
    data["poses"][0] = data["poses"][0][:3]


def wandering_pelvis(data: dict[str, Any]) -> None:
    data["trans"][0] = data["trans"][0] * 1000


def few_betas(data: dict[str, Any]) -> None:
    data["betas"][0] = data["betas"][0][:4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_cameras, "no cam_poses"),
        (short_poses, r"poses, actor 0: expected shape \(6, 72\), found shape \(3, 72\)"),
        (wandering_pelvis, "one rest-pose pelvis"),
        (few_betas, "betas, actor 0: expected at least 10, found 4"),
    ],
)
def test_a_file_of_another_form_is_named_with_key_and_shape(
    tmp_path: Path, change: Any, message: str
) -> None:
    write_pw3d(tmp_path, size=SMALL, pictures=False, change=change)
    with pytest.raises(DataError, match=message) as caught:
        converted(tmp_path, tmp_path / "s.zarr", pictures="none")
    assert "downtown_walk_00.pkl" in str(caught.value)


def test_a_truncated_pickle_is_named_and_finished_sequences_are_kept_for_resuming(
    tmp_path: Path,
) -> None:
    write_pw3d(tmp_path, name="a_00", frames=3, actors=1, size=SMALL)
    write_pw3d(tmp_path, name="b_00", frames=3, actors=1, size=SMALL)
    file = tmp_path / "sequenceFiles" / "test" / "b_00.pkl"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="b_00.pkl"):
        converted(tmp_path, tmp_path / "s.zarr")
    file.write_bytes(whole)
    store, report = converted(tmp_path, tmp_path / "s.zarr")
    assert report.resumed
    assert store.sequences["name"][:] == ["a_00", "b_00"]


def test_a_pickle_that_tries_to_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    write_pw3d(tmp_path, frames=3, actors=1, size=SMALL)
    file = tmp_path / "sequenceFiles" / "test" / "downtown_walk_00.pkl"
    file.write_bytes(pickle.dumps({"poses": Bomb()}, protocol=2))
    with pytest.raises(humandata.HumandataError, match="downtown_walk_00.pkl"):
        converted(tmp_path, tmp_path / "s.zarr")
    assert not (tmp_path / "ran").exists()
