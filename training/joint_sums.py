"""Sets of joints in closed form: no vertex appears, however a joint is regressed from the mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from humandata.bodymodel import BodyModel
from humandata.posing import JointBasis, joint_basis, touched_bones
from humandata.training.skinning import rotate

Array = NDArray[Any]


class Bodies(NamedTuple):
    """What joints and vertices of a batch both start from.

    Attributes
    ----------
    rotations : (B, J, 3, 3)
        Relative to the parents.
    coefficients : (B, b + e)
        Of all shape directions.
    transl : (B, 3) or None
    gender : (B,) int64 or None
    world : (J, 3, 3, B)
        World rotations, in the order of the tree's levels.
    features : (1 + b + e + P, B)
        What joints are linear in: one, coefficients, all rotations but the root's.
    chosen : (G, B) or None
        One-hot columns of each row's model.
    """

    rotations: Tensor
    coefficients: Tensor
    transl: Tensor | None
    gender: Tensor | None
    world: Tensor
    features: Tensor
    chosen: Tensor | None


class JointSum(nn.Module):
    """A set of K joints as a sum of M turned vectors; no vertex appears in it.

    Every vector is linear in shape and pose, and is turned by the world rotation of one bone: the
    bones themselves, which add up to the kinematic joints, and what `joint_basis` leaves of a
    regressor.

    Parameters
    ----------
    models : sequence of BodyModel
        Of one family.
    regressor : (K, V)
    kinematic : bool
        Whether the J kinematic joints come first.
    rank : (J,) int
        Where ``world_rotations`` has each joint.
    dtype : torch.dtype
    points : bool
        Whether the joints are points of the mesh: a translation moves them as it is, although the
        file's barycentric numbers are rounded and do not add up to one.
    """

    bone: Tensor
    basis: Tensor
    sums: Tensor
    total: Tensor

    def __init__(
        self,
        models: Sequence[BodyModel],
        regressor: Array,
        kinematic: bool,
        rank: Array,
        dtype: torch.dtype,
        points: bool = False,
    ) -> None:
        super().__init__()
        parents = models[0].parents
        count = len(parents)
        touched = np.logical_or.reduce([touched_bones(m, regressor) for m in models])
        below = np.eye(count)  # below[j, a]: whether bone a is on the way from the root to joint j
        for joint in range(1, count):
            below[joint] += below[parents[joint]]
        bases, sums, totals = [], [], []
        for model in models:
            pairs = joint_basis(model, regressor, touched)
            bases.append(_vectors(model, pairs, any(m.has_pose_correctives for m in models)))
            rows = np.concatenate([pairs.share @ below, pairs.pairs], axis=1)
            own = np.pad(below, ((0, 0), (0, len(pairs.joint))))
            sums.append(np.concatenate([own, rows]) if kinematic else rows)
            ones = np.ones(count if kinematic else 0)
            totals.append(
                np.concatenate([ones, np.ones_like(pairs.total) if points else pairs.total])
            )
        for name, values in (
            ("basis", np.concatenate(bases, axis=1)),
            ("sums", np.stack(sums)),
            ("total", np.stack(totals)),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)
        turning = rank[np.concatenate([parents[1:], np.nonzero(touched)[1]])]
        self.register_buffer("bone", torch.tensor(turning), persistent=False)

    def forward(self, bodies: Bodies) -> Tensor:
        """Joints (K, 3, B) of bodies that are not translated."""
        count = bodies.features.shape[1]
        models, joints = self.sums.shape[:2]
        features = bodies.features[: self.basis.shape[1] // models]
        if bodies.chosen is not None:
            features = (bodies.chosen.unsqueeze(1) * features).flatten(0, 1)
        vectors = (self.basis @ features).view(len(self.bone) + 1, 3, count)
        turned = rotate(bodies.world.index_select(0, self.bone), vectors[1:])
        terms = torch.cat([vectors[:1], turned]).flatten(1)
        if bodies.chosen is None:
            return (self.sums[0] @ terms).view(joints, 3, count)
        each = (self.sums @ terms).view(models, joints, 3, count)
        return (each * bodies.chosen[:, None, None]).sum(0)


def _vectors(model: BodyModel, pairs: JointBasis, correctives: bool) -> Array:
    """What is turned, (3 (J + N), F): the root's place, J - 1 bones, N pairs; per feature."""
    template, shape, above = model.joint_template, model.joint_shapedirs, model.parents[1:]
    bones = [
        np.concatenate([template[:1], template[1:] - template[above]])[..., None],
        np.concatenate([shape[:1], shape[1:] - shape[above]]),
    ]
    others = [pairs.template[..., None], pairs.shape]
    if len(pairs.joint) and correctives:
        turned = len(above)
        pose = np.zeros((len(pairs.joint), 3, 9 * turned))
        if model.has_pose_correctives:
            pose[:] = pairs.pose
        # Rotations stand in the features as they are, not less the identity.
        others[0] = others[0] - pose @ np.tile(np.eye(3).ravel(), turned)[:, None]
        bones.append(np.zeros((len(template), 3, 9 * turned)))
        others.append(pose)
    rows = [np.concatenate([b, o]) for b, o in zip(bones, others, strict=True)]
    vectors: Array = np.concatenate(rows, axis=-1)
    return vectors.reshape(-1, vectors.shape[-1])


def whole_sets(model: BodyModel) -> dict[str, Array]:
    """Regressors of the joints that smplx and its users append to the kinematic ones."""
    if len(model.v_template) <= max(model.vertex_joints):
        return {}  # a part of a mesh: the numbers of its vertices mean nothing
    picks = np.zeros((21, len(model.v_template)))
    picks[np.arange(21), model.vertex_joints] = 1
    if model.name == "smplh":
        return {"smplh_73": picks}
    if model.name == "smplx":
        further = {"smplx_127": "face"}
        sets = {"smplx_76": picks}
    else:
        further = {"smpl_54": "extra"}
        sets = {"smpl_45": picks}
    for name, regressor in further.items():
        if regressor in model.regressors:
            sets[name] = np.concatenate([picks, model.regressors[regressor]])
    return sets
