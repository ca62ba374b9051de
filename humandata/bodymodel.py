"""SMPL body models: the user's files or the stand-in, read and written in the official layout.

SMPL, SMPL-H and SMPL-X are read; the stand-in is written, as SMPL.

Reading files is in `humandata.body_reading`, posing in `humandata.posing`; their functions are here
too. Without SMPL's licensed files everything runs on a *stand-in, not SMPL*: a body made from CC0
MakeHuman data in SMPL's exact layout (see ``assets/README.md``). Its numbers cannot be compared
with SMPL's.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from humandata import pickle2
from humandata.body_layout import STANDIN_TITLE, BodyModel, missing_regressor, size_of
from humandata.body_reading import checked, dense, load, load_regressors, read_file
from humandata.errors import DataError, HumandataError
from humandata.posing import (
    SMPL45_VERTICES,
    forward,
    forward_joints,
    joint_basis,
    joints_h36m,
    joints_smpl45,
    joints_smpl54,
    rest_joints,
    rest_pelvis,
)
from humandata.rotations import axis_angle_to_matrix, matrix_to_rotation6d

__all__ = [
    "BodyModel", "MeanParameters", "body_model", "find", "load", "load_regressors",
    "mean_parameters", "missing_regressor", "dense", "read_file", "standin", "write_npz",
    "write_pkl", "body_files", "STANDIN_TITLE",
    "SMPL45_VERTICES", "forward", "forward_joints", "joint_basis", "joints_h36m", "joints_smpl45",
    "joints_smpl54", "rest_joints", "rest_pelvis",
]  # fmt: skip

Array = npt.NDArray[Any]

GENDERS = ("neutral", "male", "female")
STANDIN_PATH = Path(__file__).parent / "assets" / "standin_body.npz"
FOLDER_VARIABLE = "HUMANDATA_BODY_MODELS"

_VERTICES, _FACES, _JOINTS, _POSE_BASIS = 6890, 13776, 24, 207
_REGRESSOR_ROWS = {"h36m": 17, "extra": 9}


@dataclass(frozen=True)
class MeanParameters:
    """Where iterative regressors start: the layout of ``smpl_mean_params.npz``.

    Attributes
    ----------
    pose6d : (144,) float32
        24 rotations, six numbers each: the first two columns of the matrix, row by row.
    betas : (10,) float32
    camera : (3,) float32
        Weak perspective ``(s, tx, ty)``.
    """

    pose6d: Array
    betas: Array
    camera: Array


# Finding ---------------------------------------------------------------------------------------


def body_model(
    gender: str = "neutral", folder: str | Path | None = None, family: str = "smpl"
) -> BodyModel:
    """The body model of a gender: the user's SMPL file, else the stand-in.

    Parameters
    ----------
    gender : str
        ``neutral``, ``male`` or ``female``.
    folder : path, optional
        Folder with ``SMPL_{NEUTRAL,MALE,FEMALE}.{pkl,npz}`` (or the names of the official
        releases). Default: the environment variable ``HUMANDATA_BODY_MODELS``; where that is
        not set either, the stand-in.
    family : str
        ``smpl``, ``smplh`` or ``smplx``; of the last two there is no stand-in.

    Returns
    -------
    BodyModel
        The same object on every call.

    Raises
    ------
    DataError
        The folder holds no file of that gender, or the file is not an SMPL model.
    """
    if gender not in GENDERS:
        raise HumandataError(f"unknown gender {gender!r}; body models are {', '.join(GENDERS)}")
    folder = folder or os.environ.get(FOLDER_VARIABLE)
    return _cached(gender, str(Path(folder).resolve()) if folder else None, family)


@functools.cache
def _cached(gender: str, folder: str | None, family: str) -> BodyModel:
    if folder is not None:
        return load(find(folder, gender, family), gender, family=family)
    if family != "smpl":
        raise HumandataError(
            f"{size_of(family).title} has no stand-in; set {FOLDER_VARIABLE} to the folder that "
            f"holds {family.upper()}_{gender.upper()}.npz"
        )
    return standin(gender)


def find(folder: str | Path, gender: str, family: str = "smpl") -> Path:
    """The model file of a gender in a folder (or its ``smpl`` subfolder), by its usual names."""
    stems = [f"{family}_{gender}"]
    places = [Path(folder), Path(folder) / family]
    if family == "smpl":
        letter = gender if gender == "neutral" else gender[0]
        stems += [f"basicmodel_{letter}_lbs_10_207_0_v{v}" for v in ("1.1.0", "1.0.0")]
    else:
        stems += [f"{family}_{gender}_2020", "model"]  # AMASS: smplh/male/model.npz
        places += [place / gender for place in places]
    for place in places:
        # Releases differ in capitals: basicModel_f_..., basicmodel_m_...
        files = {p.name.lower(): p for p in place.iterdir()} if place.is_dir() else {}
        for stem in stems:
            for suffix in (".npz", ".pkl"):
                if stem + suffix in files:
                    return files[stem + suffix]
    raise DataError(
        folder,
        expected=f"{stems[0].upper()}.pkl or {stems[0].upper()}.npz",
        found="no such file" if Path(folder).is_dir() else "no such folder",
        hint=_WHERE[family],
    )


_WHERE = {
    "smpl": f"Get it from smpl.is.tue.mpg.de, or unset {FOLDER_VARIABLE} to use the stand-in.",
    "smplh": "Get it from mano.is.tue.mpg.de.",
    "smplx": "Get it from smpl-x.is.tue.mpg.de.",
}


def standin(gender: str, path: Path = STANDIN_PATH) -> BodyModel:
    """Unpack the bundled body; layout of the file: ``assets/README.md``."""
    with np.load(path, allow_pickle=False) as asset:
        template = asset[f"{gender}/v_template"].astype(np.float64)
        shapedirs = asset[f"{gender}/shapedirs"].astype(np.float64)
        share = asset["weights/value"].astype(np.float64)
        weights = np.zeros((_VERTICES, _JOINTS))
        np.put_along_axis(
            weights, asset["weights/joint"].astype(np.int64), share / share.sum(1, keepdims=True), 1
        )
        rows = {k: _unpack_rows(asset, k) for k in ("J_regressor", *_REGRESSOR_ROWS)}
        return BodyModel(
            name="standin",
            gender=gender,
            v_template=template,
            shapedirs=shapedirs,
            posedirs=np.broadcast_to(np.zeros(()), (_VERTICES, 3, _POSE_BASIS)),
            J_regressor=rows.pop("J_regressor"),
            weights=weights,
            parents=asset["parents"].astype(np.int64),
            faces=asset["faces"].astype(np.int32),
            regressors=rows,
            path=str(path),
        )


def _unpack_rows(asset: Mapping[str, Array], name: str) -> Array:
    starts, vertex = asset[f"{name}/start"], asset[f"{name}/vertex"].astype(np.int64)
    rows = np.zeros((len(starts) - 1, _VERTICES))
    rows[np.repeat(np.arange(len(rows)), np.diff(starts)), vertex] = asset[f"{name}/value"]
    normalised: Array = rows / rows.sum(axis=1, keepdims=True)
    return normalised


# Where regressors start ------------------------------------------------------------------------


def mean_parameters(folder: str | Path | None = None) -> MeanParameters:
    """Initial pose, shape and camera of iterative regressors (HMR and its heirs).

    Parameters
    ----------
    folder : path, optional
        Folder with SPIN's ``smpl_mean_params.npz``; default as in `body_model`. Where the file
        is absent: a relaxed standing person, upright in a camera frame whose y points down.
    """
    folder = folder or os.environ.get(FOLDER_VARIABLE)
    path = Path(folder) / "smpl_mean_params.npz" if folder else None
    if path is None or not path.is_file():
        return _relaxed()
    shapes = {"pose": (_JOINTS * 6,), "shape": (10,), "cam": (3,)}
    with np.load(path, allow_pickle=False) as content:
        values = [checked(path, content, k, s, np.float32) for k, s in shapes.items()]
    return MeanParameters(*values)


def _relaxed() -> MeanParameters:
    pose = np.zeros((_JOINTS, 3))
    pose[0] = (np.pi, 0, 0)
    pose[[16, 17], 2] = (-1.1, 1.1)  # arms lowered to the sides
    pose[[18, 19], 1] = (-0.35, 0.35)  # elbows a little bent
    pose[[1, 2], 0] = -0.1
    pose[[4, 5], 0] = 0.2
    pose[[7, 8], 0] = -0.1
    return MeanParameters(
        pose6d=matrix_to_rotation6d(axis_angle_to_matrix(pose)).reshape(-1).astype(np.float32),
        betas=np.zeros(10, np.float32),
        camera=np.array([0.9, 0, 0], np.float32),
    )


# Writing ---------------------------------------------------------------------------------------


def _official(model: BodyModel) -> dict[str, Any]:
    """The arrays under SMPL's keys, with its types; J_regressor still dense."""
    parents = model.parents.astype(np.uint32)  # the root's -1 becomes 4294967295
    # One key more than SMPL's, so that a written stand-in is known when it is read again.
    mark = {"comment": STANDIN_TITLE} if model.name == "standin" else {}
    return mark | {
        "v_template": model.v_template,
        "shapedirs": model.shapedirs,
        "posedirs": np.ascontiguousarray(model.posedirs),
        "J_regressor": model.J_regressor,
        "J": model.joint_template,
        "weights": model.weights,
        "f": model.faces.astype(np.uint32),
        "kintree_table": np.stack([parents, np.arange(len(parents), dtype=np.uint32)]),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def write_npz(model: BodyModel, path: str | Path) -> None:
    """Write a model as ``SMPL_{GENDER}.npz``: the official keys, every array dense."""
    np.savez_compressed(path, allow_pickle=False, **_official(model))


def write_pkl(model: BodyModel, path: str | Path, chumpy: bool = True) -> None:
    """Write a model as an official SMPL pickle (Python 2, protocol 2).

    Parameters
    ----------
    model : BodyModel
    path : path
    chumpy : bool
        Write ``shapedirs`` as a chumpy array and ``J_regressor`` under SciPy's old name, as the
        official files do. Without, today's NumPy and SciPy suffice to read the file.
    """
    content = _official(model)
    module = "scipy.sparse.csc" if chumpy else "scipy.sparse._csc"
    content["J_regressor"] = pickle2.csc_matrix(model.J_regressor, module)
    if chumpy:
        content["shapedirs"] = pickle2.chumpy_array(model.shapedirs)
    Path(path).write_bytes(pickle2.dumps(content))


def body_files(folder: str | Path, chumpy: bool = False) -> Path:
    """Write the stand-in as a folder that tools made for SMPL accept.

    ``SMPL_{NEUTRAL,MALE,FEMALE}.pkl``, ``J_regressor_h36m.npy``, ``J_regressor_extra.npy``,
    ``smpl_mean_params.npz``, and a note that it is a stand-in, not SMPL.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for gender in GENDERS:
        write_pkl(standin(gender), folder / f"SMPL_{gender.upper()}.pkl", chumpy)
    for name, rows in standin("neutral").regressors.items():
        # SPIN's regressors are in Fortran order; readers that map the file see the difference.
        np.save(folder / f"J_regressor_{name}.npy", np.asfortranarray(rows))
    mean = _relaxed()
    np.savez(folder / "smpl_mean_params.npz", pose=mean.pose6d, shape=mean.betas, cam=mean.camera)
    (folder / "STANDIN.txt").write_text(
        "The bodies in this folder are a stand-in, not SMPL (CC0, made from MakeHuman data).\n"
    )
    return folder
