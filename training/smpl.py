"""SMPL as a torch module: joints without the mesh, or vertices and every joint set made of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from humandata.bodymodel import BodyModel, missing_regressor
from humandata.training.joint_sums import Bodies, JointSum, whole_sets
from humandata.training.rotations import axis_angle_to_matrix as axis_angle_to_matrix
from humandata.training.rotations import rotation6d_to_matrix as rotation6d_to_matrix
from humandata.training.skinning import Surface, rotate, skin, world_rotations

Array = NDArray[Any]


class Mesh(NamedTuple):
    """Posed bodies.

    Attributes
    ----------
    vertices : (B, V, 3) metres
    joints : (B, K, 3) metres
        The convention smpl_54; of SMPL-H and SMPL-X the joints that smplx returns (73 and 127).
        The first J are the kinematic joints.
    """

    vertices: Tensor
    joints: Tensor


class SMPL(nn.Module):
    """Linear blend skinning of body models (Loper et al., 2015, equations 2-10).

    Serves SMPL, SMPL-H, SMPL-X and the stand-in, of one gender or of several.

    Parameters
    ----------
    model : BodyModel, or sequence of BodyModel
        Of one family. Of several models every call takes ``gender``, each row's place in the
        sequence.
    dtype : torch.dtype
        float32 or float64.

    Notes
    -----
    Everything is a non-persistent buffer: it moves with ``.to(device)`` and never enters a
    checkpoint, because SMPL's licence forbids passing its arrays on. Rotations enter as matrices
    and need not be exact ones: gradients flow through all nine elements. Autocast is left outside:
    millimetres do not survive bfloat16.

    `joints` costs a hundredth of `skin`: the sums over vertices that a regressed joint is made of
    are done once, when the module is made (`humandata.posing.joint_basis`). Any linear regressor in
    ``model.regressors`` can be asked for.
    """

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    joint_template: Tensor
    joint_shapedirs: Tensor
    weights: Tensor
    faces: Tensor
    vertex_joints: Tensor
    hand_means: Tensor
    hand_components: Tensor

    def __init__(
        self, model: BodyModel | Sequence[BodyModel], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        models = (model,) if isinstance(model, BodyModel) else tuple(model)
        first = models[0]
        _check_that_they_fit(models)
        self.name, self.path = first.name, first.path
        self.title = ", ".join(model.title for model in models)
        self.genders = tuple(model.gender for model in models)
        self.num_betas, self.expressions = first.num_betas, first.expressions
        self.regressors = tuple(first.regressors)
        # The stand-in has no pose correctives; an empty basis costs nothing to carry or multiply.
        self.has_pose_correctives = any(model.has_pose_correctives for model in models)
        self._hold(models, dtype)
        parents = [int(p) for p in first.parents]
        levels = _levels(parents)
        visited = [0, *(joint for children, _ in levels for joint in children)]
        rank = np.argsort(visited)
        self.in_order, self.depth = visited == sorted(visited), len(levels)
        integers: dict[str, Any] = {
            "faces": first.faces,
            "vertex_joints": first.vertex_joints,
            "visited": visited,
            "rank": rank,
        }
        integers |= {f"above{depth}": above for depth, (_, above) in enumerate(levels)}
        for name, numbers in integers.items():
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64), persistent=False)
        self._tiled: Tensor | None = None
        self._tiles: dict[int, dict[int, Any]] = {}
        self.sets = nn.ModuleDict()
        sets = {"kinematic": np.zeros((0, len(first.v_template))), **whole_sets(first)}
        for name, regressor in (sets | dict(first.regressors)).items():
            kinematic = name not in first.regressors
            points = name in ("face", "smplx_127")
            self.sets[name] = JointSum(models, regressor, kinematic, rank, dtype, points)
        self.whole = {"smplh": "smplh_73", "smplx": "smplx_127"}.get(self.name, "smpl_54")

    def _hold(self, models: tuple[BodyModel, ...], dtype: torch.dtype) -> None:
        """Register the models' arrays; those of several models are stacked in front."""
        arrays: dict[str, list[Array]] = {
            "v_template": [m.v_template for m in models],
            "shapedirs": [m.shapedirs.reshape(m.v_template.size, -1).T for m in models],
            "joint_template": [m.joint_template for m in models],
            "joint_shapedirs": [
                m.joint_shapedirs.reshape(m.joint_template.size, -1).T for m in models
            ],
            "weights": [m.weights for m in models],
        }
        if self.has_pose_correctives:
            arrays["posedirs"] = [m.posedirs.reshape(m.v_template.size, -1).T for m in models]
        first = models[0]
        if first.hand_means is not None and first.hand_components is not None:
            arrays |= {"hand_means": [first.hand_means]}
            arrays |= {"hand_components": [first.hand_components]}
        arrays |= {name: [rows] for name, rows in first.regressors.items()}
        for name, values in arrays.items():
            # A copy in any case: the model's own arrays may lie in its file, or be transposed.
            kind = np.float64 if dtype == torch.float64 else np.float32
            tensors = [torch.from_numpy(np.array(v, kind, order="C")) for v in values]
            tensor = tensors[0] if len(tensors) == 1 else torch.stack(tensors)
            self.register_buffer(name, tensor, persistent=False)
        for model in models:
            model.let_go()

    # What a training step asks for --------------------------------------------------------------

    def forward(
        self,
        rotations: Tensor,
        betas: Tensor,
        transl: Tensor | None = None,
        gender: Tensor | None = None,
        expression: Tensor | None = None,
    ) -> Mesh:
        """Vertices and all joints of posed bodies.

        Parameters
        ----------
        rotations : (B, J, 3, 3)
            Rotation matrices, the root's first, each relative to its parent.
        betas : (B, b)
            Shape coefficients, ``b`` up to the model's; B or 1 rows.
        transl : (B, 3), optional
            Metres, added last.
        gender : (B,) int64
            Of a module of several models: which of them each row is; else left out.
        expression : (B, e), optional
            Coefficients of SMPL-X's facial expression, ``e`` up to the model's.

        Raises
        ------
        DataError
            The user's folder has no ``J_regressor_extra.npy``; `skin` does without.
        """
        return Mesh(*self._posed(self.whole, rotations, betas, transl, gender, expression))

    def skin(
        self,
        rotations: Tensor,
        betas: Tensor,
        transl: Tensor | None = None,
        gender: Tensor | None = None,
        expression: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Vertices (B, V, 3) and the kinematic joints (B, J, 3); parameters as `forward`."""
        return self._posed("kinematic", rotations, betas, transl, gender, expression)

    def joints(
        self,
        rotations: Tensor,
        betas: Tensor,
        transl: Tensor | None = None,
        gender: Tensor | None = None,
        expression: Tensor | None = None,
        of: str = "kinematic",
    ) -> Tensor:
        """Joints (B, K, 3) without making the mesh; parameters as `forward`.

        Parameters
        ----------
        of : str
            ``kinematic`` (J joints), ``smpl_45`` and ``smpl_54``, ``smplh_73``, ``smplx_76`` and
            ``smplx_127``, or the name of a regressor: ``h36m``, ``extra``, ``face``, any other in
            ``model.regressors``.

        Raises
        ------
        DataError
            There is no such regressor beside the body model.
        """
        with _full_precision(rotations):
            bodies = self._bodies(rotations, betas, transl, gender, expression)
            return self._finish(self._set(of), self._set(of)(bodies), bodies)

    def rest_joints(self, betas: Tensor, gender: Tensor | None = None) -> Tensor:
        """Joints (B, J, 3) of the shaped rest pose for ``betas`` (B, b), expression after them."""
        with _full_precision(betas):
            betas = betas.to(self.weights.dtype)
            moved = betas @ self.joint_shapedirs[..., : betas.shape[1], :]
            template = self.joint_template.unsqueeze(-3)
            rest = template + moved.view(*moved.shape[:-1], *template.shape[-2:])
            if gender is not None:
                rest = rest[gender, torch.arange(len(betas), device=betas.device)]
            return rest

    # From vertices that are there anyway --------------------------------------------------------

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

    # Poses and variants -------------------------------------------------------------------------

    def full_pose(
        self,
        body: Tensor,
        hands: Tensor | None = None,
        face: Tensor | None = None,
        components: bool = False,
        flat_hands: bool = False,
    ) -> Tensor:
        """The pose (B, J, 3) of SMPL-H or SMPL-X from its parts, axis-angle in radians.

        Parameters
        ----------
        body : (B, 22, 3)
            The root and the body's 21 joints.
        hands : (B, 2, 15, 3), optional
            The left and the right hand, *relative to the mean hand*; with ``components`` (B, 2, C)
            coefficients of as many of the hand's principal components. Default: the mean hand.
        face : (B, 3, 3), optional
            Jaw, left eye, right eye; SMPL-X only.
        components : bool
            Whether ``hands`` are coefficients (smplx: ``use_pca``).
        flat_hands : bool
            Whether the mean hand is the flat one, all zeros (smplx: ``flat_hand_mean``).
        """
        if "hand_means" not in dict(self.named_buffers(recurse=False)):
            raise ValueError(f"{self.title} has no hands to pose (hands_meanl, hands_componentsl)")
        count, dtype = len(body), self.hand_means.dtype
        fingers = torch.zeros(count, 2, 45, dtype=dtype, device=body.device)
        if hands is not None and components:
            given = hands.to(dtype).unsqueeze(2)
            fingers = (given @ self.hand_components[:, : hands.shape[2]]).squeeze(2)
        elif hands is not None:
            fingers = hands.to(dtype).reshape(count, 2, 45)
        if not flat_hands:
            fingers = fingers + self.hand_means
        parts = [body.to(dtype), fingers.view(count, 30, 3)]
        if self.name == "smplx":
            still = torch.zeros(count, 3, 3, dtype=dtype, device=body.device)
            parts.insert(1, still if face is None else face.to(dtype))
        return torch.cat(parts, dim=1)

    def without_mesh(self) -> SMPL:
        """The same body with no vertices at all: `forward` gives every joint and (B, 0, 3).

        For losses that look at joints only. Shares its joint sums with this module.
        """
        small = copy.copy(self)
        small._buffers = dict(self._buffers)
        small.v_template = self.v_template[..., :0, :]
        small.weights = self.weights[..., :0, :]
        small.shapedirs = self.shapedirs[..., :0]
        if self.has_pose_correctives:
            small.posedirs = self.posedirs[..., :0]
        for name in self.regressors:
            setattr(small, name, self.get_buffer(name)[:, :0])
        return small

    # How ----------------------------------------------------------------------------------------

    def _posed(
        self,
        of: str,
        rotations: Tensor,
        betas: Tensor,
        transl: Tensor | None,
        gender: Tensor | None,
        expression: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Vertices, and a joint set that begins with the kinematic joints."""
        joint_set = self._set(of)
        with _full_precision(rotations):
            bodies = self._bodies(rotations, betas, transl, gender, expression)
            found = joint_set(bodies)
            joints = self._finish(joint_set, found, bodies)
            if not self.v_template.shape[-2]:
                return joints[:, :0], joints
            rest = self.rest_joints(bodies.coefficients, gender).permute(1, 2, 0)
            world = bodies.world if self.in_order else bodies.world[self.get_buffer("rank")]
            offset = found[: len(rest)] - rotate(world, rest)
            affine = torch.cat([world, offset.unsqueeze(2)], dim=2)
            identity = torch.eye(3, dtype=affine.dtype, device=affine.device)
            feature = (bodies.rotations[:, 1:] - identity).flatten(1)
            given = (affine, bodies.coefficients, feature, bodies.transl)
            return self._skinned(given, bodies.gender), joints

    def _skinned(
        self, given: tuple[Tensor, Tensor, Tensor, Tensor | None], gender: Tensor | None
    ) -> Tensor:
        if gender is None:
            return skin(self._surface(), *given)
        if torch.compiler.is_compiling():  # a graph has fixed shapes: all rows in every model
            everywhere = torch.stack([skin(self._surface(i), *given) for i in self._models()])
            return everywhere[gender, torch.arange(len(gender), device=gender.device)]
        rows = [(gender == i).nonzero().squeeze(1) for i in self._models()]
        affine, betas, feature, transl = given
        parts = [
            skin(
                self._surface(i),
                affine[..., mine],
                betas[mine],
                feature[mine],
                None if transl is None else transl[mine],
            )
            for i, mine in enumerate(rows)
        ]
        return torch.cat(parts).index_select(0, torch.cat(rows).argsort())

    def _models(self) -> range:
        return range(len(self.genders))

    def _surface(self, model: int = 0) -> Surface:
        """The arrays of one model that skinning needs."""
        template, shapedirs, weights = self.v_template, self.shapedirs, self.weights
        posedirs = self.posedirs if self.has_pose_correctives else None
        if len(self.genders) > 1:
            template, shapedirs, weights = template[model], shapedirs[model], weights[model]
            posedirs = None if posedirs is None else posedirs[model]
        tiles: dict[int, Any] = {}
        if not torch.compiler.is_compiling():
            if self._tiled is not self.weights:  # moved, converted, or replaced since
                self._tiled, self._tiles = self.weights, {}
            tiles = self._tiles.setdefault(model, tiles)
        return Surface(template, shapedirs, posedirs, weights, tiles)

    def _set(self, name: str) -> JointSum:
        if name not in self.sets:
            raise missing_regressor(self.path, "extra" if name == "smpl_54" else name)
        found = self.sets[name]
        assert isinstance(found, JointSum)
        return found

    def _bodies(
        self,
        rotations: Tensor,
        betas: Tensor,
        transl: Tensor | None,
        gender: Tensor | None,
        expression: Tensor | None,
    ) -> Bodies:
        dtype, count = self.weights.dtype, len(rotations)
        joints = self.joint_template.shape[-2]
        if rotations.shape[1:] != (joints, 3, 3):
            expected = f"rotations (B, {joints}, 3, 3)"
            raise ValueError(f"{self.title}: expected {expected}, got {tuple(rotations.shape)}")
        coefficients = self._coefficients(betas, expression).expand(count, -1)
        rotations = rotations.to(dtype)
        last = rotations.flatten(1).t().contiguous()
        ordered = last.view(joints, 3, 3, count)
        if not self.in_order:
            ordered = ordered.index_select(0, self.get_buffer("visited"))
        levels = [self.get_buffer(f"above{depth}") for depth in range(self.depth)]
        world = world_rotations(ordered, levels)
        one = torch.ones(1, count, dtype=dtype, device=last.device)
        features = [one, coefficients.t()]
        if self.has_pose_correctives:
            features.append(last[9:])
        chosen = self._chosen(gender, count)
        transl = None if transl is None else transl.to(dtype)
        return Bodies(rotations, coefficients, transl, gender, world, torch.cat(features), chosen)

    def _coefficients(self, betas: Tensor, expression: Tensor | None) -> Tensor:
        """Coefficients (B, b + e) of all shape directions; those not given are zero."""
        dtype = self.weights.dtype
        parts = []
        wanted = (betas, self.num_betas, "betas"), (expression, self.expressions, "expression")
        for values, most, name in wanted:
            if values is None:
                values = betas[:, :0]
            if values.shape[1] > most:
                raise ValueError(
                    f"{self.title}: expected {name} (B, up to {most}), got {tuple(values.shape)}"
                )
            missing = most - values.shape[1]
            values = values.to(dtype)
            parts.append(functional.pad(values, (0, missing)) if missing else values)
        return torch.cat(parts, dim=1) if self.expressions else parts[0]

    def _chosen(self, gender: Tensor | None, count: int) -> Tensor | None:
        """One-hot columns (G, B) of each row's model."""
        models = len(self.genders)
        if (gender is None) != (models == 1):
            raise ValueError(
                "a module of several models needs gender (B,), a module of one takes none"
            )
        if gender is None:
            return None
        if not torch.compiler.is_compiling():
            wrong = (gender < 0) | (gender >= models)
            if gender.shape != (count,) or wrong.any():
                raise ValueError(
                    f"expected gender ({count},), numbers below {models}, got {gender.tolist()}"
                )
        return (torch.arange(models, device=gender.device)[:, None] == gender).to(
            self.weights.dtype
        )

    def _finish(self, joint_set: JointSum, found: Tensor, bodies: Bodies) -> Tensor:
        """Joints (B, K, 3) from batch-last ones (K, 3, B), translated."""
        joints = found.permute(2, 0, 1).contiguous()
        if bodies.transl is None:
            return joints
        total = joint_set.total
        weights = total[0, None] if bodies.chosen is None else bodies.chosen.t() @ total
        return joints + weights.unsqueeze(2) * bodies.transl.unsqueeze(1)


def _check_that_they_fit(models: tuple[BodyModel, ...]) -> None:
    """Several models of one module must differ in nothing but body shape."""
    first = models[0]
    for model in models[1:]:
        same = (
            model.name == first.name
            and model.v_template.shape == first.v_template.shape
            and model.shapedirs.shape == first.shapedirs.shape
            and np.array_equal(model.parents, first.parents)
            and list(model.regressors) == list(first.regressors)
            and all(np.array_equal(r, first.regressors[k]) for k, r in model.regressors.items())
        )
        if not same:
            raise ValueError(
                f"{model.title} and {first.title} cannot be one module: family, number of "
                "betas and regressors must be the same"
            )


def _full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def _levels(parents: list[int]) -> list[tuple[list[int], list[int]]]:
    """The tree by depth: joints, and their parents' places in the level above."""
    levels = []
    above = [0]
    while children := [j for j, p in enumerate(parents) if p in above]:
        levels.append((children, [above.index(parents[j]) for j in children]))
        above = children
    return levels
