"""Read the official files of SMPL, SMPL-H and SMPL-X, and the joint regressors beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from humandata.body_layout import SIZES, STANDIN_TITLE, BodyModel, size_of
from humandata.errors import DataError

Array = npt.NDArray[Any]

_VERTICES = SIZES["smpl"].vertices
# SMPL-X keeps shape and expression in one array: 300 + 100 directions in today's files, 10 + 10 in
# those of 2019.
_ALL_DIRECTIONS, _IDENTITY_DIRECTIONS, _OLD_IDENTITY_DIRECTIONS = 400, 300, 10


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
    size = size_of(family)

    def take(key: str, shape: tuple[int | None, ...], dtype: Any = np.float64) -> Array:
        return checked(path, content, key, shape, dtype)

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
    joints = checked(path, content, "kintree_table", (2, None), np.int64).shape[1]
    for name, size in SIZES.items():
        if size.joints == joints and wanted in (None, name):
            return name
    sizes = [size_of(wanted)] if wanted else list(SIZES.values())
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


def checked(
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
