"""Synthetic scenes: people stand on floors, cameras show what they should, truth fits pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from humandata import keypoints, scenery
from humandata.bodymodel import body_model
from humandata.clothing import dress
from humandata.geometry import project, transform
from humandata.synthetic import Scene, look_at, sample_scene
from humandata.synthetic_releases import CROWD, UNLABELLED, write_coco, write_pw3d

SIZE = (160, 120)
CAMERA = np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]])


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(11, number, SIZE) for number in range(40)]


def in_world(scene: Scene, points: np.ndarray) -> np.ndarray:
    return (points - scene.extrinsics[:3, 3]) @ scene.extrinsics[:3, :3]


# Cameras and places


@given(
    st.floats(-3, 3),
    st.floats(0.3, 3),
    st.floats(2, 6),
    st.floats(0, 2),
    st.floats(20, 140),
    st.floats(10, 110),
)
@settings(max_examples=60, deadline=None)
def test_a_camera_shows_its_target_at_the_pixel_asked_for(
    x: float, y: float, z: float, target_y: float, column: float, row: float
) -> None:
    target, pixel = np.array([0.2, target_y, -0.3]), np.array([column, row])
    extrinsics = look_at(np.array([x, y, z]), target, pixel, CAMERA)
    turn = extrinsics[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) > 0
    assert abs(turn[0, 1]) < 1e-12  # no roll: the camera's x axis is level
    shown = project(transform(extrinsics, target[None]), CAMERA)[0]
    np.testing.assert_allclose(shown, pixel, atol=1e-6)


def room(
    low: tuple[float, ...] = (-4, 0, -5), high: tuple[float, ...] = (3, 2.5, 6)
) -> scenery.Room:
    return scenery.Room(np.array(low), np.array(high, float), True, (1, 2, 3, 4, 5, 6))


def test_the_floor_fills_the_picture_below_its_edge_with_the_wall() -> None:
    eye = np.array([0.0, 1.2, 4.0])
    level = look_at(eye, np.array([0, 1.2, 3.0]), np.array([80.0, 60]), CAMERA)
    _, floor = scenery.view(room(), CAMERA, level, SIZE)
    edge = 60 + 200 * 1.2 / 9  # the wall at z = -5 is nine metres away
    assert not floor[: int(edge)].any()
    assert floor[int(edge) + 2 :, 60:100].all()


def test_the_backdrop_moves_with_the_principal_point() -> None:
    pose = look_at(np.array([0.5, 1.5, 3]), np.array([0, 0.6, -1]), np.array([80.0, 60]), CAMERA)
    moved = CAMERA + np.array([[0, 0, 7], [0, 0, -4], [0, 0, 0]])
    here, floor_here = scenery.view(room(), CAMERA, pose, SIZE)
    there, floor_there = scenery.view(room(), moved, pose, SIZE)
    np.testing.assert_array_equal(floor_there[:-4, 7:], floor_here[4:, :-7])
    differs = np.abs(there[:-4, 7:].astype(int) - here[4:, :-7]).max(axis=-1) > 12
    assert differs.mean() < 0.01


def test_a_shadow_lies_on_the_far_side_of_the_light() -> None:
    pole = np.stack([np.zeros(200), np.linspace(0, 1.5, 200), np.zeros(200)], axis=1)
    pose = look_at(np.array([0.0, 2, 4]), np.array([0, 0.5, 0]), np.array([80.0, 60]), CAMERA)
    everywhere = np.ones(SIZE[::-1], bool)
    light = np.array([1.0, 1.5, 0])
    lit = scenery.cast_shadow(pole, light, CAMERA, pose, everywhere)
    tip = project(transform(pose, np.array([[-0.7, 0, 0]])), CAMERA)[0].round().astype(int)
    opposite = project(transform(pose, np.array([[0.7, 0, 0]])), CAMERA)[0].round().astype(int)
    assert lit[tip[1], tip[0]] < 0.6
    assert lit[opposite[1], opposite[0]] == 1
    assert (scenery.cast_shadow(pole, light, CAMERA, pose, ~everywhere) == 1).all()


# People


def test_clothes_do_not_tell_left_from_right() -> None:
    model = body_model("female")
    distance, mirrored = cKDTree(model.v_template).query(model.v_template * [-1, 1, 1])
    paired = distance < 1e-4
    assert paired.mean() > 0.95
    for seed in range(12):
        colours = dress(model, np.random.default_rng(seed))
        assert colours.shape == (6890, 3)
        assert (colours > 0).all()
        assert (colours < 1).all()
        same = (np.abs(colours - colours[mirrored]) < 1e-9).all(axis=1)
        assert same[paired].mean() > 0.98


def test_everybody_touches_the_floor_and_nobody_sinks_in(scenes: list[Scene]) -> None:
    for scene in scenes:
        for person in scene.people:
            height = in_world(scene, person.vertices)[:, 1]
            assert abs(height.min()) < 1e-6


def test_people_are_as_large_as_people_in_photographs(scenes: list[Scene]) -> None:
    share = [np.ptp(project(s.people[0].vertices, s.intrinsics)[:, 1]) / SIZE[1] for s in scenes]
    assert np.mean((np.array(share) > 0.3) & (np.array(share) < 1.0)) > 0.9
    assert np.mean(np.array(share) > 0.45) > 0.6


def test_masks_cover_what_the_vertices_project_to(scenes: list[Scene]) -> None:
    compared = 0
    for scene in scenes:
        if len(scene.people) > 1:
            continue
        pixels = project(scene.people[0].vertices, scene.intrinsics)
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        if (low < 0).any() or (high > np.array(SIZE) - 1).any():
            continue
        rows, columns = np.nonzero(scene.masks[0])
        found = [columns.min(), rows.min(), columns.max(), rows.max()]
        # A pixel belongs to the person if half of it is covered: tips may be missing.
        np.testing.assert_allclose(found, [*low, *high], atol=2.0)
        compared += 1
    assert compared > 8


def test_a_scene_follows_from_seed_and_number_only() -> None:
    first = sample_scene(3, 5, SIZE)
    sample_scene(3, 6, SIZE)
    again, other = sample_scene(3, 5, SIZE), sample_scene(4, 5, SIZE)
    np.testing.assert_array_equal(first.picture, again.picture)
    assert (first.picture != other.picture).any()


def test_faces_that_look_away_are_hidden_and_joints_outside_are_outside(
    scenes: list[Scene],
) -> None:
    nose, ears = keypoints.index("smpl_54", "nose"), [27, 28]
    away = towards = 0
    for scene in scenes:
        for number, person in enumerate(scene.people):
            seen = scene.visible(number)
            pixels = project(person.joints, scene.intrinsics)
            inside = ((pixels > -0.5) & (pixels < np.array(SIZE) - 0.5)).all(axis=1)
            np.testing.assert_array_equal(seen > 0, inside)
            if len(scene.people) > 1 or not inside[nose]:
                continue
            depth = person.joints[nose, 2] - person.joints[ears, 2].mean()
            if depth > 0.06:
                away += 1
                assert seen[nose] == 1
            elif depth < -0.08:
                towards += seen[nose] == 2
    assert away >= 2
    assert towards >= 8


# Releases: what the shared tests of the formats do not look at


def test_coco_holds_crowds_and_unlabelled_people(tmp_path: Path) -> None:
    count = max(CROWD, UNLABELLED)
    truth = tmp_path / "truth"
    write_coco(tmp_path / "raw", {"train2017": count}, seed=1, size=(80, 60), truth=truth)
    file = tmp_path / "raw" / "annotations" / "person_keypoints_train2017.json"
    rows = json.loads(file.read_text())["annotations"]
    crowds = [row for row in rows if row["iscrowd"]]
    (crowd,) = crowds
    counts, (height, width) = crowd["segmentation"]["counts"], crowd["segmentation"]["size"]
    runs = np.repeat(np.arange(len(counts)) % 2, counts)
    mask = runs.reshape(width, height).T
    assert mask.sum() == crowd["area"]
    ys, xs = np.nonzero(mask)
    assert crowd["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    assert sum(row["num_keypoints"] == 0 and not row["iscrowd"] for row in rows) >= 1
    assert [row["image_id"] for row in rows] != sorted(row["image_id"] for row in rows)


def test_the_truth_beside_a_coco_release_projects_onto_its_keypoints(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw", {"val2017": 8}, seed=2, size=SIZE, truth=tmp_path / "truth")
    file = tmp_path / "raw" / "annotations" / "person_keypoints_val2017.json"
    rows = {row["id"]: row for row in json.loads(file.read_text())["annotations"]}
    with np.load(tmp_path / "truth" / "val2017.npz") as truth:
        assert set(truth["annotation"].tolist()) == set(rows)
        pixels = project(truth["joints"], truth["intrinsics"])
        expected, _ = keypoints.convert(pixels, "smpl_54", "coco")
        for identity, points in zip(truth["annotation"].tolist(), expected, strict=True):
            labels = np.reshape(rows[identity]["keypoints"], (17, 3))
            seen = labels[:, 2] > 0
            assert np.abs(labels[seen, :2] - points[seen]).max(initial=0) <= 0.5 + 1e-9


def test_the_truth_beside_a_3dpw_release_is_its_motion_in_the_camera(tmp_path: Path) -> None:
    from humandata import unpickle

    write_pw3d(tmp_path / "raw", {"test": 2}, frames=6, seed=4, size=(80, 60),
               truth=tmp_path / "truth")  # fmt: skip
    with np.load(tmp_path / "truth" / "test.npz") as truth:
        for name in np.unique(truth["sequence"]).tolist():
            data = unpickle.load(tmp_path / "raw" / "sequenceFiles" / "test" / f"{name}.pkl")
            for actor, joints in enumerate(data["jointPositions"]):
                of = (truth["sequence"] == name) & (truth["actor"] == actor)
                world = np.asarray(joints).reshape(-1, 24, 3)
                camera = transform(np.asarray(data["cam_poses"]), world)
                np.testing.assert_allclose(truth["joints"][of][:, :24], camera, atol=1e-6)


def test_people_who_walk_do_not_slide_over_the_floor(tmp_path: Path) -> None:
    from humandata import unpickle

    write_pw3d(tmp_path, {"train": 4}, frames=12, seed=8, size=(64, 48))
    slips = []
    for file in sorted((tmp_path / "sequenceFiles" / "train").glob("*.pkl")):
        for joints in unpickle.load(file)["jointPositions"]:
            feet = np.asarray(joints).reshape(-1, 24, 3)[:, [10, 11]]
            lower = feet[..., 1].argmin(axis=1)
            same = lower[1:] == lower[:-1]
            step = np.linalg.norm(np.diff(feet[..., [0, 2]], axis=0), axis=-1)
            slips += step[np.arange(len(lower) - 1), lower[:-1]][same].tolist()
    assert np.median(slips) < 0.015  # metres a frame


def test_the_command_writes_a_release_once(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from humandata.cli.main import cli

    out, truth = tmp_path / "raw", tmp_path / "truth"
    size = ["--width", "64", "--height", "48", "--workers", "1"]
    counts = ["--train", "0", "--validation", "1", "--test", "0", "--frames", "3"]
    command = ["synthesize", "pw3d", str(out), *counts, *size, "--truth", str(truth)]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "3 pictures, stand-in, not SMPL" in done.output
    assert (out / "imageFiles" / "synthetic_validation_00" / "image_00002.jpg").is_file()
    assert (truth / "validation.npz").is_file()
    again = CliRunner().invoke(cli, command)
    assert again.exit_code != 0
    assert "is not empty" in str(again.exception)
