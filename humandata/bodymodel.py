"""SMPL body models: the user's files or the stand-in, read and written in the official layout.

SMPL, SMPL-H and SMPL-X are read; the stand-in is written, as SMPL.

Posing them is in `humandata.posing`, whose functions are here too. Without SMPL's licensed files
everything runs on a *stand-in, not SMPL*: a body made from CC0 MakeHuman data in SMPL's exact
layout (see ``assets/README.md``). Its numbers cannot be compared with SMPL's.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from humandata import pickle2
from humandata.body_layout import SIZES, STANDIN_TITLE, BodyModel, Size, missing_regressor
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
# SMPL-X keeps shape and expression in one array: 300 + 100 directions in today's files, 10 + 10 in
# those of 2019.
_ALL_DIRECTIONS, _IDENTITY_DIRECTIONS, _OLD_IDENTITY_DIRECTIONS = 400, 300, 10
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


# Finding and reading ---------------------------------------------------------------------------


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
            f"{_size(family).title} has no stand-in; set {FOLDER_VARIABLE} to the folder that "
            f"holds {family.upper()}_{gender.upper()}.npz"
        )
    return standin(gender)


def _size(family: str) -> Size:
    if family not in SIZES:
        raise HumandataError(f"unknown body family {family!r}; read are {', '.join(SIZES)}")
    return SIZES[family]


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


def load(
    path: str | Path,
    gender: str,
    num_betas: int = 10,
    num_expressions: int = 10,
    family: str | None = None,
) -> BodyModel:
    """Read an official SMPL, SMPL-H or SMPL-X file, and the regressors that lie beside it.

    Parameters
    ----------
    path : path
        ``.pkl`` (Python 2 or 3, chumpy arrays and sparse matrices included; nothing in it is
        executed) or ``.npz``.
    gender : str
    num_betas : int
        Shape directions to keep (newer files hold 300).
    num_expressions : int
        Directions of SMPL-X's facial expression to keep (newer files hold 100).
    family : {"smpl", "smplh", "smplx"}, optional
        What the file must be; by default whichever of them it is, told by its joints.

    Raises
    ------
    DataError
        A key is missing or has another shape than the family's, or the file is of another family.
    """
    path = Path(path)
    content = read_file(path)
    family = _family_of(path, content, family)
    size = _size(family)

    def take(key: str, shape: tuple[int | None, ...], dtype: Any = np.float64) -> Array:
        return _checked(path, content, key, shape, dtype)

    def read(key: str, shape: tuple[int | None, ...]) -> Array:
        return np.array(take(key, shape))  # out of the file, where it was mapped

    parents = take("kintree_table", (2, size.joints), np.int64)[0].copy()
    parents[0] = -1  # 4294967295 in the file: -1 as uint32
    written_by_us = str(content.get("comment", "")) == STANDIN_TITLE
    faces = take("f", (size.faces, 3), np.int32)
    shapedirs = take("shapedirs", (size.vertices, 3, None))
    expressions = 0
    if family == "smplx":
        shapedirs, expressions = _shape_and_expression(shapedirs, num_betas, num_expressions)
        regressors = {"face": _landmarks(take, faces)}
    else:
        shapedirs = np.array(shapedirs[:, :, :num_betas], order="C")
        regressors = load_regressors(path.parent)
    hands: dict[str, Array] = {}
    if family != "smpl" and "hands_meanl" in content:
        hands["hand_means"] = np.stack([take(f"hands_mean{s}", (45,)) for s in "lr"])
        hands["hand_components"] = np.stack([take(f"hands_components{s}", (45, 45)) for s in "lr"])
    return BodyModel(
        name="standin" if written_by_us else family,
        gender=gender,
        v_template=read("v_template", (size.vertices, 3)),
        shapedirs=shapedirs,
        J_regressor=read("J_regressor", (size.joints, size.vertices)),
        weights=read("weights", (size.vertices, size.joints)),
        posedirs=take("posedirs", (size.vertices, 3, 9 * (size.joints - 1))),
        parents=parents,
        faces=faces,
        regressors=regressors,
        path=str(path),
        expressions=expressions,
        **hands,
    )


_MAPPED_FROM = 2**20
"""Bytes of an array that stays in its file until it is asked for: above all pose correctives, most
of a body model, of which joints need a few rows. Parts of a file that were read can be dropped."""


def read_file(path: str | Path) -> Mapping[str, Any]:
    """What a model file holds under its own keys; nothing in it is executed.

    Large arrays are read-only maps of the file.
    """
    from humandata import unpickle

    path = Path(path)
    if not path.is_file():
        raise DataError(path, expected="an SMPL model file", found="no such file")
    npz = path.suffix == ".npz"
    load_file = unpickle.load_npz if npz else unpickle.load
    content = load_file(path, mapped_from=_MAPPED_FROM)
    if not isinstance(content, Mapping):
        raise DataError(
            path, expected="a dictionary of SMPL's arrays", found=type(content).__name__
        )
    return content


def _family_of(path: Path, content: Mapping[str, Any], wanted: str | None) -> str:
    """The family a file is of, by its joints; DataError where that is none, or not the wanted."""
    joints = _checked(path, content, "kintree_table", (2, None), np.int64).shape[1]
    for name, size in SIZES.items():
        if size.joints == joints and wanted in (None, name):
            return name
    sizes = [_size(wanted)] if wanted else list(SIZES.values())
    raise DataError(
        path,
        "kintree_table",
        expected=" or ".join(f"{size.joints} joints ({size.title})" for size in sizes),
        found=f"{joints}",
        hint=_OTHERS,
    )


def _shape_and_expression(directions: Array, betas: int, expressions: int) -> tuple[Array, int]:
    """SMPL-X's first directions of shape, then its first of expression; and how many of these."""
    new = directions.shape[-1] >= _ALL_DIRECTIONS
    start = _IDENTITY_DIRECTIONS if new else _OLD_IDENTITY_DIRECTIONS
    face = directions[..., start : start + expressions]
    both = np.concatenate([directions[..., : min(betas, start)], face], axis=-1)
    return both, face.shape[-1]


def _landmarks(take: Callable[..., Array], faces: Array) -> Array:
    """SMPL-X's landmarks on the face, points of triangles, as a regressor (51, V)."""
    triangles = take("lmk_faces_idx", (None,), np.int64)
    shares = take("lmk_bary_coords", (len(triangles), 3))
    rows = np.zeros((len(triangles), SIZES["smplx"].vertices))
    np.put_along_axis(rows, faces[triangles].astype(np.int64), shares, axis=1)
    return rows


def dense(value: Any) -> Any:
    """A value of a model file, with a sparse matrix made an ordinary array."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0:
        value = value.item()  # np.savez wraps a sparse matrix so
    return value.toarray() if hasattr(value, "toarray") else value


_OTHERS = "SMPL, SMPL-H and SMPL-X are read; MANO, FLAME and STAR are other models."


def _checked(
    path: Path, content: Mapping[str, Any], key: str, shape: tuple[int | None, ...], dtype: Any
) -> Array:
    """One array of a model file, dense, after a look at its shape (None: any length)."""
    wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
    if key not in content:
        held = ", ".join(sorted(map(str, content)))
        raise DataError(path, key, expected=f"an array {wanted}", found=f"only the keys {held}")
    value = dense(content[key])
    try:
        array = np.asarray(value, dtype=dtype)
    except (TypeError, ValueError):
        raise DataError(
            path, key, expected=f"numbers {wanted}", found=type(value).__name__
        ) from None
    fits = array.ndim == len(shape) and all(
        n in (None, m) for n, m in zip(shape, array.shape, strict=True)
    )
    if not fits:
        hint = None
        if key in ("v_template", "posedirs"):
            hint = _OTHERS
        raise DataError(path, key, expected=f"shape {wanted}", found=f"{array.shape}", hint=hint)
    return array


def load_regressors(folder: str | Path) -> dict[str, Array]:
    """Read ``J_regressor_h36m.npy`` and ``J_regressor_extra.npy`` where they exist.

    Returns
    -------
    dict of str to (K, 6890) float64
        ``h36m``: 17 rows, left leg first (``J_regressor_h36m_correct.npy`` of Mesh Graphormer,
        right leg first, is reordered). ``extra``: 9 rows (of the 14-row file the last nine).
    """
    found: dict[str, Array] = {}
    h36m, swapped, extra = (
        Path(folder) / f"J_regressor_{n}.npy" for n in ("h36m", "h36m_correct", "extra")
    )
    if h36m.is_file():
        found["h36m"] = _read_regressor(h36m, (17,))
    elif swapped.is_file():
        legs_exchanged = [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]
        found["h36m"] = _read_regressor(swapped, (17,))[legs_exchanged]
    if extra.is_file():
        found["extra"] = _read_regressor(extra, (9, 14))[-9:]
    return found


def _read_regressor(path: Path, rows: tuple[int, ...]) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise DataError(path, expected="a NumPy array", found=str(error)) from error
    if array.ndim != 2 or array.shape[0] not in rows or array.shape[1] != _VERTICES:
        sizes = " or ".join(f"({n}, {_VERTICES})" for n in rows)
        raise DataError(path, expected=f"shape {sizes}", found=f"{array.shape}")
    regressor: Array = array.astype(np.float64)
    return regressor


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
        values = [_checked(path, content, k, s, np.float32) for k, s in shapes.items()]
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
