"""MPII's annotations in their three forms, as one table of people.

The official ``.mat`` (release u12), the HDF5 lists of the hourglass networks (which SPIN, GraphCMR
and mmhuman3d read), and the JSON lists of HRNet and MMPose. The forms differ in what they have
already applied and in how they say "unlabelled"; here all of it is undone:

=======  =======================  ======================  ==================  ====================
form     scale                    centre                  coordinates         unlabelled
=======  =======================  ======================  ==================  ====================
mat      raw                      raw                     as released         not listed
h5       raw * 1.25               y + 15 * raw scale      truncated           (0, 0), visible 0
json     raw                      raw                     as released         (-1, -1), vis 0
=======  =======================  ======================  ==================  ====================

The one-file ``annot.h5`` (names as rows of character codes) has raw centres and scales.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from humandata import json_numbers, matlab
from humandata.errors import DataError
from humandata.mpi_inf_3dhp_files import read_mat

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

JOINTS = 16
BAKED_SCALE, SHIFT = 1.25, 15.0
"""What the hourglass lists have applied: scale * 1.25, and y + 15 * scale."""
UNLABELLED, OCCLUDED, VISIBLE = 0, 1, 2

MAT = "mpii_human_pose_v1_u12_1.mat"
PLACES = {
    "mat": ("mpii_human_pose_v1_u12_2/" + MAT, MAT, "annot/" + MAT, "annotations/" + MAT),
    "h5": ("annot/{hourglass}.h5", "data/mpii/annot/{hourglass}.h5", "{hourglass}.h5",
           "data/{hourglass}.h5"),
    "json": ("annotations/mpii_{mmpose}.json", "annot/{hourglass}.json", "mpii_{mmpose}.json",
             "{hourglass}.json", "annotations/{hourglass}.json"),
    "one_h5": ("annot.h5", "annot/annot.h5", "data/mpii/annot.h5"),
    "heads": ("annotations/mpii_gt_{mmpose}.mat", "annot/gt_{hourglass}.mat",
              "mpii_gt_{mmpose}.mat"),
}  # fmt: skip
"""Where the files of each form lie."""
NAMES = {"train": ("train", "train"), "val": ("valid", "val"), "trainval": ("trainval", "trainval")}
"""Split -> its name in the hourglass and HRNet forms, and in MMPose's."""


@dataclass
class People:
    """One row per person, n in all.

    Attributes
    ----------
    picture : list of str
        File name, without a folder.
    joints : (n, 16, 2) float64
        Pixels as released; anything where unlabelled.
    visibility : (n, 16) uint8
        0 unlabelled, 1 occluded, 2 visible; without flags (JSON) labelled joints are 2.
    centre, scale : (n, 2), (n,) float64
        Rough position, and the person's height over 200 pixels; NaN where not given.
    index, person : (n,) int64
        Place in ``annolist`` and ``annorect``, from 0; -1 in the JSON form, which has neither.
    head : (n, 4) float64
        Corners x1, y1, x2, y2 of the head rectangle; NaN where not given.
    apart : (n,) bool or None
        Listed in ``single_person``: well apart from others.
    sequence : (n,) int64
        Row of ``sequences`` (video, action), or -1.
    problems : dict of int to (str, str)
        Rows that cannot be used: reason and detail.
    skipped : dict of str to int
        Records of the file that belong to another split.
    """

    picture: list[str]
    joints: Float
    visibility: NDArray[np.uint8]
    centre: Float
    scale: Float
    index: Int
    person: Int
    head: Float
    apart: Bool | None = None
    sequence: Int | None = None
    sequences: list[tuple[str, str]] = field(default_factory=list)
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.picture)


def find(raw: Path, kind: str, split: str) -> Path | None:
    """The file of one form and split, in its customary places."""
    hourglass, mmpose = NAMES[split]
    for place in PLACES[kind]:
        file = raw / place.format(hourglass=hourglass, mmpose=mmpose)
        if file.is_file():
            return file
    return None


# The official file ------------------------------------------------------------------------------


def read_official(file: Path) -> People:
    """All people in the training pictures (``img_train``); the others have no labels.

    Raises
    ------
    DataError
        If the file is damaged or lacks ``RELEASE`` and its lists.
    """
    release = _release(file)
    pictures = matlab.structs(release["annolist"])
    training = np.asarray(release["img_train"]).ravel()
    if len(training) != len(pictures):
        raise DataError(
            file,
            "img_train",
            expected=f"one flag for each of the {len(pictures)} pictures of annolist",
            found=str(len(training)),
        )
    alone = [np.asarray(cell).ravel() for cell in matlab.cells(_optional(release, "single_person"))]
    videos = [matlab.text(cell) for cell in matlab.cells(_optional(release, "video_list"))]
    actions = matlab.structs(_optional(release, "act"))
    rows = _Rows()
    for index, picture in enumerate(pictures):
        people = matlab.structs(matlab.member(picture, "annorect"))
        if not training[index]:
            rows.skipped["test_picture_without_labels"] += len(people)
            continue
        image = matlab.structs(matlab.member(picture, "image"))
        name = matlab.text(matlab.member(image[0], "name")) if image else ""
        video = _at(videos, matlab.number(matlab.member(picture, "vidx")) - 1, "")
        action = actions[index] if index < len(actions) else None
        acting = "" if action is None else matlab.text(matlab.member(action, "act_name"))
        apart = alone[index].astype(np.float64) if index < len(alone) else np.empty(0)
        for person, rect in enumerate(people):
            rows.add(name, rect, index, person, person + 1 in apart, (video, acting))
    return rows.people()


def _release(file: Path) -> Any:
    wanted = "the struct RELEASE with annolist and img_train"
    found = read_mat(file, ["RELEASE"])["RELEASE"]
    release = matlab.structs(found)
    names = release[0].dtype.names if release else ()
    if not {"annolist", "img_train"} <= set(names or ()):
        raise DataError(file, expected=wanted, found=", ".join(names or ()) or str(type(found)))
    return release[0]


def _optional(release: Any, name: str) -> Any:
    value = matlab.member(release, name)
    return np.empty(0, object) if value is None else value


def _at(values: list[str], place: float, default: str) -> str:
    return values[int(place)] if 0 <= place < len(values) else default


class _Rows:
    """Gathers people one by one."""

    def __init__(self) -> None:
        self.picture: list[str] = []
        self.joints: list[Float] = []
        self.visibility: list[NDArray[np.uint8]] = []
        self.other: list[tuple[float, ...]] = []
        self.keys: list[tuple[int, int, int]] = []
        self.apart: list[bool] = []
        self.sequences: dict[tuple[str, str], int] = {}
        self.problems: dict[int, tuple[str, str]] = {}
        self.skipped = {"test_picture_without_labels": 0}

    def add(
        self,
        name: str,
        rect: Any,
        index: int,
        person: int,
        apart: bool,
        where: tuple[str, str],
    ) -> None:
        joints, visibility = np.zeros((JOINTS, 2)), np.zeros(JOINTS, np.uint8)
        points = matlab.structs(matlab.member(rect, "annopoints"))
        for point in matlab.structs(matlab.member(points[0], "point")) if points else []:
            joint = matlab.number(matlab.member(point, "id"))
            if joint not in range(JOINTS) or visibility[int(joint)]:
                said = f"joint id {joint:g} is out of 0 to 15, or comes twice"
                self.problems[len(self.picture)] = ("joint_id", said)
                continue
            joints[int(joint)] = [matlab.number(matlab.member(point, axis)) for axis in "xy"]
            # Absent or empty says visible: neck and head top, being computed, carry no flag.
            hidden = matlab.number(matlab.member(point, "is_visible")) == 0
            visibility[int(joint)] = OCCLUDED if hidden else VISIBLE
        position = matlab.structs(matlab.member(rect, "objpos"))
        nan = float("nan")
        centre = (
            [matlab.number(matlab.member(position[0], axis)) for axis in "xy"]
            if position
            else [nan, nan]
        )
        head = [matlab.number(matlab.member(rect, corner)) for corner in ("x1", "y1", "x2", "y2")]
        scale = matlab.number(matlab.member(rect, "scale"))
        sequence = self.sequences.setdefault(where, len(self.sequences)) if where[0] else -1
        self.picture.append(name)
        self.joints.append(joints)
        self.visibility.append(visibility)
        self.other.append((*centre, scale, *head))
        self.keys.append((index, person, sequence))
        self.apart.append(apart)

    def people(self) -> People:
        other = np.array(self.other, np.float64).reshape(-1, 7)
        keys = np.array(self.keys, np.int64).reshape(-1, 3)
        return People(
            self.picture,
            np.array(self.joints).reshape(-1, JOINTS, 2),
            np.array(self.visibility, np.uint8).reshape(-1, JOINTS),
            other[:, :2],
            other[:, 2],
            keys[:, 0],
            keys[:, 1],
            other[:, 3:],
            np.array(self.apart, bool),
            keys[:, 2],
            list(self.sequences),
            self.problems,
            self.skipped,
        )


def choose(people: People, listed: People, file: Path) -> People:
    """The people of the official file that an hourglass list names, in the list's order.

    Raises
    ------
    DataError
        If the list names people of another picture than the official file has there.
    """
    row_of = {
        key: row
        for row, key in enumerate(zip(people.index.tolist(), people.person.tolist(), strict=True))
    }
    keys = zip(listed.index.tolist(), listed.person.tolist(), strict=True)
    rows = [row_of.get(key, -1) for key in keys]
    for at, row in enumerate(rows):
        found = people.picture[row] if row >= 0 else "nobody"
        if found != listed.picture[at]:
            raise DataError(
                file,
                f"row {at}",
                expected=f"a person of {listed.picture[at]}",
                found=f"{found} at place {listed.index[at]}, {listed.person[at]} of the .mat",
                hint="The list belongs to another release of the annotations",
            )
    kept = np.array(rows, np.int64)
    new = {row: at for at, row in enumerate(rows)}
    skipped = dict(people.skipped)
    skipped["other_split"] = len(people) - len(new)
    assert people.apart is not None
    assert people.sequence is not None
    return People(
        [people.picture[row] for row in rows],
        people.joints[kept],
        people.visibility[kept],
        people.centre[kept],
        people.scale[kept],
        people.index[kept],
        people.person[kept],
        people.head[kept],
        people.apart[kept],
        people.sequence[kept],
        people.sequences,
        {new[row]: problem for row, problem in people.problems.items() if row in new},
        skipped,
    )


# The hourglass lists ----------------------------------------------------------------------------


def read_hourglass(file: Path) -> People:
    """An HDF5 list: ``train.h5``, ``valid.h5``, or the one file ``annot.h5``.

    Raises
    ------
    DataError
        If the file is damaged, lacks an array, or arrays differ in length.
    """
    arrays = _read_arrays(file)
    names, one_file = _names(arrays["imgname"])
    rows = len(names)
    joints = arrays["part"].astype(np.float64)
    flags = arrays["visible"].astype(np.float64)
    # 0, 0 is said of unlabelled joints; the one file says -1, -1 of people without any joints.
    nothing = (joints == 0).all(axis=2) & (flags <= 0)
    if one_file:
        nothing |= (joints == -1).all(axis=2) & (flags <= 0)
    visibility = np.where(nothing, UNLABELLED, np.where(flags > 0, VISIBLE, OCCLUDED))
    scale = arrays["scale"].astype(np.float64)
    centre = arrays["center"].astype(np.float64)
    skipped = {}
    keep = np.ones(rows, bool)
    if one_file:
        training = arrays["istrain"].ravel() if "istrain" in arrays else np.ones(rows)
        keep = training != 0
        skipped["test_picture_without_labels"] = int((~keep).sum())
    else:
        scale = scale / BAKED_SCALE
        centre = centre - np.stack([0 * scale, SHIFT * scale], axis=1)
    numbers = [
        arrays[key].astype(np.int64) if key in arrays else np.full(rows, -1, np.int64)
        for key in ("index", "person")
    ]
    return People(
        [name for name, kept in zip(names, keep, strict=True) if kept],
        joints[keep],
        visibility[keep].astype(np.uint8),
        centre[keep],
        scale[keep],
        numbers[0][keep],
        numbers[1][keep],
        np.full((int(keep.sum()), 4), np.nan),
        skipped=skipped,
    )


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    import h5py

    shapes: dict[str, tuple[int, ...]] = {
        "part": (JOINTS, 2), "visible": (JOINTS,), "center": (2,), "scale": (),
    }  # fmt: skip
    try:
        with h5py.File(file) as content:
            arrays = {
                key: np.asarray(content[key])
                for key in ("imgname", *shapes, "index", "person", "istrain")
                if key in content
            }
    except Exception as error:  # HDF5 stumbles anywhere over a damaged file
        raise DataError(
            file,
            expected="an HDF5 list of MPII people",
            found=f"{type(error).__name__}: {error}",
            hint="The file is cut off or damaged: download it again",
        ) from error
    missing = [key for key in ("imgname", *shapes) if key not in arrays]
    if missing:
        raise DataError(
            file, expected="imgname, part, visible, center, scale", found=f"no {', '.join(missing)}"
        )
    rows = len(arrays["imgname"])
    for key, values in arrays.items():
        wanted = (rows, *shapes.get(key, values.shape[1:]))
        if values.shape != wanted:
            raise DataError(file, key, expected=f"shape {wanted}", found=f"{values.shape}")
    return arrays


def _names(values: NDArray[Any]) -> tuple[list[str], bool]:
    """File names, and whether they were rows of character codes: the one-file form."""
    if values.ndim == 2:
        return [
            bytes(row[row > 0].astype(np.uint8)).decode("latin1") for row in values.astype(int)
        ], True
    return [
        (name.decode("latin1") if isinstance(name, bytes) else str(name)).rstrip("\0")
        for name in values
    ], False


# The JSON lists ---------------------------------------------------------------------------------


class _Record(msgspec.Struct, gc=False):
    image: str
    joints: list[list[float | None]] = msgspec.field(default_factory=list)
    joints_vis: list[float] = msgspec.field(default_factory=list)
    center: list[float | None] = msgspec.field(default_factory=list)
    scale: float | None = None


def read_list(file: Path, heads: Path | None = None) -> People:
    """A JSON list of HRNet or MMPose; ``heads`` is the ``.mat`` with head boxes that goes with it.

    Raises
    ------
    DataError
        If it is no complete JSON, or of another form.
    """
    records = _decode(file)
    rows = len(records)
    joints, labelled = np.zeros((rows, JOINTS, 2)), np.zeros((rows, JOINTS), bool)
    centre, scale = np.full((rows, 2), np.nan), np.full(rows, np.nan)
    problems = {}
    for row, record in enumerate(records):
        shaped = len(record.joints) == JOINTS and all(len(joint) == 2 for joint in record.joints)
        if record.joints and not (shaped and len(record.joints_vis) == JOINTS):
            problems[row] = ("keypoints", f"expected {JOINTS} joints x, y with their joints_vis")
        elif record.joints:
            joints[row] = np.array(record.joints, np.float64)
            labelled[row] = np.array(record.joints_vis) > 0
        if len(record.center) == 2:
            centre[row] = np.array(record.center, np.float64)
        scale[row] = np.nan if record.scale is None else record.scale
    none = np.full(rows, -1, np.int64)
    return People(
        [record.image for record in records],
        joints,
        np.where(labelled, VISIBLE, UNLABELLED).astype(np.uint8),
        centre,
        scale,
        none,
        none.copy(),
        _head_boxes(heads, rows),
        problems=problems,
    )


def _decode(file: Path) -> list[_Record]:
    data = file.read_bytes()
    coco = data[:100].lstrip()[:1] == b"{"
    return json_numbers.decode(
        data,
        list[_Record],
        file,
        "a list of people with image, joints, joints_vis, center, scale",
        "COCO-style copies lack position and scale, which boxes are made of" if coco else None,
    )


def _head_boxes(file: Path | None, rows: int) -> Float:
    """(n, 4) corners from ``headboxes_src``, (2 corners, x and y, n)."""
    if file is None:
        return np.full((rows, 4), np.nan)
    boxes = np.asarray(read_mat(file, ["headboxes_src"])["headboxes_src"], np.float64)
    if boxes.shape != (2, 2, rows):
        raise DataError(
            file,
            "headboxes_src",
            expected=f"shape (2, 2, {rows}), one box for every person of the list",
            found=f"{boxes.shape}",
        )
    return boxes.reshape(4, rows).T
