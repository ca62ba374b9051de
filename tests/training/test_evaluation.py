"""Evaluation against closed forms, smplx and straightforward computations over whole meshes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from pw3d_store import FEMALE, MALE, SEQUENCES, write_pw3d_store
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation
from tiny_store import write_tiny_store

import humandata
from humandata import keypoints
from humandata.bodymodel import (
    GENDERS,
    body_model,
    forward,
    joints_smpl54,
    mean_parameters,
    write_pkl,
)
from humandata.errors import DataError, HumandataError
from humandata.rotations import rotation6d_to_matrix
from humandata.store import Store
from humandata.training import bodies
from humandata.training.bodies import Bodies
from humandata.training.comparison import ground_truth, stored_bodies
from humandata.training.evaluation import Result, evaluate
from humandata.training.predictions import (
    Predictions,
    crop_boxes,
    load_predictions,
    save_predictions,
)
from humandata.training.protocols import GENERIC, PROTOCOLS, named

PW3D = named("pw3d-test")
JOINTS = ("mpjpe", "pa_mpjpe")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return humandata.open(write_pw3d_store(tmp_path_factory.mktemp("eval") / "pw3d_test.zarr"))


@pytest.fixture(scope="module")
def neutral(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("eval") / "neutral.zarr"
    return humandata.open(write_pw3d_store(path, {"walk": 12, "run": 8}, gender=1, dataset="mine"))


def ids(store: Store) -> np.ndarray:
    return np.asarray(store.instances["id"])


def parameters(store: Store) -> dict[str, np.ndarray]:
    names = ("global_orient", "body_pose", "betas")
    return {name: np.array(store.instances[f"smpl/{name}"]) for name in names}


def truth_joints(store: Store) -> np.ndarray:
    """The 17 joints of the stored bodies, by whole meshes in double precision."""
    result = np.empty((len(store), 17, 3))
    values = {name: array.astype(np.float64) for name, array in parameters(store).items()}
    for code, gender in ((1, "neutral"), (MALE, "male"), (FEMALE, "female")):
        rows = np.flatnonzero(np.asarray(store.instances["gender"]) == code)
        if len(rows):
            model = body_model(gender)
            vertices = forward(model, *(array[rows] for array in values.values()))[0]
            result[rows] = model.regressor("h36m") @ vertices
    return result


def by_joints(store: Store, joints: np.ndarray, **options: Any) -> Result:
    predictions = Predictions(ids(store), joints=joints)
    return evaluate(store, predictions=predictions, **options)


def mean(result: Result, metric: str) -> float:
    return result.overall.figures[metric].mean


# Closed forms -----------------------------------------------------------------------------------


def test_the_neutral_ground_truth_predicted_exactly_has_no_error(neutral: Store) -> None:
    result = evaluate(neutral, predictions=Predictions(ids(neutral), **parameters(neutral)))
    assert result.protocol is GENERIC
    for metric in ("mpjpe", "pve"):
        assert mean(result, metric) == 0
    assert mean(result, "pa_mpjpe") == pytest.approx(0, abs=1e-3)


def test_a_rotated_scaled_shifted_truth_has_the_mpjpe_of_that_change_and_no_pa_mpjpe(
    store: Store,
) -> None:
    truth = truth_joints(store)
    turn = Rotation.from_rotvec([0.3, -0.4, 0.2]).as_matrix()
    moved = 1.2 * truth @ turn.T + [0.5, -1, 3]
    result = by_joints(store, moved)
    relative = truth - truth[:, :1]
    change = np.linalg.norm(1.2 * relative @ turn.T - relative, axis=-1)
    expected = 1000 * change[:, list(PW3D.joints)].mean()
    assert mean(result, "mpjpe") == pytest.approx(expected, abs=1e-3)
    assert mean(result, "pa_mpjpe") == pytest.approx(0, abs=1e-3)
    assert result.metrics == JOINTS
    assert any("no PVE" in note for note in result.notes)


def test_one_joint_off_by_14_mm_makes_an_mpjpe_of_1_mm(store: Store) -> None:
    joints = truth_joints(store)
    joints[:, 16] += [0, 0.014, 0]
    assert mean(by_joints(store, joints), "mpjpe") == pytest.approx(1, abs=1e-3)


def test_the_root_does_not_count_itself_but_moves_all_others(store: Store) -> None:
    joints = truth_joints(store)
    joints[:, 0] += [0.01, 0, 0]
    assert mean(by_joints(store, joints), "mpjpe") == pytest.approx(10, abs=1e-3)
    joints = truth_joints(store)
    joints[:, [7, 9]] += 5  # spine and nose of the 17 are not among the 14
    assert mean(by_joints(store, joints), "mpjpe") == pytest.approx(0, abs=1e-3)


def test_fourteen_joints_are_taken_as_root_relative(store: Store) -> None:
    joints = truth_joints(store)
    selected = (joints - joints[:, :1])[:, list(PW3D.joints)]
    assert mean(by_joints(store, selected + np.array([0, 0, 0.02])), "mpjpe") == pytest.approx(
        20, abs=1e-3
    )


def test_every_further_metric_of_joints_has_its_closed_form(store: Store) -> None:
    truth = truth_joints(store)
    joints = 1.2 * truth
    joints[:, 16] += [0, 0, 0.5]
    metrics = ["n_mpjpe", "pck3d", "auc", "pa_pck3d", "pa_auc", "mpjpe", "pa_mpjpe"]
    result = by_joints(store, joints, metrics=metrics)
    chosen = list(PW3D.joints)
    pred, gt = ((points - points[:, :1])[:, chosen] for points in (joints, truth))

    def check(metric: str, aligned: np.ndarray) -> None:
        errors = 1000 * np.linalg.norm(aligned - gt, axis=-1)
        shares = [100 * (errors < threshold).mean() for threshold in range(0, 151, 5)]
        prefix = metric[:3] if metric.startswith("pa_") else ""
        assert mean(result, f"{prefix}pck3d") == pytest.approx(shares[-1])
        assert mean(result, f"{prefix}auc") == pytest.approx(np.mean(shares))
        assert mean(result, metric) == pytest.approx(errors.mean(), abs=1e-3)
        np.testing.assert_allclose(result.joints[metric], errors.mean(axis=0), atol=1e-3)

    check("mpjpe", pred)
    scale = (pred * gt).sum((1, 2)) / (pred * pred).sum((1, 2))
    scaled = 1000 * np.linalg.norm(scale[:, None, None] * pred - gt, axis=-1).mean()
    assert mean(result, "n_mpjpe") == pytest.approx(scaled, abs=1e-3)
    aligned = np.empty_like(pred)
    for i, (source, target) in enumerate(zip(pred, gt, strict=True)):
        a, b = source - source.mean(0), target - target.mean(0)
        turn, trace = orthogonal_procrustes(a, b)
        aligned[i] = trace / (a * a).sum() * a @ turn + target.mean(0)
    check("pa_mpjpe", aligned)


def test_acceleration_is_of_one_person_in_three_frames_that_follow(store: Store) -> None:
    truth = truth_joints(store)
    joints = truth + np.random.default_rng(0).normal(0, 0.02, truth.shape)
    result = by_joints(store, joints, metrics=["acceleration"])
    chosen = list(PW3D.joints)
    pred, gt = ((points - points[:, :1])[:, chosen] for points in (joints, truth))
    expected, start = np.full(len(store), np.nan), 0
    for frames in SEQUENCES.values():
        for t in range(start + 1, start + frames - 1):
            second = [x[t - 1] - 2 * x[t] + x[t + 1] for x in (pred, gt)]
            expected[t] = 1000 * np.linalg.norm(second[0] - second[1], axis=-1).mean()
        start += frames
    np.testing.assert_allclose(result.errors["acceleration"], expected, atol=1e-3)
    assert mean(result, "acceleration") == pytest.approx(np.nanmean(expected), abs=1e-3)
    assert result.overall.rows == len(store)
    assert any("known of 104 of 110 rows" in note for note in result.notes)
    # Frames that are not there, and a sequence that seems to go on in the next one.
    first, second, _ = SEQUENCES.values()
    kept = np.array([*range(5), *range(first + 5, first + 12), *range(first + 13, first + second)])
    some = Predictions(ids(store)[kept], joints=joints[kept])
    result = evaluate(store, predictions=some, metrics=["acceleration"], partial=True)
    alone = expected[kept]
    alone[[4, 5, 11, 12]] = np.nan
    np.testing.assert_allclose(result.errors["acceleration"], alone, atol=1e-3)
    # A stride leaves no three frames that follow one another.
    strided = dataclasses.replace(PW3D, stride=5)
    apart = by_joints(store, joints, metrics=["acceleration"], protocol=strided)
    assert np.isnan(mean(apart, "acceleration"))
    assert apart.as_dict()["overall"]["metrics"]["acceleration"]["mean"] is None


def test_pa_pve_aligns_every_mesh_by_itself(store: Store) -> None:
    values = parameters(store)
    values["body_pose"] = values["body_pose"] * np.float32(0.8)
    predictions = Predictions(ids(store), **values)
    result = evaluate(store, predictions=predictions, metrics=["pve", "pa_pve"], limit=3)
    for row, error in zip(result.rows, result.errors["pa_pve"], strict=True):
        orient, pose, betas = (values[name][[row]] for name in parameters(store))
        true_pose = parameters(store)["body_pose"][[row]]
        gender = "male" if store.instances["gender"][row] == MALE else "female"
        source = forward(body_model("neutral"), orient, pose, betas)[0][0].astype(np.float64)
        true = forward(body_model(gender), orient, true_pose, betas)[0][0].astype(np.float64)
        a, b = source - source.mean(0), true - true.mean(0)
        turn, trace = orthogonal_procrustes(a, b)
        expected = 1000 * np.linalg.norm(trace / (a * a).sum() * a @ turn - b, axis=1).mean()
        assert error == pytest.approx(expected, abs=1e-3)
    assert mean(result, "pa_pve") < mean(result, "pve")


def test_joints_have_figures_of_their_own_by_name(store: Store) -> None:
    joints = truth_joints(store)
    joints[:, 16] += [0, 0.014, 0]
    result = by_joints(store, joints)
    document = result.as_dict()["joints"]
    assert document["names"][PW3D.joints.index(16)] == "right_wrist"
    mpjpe = dict(zip(document["names"], document["metrics"]["mpjpe"], strict=True))
    assert mpjpe.pop("right_wrist") == pytest.approx(14, abs=1e-3)
    assert max(mpjpe.values()) < 1e-3
    for metric in JOINTS:
        assert result.joints[metric].mean() == pytest.approx(mean(result, metric))


# Ground truth -----------------------------------------------------------------------------------


def test_joints_without_the_mesh_equal_those_of_the_whole_mesh(store: Store) -> None:
    people = stored_bodies(store, np.arange(len(store)), PW3D)
    assert np.abs(people.joints() - truth_joints(store)).max() < 1e-6


def test_joints_without_the_mesh_hold_for_models_with_pose_correctives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    plain = body_model("male")
    model = dataclasses.replace(plain, posedirs=rng.normal(0, 1e-3, (6890, 3, 207)))
    pose, betas = rng.normal(0, 0.4, (5, 24, 3)), rng.normal(size=(5, 10))
    people = Bodies(pose[:, 0], pose[:, 1:], betas, np.full(5, 1), Path("corrective"))
    monkeypatch.setattr(bodies, "body_model", lambda gender, folder: model)
    joints = people.joints()
    whole = model.regressor("h36m") @ forward(model, pose[:, 0], pose[:, 1:], betas)[0]
    assert np.abs(joints - whole).max() < 1e-6


def test_ground_truth_joints_agree_with_smplx(store: Store, tmp_path: Path) -> None:
    smplx, torch = pytest.importorskip("smplx"), pytest.importorskip("torch")
    rows = np.arange(0, len(store), 11)
    gender = np.asarray(store.instances["gender"])[rows]
    ours = ground_truth(store, rows, PW3D)
    values = parameters(store)
    for code, name in ((MALE, "male"), (FEMALE, "female")):
        file = tmp_path / f"SMPL_{name.upper()}.pkl"
        write_pkl(body_model(name), file, chumpy=False)
        mine = np.flatnonzero(gender == code)
        oracle = smplx.SMPL(str(file), gender=name)
        chosen = {k: torch.tensor(v[rows[mine]]) for k, v in values.items()}
        chosen["body_pose"] = chosen["body_pose"].reshape(len(mine), 69)
        vertices = oracle(**chosen).vertices.detach().numpy()
        joints = body_model(name).regressor("h36m") @ vertices
        relative = (joints - joints[:, :1])[:, list(PW3D.joints)]
        assert np.abs(ours.joints[mine] - relative).max() < 1e-5
        assert np.abs(ours.mesh(slice(None))[mine] - (vertices - joints[:, :1])).max() < 1e-5


def test_the_24_joints_of_spin_are_gathered_from_the_54_of_the_whole_body(store: Store) -> None:
    protocol = dataclasses.replace(
        GENERIC, name="24", regressor="smpl_24", joints=(*range(13), 18), root=(2, 3)
    )
    values, gender = parameters(store), np.asarray(store.instances["gender"])
    given = [array.astype(np.float64) for array in values.values()]
    sides = {}
    for name, codes in (("true", gender), ("predicted", np.ones_like(gender))):
        joints = np.empty((len(store), 14, 3))
        for code, sex in ((1, "neutral"), (MALE, "male"), (FEMALE, "female")):
            model, rows = body_model(sex), codes == code
            body = joints_smpl54(model, *forward(model, *(array[rows] for array in given)))
            spin, _ = keypoints.convert(body, "smpl_54", "smpl_24")
            joints[rows] = (spin - spin[:, 2:4].mean(1, keepdims=True))[:, [*range(13), 18]]
        sides[name] = joints
    errors = 1000 * np.linalg.norm(sides["predicted"] - sides["true"], axis=-1).mean(axis=1)
    predictions = Predictions(ids(store), **values)
    result = evaluate(store, predictions=predictions, protocol=protocol, any_store=True)
    np.testing.assert_allclose(result.errors["mpjpe"], errors, atol=1e-3)
    assert gender[0] == MALE
    meshes = []
    for sex in ("male", "neutral"):
        model = body_model(sex)
        vertices, bones = forward(model, *(array[:1] for array in given))
        hips = joints_smpl54(model, vertices, bones)[:, 45:47].mean(axis=1, keepdims=True)
        meshes.append(vertices - hips)
    pve = 1000 * np.linalg.norm(meshes[0] - meshes[1], axis=-1).mean()
    assert result.errors["pve"][0] == pytest.approx(pve, abs=1e-3)
    every = Bodies(*values.values(), np.zeros(len(store), int)).joints("smpl_24")
    neutral = joints_smpl54(body_model(), *forward(body_model(), *given))
    np.testing.assert_allclose(
        every, keypoints.convert(neutral, "smpl_54", "smpl_24")[0], atol=1e-5
    )
    for name, other in (("joints", np.zeros((len(store), 17, 3))), ("vertices", every)):
        wrong = Predictions(ids(store), **{name: other})
        with pytest.raises(HumandataError, match="SMPL parameters"):
            evaluate(store, predictions=wrong, protocol=protocol, metrics=["mpjpe"])


def test_everybody_who_is_not_male_is_scored_in_the_female_body_on_3dpw(store: Store) -> None:
    genders = np.asarray(store.instances["gender"])
    people = stored_bodies(store, np.arange(len(store)), PW3D)
    assert {GENDERS[g] for g in people.gender[genders == MALE]} == {"male"}
    assert {GENDERS[g] for g in people.gender[genders != MALE]} == {"female"}


# PVE --------------------------------------------------------------------------------------------


def test_pve_of_both_conventions_against_plain_meshes(store: Store) -> None:
    values = parameters(store)
    values["body_pose"][:, 3] += 0.2
    predictions = Predictions(ids(store), **values)
    double = {name: array.astype(np.float64) for name, array in values.items()}
    errors: dict[str, list[np.ndarray]] = {"pw3d-test": [], "pw3d-test-mmhuman3d": []}
    stored = {name: array.astype(np.float64) for name, array in parameters(store).items()}
    for row in range(0, len(store), 10):
        one = slice(row, row + 1)
        name = "male" if store.instances["gender"][row] == MALE else "female"
        model, regressor = body_model(name), body_model().regressor("h36m")
        truth = forward(model, *(a[one] for a in stored.values()))[0][0]
        own = forward(model, *(a[one] for a in double.values()))[0][0]
        neutral = forward(body_model(), *(a[one] for a in double.values()))[0][0]
        aligned = (neutral - regressor[0] @ neutral) - (truth - model.regressor("h36m")[0] @ truth)
        errors["pw3d-test"].append(np.linalg.norm(aligned, axis=1).mean())
        errors["pw3d-test-mmhuman3d"].append(np.linalg.norm(own - truth, axis=1).mean())
    for protocol, expected in errors.items():
        result = evaluate(store, predictions=predictions, protocol=protocol, metrics=["pve"])
        assert result.errors["pve"][::10] == pytest.approx(1000 * np.array(expected), abs=1e-2)


def test_vertices_in_the_file_give_the_figures_of_their_parameters(
    neutral: Store, tmp_path: Path
) -> None:
    values = parameters(neutral)
    values["body_pose"][:, 5] -= 0.3
    vertices = forward(body_model(), *values.values())[0] + np.float32([1, 2, 3])
    meshes = Predictions(ids(neutral), vertices=vertices)
    mapped = load_predictions(save_predictions(meshes, tmp_path / "meshes.npz"))
    assert isinstance(mapped.vertices, np.memmap)
    results = [
        evaluate(neutral, predictions=p)
        for p in (Predictions(ids(neutral), **values), meshes, mapped)
    ]
    for metric in ("mpjpe", "pa_mpjpe", "pve"):
        figures = [mean(result, metric) for result in results]
        assert figures == pytest.approx([figures[0]] * 3, abs=1e-2)
        assert figures[0] > 1


def test_threads_change_nothing(store: Store) -> None:
    values = parameters(store)
    values["betas"][:] = 0
    predictions = Predictions(ids(store), **values)
    one, two = (evaluate(store, predictions=predictions, workers=n) for n in (1, 3))
    assert one.as_dict() == two.as_dict()


# Rows, sequences, intervals, baseline -----------------------------------------------------------


def test_sequence_means_recombine_to_the_overall_figure(store: Store) -> None:
    values = parameters(store)
    values["global_orient"][:50] += 0.1
    result = evaluate(store, predictions=Predictions(ids(store), **values))
    assert {row.name: row.rows for row in result.sequences} == SEQUENCES
    for metric, figure in result.overall.figures.items():
        total = sum(row.rows * row.figures[metric].mean for row in result.sequences)
        assert total / result.overall.rows == pytest.approx(figure.mean, rel=1e-12)
        means = [row.figures[metric].mean for row in result.sequences]
        limits = [min(means) - 1e-9, figure.low, figure.mean, figure.high, max(means) + 1e-9]
        assert limits == sorted(limits)


def test_the_order_of_the_predictions_does_not_matter(store: Store, tmp_path: Path) -> None:
    values = parameters(store)
    values["body_pose"] += np.random.default_rng(0).normal(0, 0.1, values["body_pose"].shape)
    order = np.random.default_rng(1).permutation(len(store))
    shuffled = Predictions(ids(store)[order], **{k: v[order] for k, v in values.items()})
    file = save_predictions(shuffled, tmp_path / "shuffled.npz")
    a = evaluate(store, predictions=Predictions(ids(store), **values))
    b = evaluate(store, predictions=file)
    assert a.as_dict() | {"predictions": ""} == b.as_dict() | {"predictions": ""}
    assert (b.predictions.id == ids(store)).all()


def test_the_baseline_is_the_mean_pose_for_everybody(store: Store) -> None:
    result = evaluate(store, predictions=Predictions(ids(store), **parameters(store)))
    mean6d = mean_parameters()
    matrices = rotation6d_to_matrix(mean6d.pose6d.reshape(24, 6))
    pose = Rotation.from_matrix(matrices).as_rotvec()
    everybody = {
        "global_orient": np.tile(pose[0], (len(store), 1)),
        "body_pose": np.tile(pose[1:], (len(store), 1, 1)),
        "betas": np.tile(mean6d.betas, (len(store), 1)),
    }
    for protocol in [name for name in PROTOCOLS if name.startswith("pw3d")]:
        predicted = evaluate(
            store, predictions=Predictions(ids(store), **everybody), protocol=protocol
        )
        for metric, figure in predicted.overall.figures.items():
            assert predicted.baseline.figures[metric].mean == pytest.approx(figure.mean, abs=1e-2)
    assert result.baseline.figures["pa_mpjpe"].mean > 3 * mean(result, "pa_mpjpe")


def joints_store(path: Path, joints: np.ndarray, convention: str = "h36m_spin") -> Store:
    """A store of Human3.6M protocol 2 with these joints (n, 17, 3), one person in each picture."""
    count = len(joints)
    numbers = np.arange(count)
    labelled = np.concatenate([joints, np.ones((count, 17, 1))], axis=-1).astype(np.float32)
    with humandata.create(path, dataset="h36m", split="test_p2") as writer:
        writer.append(
            images={
                "id": (numbers + 1).astype(np.uint64),
                "path": [f"{number}.jpg" for number in numbers],
                "height": np.full(count, 1000, np.int32),
                "width": np.full(count, 1000, np.int32),
            },
            instances={
                "id": (numbers + 1).astype(np.uint64),
                "image": numbers.astype(np.int32),
                "bbox_xywh": np.tile(np.array([0, 0, 9, 9, 1], np.float32), (count, 1)),
                "keypoints3d": labelled,
            },
            field_attributes={
                "bbox_xywh": {"rule": "joints", "factor": 1.2},
                "keypoints3d": {"convention": convention, "root": "absolute"},
            },
        )
    return humandata.open(path)


def test_human36m_is_held_against_the_joints_of_motion_capture(
    tmp_path: Path, store: Store
) -> None:
    """Joints somewhere in the room, predicted exactly but for one wrist that is 14 mm off."""
    truth = truth_joints(store) + np.array([0.3, -0.2, 5])
    captured = joints_store(tmp_path / "h36m.zarr", truth)
    moved = truth.copy()
    moved[:, 16] += [0, 0.014, 0]
    result = evaluate(captured, predictions=Predictions(ids(captured), joints=moved))
    assert result.protocol.name == "h36m-p2"
    assert mean(result, "mpjpe") == pytest.approx(1, abs=1e-3)
    assert result.metrics == JOINTS


def test_human36m_in_the_order_of_mmpose_is_put_into_that_of_the_regressor(
    tmp_path: Path, store: Store
) -> None:
    truth = truth_joints(store)
    order = list(keypoints.mapping("h36m", "h36m_mmpose"))
    captured = joints_store(tmp_path / "h36m.zarr", truth[:, order], "h36m_mmpose")
    result = evaluate(captured, predictions=Predictions(ids(captured), joints=truth))
    assert mean(result, "mpjpe") == pytest.approx(0, abs=1e-3)


def test_joints_have_no_pve_and_other_conventions_are_refused(tmp_path: Path, store: Store) -> None:
    truth = truth_joints(store)
    captured = joints_store(tmp_path / "h36m.zarr", truth)
    predictions = Predictions(ids(captured), **parameters(store))
    with pytest.raises(HumandataError, match="has no PVE"):
        evaluate(captured, predictions=predictions, metrics=["pve"])
    other = joints_store(tmp_path / "coco.zarr", truth, "coco")
    with pytest.raises(HumandataError, match="17 joints of Human3.6M"):
        evaluate(other, predictions=predictions)


def test_a_stride_takes_every_other_row_and_a_limit_spreads_over_the_store(store: Store) -> None:
    joints = truth_joints(store)
    strided = by_joints(store, joints, protocol=dataclasses.replace(PW3D, stride=5))
    assert strided.rows.tolist() == list(range(0, len(store), 5))
    limited = by_joints(store, joints, limit=3)
    assert limited.rows.tolist() == [0, 54, 109]
    assert any("only 3 of 110 rows" in note for note in limited.notes)


def test_rows_without_a_valid_body_are_left_out_and_said(tmp_path: Path, neutral: Store) -> None:
    path = write_pw3d_store(tmp_path / "some.zarr", {"walk": 6})
    valid = np.ones(6, bool)
    valid[[1, 4]] = False
    array = zarr.open_group(path, mode="r+")["instances/smpl/valid"]
    array[:] = valid  # type: ignore[index]
    some = humandata.open(path)
    result = by_joints(some, truth_joints(some))
    assert result.rows.tolist() == [0, 2, 3, 5]
    assert "2 rows without a valid body are left out" in result.notes


def test_a_store_without_sequences_clusters_by_picture(neutral: Store, tmp_path: Path) -> None:
    plain = humandata.open(write_tiny_store(tmp_path / "plain.zarr", count=5))
    values = parameters(plain)
    values["body_pose"][:, 2] += np.linspace(0, 1, 5)[:, None]
    result = evaluate(plain, predictions=Predictions(ids(plain), **values))
    assert result.sequences == ()
    assert result.clusters == "frame blocks"
    figure = result.overall.figures["mpjpe"]
    assert 0 < figure.low < figure.mean < figure.high


def test_the_json_is_plain_and_holds_protocol_store_and_notes(store: Store) -> None:
    result = by_joints(store, truth_joints(store) * 1.1)
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert document["protocol"]["name"] == "pw3d-test"
    assert document["store"]["fingerprint"] == store.fingerprint
    assert document["comparable_with_published"] is False
    assert any("stand-in" in note for note in document["notes"])
    assert any("35,515" in note for note in document["notes"])
    assert document["overall"]["metrics"]["mpjpe"]["mean"] > 0
    # One block of frames says nothing of the spread.
    assert document["sequences"][1]["metrics"]["mpjpe"]["low"] is None


# Wrong input ------------------------------------------------------------------------------------


def test_missing_predictions_are_an_error_unless_partial(store: Store) -> None:
    some = Predictions(ids(store)[:40], joints=truth_joints(store)[:40])
    with pytest.raises(HumandataError, match=r"70 of 110 rows have no prediction.*--partial"):
        evaluate(store, predictions=some)
    result = evaluate(store, predictions=some, partial=True)
    assert result.overall.rows == 40
    assert "70 of 110 rows have no prediction" in result.notes


def test_predictions_for_another_store_are_an_error_even_when_partial(store: Store) -> None:
    strangers = Predictions(ids(store) + 1, joints=truth_joints(store))
    with pytest.raises(HumandataError, match="Are they for this store"):
        evaluate(store, predictions=strangers, partial=True)


def test_a_store_of_another_split_is_refused_unless_asked_for(neutral: Store) -> None:
    joints = truth_joints(neutral)
    with pytest.raises(HumandataError, match=r"pw3d-test is for pw3d test.*holds mine test"):
        by_joints(neutral, joints, protocol="pw3d-test")
    result = by_joints(neutral, joints, protocol="pw3d-test", any_store=True)
    assert any("the store holds mine test" in note for note in result.notes)


def test_a_store_without_bodies_is_refused(tmp_path: Path) -> None:
    plain = humandata.open(write_tiny_store(tmp_path / "plain.zarr", 3, without=("smpl", "gender")))
    with pytest.raises(DataError, match=r"persons with SMPL ground truth.*no smpl/global_orient"):
        evaluate(plain, predictions=Predictions(ids(plain), joints=np.zeros((3, 17, 3))))


def test_pve_of_joints_alone_and_unknown_metrics_are_refused(store: Store) -> None:
    with pytest.raises(HumandataError, match="PVE needs meshes"):
        by_joints(store, truth_joints(store), metrics=["mpjpe", "pve"])
    with pytest.raises(HumandataError, match="no metric 'mjpe'; there are mpjpe"):
        by_joints(store, truth_joints(store), metrics=["mjpe"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": np.arange(4.0)}, "id: expected whole numbers"),
        ({"id": np.array([1, 2, 2, 3])}, "id 2: expected one row per id"),
        ({"joints": np.zeros((4, 24, 3))}, r"joints: expected floats \(4, 17, 3\) or \(4, 14, 3\)"),
        ({"joints": np.full((4, 17, 3), np.nan)}, "joints of id 1: expected numbers"),
        ({"joint": np.zeros((4, 17, 3))}, "joint: expected the keys id, "),
        ({"joints": None, "betas": np.zeros((4, 10))}, "expected all of global_orient, body_pose"),
        ({"joints": None}, "found none of them"),
        ({"joints": np.array([{}])}, "allow_pickle"),
    ],
)
def test_a_wrong_predictions_file_is_answered_with_file_key_and_rule(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = {"id": np.arange(1, 5), "joints": np.zeros((4, 17, 3))} | change
    np.savez(tmp_path / "p.npz", **{k: v for k, v in content.items() if v is not None})
    with pytest.raises(DataError, match=message) as caught:
        load_predictions(tmp_path / "p.npz")
    assert str(tmp_path / "p.npz") in str(caught.value)


def test_a_truncated_or_absent_predictions_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_predictions(tmp_path / "absent.npz")
    whole = save_predictions(Predictions(np.arange(3), joints=np.zeros((3, 17, 3))), tmp_path / "a")
    (tmp_path / "b").write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(DataError, match="expected a predictions file"):
        load_predictions(tmp_path / "b")


# Boxes, and what is imported --------------------------------------------------------------------


def test_boxes_are_enlarged_by_the_protocols_factor_exactly_once(store: Store) -> None:
    rows = np.arange(5)
    stored = np.asarray(store.instances["bbox_xywh"][rows], np.float64)[:, :4]
    assert np.allclose(crop_boxes(store, rows, PW3D), stored)
    wider = crop_boxes(store, rows, dataclasses.replace(PW3D, box_factor=1.5))
    assert wider is not None
    assert np.allclose(wider[:, 2:], stored[:, 2:] * 1.5 / 1.2)
    assert np.allclose(wider[:, :2] + wider[:, 2:] / 2, stored[:, :2] + stored[:, 2:] / 2)
    assert crop_boxes(store, rows, GENERIC) is None


def test_scoring_stored_predictions_imports_no_torch(store: Store, tmp_path: Path) -> None:
    file = save_predictions(Predictions(ids(store), **parameters(store)), tmp_path / "p.npz")
    code = (
        "import sys; from humandata.training import evaluate;"
        f"r = evaluate({str(store.path)!r}, predictions={str(file)!r});"
        "print(r.overall.rows, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["110", "False"]


# A checkpoint -----------------------------------------------------------------------------------


def test_a_network_that_corrects_nothing_scores_as_the_mean_pose(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from humandata.training.algorithms.hmr import build
    from humandata.training.checkpoints import save
    from humandata.training.recipes import Recipe

    path = write_pw3d_store(tmp_path / "pw3d_test.zarr", {"a": 5, "b": 4}, pictures=True)
    recipe = Recipe(backbone="resnet18", init="none", image_size=32)
    network = build(recipe, pretrained=False)
    for decoder in (network.head.decpose, network.head.decshape, network.head.deccam):
        torch.nn.init.zeros_(decoder.weight)
        torch.nn.init.zeros_(decoder.bias)
    save(tmp_path / "run", 1, network, torch.optim.SGD(network.parameters(), lr=1), recipe)
    seen: list[tuple[str, int, int]] = []
    result = evaluate(
        path,
        checkpoint=tmp_path / "run",
        device="cpu",
        batch_size=4,
        progress=lambda *step: seen.append(step),
    )
    for metric, figure in result.overall.figures.items():
        baseline = result.baseline.figures[metric]
        # Orthonormalising and the way through axis-angle cost a few micrometres.
        assert figure.mean == pytest.approx(baseline.mean, abs=0.05)
    assert [step for step in seen if step[0] == "predict"] == [
        ("predict", 4, 9), ("predict", 8, 9), ("predict", 9, 9),
    ]  # fmt: skip
    assert result.predictions.camera is not None
    assert np.allclose(result.predictions.camera, mean_parameters().camera, atol=1e-6)


def test_evaluation_wants_a_checkpoint_or_predictions_and_not_both(store: Store) -> None:
    for both in ({}, {"checkpoint": "run", "predictions": "p.npz"}):
        with pytest.raises(HumandataError, match="either a checkpoint or predictions"):
            evaluate(store, **both)  # type: ignore[arg-type]
