"""Many persons as SMPL parameters, each in the body model of a gender: their joints and meshes.

NumPy only. Joints come without their meshes (`humandata.posing.forward_joints`), which is exact and
hundreds of times faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.bodymodel import GENDERS, BodyModel, body_model
from humandata.posing import forward, forward_joints

Float = NDArray[np.float32]
Array = NDArray[Any]

BLOCK = 64
"""Meshes posed at a time: some 30 MB of scratch memory; more at a time is not faster."""


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
            model = body_model(GENDERS[code], self.folder)
            rows = np.flatnonzero(self.gender == code)
            # Four times the block of meshes fits into a core's cache.
            for start in range(0, len(rows), 4 * BLOCK):
                at = rows[start : start + 4 * BLOCK]
                joints = forward_joints(model, *self._parameters(at), regressor=regressor)
                if result is None:
                    result = np.empty((len(self), *joints.shape[1:]), np.float32)
                result[at] = joints
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
        vertices: Float = forward(model, *self._parameters(at))[0]
        return vertices

    def _parameters(self, at: Array) -> tuple[Float, Float, Float]:
        orient, pose, betas = self.global_orient[at], self.body_pose[at], self.betas[at]
        return orient.astype(np.float32), pose.astype(np.float32), betas.astype(np.float32)
