"""EFT's JSON files of fits, as arrays.

A file is one object ``{"ver", "data": [record, ...], "meta"}`` on one line, some hundred megabytes
long. Records are decoded one after another from a map of the file, so that the memory needed is
that of the arrays.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from humandata import json_numbers
from humandata.errors import DataError
from humandata.rotations import axis_angle_to_matrix

Float = NDArray[np.float64]
Int = NDArray[np.int64]

SHAPES: dict[str, tuple[int, ...]] = {
    "pose": (24, 3, 3),
    "betas": (10,),
    "camera": (3,),
    "centre": (2,),
    "scale": (),
    "keypoints": (49, 3),
    "openpose18": (18,),
}
FAR_FROM_ROTATION = 0.1
"""Largest element of ``R^T R - 1`` that is still taken for rounding of a network's output."""


@dataclass
class Fits:
    """One row per record, n in all.

    Attributes
    ----------
    file : list of str
        Name of the JSON file a record is of.
    record : (n,) int64
        Its place in the file.
    picture, subject : list of str
        ``imageName`` and ``subjectId``; empty where not given.
    annotation : (n,) int64
        ``annotId``; -1 where it is absent or 0, which both say that there is none.
    pose : (n, 24, 3, 3) float64
        Rotations, made orthonormal; the root in the camera frame.
    betas, camera, centre, scale, keypoints, openpose18 : ndarray
        ``parm_shape`` (n, 10), ``parm_cam`` (n, 3), ``bbox_center`` (n, 2) and ``bbox_scale`` (n,)
        in pixels and 200 pixels, ``gt_keypoint_2d`` (n, 49, 3), ``joint_validity_openpose18``
        (n, 18). Keypoints and validity are 0 where a record has none.
    without_keypoints : int
        Records without ``gt_keypoint_2d``, which the format's description does not name.
    problems : dict of int to (str, str)
        Rows that cannot be used: reason and detail.
    """

    file: list[str]
    record: Int
    picture: list[str]
    subject: list[str]
    annotation: Int
    pose: Float
    betas: Float
    camera: Float
    centre: Float
    scale: Float
    keypoints: Float
    openpose18: Float
    without_keypoints: int = 0
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.picture)


class _Record(msgspec.Struct, gc=False):
    imageName: str = ""
    subjectId: str | int | None = None
    annotId: int | float | str | None = None
    parm_pose: Any = None
    parm_shape: Any = None
    parm_cam: Any = None
    bbox_scale: Any = None
    bbox_center: Any = None
    gt_keypoint_2d: Any = None
    joint_validity_openpose18: Any = None


class _File(msgspec.Struct):
    data: list[msgspec.Raw]


class _Wrong(Exception):
    """A record's value that is not what it should be."""


def read(file: Path) -> Fits:
    """Read one file of fits.

    Raises
    ------
    DataError
        If it is no complete JSON, or has no list ``data``.
    """
    records = _records(file)
    rows = len(records)
    arrays = {name: np.zeros((rows, *shape)) for name, shape in SHAPES.items()}
    annotation = np.full(rows, -1, np.int64)
    pictures, subjects = [""] * rows, [""] * rows
    problems: dict[int, tuple[str, str]] = {}
    decoder = msgspec.json.Decoder(_Record)
    without = 0
    for row, raw in enumerate(records):
        try:
            record = decoder.decode(raw)
            pictures[row] = record.imageName
            subjects[row] = "" if record.subjectId is None else str(record.subjectId)
            annotation[row] = _annotation(record.annotId)
            values = {
                "betas": record.parm_shape,
                "camera": record.parm_cam,
                "centre": record.bbox_center,
                "scale": record.bbox_scale,
            }
            for name, value in values.items():
                arrays[name][row] = _numbers(name, value, SHAPES[name])
            arrays["pose"][row] = _pose(record.parm_pose)
            for name, value in (
                ("keypoints", record.gt_keypoint_2d),
                ("openpose18", record.joint_validity_openpose18),
            ):
                if value is not None:
                    arrays[name][row] = _numbers(name, value, SHAPES[name])
            without += record.gt_keypoint_2d is None
        except msgspec.ValidationError as error:
            problems[row] = ("malformed", str(error))
        except _Wrong as error:
            problems[row] = ("malformed", str(error))
    finite = np.ones(rows, bool)
    for name in SHAPES:
        finite &= np.isfinite(arrays[name].reshape(rows, -1)).all(axis=1)
    for row in np.flatnonzero(~finite).tolist():
        problems.setdefault(row, ("not_finite", "a number of the record is NaN or infinite"))
        for name in SHAPES:
            arrays[name][row] = 0
    for row in problems:
        arrays["pose"][row] = np.eye(3)
    arrays["pose"], odd = _orthonormal(arrays["pose"])
    for row in np.flatnonzero(odd).tolist():
        problems[row] = ("not_a_rotation", "a matrix of parm_pose is no rotation")
    return Fits(
        [file.name] * rows,
        np.arange(rows),
        pictures,
        subjects,
        annotation,
        **arrays,
        without_keypoints=without,
        problems=problems,
    )


def _records(file: Path) -> list[msgspec.Raw]:
    if not file.stat().st_size:
        raise DataError(file, expected="fits of EFT as JSON", found="an empty file")
    with open(file, "rb") as stream:
        # Closed when the last record is: they are views into it.
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return json_numbers.decode(
        content, _File, file, "one object with the list data, as EFT publishes it"
    ).data


def _annotation(value: int | float | str | None) -> int:
    try:
        number = int(value or 0)
    except ValueError as error:
        raise _Wrong(f"annotId {value!r} is no number") from error
    return number if number > 0 else -1


def _numbers(name: str, value: Any, shape: tuple[int, ...]) -> Float:
    try:
        found = np.array(value, np.float64)  # None becomes NaN
    except (TypeError, ValueError) as error:
        raise _Wrong(f"{name}: expected numbers of shape {shape}, found others") from error
    if value is None or found.size != np.prod(shape, dtype=int):
        raise _Wrong(
            f"{name}: expected shape {shape}, found {found.shape if found.ndim else value}"
        )
    return found.reshape(shape)


def _pose(value: Any) -> Float:
    """24 matrices; some copies of the files hold 24 axis-angle vectors instead."""
    if value is not None and np.size(np.array(value, object)) == 72:
        return np.asarray(axis_angle_to_matrix(_numbers("pose", value, (24, 3))), np.float64)
    return _numbers("pose", value, SHAPES["pose"])


def _orthonormal(matrices: Float) -> tuple[Float, NDArray[np.bool_]]:
    """The nearest rotations, and which rows (n,) hold a matrix that is none."""
    product = np.einsum("...ba,...bc->...ac", matrices, matrices)
    away = np.abs(product - np.eye(3)).max(axis=(-1, -2))
    rounded = away > 1e-9
    nearest = matrices.copy()
    if rounded.any():
        left, _, right = np.linalg.svd(matrices[rounded])
        nearest[rounded] = left @ right
    odd = (away > FAR_FROM_ROTATION) | (np.linalg.det(nearest) < 0)
    nearest[odd] = np.eye(3)
    return nearest, odd.any(axis=1)


def join(parts: list[Fits]) -> Fits:
    """Records of several files, one after another."""
    problems: dict[int, tuple[str, str]] = {}
    before = 0
    for part in parts:
        problems |= {row + before: problem for row, problem in part.problems.items()}
        before += len(part)
    values: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("record", "annotation", *SHAPES)
    }
    for name in ("file", "picture", "subject"):
        values[name] = [value for part in parts for value in getattr(part, name)]
    return Fits(
        **values,
        without_keypoints=sum(part.without_keypoints for part in parts),
        problems=problems,
    )
