"""The protocols of MPI-INF-3DHP's test set, against the loops of those who defined them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mpi_inf_3dhp_release import View, write_test

import humandata
from humandata.converters.converter import convert
from humandata.store import Store
from humandata.training import evaluate
from humandata.training.predictions import Predictions
from humandata.training.protocols import BENCHMARKS, default_for, named

# nkolot/SPIN: test_data of datasets/preprocess/mpi_inf_3dhp.py and constants.py.
JOINTS17_IDX = [14, 11, 12, 13, 8, 9, 10, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4]
JOINTS_IDX = [14, 3, 4, 5, 2, 1, 0, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6]
H36M_TO_J17 = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9]
J24_TO_J17 = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 14, 16, 17]

VALID = [0, 2, 3, 5, 6, 7]

OFFICIAL = [10, 8, 14, 15, 16, 11, 12, 13, 4, 5, 6, 1, 2, 3]
"""head_top, neck, right arm, left arm, right leg, left leg among the regressor's 17."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, View, np.ndarray]:
    """A converted scene, its truth, and somebody's 17 joints (6, 17, 3), anywhere in the room."""
    folder = tmp_path_factory.mktemp("3dhp")
    view = write_test(folder)
    made = folder / BENCHMARKS["mpi-inf-3dhp"].store
    convert("mpi_inf_3dhp", folder, made, split="test", workers=1, pictures="none")
    slots = np.zeros((len(VALID), 24, 3))
    slots[:, JOINTS_IDX] = view.universal[VALID][:, JOINTS17_IDX]
    regressed = np.zeros((len(VALID), 17, 3))
    regressed[:, H36M_TO_J17] = slots[:, J24_TO_J17]
    regressed += np.random.default_rng(5).normal((1, 2, 3), 0.09, regressed.shape)
    return humandata.open(made), view, regressed


def test_all_17_joints_of_one_height_count_as_in_spins_evaluation(
    scene: tuple[Store, View, np.ndarray],
) -> None:
    store, view, regressed = scene
    result = evaluate(store, predictions=Predictions(store.instances["id"][:], joints=regressed))
    assert result.protocol.name == "mpi-inf-3dhp-test"
    assert any("2,929" in note for note in result.notes)

    released = view.universal[VALID][:, JOINTS17_IDX]
    slots = np.zeros((len(VALID), 24, 3))
    slots[:, JOINTS_IDX] = released - released[:, :1]
    predicted = (regressed - regressed[:, :1])[:, H36M_TO_J17]
    error = np.linalg.norm(predicted - slots[:, J24_TO_J17], axis=-1).mean(axis=-1)
    assert result.overall.figures["mpjpe"].mean == pytest.approx(1000 * error.mean(), rel=1e-5)
    np.testing.assert_allclose(result.errors["mpjpe"], 1000 * error, rtol=1e-5)


def test_pck_and_auc_of_the_release_are_over_14_joints(
    scene: tuple[Store, View, np.ndarray],
) -> None:
    store, view, regressed = scene
    result = evaluate(
        store,
        predictions=Predictions(store.instances["id"][:], joints=regressed),
        protocol="mpi-inf-3dhp-test-14",
        metrics=["pck3d", "auc"],
    )
    true = view.universal[VALID] - view.universal[VALID][:, 14:15]
    predicted = regressed - regressed[:, :1]
    error = 1000 * np.linalg.norm(predicted[:, OFFICIAL] - true[:, :14], axis=-1)
    wanted = 100 * (error < 150).mean()
    assert 20 < wanted < 80
    assert result.overall.figures["pck3d"].mean == pytest.approx(wanted)
    shares = [100 * (error < limit).mean() for limit in range(0, 151, 5)]
    assert result.overall.figures["auc"].mean == pytest.approx(np.mean(shares))


def test_a_body_of_true_size_is_off_by_the_scale_of_its_skeleton(
    scene: tuple[Store, View, np.ndarray], tmp_path: Path
) -> None:
    store, view, _ = scene
    metric = np.zeros((len(VALID), 24, 3))
    metric[:, JOINTS_IDX] = view.joints[VALID][:, JOINTS17_IDX]
    regressed = np.zeros((len(VALID), 17, 3))
    regressed[:, H36M_TO_J17] = metric[:, J24_TO_J17]
    found = evaluate(store, predictions=Predictions(store.instances["id"][:], joints=regressed))
    assert found.overall.figures["mpjpe"].mean > 5
    assert found.overall.figures["pa_mpjpe"].mean == pytest.approx(0, abs=0.01)


def test_the_protocol_says_what_it_measures() -> None:
    protocol = default_for("mpi_inf_3dhp", "test")
    assert protocol is named("mpi-inf-3dhp-test")
    words = dict(protocol.in_words())
    assert "keypoints3d_univ" in words["ground truth"]
    assert "17 of the 17" in words["joints"]
    official = named("mpi-inf-3dhp-test-14")
    changed = {k for k, v in protocol.as_dict().items() if v != official.as_dict()[k]}
    assert changed == {"name", "title", "joints"}
