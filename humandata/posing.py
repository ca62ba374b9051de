"""SMPL's formulas in NumPy: shape, skeleton, skinning, and the joint sets made from the mesh.

Loper et al., SIGGRAPH Asia 2015, equations 2-10. The training engine has its own copy of them on
tensors; this one serves converters, synthetic data and scoring, which need no torch.
"""

from __future__ import annotations

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

_JOINTS = 24


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
    body_pose : (N, 23, 3)
        Rotations of joints 1 to 23 relative to their parents.
    betas : (N, b)
        Shape coefficients, ``b`` up to the model's; N or 1 rows.
    transl : (N, 3), optional
        Metres, added last.

    Returns
    -------
    vertices : (N, V, 3)
    joints : (N, 24, 3)
        The kinematic joints. float32 when every input is, else float64.
    """
    model, pose, betas, transl = _inputs(model, global_orient, body_pose, betas, transl)
    rotations = axis_angle_to_matrix(pose)
    count = len(pose)
    shaped = model.v_template + np.tensordot(betas, model.shapedirs[..., : betas.shape[1]], (1, 2))
    rest = rest_joints(model, betas)
    if model.has_pose_correctives:
        feature = (rotations[:, 1:] - np.eye(3, dtype=pose.dtype)).reshape(count, -1)
        shaped = shaped + np.tensordot(feature, model.posedirs, (1, 2))
    world, joints = _chain(model, rotations, np.broadcast_to(rest, (count, _JOINTS, 3)))
    offset = joints - np.einsum("njab,njb->nja", world, rest)
    blend = np.concatenate([world, offset[..., None]], axis=-1).reshape(count, _JOINTS, 12)
    blend = (model.weights @ blend).reshape(count, -1, 3, 4)
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
) -> Array:
    """The 24 kinematic joints (N, 24, 3) of `forward`, without making the mesh."""
    model, pose, betas, transl = _inputs(model, global_orient, body_pose, betas, transl)
    rest = np.broadcast_to(rest_joints(model, betas), (len(pose), _JOINTS, 3))
    joints = _chain(model, axis_angle_to_matrix(pose), rest)[1]
    return joints if transl is None else joints + transl[:, None]


def _inputs(
    model: BodyModel, global_orient: Array, body_pose: Array, betas: Array, transl: Array | None
) -> tuple[BodyModel, Array, Array, Array | None]:
    given = [np.asarray(a) for a in (global_orient, body_pose, betas)]
    given += [] if transl is None else [np.asarray(transl)]
    dtype = np.float32 if all(a.dtype == np.float32 for a in given) else np.float64
    orient, body, shape, *rest = (a.astype(dtype, copy=False) for a in given)
    count = len(orient)
    if orient.shape != (count, 3) or body.size != count * (_JOINTS - 1) * 3:
        raise ValueError(
            f"expected global_orient (N, 3) and body_pose (N, 23, 3), "
            f"got {orient.shape} and {body.shape}"
        )
    most = model.shapedirs.shape[-1]
    if shape.ndim != 2 or shape.shape[1] > most or len(shape) not in (1, count):
        raise ValueError(f"expected betas ({count}, up to {most}), got {shape.shape}")
    pose = np.concatenate([orient[:, None], body.reshape(count, _JOINTS - 1, 3)], axis=1)
    model = model.single if dtype == np.float32 else model
    return model, pose, shape, rest[0] if rest else None


def _chain(model: BodyModel, rotations: Array, rest: Array) -> tuple[Array, Array]:
    """World rotations (N, 24, 3, 3) and joints (N, 24, 3) along the kinematic tree."""
    world, joints = np.empty_like(rotations), np.empty_like(rest)
    world[:, 0], joints[:, 0] = rotations[:, 0], rest[:, 0]
    for child in range(1, _JOINTS):
        parent = model.parents[child]
        world[:, child] = world[:, parent] @ rotations[:, child]
        bone = (rest[:, child] - rest[:, parent])[..., None]
        joints[:, child] = joints[:, parent] + (world[:, parent] @ bone)[..., 0]
    return world, joints


def rest_joints(model: BodyModel, betas: Array) -> Array:
    """Joints (N, 24, 3) of the shaped rest pose for ``betas`` (N, b), metres."""
    directions = model.joint_shapedirs[..., : np.shape(betas)[-1]]
    joints: Array = model.joint_template + np.tensordot(betas, directions, (-1, 2))
    return joints


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
