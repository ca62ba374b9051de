"""What a body model is: the arrays of SMPL, SMPL-H and SMPL-X, and how long they are."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from humandata import keypoints
from humandata.errors import DataError, HumandataError
from humandata.posing import SMPL45_VERTICES

Array = npt.NDArray[Any]

STANDIN_TITLE = "stand-in, not SMPL"


class Size(NamedTuple):
    """How reports name a family of body models, and the lengths of its arrays."""

    title: str
    joints: int
    vertices: int
    faces: int


SIZES = {
    "smpl": Size("SMPL", 24, 6890, 13776),
    "smplh": Size("SMPL-H", 52, 6890, 13776),
    "smplx": Size("SMPL-X", 55, 10475, 20908),
}


def size_of(family: str) -> Size:
    """The lengths of a family's arrays; HumandataError for a family that is not read."""
    if family not in SIZES:
        raise HumandataError(f"unknown body family {family!r}; read are {', '.join(SIZES)}")
    return SIZES[family]


@dataclass(frozen=True, eq=False)
class BodyModel:
    """A body model in SMPL's layout; the rest pose is a T, y up, facing +z, left hand to +x.

    J joints: 24 of SMPL and the stand-in, 52 of SMPL-H, 55 of SMPL-X. V vertices: 6890, of SMPL-X
    10475. P = 9 (J - 1) pose correctives.

    Attributes
    ----------
    name : str
        ``smpl``, ``smplh`` or ``smplx`` for the user's files, ``standin`` for the bundled body.
    gender : str
        ``neutral``, ``male`` or ``female``.
    v_template : (V, 3) float
        Vertices of the mean shape, metres.
    shapedirs : (V, 3, B) float
        Displacement per unit of each shape coefficient (one standard deviation); those of
        SMPL-X's facial expression come last.
    posedirs : (V, 3, P) float
        Pose correctives, by the row-major elements of ``R - I`` of every joint but the root. Of a
        file a read-only map of it, where the file is not compressed.
    J_regressor : (J, V) float
        Joints from the shaped rest mesh; dense.
    weights : (V, J) float
        Skinning weights, rows sum to one.
    parents : (J,) int64
        Kinematic tree, -1 at the root.
    faces : (F, 3) int32
        Triangles, normals outwards by the right-hand rule.
    regressors : mapping of str to (K, V) float
        Joints that are sums of posed vertices. ``h36m`` (17 rows, left leg first) and ``extra``
        (9 rows) where available; ``face`` (51 rows) of SMPL-X: the landmarks that do not depend on
        the view. Further ones may be added with `dataclasses.replace`.
    path : str
        The file it came from.
    expressions : int
        How many of the shape directions are expressions.
    hand_means : (2, 45) float, optional
        Of SMPL-H and SMPL-X: the relaxed pose of the left and the right hand, axis-angle.
    hand_components : (2, C, 45) float, optional
        Principal components of the hands' poses, around that mean.
    """

    name: str
    gender: str
    v_template: Array
    shapedirs: Array
    posedirs: Array
    J_regressor: Array
    weights: Array
    parents: Array
    faces: Array
    regressors: Mapping[str, Array] = field(default_factory=dict)
    path: str = ""
    expressions: int = 0
    hand_means: Array | None = None
    hand_components: Array | None = None

    @property
    def title(self) -> str:
        """How reports name the model: ``SMPL (male)`` or ``stand-in, not SMPL (male)``."""
        kind = STANDIN_TITLE if self.name == "standin" else SIZES[self.name].title
        return f"{kind} ({self.gender})"

    @property
    def num_betas(self) -> int:
        """How many coefficients of body shape there are; expressions are not counted."""
        return int(self.shapedirs.shape[-1]) - self.expressions

    @property
    def vertex_joints(self) -> tuple[int, ...]:
        """The 21 vertices that smplx appends to the joints: face, feet, finger tips."""
        if self.name == "smplx":
            return tuple(keypoints.vertex_joints("smplx").values())
        return SMPL45_VERTICES

    @functools.cached_property
    def has_pose_correctives(self) -> bool:
        """Whether ``posedirs`` holds anything but zeros."""
        # Row by row, because the first of an official file tells: the rest may stay in the file.
        return self.posedirs.strides != (0, 0, 0) and any(row.any() for row in self.posedirs)

    @functools.cached_property
    def joint_template(self) -> Array:
        """Joints of the mean shape, (J, 3) metres."""
        return self.J_regressor @ self.v_template

    @functools.cached_property
    def joint_shapedirs(self) -> Array:
        """Displacement of the joints per unit of each shape coefficient, (J, 3, B)."""
        flat = self.J_regressor @ self.shapedirs.reshape(len(self.v_template), -1)
        return flat.reshape(len(flat), 3, -1)

    @functools.cached_property
    def single_joints(self) -> tuple[Array, Array]:
        """`joint_template` and `joint_shapedirs` in float32."""
        return self.joint_template.astype(np.float32), self.joint_shapedirs.astype(np.float32)

    @functools.cached_property
    def single(self) -> BodyModel:
        """The same model in float32."""
        names = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")
        arrays: dict[str, Array] = {n: _as_float32(getattr(self, n)) for n in names}
        self.let_go()
        regressors = {k: r.astype(np.float32) for k, r in self.regressors.items()}
        return replace(self, **arrays, regressors=regressors)  # type: ignore[arg-type]

    def let_go(self) -> None:
        """Give back the memory of what was read of a mapped file; it is read again if need be."""
        holder: Any = self.posedirs
        while isinstance(holder, np.ndarray):
            holder = holder.base
        if isinstance(holder, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            holder.madvise(mmap.MADV_DONTNEED)

    def regressor(self, name: str) -> Array:
        """The regressor (K, V) of a name; DataError where it is missing."""
        if name not in self.regressors:
            raise missing_regressor(self.path, name)
        return self.regressors[name]


def missing_regressor(path: str, name: str) -> DataError:
    """The error for joints that need a regressor the user's folder does not hold."""
    return DataError(
        Path(path).parent,
        expected=f"J_regressor_{name}.npy beside the body model",
        found="no such file",
        hint="It is released with SPIN and GraphCMR; put it into the same folder.",
    )


def _as_float32(values: Array) -> Array:
    if values.strides == (0, 0, 0):
        return np.broadcast_to(np.zeros((), np.float32), values.shape)
    return values.astype(np.float32)
