"""MPII in its true forms: the nested structs of the .mat, the hourglass HDF5, the JSON lists."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import scipy.io

MAT = "mpii_human_pose_v1_u12_2/mpii_human_pose_v1_u12_1.mat"
SIZE = (200, 160)  # height, width


@dataclass
class Person:
    """Ground truth of one person; None is what the release does not say."""

    joints: dict[int, tuple[float, float]]
    hidden: tuple[int, ...] = ()
    unflagged: tuple[int, ...] = (8, 9)
    objpos: tuple[float, float] | None = (80.0, 90.0)
    scale: float | None = 0.5
    head: tuple[float, float, float, float] = (70.0, 10.0, 90.0, 31.0)
    listed: str = "train"  # of the hourglass lists; empty: of none

    def places(self, missing: float) -> np.ndarray:
        found = np.full((16, 2), missing)
        for joint, place in self.joints.items():
            found[joint] = place
        return found

    def labelled(self) -> np.ndarray:
        return np.isin(np.arange(16), list(self.joints))

    def visible(self) -> np.ndarray:
        return self.labelled() & ~np.isin(np.arange(16), self.hidden)


@dataclass
class Picture:
    name: str
    people: list[Person] = field(default_factory=list)
    train: bool = True
    video: int = 1
    action: str = "skiing"
    apart: list[int] = field(default_factory=list)  # rectangles counted from 1


def body(seed: int, missing: tuple[int, ...] = ()) -> dict[int, tuple[float, float]]:
    """Whole pixels, but fractions for upper neck and head top, as in the release."""
    rng = np.random.default_rng(seed)
    places = rng.integers(20, 150, (16, 2)).astype(float)
    places[8:10] += rng.uniform(0.1, 0.9, (2, 2)).round(4)
    return {j: (float(places[j, 0]), float(places[j, 1])) for j in range(16) if j not in missing}


def release() -> list[Picture]:
    """Seven pictures: crowds, borders, gaps in the fields, a test picture."""
    border, negative = body(3), body(4)
    border[0] = (0.0, 77.0)
    negative[5] = (-3.0, 60.0)
    return [
        Picture("000000101.jpg", [Person(body(1), hidden=(0, 3)), Person(body(2, (0, 1, 9)))]),
        Picture("000000202.jpg", [], apart=[]),
        Picture("000000303.jpg", [Person({}), Person({})], action="", apart=[]),
        Picture("000000404.jpg", [Person(border), Person(negative, objpos=(30.5, 40.25))],
                video=2, action="yoga", apart=[2]),
        Picture("000000505.jpg", [Person({}, scale=1.5), Person({})], train=False),
        Picture("000000606.jpg", [Person(body(6), listed="val", scale=0.725), Person({})],
                apart=[1], video=2),
        Picture("000000707.jpg", [Person(body(7), objpos=None, listed=""),
                                  Person(body(8), scale=None, listed=""),
                                  Person({}, objpos=None, scale=None, listed="")]),
    ]  # fmt: skip


def written(pictures: list[Picture]) -> list[tuple[Picture, int, Person]]:
    """The people a converter must keep by default, in the order of the release."""
    return [
        (picture, at, person)
        for picture in pictures
        for at, person in enumerate(picture.people)
        if picture.train and person.joints and person.objpos and person.scale
    ]


def structs(rows: list[dict[str, Any]]) -> np.ndarray:
    """A MATLAB struct array (1, n) with the fields of its first row."""
    array = np.zeros((1, len(rows)), [(name, object) for name in rows[0]])
    for at, row in enumerate(rows):
        for name, value in row.items():
            array[0, at][name] = value
    return array


EMPTY = np.zeros((0, 0))


def _rect(person: Person, with_points: bool, flag_style: int) -> dict[str, Any]:
    points = []
    for joint, (x, y) in person.joints.items():
        flag: Any = np.uint8(joint not in person.hidden)
        if flag_style == 1:
            flag = str(int(flag))
        if joint in person.unflagged:
            flag = EMPTY
        points.append({"x": x, "y": y, "id": np.uint8(joint), "is_visible": flag})
    order = np.random.default_rng(0).permutation(len(points))  # any order of the joints
    shuffled = [points[i] for i in order]
    x1, y1, x2, y2 = person.head
    rect: dict[str, Any] = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    if with_points:
        rect["annopoints"] = structs([{"point": structs(shuffled)}]) if points else EMPTY
    rect["scale"] = EMPTY if person.scale is None else person.scale
    place = person.objpos
    rect["objpos"] = EMPTY if place is None else structs([{"x": place[0], "y": place[1]}])
    return rect


def write_mat(root: Path, pictures: list[Picture]) -> Path:
    """``RELEASE`` with fields that differ from picture to picture."""
    annolist, act = [], []
    for number, picture in enumerate(pictures):
        if not picture.people:
            rects: Any = EMPTY
        elif not picture.train:
            rects = structs(
                [{"scale": p.scale, "objpos": structs([{"x": 5.0, "y": 6.0}])}
                 for p in picture.people]
            )  # fmt: skip
        else:
            some = any(person.joints for person in picture.people)
            rects = structs([_rect(person, some, number % 2) for person in picture.people])
        annolist.append({
            "image": structs([{"name": picture.name}]), "annorect": rects,
            "frame_sec": np.float64(3 * number), "vidx": np.float64(picture.video),
        })  # fmt: skip
        act.append([picture.action or EMPTY, np.int32(number)])
    single = np.empty((len(pictures), 1), object)
    for row, picture in enumerate(pictures):
        single[row, 0] = (
            np.array(picture.apart, np.uint8).reshape(-1, 1) if picture.apart else EMPTY
        )
    videos = np.empty((1, 2), object)
    videos[0, :] = ["dCe3dj3eHfo", "b7Sd_dSrvC4"]
    acts = structs([{"act_name": name, "cat_name": "sports", "act_id": n} for name, n in act]).T
    content = {
        "annolist": structs(annolist),
        "img_train": np.array([[picture.train for picture in pictures]], np.uint8),
        "version": "12",
        "single_person": single,
        "act": acts,
        "video_list": videos,
    }
    file = root / MAT
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, {"RELEASE": content}, do_compression=True)
    return file


def _listed(pictures: list[Picture], split: str) -> list[tuple[int, int, Picture, Person]]:
    return [
        (index, at, picture, person)
        for index, picture in enumerate(pictures)
        for at, person in enumerate(picture.people)
        if picture.train and person.joints and person.listed == split
    ]


def write_h5(root: Path, pictures: list[Picture], split: str = "train") -> Path:
    """The hourglass list: coordinates truncated, scale and centre with their factors applied."""
    rows = _listed(pictures, split)
    file = root / "annot" / {"train": "train.h5", "val": "valid.h5"}[split]
    file.parent.mkdir(parents=True, exist_ok=True)
    scale = np.array([person.scale for *_, person in rows])
    centre = np.array([person.objpos for *_, person in rows])
    centre[:, 1] += 15 * scale
    with h5py.File(file, "w") as out:
        out.attrs["name"] = "mpii"
        out["imgname"] = np.array([picture.name.encode() for *_, picture, _ in rows], "S13")
        out["part"] = np.trunc([person.places(0.0) for *_, person in rows])
        out["visible"] = np.array([person.visible() for *_, person in rows], float)
        out["center"], out["scale"] = centre, 1.25 * scale
        out["index"] = np.array([row[0] for row in rows], float)
        out["person"] = np.array([row[1] for row in rows], float)
        out["normalize"] = 25 * scale
        out["torsoangle"] = np.zeros(len(rows))
    return file


def write_one_h5(root: Path, pictures: list[Picture]) -> Path:
    """The later ``annot.h5``: names as codes, raw scale and centre, all people with a flag."""
    rows = [
        (index, at, picture, person)
        for index, picture in enumerate(pictures)
        for at, person in enumerate(picture.people)
        if person.objpos and person.scale
    ]
    names, parts, flags, training = np.zeros((len(rows), 16)), [], [], []
    for row, (*_, picture, person) in enumerate(rows):
        names[row, : len(picture.name)] = np.frombuffer(picture.name.encode(), np.uint8)
        # 2: a training picture whose annorect has no field annopoints at all.
        some = any(other.joints for other in picture.people)
        training.append(0 if not picture.train else 1 if some else 2)
        parts.append(person.places(0.0 if person.joints else -1.0))
        bare = np.full(16, -1 if training[-1] == 1 else 0)
        flags.append(person.visible() if person.joints else bare)
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "annot.h5", "w") as out:
        out["imgname"], out["part"] = names, np.array(parts)
        out["visible"], out["istrain"] = np.array(flags, float), np.array(training, float)
        out["center"] = np.array([person.objpos for *_, person in rows])
        out["scale"] = np.array([person.scale for *_, person in rows])
        out["index"] = np.array([row[0] for row in rows], float)
        out["person"] = np.array([row[1] for row in rows], float)
    return root / "annot.h5"


def write_json(root: Path, pictures: list[Picture], split: str = "train") -> Path:
    """MMPose's list: coordinates as released, ``joints_vis`` says labelled."""
    rows = _listed(pictures, split)
    content = [
        {
            "joints_vis": person.labelled().astype(int).tolist(),
            "joints": person.places(-1.0).tolist(),
            "image": picture.name,
            "scale": person.scale,
            "center": list(person.objpos or ()),
        }
        for *_, picture, person in rows
    ]
    file = root / "annotations" / f"mpii_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    heads = np.array([person.head for *_, person in rows]).reshape(-1, 2, 2).transpose(1, 2, 0)
    scipy.io.savemat(root / "annotations" / f"mpii_gt_{split}.mat", {"headboxes_src": heads})
    return file


def write_pictures(root: Path, pictures: list[Picture]) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(root / "images" / picture.name), np.full((*SIZE, 3), number, np.uint8))
