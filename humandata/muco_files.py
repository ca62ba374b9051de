"""MuCo-3DHP's annotations: the JSON with its bodies, and the chunks of the official build.

The JSON (``MuCo-3DHP.json`` by the author of RootNet and I2L-MeshNet) is COCO's in form only: its
pictures carry a camera, its persons 21 joints in pixels and in millimetres. It describes some
million persons, so the files are mapped, not read, and persons are decoded block by block, never
all at once as Python lists; what is kept of them is in single precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from humandata import json_numbers, matlab
from humandata.errors import DataError
from humandata.mpi_inf_3dhp_files import read_mat

Float = NDArray[np.float64]
Single = NDArray[np.float32]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

JOINTS = 21
BLOCK = 1000
CONVENTIONS = {17: "mpi_inf_3dhp_test", 21: "muco", 28: "mpi_inf_3dhp"}
"""Joints of a chunk, and what they are."""
CHUNK_ARRAYS = ("joint_loc2", "joint_loc3")


class Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int = 0
    height: int = 0
    f: list[float | None] = msgspec.field(default_factory=list)
    c: list[float | None] = msgspec.field(default_factory=list)


class _Person(msgspec.Struct, gc=False):
    id: int
    image_id: int
    bbox: Any = None
    keypoints_img: Any = None
    keypoints_cam: Any = None
    keypoints_vis: Any = None


class _Json(msgspec.Struct, gc=False):
    images: list[Image]
    annotations: list[msgspec.Raw]


class _Body(msgspec.Struct, gc=False):
    pose: Any = None
    shape: Any = None
    trans: Any = None


@dataclass(frozen=True)
class People:
    """Persons of the JSON, in its order.

    Attributes
    ----------
    images : list of Image
    id, image_id : (N,) int64
    box : (N, 4) float64
        x, y, width, height in pixels.
    pixels : (N, 21, 2) float32
    space : (N, 21, 3) float32
        Metres, camera frame.
    flagged : (N, 21) bool
    problem : dict of int to str
        Rows whose labels have another form, and what was found.
    """

    images: list[Image]
    id: Int
    image_id: Int
    box: Float
    pixels: Single
    space: Single
    flagged: Bool
    problem: dict[int, str]


@dataclass(frozen=True)
class Bodies:
    """SMPL bodies of some persons: which have one, and how many fits were no numbers."""

    pose: Single  # (N, 72) radians
    betas: Single  # (N, 10)
    transl: Single  # (N, 3) metres, camera frame
    valid: Bool  # (N,)
    damaged: int


def read_people(file: Path) -> People:
    """Read ``MuCo-3DHP.json``.

    Raises
    ------
    DataError
        It is no complete JSON, or of another form.
    """
    expected = "images with f and c, and annotations with keypoints_img and keypoints_cam"
    data = json_numbers.decode_file(file, _Json, expected)
    count = len(data.annotations)
    ids, image_ids = np.zeros(count, np.int64), np.zeros(count, np.int64)
    box = np.zeros((count, 4))
    pixels, space = (np.zeros((count, JOINTS, axes), np.float32) for axes in (2, 3))
    flagged = np.zeros((count, JOINTS), bool)
    problem: dict[int, str] = {}
    decoder = msgspec.json.Decoder(_Person)
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        try:
            people = [decoder.decode(raw) for raw in data.annotations[rows]]
        except msgspec.ValidationError as error:
            raise DataError(file, "annotations", expected=expected, found=str(error)) from error
        ids[rows] = [person.id for person in people]
        image_ids[rows] = [person.image_id for person in people]
        box[rows] = _stack(people, "bbox", (4,), start, problem)
        pixels[rows] = _stack(people, "keypoints_img", (JOINTS, 2), start, problem)
        space[rows] = _stack(people, "keypoints_cam", (JOINTS, 3), start, problem) / 1000
        flagged[rows] = _stack(people, "keypoints_vis", (JOINTS,), start, problem) > 0
    return People(data.images, ids, image_ids, box, pixels, space, flagged, problem)


def _stack(
    people: Sequence[_Person],
    name: str,
    shape: tuple[int, ...],
    start: int,
    problem: dict[int, str],
) -> Float:
    """One key of all people as an array (n, *shape); rows of another form are noted."""
    values = [getattr(person, name) for person in people]
    try:
        # Flags come flat or one to a list; null is NaN.
        return np.array(values, np.float64).reshape(len(people), *shape)
    except (TypeError, ValueError):
        made = np.zeros((len(people), *shape))
    for row, value in enumerate(values):
        try:
            made[row] = np.array(value, np.float64).reshape(shape)
        except (TypeError, ValueError):
            problem.setdefault(start + row, f"{name} is not of shape {shape}")
    return made


def read_bodies(file: Path | None, ids: Int) -> Bodies:
    """Bodies of the persons with these annotation ids, from ``smpl_param.json``.

    Raises
    ------
    DataError
        It is no complete JSON, or of another form.
    """
    rows = len(ids)
    pose, betas, transl = (np.zeros((rows, size), np.float32) for size in (72, 10, 3))
    found = Bodies(pose, betas, transl, np.zeros(rows, bool), 0)
    if file is None:
        return found
    expected = "pose, shape and trans by annotation id"
    data = json_numbers.decode_file(file, dict[str, msgspec.Raw], expected)
    decoder = msgspec.json.Decoder(_Body)
    damaged = 0
    for row, number in enumerate(ids.tolist()):
        raw = data.get(str(number))
        if raw is None:
            continue
        try:
            body = decoder.decode(raw)
            parts = [
                np.array(part, np.float64).reshape(size)
                for part, size in ((body.pose, 72), (body.shape, 10), (body.trans, 3))
            ]
        except (TypeError, ValueError, msgspec.ValidationError):
            damaged += 1
            continue
        if not all(np.isfinite(part).all() for part in parts):
            damaged += 1
            continue
        found.pose[row], found.betas[row], found.transl[row] = parts
        found.valid[row] = True
    return Bodies(found.pose, found.betas, found.transl, found.valid, damaged)


def read_chunk(file: Path) -> tuple[list[str], Float, Float]:
    """A chunk of the official build.

    Returns
    -------
    names : list of str
        Of n pictures.
    pixels : (n, P, J, 2) float64
        In the picture of 2048 x 2048.
    space : (n, P, J, 3) float64
        Metres, relative to the pelvis.

    Raises
    ------
    DataError
        It is damaged, or arrays do not fit each other.
    """
    found = read_mat(file, ["img_names", *CHUNK_ARRAYS])
    cells = found["img_names"]
    names = [matlab.text(cell) for cell in (cells if isinstance(cells, list) else [cells])]
    arrays = []
    for key, axes in zip(CHUNK_ARRAYS, (2, 3), strict=True):
        values = np.asarray(found[key], np.float64)
        values = values.reshape(*values.shape, *[1] * (4 - values.ndim))  # MATLAB drops last ones
        fits = values.ndim == 4 and values.shape[0] == axes and values.shape[3] == len(names)
        if not fits or values.shape[1] not in CONVENTIONS:
            raise DataError(
                file, key,
                expected=f"({axes}, 17, 21 or 28 joints, people, {len(names)} pictures)",
                found=f"{np.shape(found[key])}",
            )  # fmt: skip
        arrays.append(values.transpose(3, 2, 1, 0))
    pixels, space = arrays
    if pixels.shape[:3] != space.shape[:3]:
        raise DataError(
            file, "joint_loc3", expected=f"people and joints of joint_loc2, {pixels.shape[:3]}",
            found=f"{space.shape[:3]}",
        )  # fmt: skip
    return names, pixels, space / 1000
