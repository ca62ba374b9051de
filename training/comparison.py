"""The two sides of an evaluation, prediction and ground truth, as a protocol compares them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import keypoints, schema
from humandata.bodymodel import GENDERS, body_model, mean_parameters
from humandata.errors import DataError, HumandataError
from humandata.rotations import matrix_to_axis_angle, rotation6d_to_matrix
from humandata.store import Store
from humandata.training import metrics as formulas
from humandata.training.bodies import BLOCK, Bodies
from humandata.training.predictions import Predictions, Progress
from humandata.training.protocols import Protocol

MESH_METRICS = ("pve", "pa_pve")
"""Metrics that need meshes on both sides."""

Array = NDArray[Any]
Meshes = Callable[[slice], Array]


@dataclass(frozen=True, eq=False)
class Poses:
    """One side of a comparison, n persons.

    Attributes
    ----------
    joints : (n, J, 3) float32
        The protocol's joints with the root subtracted, metres.
    meshes : callable or None
        Takes a slice of the persons and gives their vertices (m, 6890, 3), metres, with the root
        subtracted where the protocol says so. None where no mesh is known.
    """

    joints: Array
    meshes: Meshes | None

    def mesh(self, at: slice) -> Array:
        """Vertices (m, 6890, 3) of some persons; HumandataError where no mesh is known."""
        if self.meshes is None:
            raise HumandataError("these poses have joints only, and no mesh")
        return self.meshes(at)


def ground_truth(
    store: Store, rows: Array, protocol: Protocol, folder: Path | None = None
) -> Poses:
    """Joints and meshes of the ground truth of rows of a store.

    Parameters
    ----------
    store : Store
        With ``smpl/`` fields.
    rows : (n,) int
        Rows of ``instances``.
    protocol : Protocol
    folder : Path, optional
        The user's SMPL files.
    """
    if protocol.ground_truth != "smpl":
        joints = stored_joints(store, rows, protocol.ground_truth)
        return Poses(_select(joints, protocol), None)
    return poses_of(stored_bodies(store, rows, protocol, folder), protocol)


#: Conventions whose joints stand in the order of J_regressor_h36m, under one or the other name.
_REGRESSOR_ORDER = ("h36m", "h36m_spin")


def stored_joints(store: Store, rows: Array, field: str = "keypoints3d") -> Array:
    """The 17 joints (n, 17, 3) of a field in the order of the regressor, metres.

    Raises
    ------
    DataError
        If the store has no 3D joints, or of another convention.
    """
    if field not in store.instances:
        raise DataError(store.path, "instances", expected=field, found="no such field")
    points = np.asarray(store.instances[field][rows], np.float32)[..., :3]
    convention = store.convention(field)
    if convention in _REGRESSOR_ORDER:
        return points
    joints, supplied = keypoints.convert(points, convention, "h36m")
    if not np.all(supplied):
        raise DataError(
            store.path,
            field,
            expected="the 17 joints of Human3.6M",
            found=f"joints of the convention {convention}",
        )
    return np.asarray(joints)


def stored_bodies(
    store: Store, rows: Array, protocol: Protocol, folder: Path | None = None
) -> Bodies:
    """The ground truth parameters of rows of a store, in the bodies that the protocol says.

    Where the protocol's ground truth are joints, neutral bodies at rest stand in: of them only the
    number and the gender is asked.
    """
    instances = store.instances
    if protocol.ground_truth != "smpl":
        zeros = np.zeros((len(rows), 24, 3), np.float32)
        neutral = np.full(len(rows), GENDERS.index("neutral"))
        return Bodies(zeros[:, 0], zeros[:, 1:], np.zeros((len(rows), 10)), neutral, folder)
    vocabulary = schema.field("instances", "gender").vocabulary
    by_name = dict(zip(vocabulary, protocol.ground_truth_body, strict=True))
    by_code = np.array([GENDERS.index(by_name[name]) for name in vocabulary])
    codes = instances["gender"][rows] if "gender" in instances else np.zeros(len(rows), np.uint8)
    return Bodies(
        instances["smpl/global_orient"][rows],
        instances["smpl/body_pose"][rows],
        instances["smpl/betas"][rows][:, : protocol.num_betas],
        by_code[codes],
        folder,
    )


def poses_of(bodies: Bodies, protocol: Protocol) -> Poses:
    """Joints by the protocol's regressor, meshes on demand."""
    joints = bodies.joints(protocol.regressor)
    root = _root(joints, protocol)

    def meshes(at: slice) -> Array:
        vertices = bodies.vertices(at)
        return vertices - root[at] if protocol.pve_root == "pelvis" else vertices

    return Poses(_select(joints, protocol), meshes)


def predicted_poses(
    predictions: Predictions, place: Array, protocol: Protocol, truth: Bodies
) -> Poses:
    """Joints and meshes of predictions.

    Parameters
    ----------
    predictions : Predictions
        Joints and vertices are taken as they are where given, else made from the parameters.
    place : (n,) int
        The prediction of each person of ``truth``.
    protocol : Protocol
    truth : Bodies
        Its genders are used where the protocol says so.
    """
    made: Poses | None = None
    if predictions.global_orient is not None:
        made = _of_parameters(predictions, place, protocol, truth)
    given = None
    if predictions.vertices is not None:
        given = _of_vertices(predictions.vertices, place, protocol, truth.folder)
    joints = next((poses.joints for poses in (given, made) if poses is not None), None)
    if predictions.joints is not None:
        joints = _select(predictions.joints[place], protocol)
    if joints is None:
        raise HumandataError("predictions need SMPL parameters, joints or vertices")
    meshes = next((poses.meshes for poses in (given, made) if poses is not None), None)
    return Poses(joints, meshes)


def mean_pose(protocol: Protocol, truth: Bodies) -> Poses:
    """The same body for everybody: where iterative regressors start, and what to beat."""
    mean = mean_parameters(truth.folder)
    rotations = matrix_to_axis_angle(
        rotation6d_to_matrix(mean.pose6d.reshape(24, 6).astype(np.float64))
    )
    own = GENDERS.index(protocol.prediction_body)
    genders, which = np.unique(truth.gender, return_inverse=True)

    def bodies(gender: Array) -> Bodies:
        count = len(gender)
        pose = np.tile(rotations.astype(np.float32), (count, 1, 1))
        betas = np.tile(mean.betas, (count, 1))
        return Bodies(pose[:, 0], pose[:, 1:], betas, gender, truth.folder)

    neutral = poses_of(bodies(np.array([own])), protocol)
    if protocol.pve_body == "prediction":
        genders, which = np.array([own]), np.zeros(len(truth), np.int64)

    @functools.cache
    def few() -> Array:
        return poses_of(bodies(genders), protocol).mesh(slice(None))

    joints = np.broadcast_to(neutral.joints, (len(truth), *neutral.joints.shape[1:]))
    return Poses(joints, lambda at: few()[which[at]])


@dataclass(frozen=True, eq=False)
class Errors:
    """What a comparison found, in the units of `humandata.training.results.UNITS`.

    Attributes
    ----------
    persons : dict of str to (n,) float64
        Metric -> figure of each person.
    joints : dict of str to (J,) float64
        Metric -> mean of each joint, for metrics that are made of joints.
    """

    persons: dict[str, Array]
    joints: dict[str, Array]


_OF_JOINTS: Mapping[str, tuple[str, Callable[[Array], Array]]] = {
    "mpjpe": ("", lambda errors: 1000 * errors),
    "pa_mpjpe": ("similarity", lambda errors: 1000 * errors),
    "n_mpjpe": ("scale", lambda errors: 1000 * errors),
    "pck3d": ("", lambda errors: 100.0 * (errors < PCK_THRESHOLD)),
    "pa_pck3d": ("similarity", lambda errors: 100.0 * (errors < PCK_THRESHOLD)),
    "auc": ("", lambda errors: 100 * formulas.auc_shares(errors, PCK_THRESHOLD)),
    "pa_auc": ("similarity", lambda errors: 100 * formulas.auc_shares(errors, PCK_THRESHOLD)),
}
"""Metric -> how predictions are aligned for it, and what is made of the errors (n, J) in metres."""

PCK_THRESHOLD = 0.150
"""Of 3DPCK, and the largest of AUC: metres."""


def compare(
    truth: Poses,
    sides: Mapping[str, Poses],
    metrics: Sequence[str],
    workers: int = 1,
    progress: Progress | None = None,
    tracks: tuple[Array, Array] | None = None,
) -> dict[str, Errors]:
    """Errors of several sides against one ground truth, whose meshes are made once.

    Parameters
    ----------
    truth : Poses
    sides : mapping of str to Poses
    metrics : sequence of str
        Of `humandata.training.results.METRICS`.
    workers : int
        Threads that pose meshes.
    progress : callable, optional
    tracks : (n,) int, (n,) int, optional
        Whose movement each row is part of (-1 for nobody's), and its frame; for ``acceleration``.

    Returns
    -------
    dict of str to Errors
        One of each side.
    """
    found = {
        name: _joint_figures(side.joints, truth.joints, metrics) for name, side in sides.items()
    }
    if "acceleration" in metrics and tracks is not None:
        for name, side in sides.items():
            values = 1000 * _accelerations(side.joints - truth.joints, *tracks)
            found[name].persons["acceleration"] = formulas.sample_means(values)
            found[name].joints["acceleration"] = formulas.joint_means(values, ~np.isnan(values))
    wanted = [name for name in MESH_METRICS if name in metrics]
    if not wanted:
        return found
    count = len(truth.joints)
    for errors in found.values():
        errors.persons.update((name, np.empty(count)) for name in wanted)
    starts = range(0, count, BLOCK)

    def block(start: int) -> None:
        at = slice(start, min(start + BLOCK, count))
        reference = truth.mesh(at)
        for name, side in sides.items():
            mesh = side.mesh(at)
            for metric in wanted:
                of = formulas.joint_errors if metric == "pve" else formulas.similarity_errors
                found[name].persons[metric][at] = 1000 * formulas.sample_means(of(mesh, reference))

    # NumPy lets go of the interpreter in what takes the time here.
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for done, _ in enumerate(pool.map(block, starts), start=1):
            if progress is not None:
                progress("meshes", done, len(starts))
    return found


def _joint_figures(pred: Array, gt: Array, metrics: Sequence[str]) -> Errors:
    """Every figure that is made of the errors of single joints."""
    errors: dict[str, Array] = {}
    found = Errors({}, {})
    for metric in metrics:
        if metric not in _OF_JOINTS:
            continue
        alignment, figure = _OF_JOINTS[metric]
        if alignment not in errors:
            if alignment == "similarity":
                errors[alignment] = formulas.similarity_errors(pred, gt)
            else:
                aligned = formulas.scale_align(pred, gt) if alignment == "scale" else pred
                errors[alignment] = formulas.joint_errors(aligned, gt)
        values = figure(errors[alignment])
        found.persons[metric] = formulas.sample_means(values)
        found.joints[metric] = formulas.joint_means(values)
    return found


def _accelerations(difference: Array, track: Array, frame: Array) -> Array:
    """Length (n, J) of the second difference about each row; NaN where a neighbour is not there."""
    result = np.full(difference.shape[:2], np.nan)
    order = np.lexsort((frame, track))
    before, here, after = order[:-2], order[1:-1], order[2:]
    whole = (track[here] >= 0) & (track[before] == track[here]) & (track[here] == track[after])
    whole &= (frame[here] - frame[before] == 1) & (frame[after] - frame[here] == 1)
    before, here, after = before[whole], here[whole], after[whole]
    second = difference[before].astype(np.float64) - 2.0 * difference[here] + difference[after]
    result[here] = np.linalg.norm(second, axis=-1)
    return result


def _of_parameters(
    predictions: Predictions, place: Array, protocol: Protocol, truth: Bodies
) -> Poses:
    orient, pose, betas = (
        getattr(predictions, n)[place] for n in ("global_orient", "body_pose", "betas")
    )
    gender = np.full(len(place), GENDERS.index(protocol.prediction_body))
    poses = poses_of(Bodies(orient, pose, betas, gender, truth.folder), protocol)
    if protocol.pve_body == "prediction":
        return poses
    gendered = poses_of(Bodies(orient, pose, betas, truth.gender, truth.folder), protocol)
    return Poses(poses.joints, gendered.meshes)


def _of_vertices(vertices: Array, place: Array, protocol: Protocol, folder: Path | None) -> Poses:
    if protocol.regressor != "h36m":
        raise HumandataError(
            f"protocol {protocol.name} compares joints that vertices alone do not tell: give SMPL "
            "parameters"
        )
    model = body_model(protocol.prediction_body, folder)
    regressor = model.single.regressor(protocol.regressor)
    joints = np.empty((len(place), len(regressor), 3), np.float32)
    for start in range(0, len(place), BLOCK):
        at = place[start : start + BLOCK]
        joints[start : start + BLOCK] = regressor @ np.asarray(vertices[at], np.float32)
    root = _root(joints, protocol)

    def meshes(at: slice) -> Array:
        block = np.asarray(vertices[place[at]], np.float32)
        return block - root[at] if protocol.pve_root == "pelvis" else block

    return Poses(_select(joints, protocol), meshes)


def _root(joints: Array, protocol: Protocol) -> Array:
    """The protocol's root (n, 1, 3); a copy, because a view would keep all joints."""
    root: Array = joints[:, np.atleast_1d(protocol.root)].mean(axis=1, keepdims=True)
    return root


def _select(joints: Array, protocol: Protocol) -> Array:
    """The protocol's joints, root-relative; arrays of just those joints are so already."""
    if joints.shape[1] == len(keypoints.names(protocol.regressor)):
        selected: Array = formulas.root_relative(joints, protocol.root)[:, protocol.joints]
        return selected
    if joints.shape[1] != len(protocol.joints):
        raise HumandataError(
            f"protocol {protocol.name} takes {len(keypoints.names(protocol.regressor))} joints of "
            f"{protocol.regressor}, or the {len(protocol.joints)} that count; the predictions hold "
            f"{joints.shape[1]}. Give SMPL parameters"
        )
    return joints
