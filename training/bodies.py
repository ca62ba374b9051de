"""Many persons as SMPL parameters, each in the body model of a gender: their joints and meshes.

NumPy only. Joints come without their meshes (`humandata.posing.forward_joints`), which is exact and
hundreds of times faster.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import keypoints
from humandata.bodymodel import GENDERS, SMPL45_VERTICES, BodyModel, body_model
from humandata.posing import forward, forward_joints

Float = NDArray[np.float32]
Array = NDArray[Any]

BLOCK = 64
"""Meshes posed at a time: some 30 MB of scratch memory; more at a time is not faster."""


_SKIN_OF_SMPL24 = "points of the face and extra"
_FACE = SMPL45_VERTICES[:5]
# In smpl_54 the 16 vertices that are not of the face lie between it and the nine of `extra`.
_IN_SMPL54 = [*range(24 + len(_FACE)), *range(24 + len(SMPL45_VERTICES), 54)]
_SMPL24 = np.array([_IN_SMPL54.index(at) for at in keypoints.mapping("smpl_54", "smpl_24")])


@functools.lru_cache(maxsize=8)
def _with_points(model: BodyModel) -> BodyModel:
    """A body model that can be asked for the joints of smpl_24 that are made of its skin."""
    face = np.zeros((len(_FACE), len(model.v_template)))
    face[np.arange(len(_FACE)), _FACE] = 1
    skin = np.concatenate([face, model.regressor("extra")])
    return replace(model, regressors={**model.regressors, _SKIN_OF_SMPL24: skin})


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
        """Joints (n, K, 3) of the posed bodies, metres, without translation.

        Parameters
        ----------
        regressor : str
            ``h36m`` or another linear regressor of the posed mesh; or ``smpl_24``, the joints of
            that convention, of which ten are kinematic.
        """
        if regressor == "smpl_24":
            both = [self._regressed(name) for name in (None, _SKIN_OF_SMPL24)]
            return np.concatenate(both, axis=1)[:, _SMPL24]
        return self._regressed(regressor)

    def _regressed(self, regressor: str | None) -> Float:
        result: Float | None = None
        for code in np.unique(self.gender):
            model = self._model(code, regressor)
            rows = np.flatnonzero(self.gender == code)
            # Four times the block of meshes fits into a core's cache.
            for start in range(0, len(rows), 4 * BLOCK):
                at = rows[start : start + 4 * BLOCK]
                joints = forward_joints(model, *self._parameters(at), regressor=regressor)
                if result is None:
                    result = np.empty((len(self), *joints.shape[1:]), np.float32)
                result[at] = joints
        if result is None:
            model = self._model(0, regressor)
            count = len(model.parents) if regressor is None else len(model.regressor(regressor))
            return np.empty((0, count, 3), np.float32)
        return result

    def _model(self, code: int, regressor: str | None) -> BodyModel:
        model = body_model(GENDERS[code], self.folder)
        return _with_points(model) if regressor == _SKIN_OF_SMPL24 else model

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
        vertices: Float = forward(model, *self._parameters(at))[0]
        return vertices

    def _parameters(self, at: Array) -> tuple[Float, Float, Float]:
        orient, pose, betas = self.global_orient[at], self.body_pose[at], self.betas[at]
        return orient.astype(np.float32), pose.astype(np.float32), betas.astype(np.float32)
