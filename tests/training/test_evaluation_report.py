"""Where the report draws the two bodies, and whom it shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pw3d_store import write_pw3d_store

import humandata
from humandata import geometry
from humandata.bodymodel import body_model, forward
from humandata.store import Store
from humandata.training.evaluation import evaluate
from humandata.training.evaluation_report import CROP, _crop, _placed, choose
from humandata.training.predictions import Predictions
from humandata.training.protocols import named


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("report") / "pw3d_test.zarr"
    return humandata.open(write_pw3d_store(path, {"a": 6, "b": 3}, gender=1, pictures=True))


def truth(store: Store) -> dict[str, np.ndarray]:
    names = ("global_orient", "body_pose", "betas")
    return {name: np.array(store.instances[f"smpl/{name}"]) for name in names}


def pixels(placed: tuple[np.ndarray, np.ndarray, np.ndarray] | None) -> np.ndarray:
    assert placed is not None
    return geometry.project(placed[0].astype(np.float64), placed[1])


def test_both_bodies_lie_on_the_person_when_pose_and_camera_are_right(store: Store) -> None:
    values, row = truth(store), 4
    picture = np.zeros((128, 128, 3), np.uint8)
    protocol = dataclasses.replace(
        named("pw3d-test"), ground_truth_body=("neutral", "neutral", "neutral", "neutral")
    )
    plain = Predictions(store.instances["id"][:], **values)
    first = evaluate(store, predictions=plain, protocol=protocol, metrics=["mpjpe"])
    _, affine = _crop(first, store, row, picture)
    mesh = forward(body_model(), *(array[row : row + 1] for array in values.values()))[0][0]
    camera = geometry.crop_intrinsics(affine, store.images["intrinsics"][row])
    seen = geometry.project(mesh + store.instances["smpl/transl"][row].astype(np.float64), camera)
    # The weak-perspective camera that fits best: pixel = size s (x + t) / 2 + size / 2.
    flat = (mesh - mesh.mean(axis=0))[:, :2]
    scale = (flat * (seen - seen.mean(axis=0))).sum() / (flat * flat).sum() * 2 / CROP
    shift = (seen.mean(axis=0) - CROP / 2) * 2 / (CROP * scale) - mesh.mean(axis=0)[:2]
    cameras = np.tile(np.array([scale, *shift], np.float32), (len(store), 1))
    predictions = Predictions(store.instances["id"][:], **values, camera=cameras)
    result = evaluate(store, predictions=predictions, protocol=protocol, metrics=["mpjpe"])
    blue, green = _placed(result, store, row, row, None, affine)
    assert np.abs(pixels(green) - seen).max() < 0.1
    assert np.linalg.norm(pixels(blue) - seen, axis=1).mean() < 0.02 * CROP


def test_a_prediction_without_a_camera_stands_on_the_true_pelvis(store: Store) -> None:
    result = evaluate(store, predictions=Predictions(store.instances["id"][:], **truth(store)))
    _, affine = _crop(result, store, 2, np.zeros((128, 128, 3), np.uint8))
    blue, green = _placed(result, store, 2, 2, None, affine)
    assert blue is not None
    assert green is not None
    root = [body_model(g).regressor("h36m")[0] for g in ("neutral", "female")]
    assert np.abs(root[0] @ blue[0] - root[1] @ green[0]).max() < 1e-5


def test_joints_alone_show_the_true_body_only(store: Store) -> None:
    joints = np.zeros((len(store), 17, 3))
    result = evaluate(store, predictions=Predictions(store.instances["id"][:], joints=joints))
    blue, green = _placed(result, store, 0, 0, None, np.eye(3)[:2])
    assert blue is None
    assert green is not None


def test_best_median_and_worst_come_from_different_sequences_where_there_are(
    store: Store,
) -> None:
    values = truth(store)
    values["body_pose"][:, 4] += np.linspace(0, 2, len(store))[:, None]
    predictions = Predictions(store.instances["id"][:], **values)
    result = evaluate(store, predictions=predictions, metrics=["mpjpe"])
    errors = result.errors["mpjpe"]
    chosen = choose(result, store, "mpjpe", 2)
    sequence = store.images["sequence"][store.instances["image"][:]]
    assert chosen["Best"][0] == np.argmin(errors)
    for positions in chosen.values():
        assert sorted(sequence[positions].tolist()) == [0, 1]
    everybody = [at for positions in chosen.values() for at in positions]
    assert len(set(everybody)) == len(everybody) == 6
