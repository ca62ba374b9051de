"""AGORA's tables and body fits on the disk.

A table is a pickled pandas frame: a row per picture, whose person-level cells are lists with one
entry per person. A fit is a pickled dictionary, of arrays for SMPL-X and of torch tensors that lay
on a GPU for SMPL. Both go through the restricted reader, so neither pandas nor torch is needed.

A table holds the vertices of every person, gigabytes per file; they are passed over in reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import unpickle
from humandata.errors import DataError

Float = NDArray[np.float64]
Int = NDArray[np.int64]

JOINTS = {"smpl": 45, "smplx": 127}
VERTICES = {"smpl": 6890, "smplx": 10475}
TABLES = {
    "smpl": ("SMPL", "{split}_SMPL/SMPL", "{split}_SMPL", "camera_dataframe_smpl"),
    "smplx": ("SMPLX", "{split}_SMPLX/SMPLX", "{split}_SMPLX", "camera_dataframe"),
}
"""Folders in which tables lie: as unpacked, by archive, or as mmhuman3d asks for them."""
FITS = {"smpl": "smpl_gt", "smplx": "smplx_gt"}
PICTURES = (
    "images/{split}", "images/{split}_*", "images", "data/images", "{split}", "{split}_[0-9]*",
    "{split}_images*", "{split}_images*/*",
)  # fmt: skip
"""Folders in which pictures lie: merged per split, all in one, or one per archive."""

NUMBERS = ("X", "Y", "Z", "Yaw", "occlusion")
FLAGS = ("kid", "isValid")
WORDS = ("gender", "age", "ethnicity")
CAMERA = ("camX", "camY", "camZ", "camYaw")

POSES = {
    "smpl": {
        "global_orient": (("root_pose", "global_orient"), 3),
        "body_pose": (("body_pose",), 69),
        "transl": (("translation", "transl"), 3),
    },
    "smplx": {
        "global_orient": (("global_orient", "root_pose"), 3),
        "body_pose": (("body_pose",), 63),
        "transl": (("transl", "translation"), 3),
        "left_hand_pose": (("left_hand_pose",), 45),
        "right_hand_pose": (("right_hand_pose",), 45),
        "jaw_pose": (("jaw_pose",), 3),
        "leye_pose": (("leye_pose",), 3),
        "reye_pose": (("reye_pose",), 3),
        "expression": (("expression",), 10),
    },
}
"""Parameter -> keys it goes by in the files, and its number of elements; betas apart."""


class UnusableFit(Exception):
    """A fit cannot be used: the reason in one word, and in a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Table:
    """All persons of one table, pictures outer.

    Attributes
    ----------
    pictures : list of str
        ``imgPath`` of each row.
    camera : (pictures, 4) float64
        camX, camY, camZ in centimetres, camYaw in degrees; NaN where the table lacks them.
    row, person : (n,) int64
        Picture and place in it of each person.
    numbers, flags : dict of (n,) float64 or bool
    words : dict of list of str
    fits : list of str
        Path of each person's fit as the table has it.
    joints2d : (n, K, 2) float64
        Pixels of 3840x2160; NaN where the entry has another shape.
    joints3d : (n, K, 3) float64
        Camera frame, metres; likewise.
    shapes : (n,) bool
        Both joint arrays have the shape of the release.
    uneven : dict of int to int
        Rows whose lists differ in length, with the length of the longest; none of their persons
        is above.
    """

    pictures: list[str]
    camera: Float
    row: Int
    person: Int
    numbers: dict[str, Float]
    flags: dict[str, NDArray[np.bool_]]
    words: dict[str, list[str]]
    fits: list[str]
    joints2d: Float
    joints3d: Float
    shapes: NDArray[np.bool_]
    uneven: dict[int, int]

    def __len__(self) -> int:
        return len(self.row)


def find_tables(raw: Path, body: str, split: str) -> list[Path]:
    """Tables with joints of a split, by number; none if it is not there."""
    for folder in TABLES[body]:
        files = (raw / folder.format(split=split)).glob(f"{split}_*_withjv.pkl")
        found = sorted(files, key=lambda file: (number_of(file), file.name))
        if found:
            return found
    return []


def number_of(file: Path) -> int:
    """The number in a table's name, -1 without one."""
    match = re.search(r"_(\d+)_withjv$", file.stem)
    return int(match[1]) if match else -1


def picture_folders(raw: Path, split: str) -> list[str]:
    """Folders that may hold a split's pictures, relative to ``raw``, likely ones first."""
    found = [
        folder.relative_to(raw).as_posix()
        for pattern in PICTURES
        for folder in sorted(raw.glob(pattern.format(split=split)))
        if folder.is_dir()
    ]
    return list(dict.fromkeys(found))


def find_fit(raw: Path, body: str, path: str) -> Path | None:
    """The file of a fit: where the table says, else by its name alone; None if it is not there.

    The table names the mesh (``.obj``), beside which the parameters lie as ``.pkl``.
    """
    told = PurePosixPath(path.replace("\\", "/")).with_suffix(".pkl")
    parts = [part for part in told.parts if part not in ("/", "..", ".")]
    tree = raw / FITS[body]
    for place in (raw.joinpath(*parts), tree.joinpath(*parts), tree / told.name):
        if place.is_file():
            return place
    return None


def read_fit(file: Path, body: str) -> dict[str, Float]:
    """Parameters of a fit as flat float64 arrays, in the scan's own frame.

    ``betas`` has 10 elements or, in fits with an interpolation towards the child, 11.

    Raises
    ------
    UnusableFit
        The file is damaged, or lacks a parameter, or holds numbers that are none.
    UnsafePickle
        It asks for code to be run.
    """
    try:
        data = unpickle.load(file)
    except DataError as error:
        raise UnusableFit("damaged_fit", str(error)) from error
    if not isinstance(data, Mapping):
        raise UnusableFit("fit_form", f"{file.name} holds a {type(data).__name__}, no dictionary")
    found = {}
    for name, (keys, size) in POSES[body].items():
        found[name] = _parameter(file, data, keys, (size,))
    found["betas"] = _parameter(file, data, ("betas",), (10, 11))
    return found


def _parameter(
    file: Path, data: Mapping[str, Any], keys: Sequence[str], sizes: tuple[int, ...]
) -> Float:
    key = next((key for key in keys if key in data), None)
    if key is None:
        raise UnusableFit("fit_form", f"{file.name} has no {' or '.join(keys)}")
    try:
        # Files differ in their leading axes; the number of elements is what counts.
        values = np.asarray(data[key], np.float64).ravel()
    except (TypeError, ValueError):
        raise UnusableFit("fit_form", f"{key} of {file.name} holds no numbers") from None
    if values.size not in sizes:
        wanted = " or ".join(map(str, sizes))
        found = f"{values.size} numbers"
        raise UnusableFit("fit_form", f"{key} of {file.name}: {wanted} expected, found {found}")
    if not np.isfinite(values).all():
        raise UnusableFit("fit_not_finite", f"{key} of {file.name} holds NaN or infinity")
    return values


def read_table(file: Path, body: str) -> Table:
    """Read a table.

    Raises
    ------
    DataError
        If the file is damaged, is no frame, or lacks a column.
    """
    frame = unpickle.load(file, skipped=[VERTICES[body] * 3 * size for size in (4, 8)])
    if not isinstance(frame, unpickle.Frame):
        raise DataError(file, expected="a pandas frame", found=type(frame).__name__)
    columns = frame.columns
    columns.pop("gt_verts", None)
    path_column = f"gt_path_{body}"
    wanted = ("imgPath", *NUMBERS, *FLAGS, *WORDS, path_column, "gt_joints_2d", "gt_joints_3d")
    missing = [name for name in wanted if name not in columns]
    if missing:
        hint = "Is this a table of AGORA?"
        if set(missing) == {"gt_joints_2d", "gt_joints_3d"}:
            hint = "The Cam archives hold no joints: fetch the SMPL or SMPLX archives"
        raise DataError(
            file, expected="the columns of AGORA", found=f"no {', '.join(missing)}", hint=hint
        )
    cells = {name: [_listed(c) for c in columns[name]] for name in wanted if name != "imgPath"}
    lengths = np.array([[len(c) for c in column] for column in cells.values()], np.int64)
    longest = lengths.max(axis=0, initial=0)
    uneven = np.flatnonzero((lengths != longest).any(axis=0))
    counts = np.where((lengths != longest).any(axis=0), 0, longest)
    for number in uneven.tolist():
        for column in cells.values():
            column[number] = []
    flat = {name: [value for cell in column for value in cell] for name, column in cells.items()}
    row = np.repeat(np.arange(len(frame)), counts)
    starts = np.cumsum(counts) - counts
    joints2d, shapes2d = _joints(flat["gt_joints_2d"], (JOINTS[body], 2))
    joints3d, shapes3d = _joints(flat["gt_joints_3d"], (JOINTS[body], 3))
    shapes = shapes2d & shapes3d
    if len(row) and not shapes.any():
        raise DataError(
            file,
            "gt_joints_3d",
            expected=f"arrays of shape {(JOINTS[body], 3)}, as tables of {body.upper()} have",
            found=f"shape {getattr(flat['gt_joints_3d'][0], 'shape', None)}",
            hint="Do the tables of SMPL lie in the folder of SMPL-X, or the other way round?",
        )
    return Table(
        [str(name) for name in columns["imgPath"]],
        _camera(file, columns, len(frame)),
        row,
        np.arange(len(row)) - starts[row],
        {name: _numbers(file, name, flat[name]) for name in NUMBERS},
        {name: _numbers(file, name, flat[name]) == 1 for name in FLAGS},
        {name: [_word(value) for value in flat[name]] for name in WORDS},
        [str(path) for path in flat[path_column]],
        joints2d,
        joints3d,
        shapes,
        {number: int(longest[number]) for number in uneven.tolist()},
    )


def _listed(cell: Any) -> list[Any]:
    if isinstance(cell, np.ndarray) and cell.ndim:
        return list(cell)
    return list(cell) if isinstance(cell, list | tuple) else []


def _word(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


def _numbers(file: Path, name: str, values: Sequence[Any]) -> Float:
    try:
        return np.array(values, np.float64).reshape(len(values))
    except (TypeError, ValueError):
        raise DataError(
            file, name, expected="one number per person", found="something else in the lists"
        ) from None


def _camera(file: Path, columns: Mapping[str, Any], rows: int) -> Float:
    # Pictures whose name tells their camera need no entry, so None and missing columns are NaN.
    camera = np.full((rows, len(CAMERA)), np.nan)
    for i, name in enumerate(CAMERA):
        if name in columns:
            values = [np.nan if value is None else value for value in columns[name]]
            camera[:, i] = _numbers(file, name, values)
    return camera


def _joints(entries: Sequence[Any], shape: tuple[int, int]) -> tuple[Float, NDArray[np.bool_]]:
    good = np.zeros(len(entries), bool)
    joints = np.full((len(entries), *shape), np.nan)
    for i, entry in enumerate(entries):
        try:
            if np.shape(entry) == shape:
                joints[i] = entry
                good[i] = True
        except (TypeError, ValueError):
            continue  # lists of no one shape, or of something else than numbers: not good
    return joints, good
