"""Our body model and smplx side by side on a body file of the user's own."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from humandata.bodymodel import GENDERS, BodyModel, dense, load, read_file
from humandata.errors import MissingExtra
from humandata.training.smpl import SMPL, axis_angle_to_matrix

TOLERANCE = 1e-6
"""Metres, in float32: some four times the last digit of a place 2 m from the origin."""

_READ_BY_SMPLX = (
    "v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights", "f",
    "hands_meanl", "hands_meanr", "hands_componentsl", "hands_componentsr",
    "lmk_faces_idx", "lmk_bary_coords", "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords",
)  # fmt: skip


@dataclass(frozen=True)
class BodyDifference:
    """The largest distances between the same bodies posed here and by smplx, in metres.

    Attributes
    ----------
    path : str
    title : str
        Family and gender of the file.
    bodies : int
        How many random poses and shapes were compared.
    vertices, joints : float
        In float32, as networks are trained.
    vertices_double, joints_double : float
        In float64, where nothing but a different formula could show. smplx rounds a file's numbers
        to float32 first, and so does this comparison.
    """

    path: str
    title: str
    bodies: int
    vertices: float
    joints: float
    vertices_double: float
    joints_double: float

    @property
    def agrees(self) -> bool:
        """Whether the two agree to within rounding."""
        return max(self.vertices, self.joints) <= TOLERANCE

    def as_dict(self) -> dict[str, str | int | float | bool]:
        """The fields and ``agrees``, for ``--json``."""
        return {**dataclasses.asdict(self), "agrees": self.agrees}

    def __str__(self) -> str:
        verdict = "agree" if self.agrees else f"DIFFER by more than {TOLERANCE:.0e} m"
        return (
            f"{self.path}: {self.title}, {self.bodies} random bodies; humandata and smplx "
            f"{verdict}\n"
            f"  largest difference  vertices {self.vertices:.1e} m, joints {self.joints:.1e} m\n"
            f"  in double precision vertices {self.vertices_double:.1e} m, "
            f"joints {self.joints_double:.1e} m"
        )


def compare(path: str | Path, bodies: int = 16, seed: int = 0) -> BodyDifference:
    """Pose random bodies of a file here and by smplx, and measure how far they are apart.

    Parameters
    ----------
    path : path
        An SMPL, SMPL-H or SMPL-X file, ``.pkl`` or ``.npz``.
    bodies : int
        Poses and shapes to compare.
    seed : int

    Raises
    ------
    MissingExtra
        smplx is not installed.
    DataError
        The file is no such body model.

    Notes
    -----
    smplx opens files with Python's pickle, which runs whatever they ask for and needs chumpy. It is
    therefore given the arrays as our own reader found them, whole and under their own keys; what it
    takes from them, and how, is left to it.
    """
    try:
        import smplx  # noqa: F401
    except ImportError:
        raise MissingExtra("smplx", "smplx") from None
    path = Path(path)
    model = load(path, _gender(path))
    content = read_file(path)
    arrays = {k: np.asarray(dense(content[k])) for k in _READ_BY_SMPLX if k in content}
    found = []
    for dtype, ours in ((torch.float32, model), (torch.float64, _rounded(model))):
        given = _random(model, bodies, seed, dtype)
        with torch.no_grad():
            vertices, joints = _ours(ours, given, dtype)
            their_vertices, their_joints = _theirs(arrays, given, dtype)
        found += [_apart(vertices, their_vertices), _apart(joints, their_joints)]
    return BodyDifference(str(path), model.title, bodies, *found)


def _gender(path: Path) -> str:
    """As the file's name says, or the folder's of AMASS's ``male/model.npz``."""
    name = path.stem.lower() if path.stem.lower() != "model" else path.parent.name.lower()
    if "basicmodel_f" in name or "female" in name:
        return "female"
    if "basicmodel_m" in name or "male" in name:
        return "male"
    return GENDERS[0]


def _rounded(model: BodyModel) -> BodyModel:
    """The model with its numbers rounded to float32, still held in float64."""

    def rounded(values: Any) -> Any:
        return np.asarray(values).astype(np.float32).astype(np.float64)

    names = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")
    arrays = {name: rounded(getattr(model, name)) for name in names}
    regressors = {name: rounded(rows) for name, rows in model.regressors.items()}
    return dataclasses.replace(model, **arrays, regressors=regressors)


def _random(model: BodyModel, count: int, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 0.4, (count, len(model.parents), 3))
    pose[:, 0] *= 4  # people turn about more than they bend
    given = {
        "rotations": axis_angle_to_matrix(torch.tensor(pose)),
        "betas": torch.tensor(rng.normal(size=(count, model.num_betas))),
        "expression": torch.tensor(rng.normal(size=(count, model.expressions))),
    }
    return {name: values.to(dtype) for name, values in given.items()}


def _ours(
    model: BodyModel, given: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    body = SMPL(model, dtype)
    joints = {"smplh": "smplh_73", "smplx": "smplx_127"}.get(model.name, "smpl_45")
    return body.skin(**given)[0], body.joints(**given, of=joints)


def _theirs(
    arrays: Mapping[str, Any], given: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    import smplx

    rotations, betas = given["rotations"], given["betas"]
    count, joints = rotations.shape[:2]
    options = {"num_betas": betas.shape[1], "dtype": dtype, "batch_size": count}
    parts = {"global_orient": rotations[:, :1], "body_pose": rotations[:, 1:22], "betas": betas}
    # AMASS's SMPL-H has none; smplx wants them, and does not use them on rotation matrices.
    hands: dict[str, Any] = {f"hands_mean{side}": np.zeros(45) for side in "lr"}
    hands |= {f"hands_components{side}": np.eye(45) for side in "lr"}
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        if joints == 24:
            layer = smplx.SMPLLayer("", data_struct=SimpleNamespace(**arrays), **options)
            parts["body_pose"] = rotations[:, 1:]
        elif joints == 52:
            content = SimpleNamespace(**(hands | dict(arrays)))
            layer = smplx.SMPLHLayer("", data_struct=content, **options)
        else:
            file = Path(folder) / "SMPLX_NEUTRAL.npz"  # of all layers this one insists on a file
            np.savez(file, **(hands | dict(arrays)))
            expressions = given["expression"].shape[1]
            layer = smplx.SMPLXLayer(str(file), num_expression_coeffs=expressions, **options)
            names = ("jaw_pose", "leye_pose", "reye_pose")
            parts |= {name: rotations[:, 22 + i, None] for i, name in enumerate(names)}
            parts["expression"] = given["expression"]
    if joints > 24:
        parts["left_hand_pose"] = rotations[:, -30:-15]
        parts["right_hand_pose"] = rotations[:, -15:]
    found = layer(**parts)
    return found.vertices, found.joints


def _apart(one: Tensor, other: Tensor) -> float:
    return float(torch.linalg.vector_norm(one - other, dim=-1).max())
