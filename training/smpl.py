"""SMPL as a torch module: joints without the mesh, or vertices and every joint set made of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from humandata.bodymodel import BodyModel, missing_regressor
from humandata.posing import SMPL45_VERTICES


class Mesh(NamedTuple):
    """Posed bodies.

    Attributes
    ----------
    vertices : (B, V, 3) metres
    joints : (B, 54, 3) metres
        The convention smpl_54; the first 24 are the kinematic joints.
    """

    vertices: Tensor
    joints: Tensor


class SMPL(nn.Module):
    """Linear blend skinning of a body model (Loper et al., 2015, equations 2-10).

    Parameters
    ----------
    model : BodyModel
        The user's SMPL file or the stand-in, of one gender.
    dtype : torch.dtype
        float32 or float64.

    Notes
    -----
    Everything is a non-persistent buffer: it moves with ``.to(device)`` and never enters a
    checkpoint, because SMPL's licence forbids passing its arrays on. Rotations enter as matrices
    and need not be exact ones: gradients flow through all nine elements. Autocast is left outside:
    millimetres do not survive bfloat16.
    """

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    joint_template: Tensor
    joint_shapedirs: Tensor
    weights: Tensor
    h36m: Tensor
    extra: Tensor
    faces: Tensor
    vertex_joints: Tensor

    def __init__(self, model: BodyModel, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.name, self.title, self.path = model.name, model.title, model.path
        vertices = len(model.v_template)
        arrays = {
            "v_template": model.v_template,
            "shapedirs": model.shapedirs.reshape(vertices * 3, -1).T,
            "joint_template": model.joint_template,
            "joint_shapedirs": model.joint_shapedirs.reshape(72, -1).T,
            "weights": model.weights,
        }
        # The stand-in has no pose correctives; an empty basis costs nothing to carry or multiply.
        self.has_pose_correctives = model.has_pose_correctives
        if self.has_pose_correctives:
            arrays["posedirs"] = model.posedirs.reshape(vertices * 3, -1).T
        self.regressors = tuple(model.regressors)
        arrays |= model.regressors
        for name, values in arrays.items():
            tensor = torch.tensor(values, dtype=dtype).contiguous()
            self.register_buffer(name, tensor, persistent=False)
        levels = _levels([int(p) for p in model.parents])
        visited = [0, *(j for children, _, _ in levels for j in children)]
        integers: dict[str, object] = {
            "faces": model.faces,
            "vertex_joints": SMPL45_VERTICES,
            "order": [visited.index(j) for j in range(24)],
        }
        for depth, (children, parents, above) in enumerate(levels):
            integers |= {f"children{depth}": children, f"parents{depth}": parents}
            integers[f"above{depth}"] = above
        for name, numbers in integers.items():
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64), persistent=False)
        self.depth = len(levels)

    def rest_joints(self, betas: Tensor) -> Tensor:
        """Joints (B, 24, 3) of the shaped rest pose for ``betas`` (B, b)."""
        with _full_precision(betas):
            betas = betas.to(self.weights.dtype)
            moved = betas @ self.joint_shapedirs[: betas.shape[1]]
            return self.joint_template + moved.view(-1, 24, 3)

    def forward(self, rotations: Tensor, betas: Tensor, transl: Tensor | None = None) -> Mesh:
        """Vertices and all 54 joints of posed bodies.

        Parameters
        ----------
        rotations : (B, 24, 3, 3)
            Rotation matrices, the root's first, each relative to its parent.
        betas : (B, b)
            Shape coefficients, ``b`` up to the model's.
        transl : (B, 3), optional
            Metres, added last.

        Raises
        ------
        DataError
            The user's folder has no ``J_regressor_extra.npy``; `skin` does without.
        """
        vertices, joints = self.skin(rotations, betas, transl)
        return Mesh(vertices, self.joints_smpl54(vertices, joints))

    def skin(
        self, rotations: Tensor, betas: Tensor, transl: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vertices (B, V, 3) and the 24 kinematic joints (B, 24, 3); parameters as `forward`."""
        rest = self.rest_joints(betas)
        with _full_precision(rotations):
            rotations, betas = rotations.to(rest.dtype), betas.to(rest.dtype)
            world, joints = self._chain(rotations, rest)
            shaped = self._shaped(rotations, betas)
            offset = joints - (world @ rest.unsqueeze(-1)).squeeze(-1)
            # By columns, so that one vertex's product with its blended matrix is four multiply-adds
            # of whole arrays: 2.5 times faster with its gradient than a sum of 3 x 3 products.
            affine = torch.cat([world.transpose(2, 3), offset.unsqueeze(2)], dim=2).flatten(2)
            blend = (self.weights @ affine).view(len(affine), -1, 4, 3)
            x, y, z = shaped[..., 0:1], shaped[..., 1:2], shaped[..., 2:3]
            vertices = blend[:, :, 0] * x + blend[:, :, 1] * y + blend[:, :, 2] * z + blend[:, :, 3]
            if transl is not None:
                vertices, joints = vertices + transl[:, None], joints + transl[:, None]
            return vertices, joints

    def joints(self, rotations: Tensor, betas: Tensor, transl: Tensor | None = None) -> Tensor:
        """The 24 kinematic joints (B, 24, 3) of `skin`, without making the mesh."""
        rest = self.rest_joints(betas)
        with _full_precision(rotations):
            joints = self._chain(rotations.to(rest.dtype), rest)[1]
            return joints if transl is None else joints + transl[:, None]

    def joints_smpl54(self, vertices: Tensor, joints: Tensor) -> Tensor:
        """The convention smpl_54 (B, 54, 3) from what `skin` returns.

        The 24 kinematic joints, 21 vertices, nine joints regressed from the posed mesh.

        Raises
        ------
        DataError
            The user's folder has no ``J_regressor_extra.npy``.
        """
        picked = vertices[:, self.vertex_joints]
        return torch.cat([joints, picked, self._regress("extra", vertices)], dim=1)

    def joints_h36m(self, vertices: Tensor) -> Tensor:
        """Human3.6M's 17 joints (B, 17, 3) regressed from the posed mesh, left leg first.

        Raises
        ------
        DataError
            The user's folder has no ``J_regressor_h36m.npy``.
        """
        return self._regress("h36m", vertices)

    def _regress(self, name: str, vertices: Tensor) -> Tensor:
        if name not in self.regressors:
            raise missing_regressor(self.path, name)
        with _full_precision(vertices):
            return self.get_buffer(name) @ vertices

    def _shaped(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """The rest mesh (B, V, 3) with shape and pose correctives."""
        offsets = betas @ self.shapedirs[: betas.shape[1]]
        if self.has_pose_correctives:
            identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
            offsets = offsets + (rotations[:, 1:] - identity).flatten(1) @ self.posedirs
        return self.v_template + offsets.view(len(offsets), -1, 3)

    def _chain(self, rotations: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """World rotations (B, 24, 3, 3) and joints (B, 24, 3), one level of the tree at a time."""
        worlds, places = [rotations[:, :1]], [rest[:, :1]]
        for depth in range(self.depth):
            children, parents, above = (
                self.get_buffer(f"{name}{depth}") for name in ("children", "parents", "above")
            )
            world = worlds[-1].index_select(1, above)
            bone = rest.index_select(1, children) - rest.index_select(1, parents)
            step = (world @ bone.unsqueeze(-1)).squeeze(-1)
            places.append(places[-1].index_select(1, above) + step)
            worlds.append(world @ rotations.index_select(1, children))
        order = self.get_buffer("order")
        return torch.cat(worlds, 1).index_select(1, order), torch.cat(places, 1)[:, order]


def _full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def _levels(parents: list[int]) -> list[tuple[list[int], list[int], list[int]]]:
    """The tree by depth: children, their parents, and the parents' places in the level above."""
    levels = []
    above = [0]
    while children := [j for j, p in enumerate(parents) if p in above]:
        owners = [parents[j] for j in children]
        levels.append((children, owners, [above.index(p) for p in owners]))
        above = children
    return levels


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3); smooth at zero."""
    angle = torch.linalg.vector_norm(axis_angle, dim=-1)[..., None, None]
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    cross = cross.view(*x.shape, 3, 3)
    first = torch.sinc(angle / torch.pi)
    second = 0.5 * torch.sinc(angle / (2 * torch.pi)) ** 2
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + first * cross + second * (cross @ cross)


def rotation6d_to_matrix(rotation6d: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of HMR's six numbers (..., 6), by Gram-Schmidt.

    The six are a (3, 2) block read row by row: its columns are the first two of the matrix (the
    form of SPIN and its heirs, not PyTorch3D's).
    """
    a, b = rotation6d[..., 0::2], rotation6d[..., 1::2]
    first = functional.normalize(a, dim=-1)
    second = functional.normalize(b - (first * b).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)
