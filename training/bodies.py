"""Many persons as SMPL parameters, each in the body model of a gender: their joints and meshes.

NumPy only. Joints come from a model that keeps just the vertices a regressor looks at, which is
exact and some ten times faster than posing the whole mesh.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.bodymodel import GENDERS, BodyModel, body_model
from humandata.posing import forward

Float = NDArray[np.float32]
Array = NDArray[Any]

BLOCK = 128
"""Meshes posed at a time: some 60 MB of scratch memory."""


@dataclass(frozen=True, eq=False)
class Bodies:
    """SMPL parameters of n persons.

    Attributes
    ----------
    global_orient : (n, 3)
        Axis-angle, radians, camera frame.
    body_pose : (n, 23, 3)
    betas : (n, b)
    gender : (n,) int
        Position in `humandata.bodymodel.GENDERS` of the body model of each person.
    folder : Path or None
        Where the user's SMPL files are; None as in `humandata.bodymodel.body_model`.
    """

    global_orient: Array
    body_pose: Array
    betas: Array
    gender: Array
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.global_orient)

    def joints(self, regressor: str = "h36m") -> Float:
        """Regressed joints (n, K, 3) of the posed meshes, metres, without translation."""
        result: Float | None = None
        for code in np.unique(self.gender):
            thin = regressor_model(GENDERS[code], self.folder, regressor)
            matrix = thin.single.regressor(regressor)
            if result is None:
                result = np.empty((len(self), len(matrix), 3), np.float32)
            rows = np.flatnonzero(self.gender == code)
            for start in range(0, len(rows), 8 * BLOCK):
                at = rows[start : start + 8 * BLOCK]
                result[at] = matrix @ self._posed(thin, at)
        return np.empty((0, 17, 3), np.float32) if result is None else result

    def vertices(self, at: slice | Array) -> Float:
        """Vertices (m, 6890, 3) of some persons, metres, without translation."""
        chosen = np.arange(len(self))[at]
        gender = self.gender[chosen]
        codes = np.unique(gender)
        if len(codes) == 1:
            return self._posed(body_model(GENDERS[codes[0]], self.folder), chosen)
        result: Float | None = None
        for code in codes:
            model = body_model(GENDERS[code], self.folder)
            if result is None:
                result = np.empty((len(chosen), *model.v_template.shape), np.float32)
            mine = gender == code
            result[mine] = self._posed(model, chosen[mine])
        return np.empty((0, 6890, 3), np.float32) if result is None else result

    def _posed(self, model: BodyModel, at: Array) -> Float:
        parameters = (self.global_orient[at], self.body_pose[at], self.betas[at])
        vertices: Float = forward(model, *(p.astype(np.float32) for p in parameters))[0]
        return vertices


@functools.lru_cache(maxsize=8)
def regressor_model(gender: str, folder: Path | None, name: str) -> BodyModel:
    """The body model of a gender, reduced to the vertices that one regressor uses.

    The kinematic joints come from the whole rest mesh; they are carried along as 24 further
    vertices that the joint regressor of the reduced model picks, so that every formula stays as it
    is.
    """
    model = body_model(gender, folder)
    matrix = model.regressor(name)
    used = np.flatnonzero((matrix != 0).any(axis=0))
    joints = len(model.joint_template)
    nothing = np.zeros((joints, *model.posedirs.shape[1:]))
    return dataclasses.replace(
        model,
        v_template=np.concatenate([model.v_template[used], model.joint_template]),
        shapedirs=np.concatenate([model.shapedirs[used], model.joint_shapedirs]),
        posedirs=np.concatenate([model.posedirs[used], nothing]),
        J_regressor=np.eye(joints, len(used) + joints, len(used)),
        weights=np.concatenate([model.weights[used], np.eye(joints)]),
        regressors={name: np.pad(matrix[:, used], ((0, 0), (0, joints)))},
    )
