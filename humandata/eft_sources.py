"""The annotations EFT's fits were made on: which person of its picture a fit belongs to.

A fit is joined to its person by the annotation's id where the fit has one (COCO, PoseTrack), else
by its box: EFT's boxes are those of the source, squared and enlarged. An id whose picture or box is
another one is a mistake that no later step would notice. Of OCHuman, EFT took the corners of boxes
for corner and size, so that its boxes are none of the source's: those fits are not verified.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from humandata import geometry, lsp_files, mpii_files
from humandata.errors import DataError

Float = NDArray[np.float64]
Int = NDArray[np.int64]

NOT_VERIFIED, BY_ID, BY_BOX = 0, 1, 2
VERIFIED = ("not_verified", "by_id_and_box", "by_box")
DIFFERENT, SAME = 0.3, 0.5
"""Overlap of squares below which they are of two persons; from which on, of one."""
FACTOR = 1.2
HR_FOLDERS = ("", "images_highres", "images")


@dataclass
class Source:
    """People of the source annotations: squares by picture and by id."""

    people: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    by_id: dict[int, int] = field(default_factory=dict)
    picture: list[str] = field(default_factory=list)
    squares: list[tuple[float, float, float]] = field(default_factory=list)  # centre, side
    has_ids: bool = True

    def add(self, identity: int, person: int, picture: str, square: Sequence[float]) -> None:
        row = len(self.squares)
        self.squares.append((float(square[0]), float(square[1]), float(square[2])))
        self.picture.append(picture)
        self.people[picture].append((row, person))
        self.by_id[identity] = row


@dataclass
class Match:
    """For every fit: how it was verified, its person, its source's id, or what is wrong."""

    verified: NDArray[np.uint8]
    person: Int
    identity: Int
    problems: dict[int, tuple[str, str]]
    unknown: int = 0


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    bbox: list[float] = msgspec.field(default_factory=list)


class _Coco(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation] = msgspec.field(default_factory=list)


def files(source: str, root: Path, year_split: str) -> tuple[Path, ...]:
    """The source's annotation files that are at hand beside its pictures."""
    if source == "coco":
        file = root / "annotations" / f"person_keypoints_{year_split}.json"
        return (file,) if file.is_file() else ()
    if source == "mpii":
        found = (
            mpii_files.find(root, kind, split)
            for kind, split in (("mat", "trainval"), ("one_h5", "trainval"), ("h5", "train"))
        )
        return tuple(file for file in found if file is not None)[:1]
    if source == "lspet":
        return (root / "joints.mat",) if (root / "joints.mat").is_file() else ()
    if source == "posetrack":
        for place in ("posetrack_data/annotations/train", "annotations/train"):
            listed = tuple(sorted((root / place).glob("*.json")))
            if listed:
                return listed
    return ()


def load(source: str, paths: Sequence[Path]) -> Source | None:
    """The people in the source's files, or None where there are none.

    Raises
    ------
    DataError
        If a file is damaged.
    """
    if not paths:
        return None
    found = Source()
    if source == "lspet":
        return _lspet(paths[0])
    if source == "mpii":
        (file,) = paths
        read = mpii_files.read_official if file.suffix == ".mat" else mpii_files.read_hourglass
        people = read(file)
        found.has_ids = False
        side = 200 * mpii_files.BAKED_SCALE * people.scale
        centre_y = people.centre[:, 1] + mpii_files.SHIFT * people.scale
        for row, name in enumerate(people.picture):
            if np.isfinite(side[row]) and np.isfinite(centre_y[row]):
                square = (people.centre[row, 0], centre_y[row], side[row])
                found.add(row, int(people.person[row]), name, square)
        return found
    for file in paths:
        content = _decode(file)
        names = {image.id: _name(source, image.file_name) for image in content.images}
        for annotation in content.annotations:
            if len(annotation.bbox) == 4 and annotation.image_id in names:
                x, y, width, height = annotation.bbox
                square = (x + width / 2, y + height / 2, FACTOR * max(width, height))
                found.add(annotation.id, -1, names[annotation.image_id], square)
    return found


def _lspet(file: Path) -> Source | None:
    """HR-LSPET's people; None where pictures are missing, which say whose joints are whose."""
    joints = lsp_files.read_joints(file, lsp_files.EXTENDED)
    names = (lsp_files.numbered(file.parent / folder, "png", 5) for folder in HR_FOLDERS)
    pictures = next(filter(None, names), {})
    if len(pictures) != len(joints):
        return None
    found = Source(has_ids=False)
    # EFT, as SPIN, takes all 14 joints, labelled or not.
    boxes = np.asarray(geometry.bbox_from_points(joints[..., :2], None, FACTOR))
    centres, sides = geometry.xywh_to_square(boxes)
    for row, name in enumerate(pictures.values()):
        found.add(row, -1, name, (*centres[row], sides[row]))
    return found


def _name(source: str, path: str) -> str:
    """As EFT names pictures: PoseTrack's with the folder of their sequence."""
    return "/".join(path.split("/")[-2:]) if source == "posetrack" else path.rsplit("/", 1)[-1]


def _decode(file: Path) -> _Coco:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Coco)
    except msgspec.DecodeError as error:
        raise DataError(
            file,
            expected="the source's annotations, which the fits are held against",
            found=str(error),
            hint="Download the file again, or take it away: the fits are then not verified",
        ) from error


def match(source: Source, pictures: Sequence[str], annotation: Int, squares: Float) -> Match:
    """Join fits to people of the source.

    Parameters
    ----------
    source : Source
    pictures : n str
        As the source names them.
    annotation : (n,) int64
        Ids of the source, -1 where a fit has none.
    squares : (n, 3) float64
        Centre and side of the fits' boxes, pixels.
    """
    rows = len(pictures)
    found = Match(
        np.zeros(rows, np.uint8), np.full(rows, -1, np.int64), annotation.copy(), problems={}
    )
    known = np.array(source.squares).reshape(-1, 3)
    identities = {row: identity for identity, row in source.by_id.items()}
    for row, picture in enumerate(pictures):
        identity = int(annotation[row])
        if source.has_ids and identity in source.by_id:
            at = source.by_id[identity]
            if source.picture[at] != picture:
                said = f"annotation {identity} is of {source.picture[at]}, not of {picture}"
                found.problems[row] = ("another_picture", said)
            elif overlap(known[[at]], squares[row])[0] < DIFFERENT:
                said = f"the box lies elsewhere than that of annotation {identity}"
                found.problems[row] = ("box_differs", said)
            else:
                found.verified[row] = BY_ID
            continue
        near = source.people.get(picture, [])
        shares = overlap(known[[at for at, _ in near]], squares[row])
        if len(near) and shares.max() >= SAME:
            at, person = near[int(shares.argmax())]
            found.verified[row], found.person[row] = BY_BOX, person
            if source.has_ids and identity < 0:
                found.identity[row] = identities[at]
        elif len(near) and shares.max() < DIFFERENT and (identity < 0 or not source.has_ids):
            said = f"none of the {len(near)} annotated people of {picture} has this box"
            found.problems[row] = ("box_differs", said)
        else:
            found.unknown += 1
    return found


def overlap(squares: Float, square: Any) -> Float:
    """Intersection over union of squares (n, 3) with one, by centre and side."""
    half = (squares[:, 2] + square[2]) / 2
    least = np.minimum(squares[:, 2], square[2])
    shared = np.clip(half[:, None] - np.abs(squares[:, :2] - square[:2]), 0, least[:, None])
    area = shared.prod(axis=1)
    total: Float = area / np.maximum(squares[:, 2] ** 2 + square[2] ** 2 - area, 1e-9)
    return total
