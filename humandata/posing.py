"""SMPL's formulas in NumPy: shape, skeleton, skinning, and the joint sets made from the mesh.

Loper et al., SIGGRAPH Asia 2015, equations 2-10; SMPL-H and SMPL-X differ only in the number of
joints J (24, 52, 55) and vertices V. The training engine has its own copy of them on tensors; this
one serves converters, synthetic data and scoring, which need no torch.

**Joints without the mesh.** A regressed joint is a sum over vertices, ``sum_v R_v sum_k w_vk (G_k
(x_v - j_k) + p_k)``: the rest vertex ``x_v`` turned about every bone ``k`` at its rest place
``j_k`` and moved to its posed place ``p_k``. ``G_k`` and ``p_k`` know nothing of the vertex, so the
sums over vertices can be done once and for all: what is left is, for the few bones a joint hangs
on, one vector ``sum_v R_v w_vk (x_v - j_k)``, which like ``x_v`` is linear in shape and pose
correctives. `joint_basis` makes these sums. Nothing is approximated.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from humandata.rotations import axis_angle_to_matrix

if TYPE_CHECKING:
    from humandata.bodymodel import BodyModel

Array = npt.NDArray[Any]

# Vertices that smplx appends to the 24 joints of SMPL, in its order (convention smpl_45):
# nose, eyes, ears (right first), toes and heel left then right, five finger tips left then right.
SMPL45_VERTICES = (
    332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787,
    2746, 2319, 2445, 2556, 2673, 6191, 5782, 5905, 6016, 6133,
)  # fmt: skip


def forward(
    model: BodyModel,
    global_orient: Array,
    body_pose: Array,
    betas: Array,
    transl: Array | None = None,
) -> tuple[Array, Array]:
    """Vertices and joints of posed bodies.

    Parameters
    ----------
    model : BodyModel
    global_orient : (N, 3)
        Rotation of the root, axis-angle in radians.
    body_pose : (N, J - 1, 3)
        Rotations of all other joints relative to their parents, hands as they are: SMPL-H's and
        SMPL-X's mean hand pose is not added.
    betas : (N, b)
        Shape coefficients, ``b`` up to the model's; N or 1 rows. SMPL-X's expression follows them.
    transl : (N, 3), optional
        Metres, added last.

    Returns
    -------
    vertices : (N, V, 3)
    joints : (N, J, 3)
        The kinematic joints. float32 when every input is, else float64.
    """
    pose, betas, transl = _inputs(model, global_orient, body_pose, betas, transl)
    model = model.single if pose.dtype == np.float32 else model
    rotations = axis_angle_to_matrix(pose)
    count = len(pose)
    shaped = model.v_template + np.tensordot(betas, model.shapedirs[..., : betas.shape[1]], (1, 2))
    rest = rest_joints(model, betas)
    if model.has_pose_correctives:
        feature = (rotations[:, 1:] - np.eye(3, dtype=pose.dtype)).reshape(
            count, model.posedirs.shape[-1]
        )
        shaped = shaped + np.tensordot(feature, model.posedirs, (1, 2))
    world, joints = (
        np.ascontiguousarray(np.moveaxis(values, -1, 0))
        for values in _chain(model, rotations, rest)
    )
    offset = joints - np.einsum("njab,njb->nja", world, rest)
    blend = np.concatenate([world, offset[..., None]], axis=-1).reshape(
        count, len(model.parents), 12
    )
    blend = (model.weights @ blend).reshape(count, len(model.v_template), 3, 4)
    vertices = np.einsum("nvab,nvb->nva", blend[..., :3], shaped) + blend[..., 3]
    if transl is not None:
        vertices, joints = vertices + transl[:, None], joints + transl[:, None]
    return vertices, joints


def forward_joints(
    model: BodyModel,
    global_orient: Array,
    body_pose: Array,
    betas: Array,
    transl: Array | None = None,
    regressor: str | None = None,
) -> Array:
    """Joints of `forward` without making the mesh: the kinematic (N, J, 3), or regressed ones.

    Parameters
    ----------
    model, global_orient, body_pose, betas, transl
        As for `forward`.
    regressor : str, optional
        A name in ``model.regressors``: its K joints (N, K, 3) instead of the kinematic ones.

    Raises
    ------
    DataError
        The model has no such regressor.
    """
    pose, betas, transl = _inputs(model, global_orient, body_pose, betas, transl)
    rotations = axis_angle_to_matrix(pose)
    # Without the float32 copy of the whole model, most of which is pose correctives of the mesh.
    skeleton = model.joint_template, model.joint_shapedirs
    if pose.dtype == np.float32:
        skeleton = model.single_joints
    world, joints = _chain(model, rotations, _shaped(*skeleton, betas))
    if regressor is None:
        places = np.ascontiguousarray(np.moveaxis(joints, -1, 0))
        return places if transl is None else places + transl[:, None]
    basis = _cached_basis(model, regressor)
    if pose.dtype == np.float32:
        basis = basis.single
    vectors = np.tensordot(basis.shape[..., : betas.shape[1]], betas, (2, 1))
    if model.has_pose_correctives:
        feature = (rotations[:, 1:] - np.eye(3, dtype=pose.dtype)).reshape(
            len(pose), basis.pose.shape[-1]
        )
        vectors = vectors + np.tensordot(basis.pose, feature, (2, 1))
    vectors = np.broadcast_to(vectors + basis.template[..., None], (len(basis.bone), 3, len(pose)))
    turned = np.einsum("pabn,pbn->pan", world[basis.bone], vectors)
    summed = np.tensordot(basis.share, joints, 1) + np.tensordot(basis.pairs, turned, 1)
    places = np.ascontiguousarray(np.moveaxis(summed, -1, 0))
    return places if transl is None else places + basis.total[:, None] * transl[:, None]


def _inputs(
    model: BodyModel, global_orient: Array, body_pose: Array, betas: Array, transl: Array | None
) -> tuple[Array, Array, Array | None]:
    given = [np.asarray(a) for a in (global_orient, body_pose, betas)]
    given += [] if transl is None else [np.asarray(transl)]
    dtype = np.float32 if all(a.dtype == np.float32 for a in given) else np.float64
    orient, body, shape, *rest = (a.astype(dtype, copy=False) for a in given)
    count = len(orient)
    others = len(model.parents) - 1
    if orient.shape != (count, 3) or body.size != count * others * 3:
        raise ValueError(
            f"expected global_orient (N, 3) and body_pose (N, {others}, 3), "
            f"got {orient.shape} and {body.shape}"
        )
    most = model.shapedirs.shape[-1]
    if shape.ndim != 2 or shape.shape[1] > most or len(shape) not in (1, count):
        raise ValueError(f"expected betas ({count}, up to {most}), got {shape.shape}")
    pose = np.concatenate([orient[:, None], body.reshape(count, others, 3)], axis=1)
    return pose, shape, rest[0] if rest else None


def _chain(model: BodyModel, rotations: Array, rest: Array) -> tuple[Array, Array]:
    """World rotations (J, 3, 3, N) and joints (J, 3, N) along the kinematic tree.

    From rotations (N, J, 3, 3) and rest joints (N or 1, J, 3). The persons come last, so that every
    product is one of long arrays: five times faster than multiplying their small matrices.
    """
    turns = np.ascontiguousarray(np.moveaxis(rotations, 0, -1))
    rest = np.moveaxis(rest, 0, -1)
    world, joints = np.empty_like(turns), np.empty((*rest.shape[:2], len(rotations)), rest.dtype)
    world[0], joints[0] = turns[0], rest[0]
    for child in range(1, len(model.parents)):
        parent = model.parents[child]
        np.einsum("abn,bcn->acn", world[parent], turns[child], out=world[child])
        bone = np.broadcast_to(rest[child] - rest[parent], joints[child].shape)
        joints[child] = joints[parent] + np.einsum("abn,bn->an", world[parent], bone)
    return world, joints


@dataclass(frozen=True, eq=False)
class JointBasis:
    """K regressed joints as sums over N pairs of a joint and a bone it hangs on.

    With ``u_n = template_n + shape_n betas + pose_n (R - I)`` the joints of a posed body are
    ``share @ posed kinematic joints + pairs @ (world rotation of bone_n @ u_n)``, plus ``total``
    times the translation.

    Attributes
    ----------
    joint, bone : (N,) intp
        Which of the K joints a pair belongs to, and the bone.
    template : (N, 3)
        Metres.
    shape : (N, 3, b), pose : (N, 3, P)
        Change per shape coefficient, and per element of the pose correctives' feature.
    share : (K, J)
        Weight of every bone in every joint.
    total : (K,)
        Sums of the regressor's rows: what a translation is multiplied with.
    """

    joint: Array
    bone: Array
    template: Array
    shape: Array
    pose: Array
    share: Array
    total: Array

    @property
    def pairs(self) -> Array:
        """Which pairs a joint is the sum of, (K, N), zeros and ones."""
        pairs: Array = np.arange(len(self.total))[:, None] == self.joint
        return pairs.astype(self.template.dtype)

    @functools.cached_property
    def single(self) -> JointBasis:
        """The same in float32."""
        arrays = (self.template, self.shape, self.pose, self.share, self.total)
        return JointBasis(self.joint, self.bone, *(a.astype(np.float32) for a in arrays))


def joint_basis(model: BodyModel, regressor: Array, touched: Array | None = None) -> JointBasis:
    """Sum a regressor of posed vertices over the vertices, once and for all.

    Parameters
    ----------
    model : BodyModel
    regressor : (K, V)
        Any linear regressor; rows need not sum to one.
    touched : (K, J) bool, optional
        The pairs to keep, where they shall be those of several models; by default the pairs that
        share a vertex.
    """
    share = regressor @ model.weights
    if touched is None:
        touched = touched_bones(model, regressor)
    joint, bone = np.nonzero(touched)
    correctives = model.posedirs.shape[-1] if model.has_pose_correctives else 0
    template, shape = np.zeros((len(joint), 3)), np.zeros((len(joint), *model.shapedirs.shape[1:]))
    pose = np.zeros((len(joint), 3, correctives))
    for k in np.unique(joint):
        mine, used = joint == k, np.flatnonzero(regressor[k])
        factors = (regressor[k, used, None] * model.weights[np.ix_(used, bone[mine])]).T
        template[mine] = factors @ model.v_template[used]
        shape[mine] = np.tensordot(factors, model.shapedirs[used], 1)
        if correctives:
            pose[mine] = np.tensordot(factors, model.posedirs[used], 1)
    held = share[joint, bone][:, None]
    return JointBasis(
        joint,
        bone,
        template - held * model.joint_template[bone],
        shape - held[..., None] * model.joint_shapedirs[bone],
        pose,
        share,
        regressor.sum(axis=1),
    )


def touched_bones(model: BodyModel, regressor: Array) -> Array:
    """Which bones (K, J) move any of the vertices that a joint is regressed from."""
    used = (regressor != 0).any(axis=0)
    shared = (regressor[:, used] != 0).astype(np.float32) @ (model.weights[used] != 0)
    touched: Array = shared > 0
    return touched


@functools.lru_cache(maxsize=16)
def _cached_basis(model: BodyModel, name: str) -> JointBasis:
    basis = joint_basis(model, model.regressor(name))
    model.let_go()
    return basis


def rest_joints(model: BodyModel, betas: Array) -> Array:
    """Joints (N, J, 3) of the shaped rest pose for ``betas`` (N, b), metres."""
    return _shaped(model.joint_template, model.joint_shapedirs, betas)


def _shaped(template: Array, directions: Array, betas: Array) -> Array:
    moved: Array = np.tensordot(betas, directions[..., : np.shape(betas)[-1]], (-1, 2))
    return template + moved


def rest_pelvis(model: BodyModel, betas: Array) -> Array:
    """Pelvis (N, 3) of the shaped rest pose: the point ``global_orient`` turns about."""
    return rest_joints(model, betas)[..., 0, :]


def joints_smpl45(vertices: Array, joints: Array) -> Array:
    """The convention smpl_45 (N, 45, 3): 24 joints (N, 24, 3), then 21 vertices of the mesh."""
    return np.concatenate([joints, vertices[..., SMPL45_VERTICES, :]], axis=-2)


def joints_smpl54(model: BodyModel, vertices: Array, joints: Array) -> Array:
    """The convention smpl_54 (N, 54, 3): smpl_45, then nine joints regressed from the mesh."""
    extra = model.regressor("extra").astype(vertices.dtype) @ vertices
    return np.concatenate([joints_smpl45(vertices, joints), extra], axis=-2)


def joints_h36m(model: BodyModel, vertices: Array) -> Array:
    """The 17 joints (N, 17, 3) of Human3.6M regressed from the mesh, left leg first."""
    result: Array = model.regressor("h36m").astype(vertices.dtype) @ vertices
    return result
