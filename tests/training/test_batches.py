"""Batches: what is drawn, and how pictures and targets are changed together."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.stats import kstest
from tiny_store import FOCAL, HEIGHT, WIDTH, damage, spoil, write_tiny_store

import humandata
from humandata import geometry, keypoints
from humandata.errors import DataError, HumandataError
from humandata.store import Store
from humandata.training.assembly import truncate
from humandata.training.augment import MEAN, STD, channel_noise, prepare
from humandata.training.batches import Augmentation, Batch, Mix, evaluation_batches
from humandata.training.crops import Annotations, cut, geometry_of, transform
from humandata.training.dataset import PersonDataset

NONE = Augmentation(flip=0, scale=0, rotation=0, rotation_probability=0, channel_noise=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return humandata.open(write_tiny_store(tmp_path_factory.mktemp("stores") / "tiny"))


def equal(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(getattr(first, field.name), getattr(second, field.name))
        for field in dataclasses.fields(Batch)
    )


# What is drawn ---------------------------------------------------------------------------------


def test_a_batch_has_the_documented_shapes_and_types(store: Store) -> None:
    batch = Mix([(store, 1.0)], batch_size=5, image_size=48).batch(0, 0)
    expected = {
        "images": ((5, 3, 48, 48), torch.uint8),
        "keypoints2d": ((5, 54, 3), torch.float32),
        "keypoints3d": ((5, 54, 4), torch.float32),
        "pose": ((5, 24, 3), torch.float32),
        "betas": ((5, 10), torch.float32),
        "has_smpl": ((5,), torch.bool),
        "gender": ((5,), torch.uint8),
        "centre": ((5, 2), torch.float32),
        "side": ((5,), torch.float32),
        "affine": ((5, 2, 3), torch.float32),
        "picture_size": ((5, 2), torch.float32),
        "intrinsics": ((5, 3, 3), torch.float32),
        "crop_intrinsics": ((5, 3, 3), torch.float32),
        "channel_gain": ((5, 3), torch.float32),
        "noise_seed": ((5,), torch.int64),
        "store": ((5,), torch.int64),
        "row": ((5,), torch.int64),
    }
    found = {
        field.name: (tuple(getattr(batch, field.name).shape), getattr(batch, field.name).dtype)
        for field in dataclasses.fields(Batch)
    }
    assert found == expected
    assert len(batch) == 5
    assert batch.size == 48


def test_content_and_order_do_not_depend_on_the_number_of_threads(store: Store) -> None:
    def run(workers: int) -> list[Batch]:
        return list(Mix([(store, 1.0)], 4, 32, seed=7).batches(0, 7, workers))

    alone, two, many = run(0), run(2), run(5)
    assert len(alone) == 7
    assert all(equal(a, b) and equal(a, c) for a, b, c in zip(alone, two, many, strict=True))


def _rows_and_pixels(mix: Mix, results: multiprocessing.SimpleQueue[object]) -> None:
    batch = mix.batch(1, 1)
    results.put((batch.row.tolist(), int(batch.images.long().sum())))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_process_reads_the_same_through_the_maps_of_its_parent(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    mix = Mix([(store, 1.0)], 4, 32)
    batch = mix.batch(1, 1)  # the parent's maps are open when the child is born
    results: multiprocessing.SimpleQueue[object] = context.SimpleQueue()
    child = context.Process(target=_rows_and_pixels, args=(mix, results))
    child.start()
    assert results.get() == (batch.row.tolist(), int(batch.images.long().sum()))
    child.join()
    assert child.exitcode == 0


@pytest.mark.slow
def test_processes_give_the_same_batches_and_count_the_same_damage(tmp_path: Path) -> None:
    path = spoil(write_tiny_store(tmp_path / "damaged", count=40), 3)
    first = Mix([(humandata.open(path), 1.0)], 8, 32)
    threads = list(first.batches(0, 7, 2))
    second = Mix([(humandata.open(path), 1.0)], 8, 32)
    processes = list(second.batches(0, 7, 2, processes=True))
    assert all(equal(a, b) for a, b in zip(threads, processes, strict=True))
    assert second.damaged == first.damaged != {}
    damage(path, 7)
    with pytest.raises(DataError, match=r"007\.jpg.*checksum"):
        list(Mix([(humandata.open(path), 1.0)], 8, 32).batches(0, 5, 1, processes=True))


def test_a_run_may_begin_at_any_step(store: Store) -> None:
    mix = Mix([(store, 1.0)], 4, 32)
    whole = list(mix.batches(0, 6, 2))
    rest = list(Mix([(store, 1.0)], 4, 32).batches(4, 6, 0))
    assert all(equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert not equal(whole[0], whole[1])
    assert mix.steps_per_epoch == 3
    assert not equal(whole[0], whole[3]), "another epoch is another draw"
    assert not equal(whole[0], Mix([(store, 1.0)], 4, 32, seed=1).batch(0, 0))


def test_an_epoch_shows_every_person_once_and_stores_by_weight(
    store: Store, tmp_path: Path
) -> None:
    small = humandata.open(write_tiny_store(tmp_path / "small", count=3, seed=4))
    mix = Mix([(store, 3.0), (small, 1.0)], batch_size=4, image_size=32, epoch_length=16)
    assert mix.steps_per_epoch == 4
    draws = [mix.draw(0, step) for step in range(4)]
    stores, rows = (np.concatenate([getattr(d, n) for d in draws]) for n in ("store", "row"))
    assert sorted(rows[stores == 0]) == list(range(12))
    assert np.bincount(rows[stores == 1], minlength=3).tolist() in ([2, 1, 1], [1, 2, 1], [1, 1, 2])


def test_ranks_share_an_epoch_and_change_their_samples_differently(store: Store) -> None:
    ranks = [Mix([(store, 1.0)], 3, 32, rank=rank, world_size=2) for rank in range(2)]
    assert [mix.steps_per_epoch for mix in ranks] == [2, 2]
    rows = [mix.draw(0, step).row.tolist() for mix in ranks for step in range(2)]
    assert sorted(row for part in rows for row in part) == list(range(12))
    first, second = (mix.draw(0, 0) for mix in ranks)
    assert not set(first.noise_seed) & set(second.noise_seed)
    assert (first.scale != second.scale).all()


def test_a_batch_of_several_stores_keeps_every_sample_with_its_own_annotation(
    store: Store, tmp_path: Path
) -> None:
    other = humandata.open(
        write_tiny_store(tmp_path / "other", count=5, seed=4, without=("smpl/",))
    )
    batch = Mix([(store, 1.0), (other, 1.0)], 16, 32, augmentation=NONE).batch(0, 0)
    assert {0, 1} == set(batch.store.tolist())
    for i, (which, row) in enumerate(zip(batch.store, batch.row, strict=True)):
        source = (store, other)[int(which)]
        single = next(evaluation_batches(source, np.array([int(row)]), image_size=32, workers=0))
        assert torch.equal(batch.images[i], single.images[0])
        torch.testing.assert_close(batch.keypoints2d[i], single.keypoints2d[0])
        assert bool(batch.has_smpl[i]) == (which == 0)


def test_labels_a_store_lacks_are_zero_and_marked(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "bare", without=("smpl/", "keypoints3d", "gender"))
    batch = Mix([(humandata.open(path), 1.0)], 4, 32).batch(0, 0)
    assert not batch.has_smpl.any()
    assert not batch.keypoints3d.any()
    assert not batch.pose.any()
    assert batch.keypoints2d[..., 2].all()


def test_the_parameters_of_augmentation_follow_their_distributions(store: Store) -> None:
    draw = Mix([(store, 1.0)], 20_000, 32).draw(0, 0)
    assert draw.scale.min() == pytest.approx(0.75)
    assert draw.scale.max() == pytest.approx(1.25)
    # A normal deviate clipped at one deviation lies on each end with probability 0.159.
    assert (draw.scale == draw.scale.max()).mean() == pytest.approx(0.159, abs=0.01)
    assert (draw.rotation != 0).mean() == pytest.approx(0.6, abs=0.02)
    assert np.abs(draw.rotation).max() == pytest.approx(60)
    # 30 times the deviation of a normal deviate clipped at two, 0.9594.
    assert draw.rotation[draw.rotation != 0].std() == pytest.approx(28.8, rel=0.03)
    assert draw.flip.mean() == pytest.approx(0.5, abs=0.02)
    assert draw.channel_gain.min() == pytest.approx(0.6, abs=0.01)
    assert (draw.truncation == -1).all(), "nobody is truncated unless it is asked for"
    options = Augmentation(random_crop=0.8)
    place = Mix([(store, 1.0)], 20_000, 32, augmentation=options).draw(0, 0).truncation
    assert (place >= 0).mean() == pytest.approx(0.8, abs=0.02)
    assert kstest(place[place >= 0], "uniform").pvalue > 1e-3


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-50, 900),
    st.floats(-50, 900),
    st.floats(0.5, 900),
    st.floats(0, 1),
    st.floats(0, 0.9),
)
def test_a_truncated_box_is_the_references_in_its_whole_pixels(
    x: float, y: float, side: float, place: float, shrink: float
) -> None:
    """`RandomCrop(axis="y")` of hmr-benchmarks, written out for one box."""
    centre, sides = np.array([[x, y]], np.float32), np.array([side], np.float32)
    moved, smaller = truncate(centre, sides, np.array([place]), shrink)
    x, y, side = map(float, (*centre[0], sides[0]))
    whole = int(side)
    small = int(whole * (1 - shrink))
    if not small:
        assert (moved == centre).all()
        assert smaller == sides
        return
    left, top = int(x - whole / 2), int(y - whole / 2)
    x1, y1 = int((whole - small) * 0.5), int((whole - small) * place)
    assert smaller.tolist() == [small]
    assert moved.tolist() == [[left + x1 + small / 2, top + y1 + small / 2]]
    kept, unmoved = truncate(centre, sides, np.array([-1.0]), shrink)
    assert (kept == centre).all()
    assert unmoved == sides


def test_a_truncated_person_is_cropped_and_its_joints_go_along(store: Store) -> None:
    options = dataclasses.replace(NONE, random_crop=1.0)
    cropped = Mix([(store, 1.0)], 12, 32, augmentation=options).batch(0, 0)
    whole = Mix([(store, 1.0)], 12, 32, augmentation=NONE).batch(0, 0)
    assert torch.equal(cropped.row, whole.row)
    ratio = cropped.side / whole.side
    assert ((ratio > 0.55) & (ratio <= 0.6)).all()
    # What is left lies within the whole box; some joints now lie outside of the crop.
    assert ((cropped.centre - whole.centre).abs() <= 0.2 * whole.side[:, None] + 1.5).all()
    assert ((cropped.centre - whole.centre)[:, 0].abs() <= 1.5).all()
    outside = ((cropped.keypoints2d[..., 1] < 0) | (cropped.keypoints2d[..., 1] > 32)).sum()
    assert outside > 50
    assert cropped.keypoints2d[..., 2].all(), "they keep their confidence"


# Where things land -----------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 25.0, -50.0])
@pytest.mark.parametrize("width", [192, 1200])
def test_a_mark_in_the_picture_lands_where_its_keypoint_lands(
    tmp_path: Path, flip: bool, rotation: float, width: int
) -> None:
    # 1200 pixels across make the crop decode a quarter of the picture.
    side, size = 0.5 * width, 64
    centre = np.array([[0.45 * width, 0.4 * width]], np.float32)
    points = (centre + np.array([[-0.15, 0.05], [0.1, 0.12], [0.02, -0.2]]) * side).round()
    picture = np.zeros((int(0.8 * width), width, 3), np.uint8)
    for x, y in points.astype(int):
        cv2.circle(picture, (x, y), max(2, int(side / size * 1.5)), (255, 255, 255), -1)
    encoded = bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 98])[1])
    source = _one_picture(tmp_path / "marks", encoded, picture.shape)
    crop = geometry_of(
        centre, np.array([side]), size, np.array([rotation], np.float32), np.array([flip])
    )
    out = np.empty((size, size, 3), np.uint8)
    cut(source, 0, crop.affine[0], out)
    expected = geometry.apply_affine(crop.affine[0], points)
    y, x = np.mgrid[:size, :size]
    for point in expected:
        near = np.hypot(x - point[0], y - point[1]) < 5
        weight = out[..., 0] * (out[..., 0] > 60.0) * near
        found = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        np.testing.assert_allclose(found, point, atol=0.2)
    brightest = out.mean(axis=-1) > 60
    assert np.hypot(*(np.argwhere(brightest)[:, None, ::-1] - expected).T).min(axis=0).max() < 5


def _one_picture(path: Path, encoded: bytes, shape: tuple[int, ...]) -> Store:
    with humandata.create(path, dataset="marks") as writer:
        writer.append(
            images={
                "id": np.ones(1, np.uint64),
                "path": ["a.jpg"],
                "height": np.array([shape[0]], np.int32),
                "width": np.array([shape[1]], np.int32),
            },
            instances={
                "id": np.ones(1, np.uint64),
                "image": np.zeros(1, np.int32),
                "bbox_xywh": np.array([[10, 20, 30, 40, 1]], np.float32),
            },
            pictures=[encoded],
            field_attributes={"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
        )
    return humandata.open(path)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-180, 180), st.booleans(), st.floats(0.5, 2))
def test_3d_joints_of_a_changed_crop_project_onto_its_2d_joints(
    store: Store, seed: int, rotation: float, flip: bool, scale: float
) -> None:
    rows = np.random.default_rng(seed).integers(0, len(store), 2)
    annotations = Annotations(store)
    centre, side = annotations.squares(rows)
    crop = geometry_of(centre, side * scale, 64, np.full(2, rotation, np.float32), np.full(2, flip))
    targets = transform(annotations.gather(rows), crop)
    # Turning and mirroring the scene about the optical axis turns and mirrors the picture about the
    # principal point; the crop only moves that point and changes the focal length.
    principal = geometry.apply_affine(crop.affine, np.full((2, 1, 2), (WIDTH / 2, HEIGHT / 2)))
    points = targets["keypoints3d"]
    zoom = (64 / (side * scale))[:, None, None]
    pixels = points[..., :2] / points[..., 2:3] * FOCAL * zoom + principal
    np.testing.assert_allclose(pixels, targets["keypoints2d"][..., :2], atol=2e-3)


def test_the_camera_of_a_crop_projects_its_3d_joints_onto_its_2d_joints(store: Store) -> None:
    options = Augmentation(rotation_probability=1.0, random_crop=0.5)
    batch = Mix([(store, 1.0)], 12, 64, augmentation=options).batch(0, 0)
    flipped = torch.linalg.det(batch.affine[:, :, :2]) < 0
    assert 0 < flipped.sum() < 12
    pixels = geometry.project(batch.keypoints3d[..., :3], batch.crop_intrinsics)
    np.testing.assert_allclose(pixels, batch.keypoints2d[..., :2], atol=5e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-180, 180), st.booleans())
def test_pose_and_3d_joints_are_flipped_and_turned_alike(
    store: Store, seed: int, rotation: float, flip: bool
) -> None:
    """Bones of a left-right symmetric skeleton, posed before and after the change."""
    row = np.array([seed % len(store)])
    targets = Annotations(store).gather(row)
    targets["keypoints3d"][:, :24, :3] = _symmetric_skeleton(targets["pose"][0])
    crop = geometry_of(
        np.zeros((1, 2), np.float32),
        np.ones(1, np.float32),
        64,
        np.array([rotation], np.float32),
        np.array([flip]),
    )
    changed = transform(targets, crop)
    expected = _symmetric_skeleton(changed["pose"][0])
    np.testing.assert_allclose(changed["keypoints3d"][0, :24, :3], expected, atol=1e-4)


def _symmetric_skeleton(pose: NDArray[np.float32]) -> NDArray[np.float64]:
    """Forward kinematics, by scipy, of 24 bones whose left and right mirror each other in x."""
    _, parents = keypoints.kinematic_tree("smpl")
    mirror = keypoints.flip_permutation("smpl_54")[:24]
    bones = np.random.default_rng(0).normal(size=(24, 3))
    bones = (bones + bones[mirror] * [-1, 1, 1]) / 2
    turns = [Rotation.from_rotvec(pose[0])]
    places = [np.zeros(3)]
    for joint in range(1, 24):
        parent = parents[joint]
        places.append(places[parent] + turns[parent].apply(bones[joint]))
        turns.append(turns[parent] * Rotation.from_rotvec(pose[joint]))
    return np.array(places)


def test_unlabelled_joints_stay_at_zero_through_every_change(store: Store) -> None:
    rows = np.arange(4)
    targets = Annotations(store).gather(rows)
    targets["keypoints2d"][:, 16] = 0
    targets["keypoints3d"][:, 16] = 0
    centre, side = Annotations(store).squares(rows)
    flipped = np.array([True, False, True, False])
    crop = geometry_of(centre, side, 64, np.full(4, 30, np.float32), flipped)
    changed = transform(targets, crop)
    # Joint 16 is the left shoulder; mirrored it is the right one, joint 17.
    joint = np.where(flipped, 17, 16)
    assert not changed["keypoints2d"][np.arange(4), joint].any()
    assert not changed["keypoints3d"][np.arange(4), joint].any()


def test_joints_of_a_native_convention_find_their_place_in_smpl54(tmp_path: Path) -> None:
    path = tmp_path / "coco"
    rng = np.random.default_rng(0)
    points = np.dstack([rng.uniform(1, 9, (2, 17, 2)), np.ones((2, 17))]).astype(np.float32)
    with humandata.create(path, dataset="coco") as writer:
        writer.append(
            images={"id": np.arange(2, dtype=np.uint64), "path": ["a", "b"]}
            | {name: np.full(2, 10, np.int32) for name in ("height", "width")},
            instances={
                "id": np.arange(2, dtype=np.uint64),
                "image": np.arange(2, dtype=np.int32),
                "bbox_xywh": np.array([[0, 0, 10, 8, 1]] * 2, np.float32),
                "keypoints2d": points,
            },
            field_attributes={
                "bbox_xywh": {"rule": "annotator", "factor": 1.0},
                "keypoints2d": {"convention": "coco"},
            },
        )
    gathered = Annotations(humandata.open(path)).gather(np.arange(2))["keypoints2d"]
    expected, mask = keypoints.convert(points, "coco", "smpl_54")
    np.testing.assert_array_equal(gathered[:, mask], expected[:, mask])
    assert not gathered[:, ~mask].any()
    assert 10 < mask.sum() < 18
    wrist = keypoints.index("smpl_54", "left_wrist")
    np.testing.assert_array_equal(
        gathered[:, wrist], points[:, keypoints.index("coco", "left_wrist")]
    )


def test_an_annotators_box_is_enlarged_once_and_a_converters_box_not_again(
    store: Store, tmp_path: Path
) -> None:
    boxes = store.instances["bbox_xywh"][:3]
    _, side = Annotations(store).squares(np.arange(3))
    np.testing.assert_allclose(side, boxes[:, 2:4].max(axis=1), rtol=1e-6)
    tight = _one_picture(tmp_path / "tight", _png(), (10, 10))
    centre, side = Annotations(tight).squares(np.array([0]))
    np.testing.assert_allclose(centre, [[25, 40]])
    np.testing.assert_allclose(side, [40 * 1.2])


# Pixels ----------------------------------------------------------------------------------------


def test_pixels_are_normalised_rgb() -> None:
    colours = torch.tensor([[255, 0, 128]], dtype=torch.uint8).view(1, 3, 1, 1)
    gain = torch.tensor([[1.0, 1.0, 0.5]])
    noisy = channel_noise(colours.expand(1, 3, 2, 2), gain)
    assert noisy[0, :, 0, 0].tolist() == [255, 0, 64]
    assert channel_noise(colours, torch.full((1, 3), 1.4))[0, :, 0, 0].tolist() == [255, 0, 179]


def test_prepare_leaves_targets_alone_and_gives_the_backbone_its_statistics(store: Store) -> None:
    batch = Mix([(store, 1.0)], 2, 32, augmentation=NONE).batch(0, 0)
    ready = prepare(batch)
    restored = ready.images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    torch.testing.assert_close(restored, batch.images.float(), atol=1e-3, rtol=0)
    assert ready.keypoints2d is batch.keypoints2d


# Trouble ---------------------------------------------------------------------------------------


def test_a_damaged_picture_is_replaced_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = spoil(write_tiny_store(tmp_path / "damaged", count=40), 3)
    mix = Mix([(humandata.open(path), 1.0)], 8, 32)
    with caplog.at_level(logging.WARNING, "humandata"):
        batches = list(mix.batches(0, 10, workers=2))
    at = [step for step in range(10) if 3 in mix.draw(*divmod(step, 5)).row]
    assert len(at) == 2, "once in each of two epochs"
    for step in at:
        drawn = mix.draw(*divmod(step, 5))
        slot = drawn.row.tolist().index(3)
        changed = batches[step].row.numpy() != drawn.row
        assert changed.tolist() == [i == slot for i in range(8)]
        # The sample in its place is whole: its own box, crop and annotation.
        row = batches[step].row[slot : slot + 1].numpy()
        centre, side = Annotations(mix.annotations[0].store).squares(row)
        scale = drawn.scale[slot : slot + 1]
        np.testing.assert_allclose(batches[step].side[slot], (side * scale)[0], rtol=1e-6)
        np.testing.assert_array_equal(batches[step].centre[slot], centre[0])
        assert batches[step].images[slot].any()
    assert mix.undecodable == 2 + sum((mix.damaged[name] - 2) for name in mix.damaged), (
        "drawn again by a redraw at times"
    )
    (name,) = mix.damaged
    assert "003.jpg" in name
    (message,) = [record.getMessage() for record in caplog.records]
    assert "003.jpg" in message
    again = Mix([(humandata.open(path), 1.0)], 8, 32)
    assert all(equal(a, b) for a, b in zip(batches, again.batches(0, 10, 0), strict=True))
    assert again.damaged == mix.damaged


def test_training_stops_at_the_same_step_when_many_pictures_are_damaged(tmp_path: Path) -> None:
    path = spoil(write_tiny_store(tmp_path / "ruined", count=40), *range(20))
    ends = []
    for workers in (0, 3):
        mix = Mix([(humandata.open(path), 1.0)], 8, 32)
        steps = 0
        with pytest.raises(DataError, match=r"21 damaged of \d+ drawn.*--verify") as caught:
            for _ in mix.batches(0, 50, workers):
                steps += 1
        assert f"of {8 * (steps + 1)} drawn" in str(caught.value)
        ends.append((steps, str(caught.value)))
    assert ends[0] == ends[1]
    assert 1 <= ends[0][0] <= 4


def test_the_rate_of_damaged_pictures_that_stops_a_run_can_be_set(tmp_path: Path) -> None:
    path = spoil(write_tiny_store(tmp_path / "few", count=40), *range(4))
    stores = [(humandata.open(path), 1.0)]
    with pytest.raises(DataError, match=r"at most 0 %.* 1 damaged of"):
        list(Mix(stores, 8, 32, damaged_rate=0.0).batches(0, 10))
    assert len(list(Mix(stores, 8, 32, damaged_rate=0.2).batches(0, 50))) == 50
    with pytest.raises(DataError, match=r"at most 5 %"):
        list(Mix(stores, 8, 32, damaged_rate=0.05).batches(0, 50))


def test_a_store_without_a_sound_picture_ends_at_once(tmp_path: Path) -> None:
    path = spoil(write_tiny_store(tmp_path / "ruined", count=4), *range(4))
    with pytest.raises(DataError, match=r"20 damaged of 20 drawn for one sample"):
        Mix([(humandata.open(path), 1.0)], 4, 32).batch(0, 0)


def test_a_picture_that_differs_from_its_checksum_stops_the_run(tmp_path: Path) -> None:
    path = damage(write_tiny_store(tmp_path / "rotten", count=12), 3)
    with pytest.raises(DataError, match=r"003\.jpg.*checksum"):
        list(Mix([(humandata.open(path), 1.0)], 4, 32).batches(0, 3))


def test_a_flipped_bit_that_decodes_stops_a_run_that_verifies(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "flipped", count=12)
    store = humandata.open(path)
    images = store.images
    chunk = path / "images" / "packs" / "00000" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    # Dots per inch: a byte that no decoder looks at.
    content[int(images["offset"][3]) + 15] ^= 1
    chunk.write_bytes(content)
    list(Mix([(humandata.open(path), 1.0)], 4, 32).batches(0, 3))
    for workers in (0, 2):
        mix = Mix([(humandata.open(path), 1.0)], 4, 32, verify=True)
        with pytest.raises(DataError, match=r"003\.jpg.*checksum"):
            list(mix.batches(0, 3, workers))


def test_a_missing_pack_stops_the_run(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "lost", count=12)
    mix = Mix([(humandata.open(path), 1.0)], 4, 32)
    (path / "images" / "packs" / "00000" / "c" / "0").unlink()
    with pytest.raises(DataError, match=r"packs.00000"):
        list(mix.batches(0, 3))


def test_a_store_that_is_replaced_under_a_run_stops_it(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "changing", count=12)
    mix = Mix([(humandata.open(path), 1.0)], 4, 32)
    path.rename(tmp_path / "old")
    write_tiny_store(path, count=12, seed=9)
    with pytest.raises(DataError, match=r"changing.*changed while it was being read"):
        list(mix.batches(0, 3))


def test_a_store_that_is_replaced_once_all_of_it_is_mapped_stops_the_next_batch(
    tmp_path: Path,
) -> None:
    path = write_tiny_store(tmp_path / "changing", count=12)
    mix, dataset = Mix([(humandata.open(path), 1.0)], 12, 32), PersonDataset(path, 32)
    mix.batch(0, 0)
    assert dataset[0]["image"].any()
    path.rename(tmp_path / "old")
    write_tiny_store(path, count=12, seed=9)
    for read in (lambda: mix.batch(1, 0), lambda: dataset[0]):
        with pytest.raises(DataError, match=r"changing.*changed while it was being read"):
            read()


def test_evaluation_never_skips_a_damaged_picture(tmp_path: Path) -> None:
    path = spoil(write_tiny_store(tmp_path / "damaged", count=4), 2)
    with pytest.raises(DataError, match=r"002\.jpg"):
        list(evaluation_batches(humandata.open(path), image_size=32, batch_size=2))


def test_evaluation_gives_the_named_rows_in_order_from_given_boxes(store: Store) -> None:
    rows = np.array([5, 0, 7])
    boxes = np.array([[10, 20, 30, 50], [0, 0, 40, 20], [5, 5, 64, 64]], np.float32)
    batches = list(evaluation_batches(store, rows, 2, 32, boxes=boxes))
    assert [batch.row.tolist() for batch in batches] == [[5, 0], [7]]
    assert torch.cat([batch.side for batch in batches]).tolist() == [50, 40, 64]
    assert torch.cat([b.centre for b in batches]).tolist() == [[25, 45], [20, 10], [37, 37]]


def test_rows_without_a_box_and_crowds_are_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    with humandata.create(path, dataset="odd") as writer:
        writer.append(
            images={"id": np.ones(1, np.uint64), "path": ["a.jpg"]}
            | {name: np.full(1, 10, np.int32) for name in ("height", "width")},
            instances={
                "id": np.arange(4, dtype=np.uint64),
                "image": np.zeros(4, np.int32),
                "bbox_xywh": np.array(
                    [[0, 0, 5, 5, 1], [0, 0, 5, 5, 0], [0, 0, 5, 5, 1], [0, 0, 9, 9, 1]],
                    np.float32,
                ),
                "iscrowd": np.array([0, 0, 1, 0], bool),
            },
            pictures=[_png()],
            field_attributes={"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
        )
    source = humandata.open(path)
    assert Annotations(source).usable_rows().tolist() == [0, 3]
    mix = Mix([(source, 1.0)], 20, 32)
    assert np.unique(mix.draw(0, 0).row).tolist() == [0, 3]


def test_a_store_of_nobody_to_crop_is_named(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "empty", count=4)
    boxes = path / "instances" / "bbox_xywh" / "c" / "0" / "0"
    boxes.write_bytes(bytes(boxes.stat().st_size))
    with pytest.raises(DataError, match=r"empty: expected persons with a box.*none among 4"):
        Mix([(humandata.open(path), 1.0)], 4, 32)


def _png() -> bytes:
    return bytes(cv2.imencode(".png", np.full((10, 10, 3), 7, np.uint8))[1])


def test_a_mix_without_stores_says_so() -> None:
    with pytest.raises(HumandataError, match="at least one store"):
        Mix([], 4)
