"""COCO keypoints, 2014 and 2017: the official ``person_keypoints_*.json``.

Every person with at least one labelled joint becomes a row; persons without any, crowds among
them, are filtered and counted. ``--option filter=mmhuman3d`` keeps those only whose twelve limb
joints are all labelled, the rule of SPIN, mmhuman3d and hmr-benchmarks. Boxes are the annotator's,
not enlarged. Pixels are 0-based as released. Visibility (1 occluded, 2 visible) is kept apart from
the confidence, which is 1 for both, as in all peers.

Rows are in the order of the file; peers that need the persons of a picture to be neighbours sort
by picture. Pictures lie in ``train2017/``, ``images/train2017/`` or ``train_2017/train2017/``.

Format: https://cocodataset.org/#format-data (keypoint detection).
"""

from __future__ import annotations

import gc
import itertools
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError
from humandata.schema import row_ids

INFO = DatasetInfo(
    name="coco",
    title="Microsoft COCO keypoints",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
    url="https://cocodataset.org",
    licence="annotations CC BY 4.0; pictures under the terms of Flickr",
    splits=("train2017", "val2017", "train2014", "val2014"),
    expects=(
        "RAW/annotations/person_keypoints_{train,val}{2014,2017}.json and the pictures in "
        "RAW/<split>/, RAW/images/<split>/ or RAW/train_2017/<split>/"
    ),
    yields="17 keypoints with visibility, box, mask area",
    keypoints2d="coco",
    options=(
        Option(
            "filter",
            "'none' keeps every person with a labelled joint; 'mmhuman3d' those with all twelve "
            "limb joints labelled",
            ("none", "mmhuman3d"),
            "none",
        ),
    ),
)

JOINTS = 17
LIMBS = slice(5, 17)
"""Shoulders to ankles: the twelve joints of the SPIN and mmhuman3d rule."""
PICTURE_FOLDERS = ("{split}", "images/{split}", "train_2017/{split}", "images")


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int = 0
    height: int = 0


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    keypoints: list[float] = msgspec.field(default_factory=list)
    bbox: list[float] = msgspec.field(default_factory=list)
    iscrowd: int = 0
    area: float = 0.0


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]


def find_splits(raw: Path) -> list[str]:
    """Splits whose annotation file is there."""
    found = [split for split in INFO.splits if _annotation_file(raw, split).is_file()]
    if not found:
        raise DataError(raw, expected=INFO.expects, found="no person_keypoints_*.json")
    return found


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: the annotation file of the split."""
    file = _annotation_file(raw, split)
    if not file.is_file():
        raise DataError(file, expected="the annotations of this split", found="no such file")
    return [Unit(split, split, raw, (file,), {"filter": options.get("filter", "none")})]


def _annotation_file(raw: Path, split: str) -> Path:
    return raw / "annotations" / f"person_keypoints_{split}.json"


def read(unit: Unit) -> Columns:
    """Read one annotation file.

    Raises
    ------
    DataError
        If the file is not complete JSON, or lacks what every COCO file has.
    """
    (file,) = unit.files
    data = _decode(file)
    annotations = data.annotations
    labels, wrong = _keypoints(annotations)
    boxes, wrong_box = _boxes(annotations)
    image_id = np.array([a.image_id for a in annotations], np.int64)
    source_id = np.array([a.id for a in annotations], np.int64)
    known, row_of = _image_rows(data.images, image_id)

    visibility = labels[:, :, 2].astype(np.uint8)
    labelled = visibility > 0
    rejects, unsound = _rejects(
        file, source_id, image_id, wrong, wrong_box, known, np.asarray(labelled.any(1)), boxes
    )
    sound = ~unsound
    persons = sound & labelled.any(axis=1)
    filtered = {"no_labelled_joint": int((sound & ~persons).sum())}
    if unit.detail["filter"] == "mmhuman3d":
        limbs = labelled[:, LIMBS].all(axis=1)
        filtered["mmhuman3d_twelve_limb_joints"] = int((persons & ~limbs).sum())
        persons &= limbs

    used, image = np.unique(row_of[persons], return_inverse=True)
    images = [data.images[row] for row in used]
    folder = _picture_folder(unit, images)
    keypoints = labels[persons].astype(np.float32)
    keypoints[:, :, 2] = labelled[persons]
    # An unlabelled joint says (0, 0, 0); derived files sometimes leave coordinates behind.
    keypoints[~labelled[persons]] = 0
    ones = np.ones((int(persons.sum()), 1))
    return Columns(
        images={
            "id": row_ids(f"coco/{unit.split}/image", np.array([i.id for i in images], np.int64)),
            "path": [folder + i.file_name for i in images],
            "height": np.array([i.height for i in images], np.int32),
            "width": np.array([i.width for i in images], np.int32),
        },
        instances={
            "id": row_ids(f"coco/{unit.split}", source_id[persons]),
            "image": image.astype(np.int32),
            "source_id": source_id[persons],
            "bbox_xywh": np.hstack([boxes[persons], ones]).astype(np.float32),
            "keypoints2d": keypoints,
            "keypoints2d_visibility": visibility[persons],
            "area": np.array([a.area for a in annotations], np.float32)[persons],
            "iscrowd": np.array([a.iscrowd for a in annotations], bool)[persons],
        },
        field_attributes={
            "keypoints2d": {"convention": "coco"},
            "keypoints2d_visibility": {"convention": "coco"},
            "bbox_xywh": {"rule": "annotator", "factor": 1.0},
        },
        rejects=rejects,
        filtered={rule: count for rule, count in filtered.items() if count},
        records=len(annotations),
    )


def _decode(file: Path) -> _File:
    # Typed decoding keeps the fields named above and skips polygons; a map instead of bytes keeps
    # the file out of the heap; no garbage can arise, so the collector may rest.
    enabled = gc.isenabled()
    gc.disable()
    try:
        with open(file, "rb") as stream:
            if not file.stat().st_size:
                raise DataError(file, expected="COCO keypoint JSON", found="an empty file")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return msgspec.json.decode(content, type=_File)
    except msgspec.ValidationError as error:
        raise DataError(
            file,
            expected="COCO keypoint JSON with the lists images and annotations",
            found=str(error),
        ) from error
    except msgspec.DecodeError as error:
        raise DataError(
            file,
            expected="complete JSON",
            found=str(error),
            hint="The file is cut off or damaged: download it again",
        ) from error
    finally:
        if enabled:
            gc.enable()


def _keypoints(annotations: list[_Annotation]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """x, y, v of all persons (N, 17, 3), and which records have another number of values."""
    lengths = np.fromiter((len(a.keypoints) for a in annotations), np.int64, len(annotations))
    wrong = (lengths != 3 * JOINTS) & (lengths != 0)
    rows = [a.keypoints for a in annotations]
    if (lengths == 3 * JOINTS).all():
        flat = np.fromiter(itertools.chain.from_iterable(rows), np.float32, int(lengths.sum()))
    else:
        none = [0.0] * (3 * JOINTS)
        rows = [row if len(row) == 3 * JOINTS else none for row in rows]
        flat = np.array(rows, np.float32).ravel()
    labels = flat.reshape(-1, JOINTS, 3)
    odd = ~np.isfinite(labels).all(axis=(1, 2)) | ~np.isin(labels[:, :, 2], (0, 1, 2)).all(axis=1)
    labels[odd] = 0
    return labels, wrong | odd


def _boxes(annotations: list[_Annotation]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes (N, 4) and which records have none."""
    wrong = np.array([len(a.bbox) != 4 for a in annotations], bool)
    rows = [a.bbox if len(a.bbox) == 4 else (0.0, 0.0, 0.0, 0.0) for a in annotations]
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    return boxes, wrong


def _image_rows(
    images: list[_Image], image_id: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """For every annotation: is its picture listed, and at which place of the list."""
    ids = np.array([image.id for image in images], np.int64)
    if not len(ids):
        return np.zeros(len(image_id), bool), np.zeros(len(image_id), np.int64)
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], image_id), len(ids) - 1)
    rows = order[place]
    return ids[rows] == image_id, rows


def _rejects(
    file: Path,
    source_id: NDArray[np.int64],
    image_id: NDArray[np.int64],
    wrong_keypoints: NDArray[np.bool_],
    wrong_box: NDArray[np.bool_],
    known: NDArray[np.bool_],
    labelled: NDArray[np.bool_],
    boxes: NDArray[np.float64],
) -> tuple[list[Reject], NDArray[np.bool_]]:
    """Records that cannot be used, as a list and as a mask; each once, by the first reason."""
    name = f"annotations/{file.name}"
    # Of a person nobody labelled, the box is not used either: that person is filtered, not wrong.
    flat = labelled & ~wrong_box & ~((boxes[:, 2:] > 0).all(axis=1) & np.isfinite(boxes).all(1))
    _, first = np.unique(source_id, return_index=True)
    repeated = np.ones(len(source_id), bool)
    repeated[first] = False
    checks: list[tuple[str, NDArray[np.bool_], Any]] = [
        ("image_not_listed", ~known, lambda i: f"image_id {image_id[i]} is not among images"),
        ("keypoints", wrong_keypoints, lambda i: f"expected {JOINTS} triples x, y, v in 0, 1, 2"),
        ("no_box", wrong_box & labelled, lambda i: "expected bbox with four numbers"),
        ("empty_box", flat, lambda i: f"box {boxes[i].tolist()} has no area"),
        ("duplicate_id", repeated, lambda i: "this annotation id came before"),
    ]
    rejects = []
    seen = np.zeros(len(source_id), bool)
    for reason, bad, explain in checks:
        for i in np.flatnonzero(bad & ~seen):
            record = f"annotation {source_id[i]}"
            rejects.append(Reject(name, record, reason, explain(i)))
        seen |= bad
    return rejects, seen


def _picture_folder(unit: Unit, images: list[_Image]) -> str:
    """Where the pictures of this split lie, relative to the raw root, with a slash at the end."""
    for pattern in PICTURE_FOLDERS:
        folder = pattern.format(split=unit.split)
        if (unit.raw / folder).is_dir() and (
            not images or any((unit.raw / folder / i.file_name).exists() for i in images[:100])
        ):
            return f"{folder}/"
    return f"{unit.split}/"
