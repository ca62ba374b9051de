"""The bodies of a store, posed: in the body model of their gender, children in a child's.

AGORA fits children with one shape coefficient more: the weight of a child's template, by which the
template moves away from the adult's. The template is SMIL's and comes with AGORA, as
``smpl_kid_template.npy`` and ``smplx_kid_template.npy``; it is looked for beside the body models.
With it a child is posed as it was fitted. Without it, posing a child by its first ten coefficients
would give an adult in the child's place, so children are left out.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.body_layout import SIZES, BodyModel
from humandata.bodymodel import FOLDER_VARIABLE, body_model
from humandata.errors import DataError, HumandataError
from humandata.posing import forward, forward_joints, rest_pelvis
from humandata.store import Store

Array = NDArray[Any]
Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

WEIGHT = "extra/kid_weight"
FLAGS = ("extra/kid", "extra/meta_kid")
"""What says who is a child where a store has no weights: imports of files that dropped them."""

POSES = {
    "smpl": {"body_pose": 23},
    "smplx": {"body_pose": 21, "jaw_pose": 1, "leye_pose": 1, "reye_pose": 1,
              "left_hand_pose": 15, "right_hand_pose": 15},
}  # fmt: skip
"""Pose parameters after the root's, in the order of the kinematic tree, and their joints."""
CONVENTIONS = {"smpl": 24, "smplx": 144}
"""Joints of the conventions in which bodies are given; SMPL-X's face and mesh joints are left."""


class NoBodyModel(HumandataError):
    """The bodies of a store are of a model whose file is not there; says which."""


@dataclass(frozen=True)
class Posed:
    """Bodies of a store, n of them.

    Attributes
    ----------
    rows : (n,) int
        Of the instances.
    convention : str
        ``smpl`` or ``smplx``.
    joints : (n, K, 4) float64
        Metres, camera frame, and 1 for the kinematic joints.
    pelvis : (n, 3) float64
        Of the shaped rest body.
    moved : (n,) bool
        Whether the translation is known; the others stand at the origin.
    """

    rows: NDArray[np.int64]
    convention: str
    joints: Float
    pelvis: Float
    moved: Bool

    def take(self, chosen: Bool) -> Posed:
        """Some of the bodies."""
        joints, pelvis, moved = self.joints[chosen], self.pelvis[chosen], self.moved[chosen]
        return Posed(self.rows[chosen], self.convention, joints, pelvis, moved)


def family_of(store: Store) -> str | None:
    """``smpl``, ``smplx``, or None for a store without bodies."""
    return next((name for name in POSES if f"{name}/valid" in store.instances), None)


def pose(store: Store, rows: Any, transposed: bool = False) -> Posed:
    """The kinematic joints of the bodies among these rows.

    Without the user's SMPL files they are those of the stand-in body, a few centimetres off.

    Parameters
    ----------
    store : Store
        With bodies.
    rows : slice or (n,) int
        Rows without a body are left out, and children without a template.
    transposed : bool
        Pose with every rotation the other way round: what is right where all were transposed.

    Raises
    ------
    NoBodyModel
        No file of the body model of one of the rows.
    """
    family = family_of(store) or "smpl"
    at = store.instances
    index = np.arange(len(store))[rows]
    index = index[np.asarray(at[f"{family}/valid"][index]).astype(bool)]
    child = are_children(store, index)
    gender = body_genders(store, index)
    joints = np.zeros((len(index), CONVENTIONS[family], 4))
    pelvis, posed = np.zeros((len(index), 3)), np.ones(len(index), bool)
    sign = -1 if transposed else 1
    for word in np.unique(gender):
        for young in np.unique(child[gender == word]):
            here = np.flatnonzero((gender == word) & (child == young))
            model = _model_of(store, str(word), bool(young), family)
            if model is None:
                posed[here] = False
                continue
            betas = _shape(store, index[here], family, model)
            orient, body = _pose(store, index[here], family, model)
            found = forward_joints(model, sign * orient, sign * body, betas)
            joints[here, : found.shape[1]] = np.dstack([found, np.ones(found.shape[:2])])
            pelvis[here] = rest_pelvis(model, betas)
    moved = np.zeros(len(index), bool)
    if f"{family}/transl_valid" in at:
        moved = np.asarray(at[f"{family}/transl_valid"][index]).astype(bool)
        joints[moved, :, :3] += at[f"{family}/transl"][index[moved]][:, None]
    return Posed(index, family, joints, pelvis, moved).take(posed)


def _pose(store: Store, rows: Array, family: str, model: BodyModel) -> tuple[Float, Float]:
    """Root (n, 3) and other rotations (n, J - 1, 3), hands absolute."""
    at, count = store.instances, len(rows)
    parts = []
    for name, joints in POSES[family].items():
        field = f"{family}/{name}"
        values = np.zeros((count, joints, 3))
        if field in at:
            values = at[field][rows].astype(np.float64).reshape(values.shape)
            relaxed = at[field].attributes.get("flat_hand_mean") is False
            if relaxed and model.hand_means is not None:
                values += model.hand_means[int(name.startswith("right"))].reshape(joints, 3)
        parts.append(values)
    return at[f"{family}/global_orient"][rows].astype(np.float64), np.concatenate(parts, axis=1)


def _shape(store: Store, rows: Array, family: str, model: BodyModel) -> Float:
    """Shape coefficients, for a child's model with the weight; SMPL-X's expression after them."""
    at = store.instances
    parts = [at[f"{family}/betas"][rows][:, :10]]
    if model.num_betas > parts[0].shape[1]:
        parts.append(np.asarray(at[WEIGHT][rows])[:, None])
    if f"{family}/expression" in at:
        parts.append(at[f"{family}/expression"][rows][:, : model.expressions])
    return np.concatenate(parts, axis=1).astype(np.float64)


def _model_of(store: Store, gender: str, child: bool, family: str) -> BodyModel | None:
    if child and WEIGHT not in store.instances:
        return None
    try:
        return child_model(gender, family=family) if child else body_model(gender, family=family)
    except HumandataError as error:
        raise NoBodyModel(f"no {SIZES[family].title} file for {gender} bodies: {error}") from error


def mesh(store: Store, row: int) -> tuple[Float, BodyModel] | None:
    """Vertices (V, 3) of a row's SMPL body in the camera frame, and its model.

    None without a body or its translation, and for a child whose template is not there.
    """
    at, rows = store.instances, np.array([row])
    if "smpl/transl_valid" not in at or not (
        at["smpl/valid"][row] and at["smpl/transl_valid"][row]
    ):
        return None
    child, gender = bool(are_children(store, rows)[0]), str(body_genders(store, rows)[0])
    model = _model_of(store, gender, child, "smpl")
    if model is None:
        return None
    orient, pose_ = _pose(store, rows, "smpl", model)
    betas = _shape(store, rows, "smpl", model)
    return forward(model, orient, pose_, betas, at["smpl/transl"][rows])[0][0], model


def body_genders(store: Store, rows: Array) -> Array:
    """Gender of the body model of each row: ``neutral``, ``male`` or ``female``."""
    if "gender" not in store.instances:
        return np.full(len(rows), "neutral")
    words = store.instances["gender"].attributes["vocabulary"]
    known = [word if word in ("male", "female") else "neutral" for word in words]
    codes = store.instances["gender"][rows]
    genders: Array = np.array(known)[np.where(codes < len(known), codes, 0)]
    return genders


def are_children(store: Store, rows: Any) -> Bool:
    """Which of these rows (n,) have a body that its betas alone do not make.

    A child that was imported without its weight is one, too: its betas lack what makes it small.
    """
    at = store.instances
    if WEIGHT in at:
        return np.asarray(at[WEIGHT][rows] > 0)
    for flag in FLAGS:
        if flag in at:
            return np.asarray(at[flag][rows]).astype(bool)
    return np.zeros(len(np.arange(len(store))[rows]), bool)


def template_name(family: str) -> str:
    """Name of the file with the child's template of ``smpl`` or ``smplx``."""
    return f"{family}_kid_template.npy"


def child_model(
    gender: str, folder: str | Path | None = None, family: str = "smpl"
) -> BodyModel | None:
    """The body model whose last shape coefficient is the weight of the child's template.

    Parameters
    ----------
    gender : str
    folder : path, optional
        With body models and templates; by default ``HUMANDATA_BODY_MODELS``.
    family : {"smpl", "smplx"}

    Returns
    -------
    BodyModel or None
        With one shape direction more (before SMPL-X's expression), as smplx makes it for
        ``age="kid"``; None where the template is not there.

    Raises
    ------
    DataError
        The template is damaged or of another body; or there is no such body model.
    """
    folder = folder or os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    return _cached(gender, str(Path(folder).resolve()), family)


@functools.cache
def _cached(gender: str, folder: str, family: str) -> BodyModel | None:
    file = _template(folder, family)
    if file is None:
        return None
    model = body_model(gender, folder, family)
    try:
        template: NDArray[np.float64] = np.load(file, allow_pickle=False).astype(np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(file, expected="a NumPy array", found=str(error)) from error
    if template.shape != model.v_template.shape:
        raise DataError(file, expected=f"shape {model.v_template.shape}", found=f"{template.shape}")
    # SMIL's template stands elsewhere than SMPL's; official code puts its mean to the origin.
    away = template - template.mean(axis=0) - model.v_template
    body, face = np.split(model.shapedirs, [model.num_betas], axis=-1)
    return replace(model, shapedirs=np.concatenate([body, away[..., None], face], axis=-1))


def _template(folder: str | Path, family: str) -> Path | None:
    name = template_name(family)
    files = (Path(folder) / name, Path(folder) / family / name)
    return next((file for file in files if file.is_file()), None)


def unposed_children(store: Store) -> int:
    """How many children's bodies `pose` leaves out."""
    family = family_of(store)
    if family is None:
        return 0
    every = slice(None)
    young = are_children(store, every) & np.asarray(store.instances[f"{family}/valid"]).astype(bool)
    folder = os.environ.get(FOLDER_VARIABLE)
    if WEIGHT in store.instances and folder and _template(folder, family) is not None:
        return 0
    return int(young.sum())
