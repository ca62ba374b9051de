"""Import of VIBE's databases: ``3dpw_train_db.pt``, ``mpii3d_train_db.pt`` and their kin.

The files are ``joblib`` dumps, whatever their name says; they are read without joblib, compressed
or not (all but lz4).

What is decided here:

* **Rows** are single frames of one person, grouped by ``vid_name`` into sequences, in their order;
  the two people of a frame of 3DPW share its picture.
* **Joints**: 49 are ``smpl_49``, 14 are ``lsp`` (VIBE does not tell its hips and neck from those).
  ``joints3D`` has no confidences. MPI-INF-3DHP fills 17 of the 49 slots and leaves the others at
  minus the pelvis, so presence comes from the list of those 17, not from values; in other files,
  slots that share one point in every row are absent. VIBE keeps the head of MPI-INF-3DHP in slot
  43, where SPIN keeps its head top.
* **3D** values of 3DPW keep a translation of the world: only differences between joints mean
  anything, so the origin is ``unknown`` and there is no SMPL translation. Rows that ``valid`` (of
  3DPW) or ``valid_i`` (of MPI-INF-3DHP) calls unusable keep their 2D joints only.
* **Boxes** are centre, width and height; they hold a factor of 1.1 in files of 3DPW and
  MPI-INF-3DHP, of 1 else (``--option bbox_factor``).
* **Paths** are those of the authors' machine: what lies before the dataset's own folders is cut.
* **Features** (2048 numbers per row, of one network) are left out (``--option features=keep``).

Source: mkocabas/VIBE, lib/data_utils and lib/dataset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from humandata import preprocessed, schema, unpickle_joblib
from humandata.converters.converter import Columns, DatasetInfo, Option, Unit
from humandata.errors import DataError
from humandata.humandata_extra import Leftovers
from humandata.preprocessed import Bool, Float

INFO = DatasetInfo(
    name="vibe",
    title="VIBE database (.pt)",
    citation="Kocabas et al., VIBE: Video Inference for Human Body Pose and Shape Estimation, "
    "CVPR 2020",
    url="https://github.com/mkocabas/VIBE",
    licence="non-commercial (MPI); that of the dataset the file was made from",
    splits=preprocessed.SPLITS,
    expects="a file of vibe_db such as 3dpw_train_db.pt or mpii3d_val_db.pt as RAW, or a folder "
    "that holds one per split; the pictures under --option pictures_root=FOLDER",
    yields="49 or 14 joints in 2D and 3D, boxes, SMPL, sequences",
    options=(
        Option("pictures_root", "folder of the dataset's pictures; default: the file's"),
        Option("features", "leave out the 2048 features of a row, or keep them",
               ("skip", "keep"), "skip"),
        Option("bbox_factor", "how much the boxes were enlarged; default: 1.1, or 1"),
    ),
)  # fmt: skip

CONVENTIONS = {49: "smpl_49", 14: "lsp"}
FILLED_3DHP = tuple(25 + slot for slot in (*range(15), 16, 18))
"""The 17 of 49 slots that VIBE fills from MPI-INF-3DHP."""
PELVIS = 39
ROOTS = re.compile(
    r"(?:^|/)(imageFiles/|S\d+/Seq\d+/|mpi_inf_3dhp_test_set/|TS\d/|images/|frames/|imageFrames/)"
)
"""Where a dataset's own folders begin in a path."""
PERSON = re.compile(r"_\d+$")
SOURCES = schema.field("instances", "smpl/source").vocabulary


def find_splits(raw: Path) -> list[str]:
    """Splits that the names of the files speak of; ``all`` where a name says nothing."""
    return sorted({preprocessed.split_of(file) for file in _files(raw)})


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: the file.

    Raises
    ------
    DataError
        There is no database of that split, or more than one.
    """
    file = preprocessed.choose_file(raw, split, _files(raw))
    root = preprocessed.picture_root(raw, options)
    return [Unit(file.stem, split, root, (file,), dict(options))]


def _files(raw: Path) -> list[Path]:
    return preprocessed.find_files(raw, (".pt",), lambda file: True, INFO.expects)


def read(unit: Unit) -> Columns:
    """Read the file.

    Raises
    ------
    DataError
        It is damaged, is no database of pictures, or arrays differ in length.
    UnsafePickle
        It would have to run code.
    """
    (file,) = unit.files
    keep = unit.detail.get("features") == "keep"
    data = unpickle_joblib.load(file, skip=() if keep else ("features",))
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise DataError(file, expected="a dictionary of arrays", found=type(data).__name__)
    missing = [key for key in ("vid_name", "img_name", "bbox") if key not in data]
    if missing:
        raise DataError(
            file, expected="a database of people in pictures", found=f"no {', '.join(missing)}",
            hint="Motion without pictures (AMASS) is not converted by this command",
        )  # fmt: skip
    skipped = [key for key, value in data.items() if isinstance(value, unpickle_joblib.Skipped)]
    data = {
        key: np.array(value) if isinstance(value, list) else value
        for key, value in data.items()
        if key not in skipped
    }
    rest = Leftovers(file, data, len(data["img_name"]))
    named = preprocessed.read_paths(rest, "img_name")
    paths = [_below_root(path) for path in named]
    videos = rest.words_of("vid_name")
    images, instances, first = preprocessed.rows_of_pictures(f"vibe/{file.stem}", paths)
    center_size = preprocessed.array(rest, "bbox", (4,))
    boxes = preprocessed.centred_boxes(center_size[:, :2], center_size[:, 2:])
    instances["bbox_xywh"] = boxes.astype(np.float32)
    columns = Columns(images, instances, records=rest.rows)
    columns.field_attributes["bbox_xywh"] = _rule(unit)
    _sequences(unit, rest, columns, videos, first)
    usable = np.ones(rest.rows, bool)
    for key in ("valid", "valid_i"):
        if key in rest and np.size(data[key]) == rest.rows:
            usable &= rest.flags(key)
    _joints(unit, rest, columns, usable)
    if "pose" in rest and "shape" in rest:
        pose = preprocessed.array(rest, "pose", (72,))
        betas = preprocessed.array(rest, "shape", (10,))
        valid = preprocessed.put_bodies(instances, pose, betas, usable, None)
        made = "release" if "3dpw" in file.stem.lower() else "unknown"
        instances["smpl/source"] = np.where(valid, SOURCES.index(made), 0).astype(np.uint8)
    columns.notes += [f"{key} were left out; --option {key}=keep keeps them" for key in skipped]
    return preprocessed.finish(file, columns, rest, paths, boxes)


def _below_root(path: str) -> str:
    found = ROOTS.search(path)
    return path[found.start(1) :] if found else path


def _rule(unit: Unit) -> dict[str, Any]:
    given, name = unit.detail.get("bbox_factor"), unit.files[0].stem.lower()
    usual = 1.1 if "3dpw" in name or "mpii3d" in name else 1.0
    try:
        factor = float(given or usual)
    except ValueError as error:
        raise DataError(
            unit.files[0], "bbox_factor", expected="a number", found=f"{given!r}"
        ) from error
    source = "user" if given else "assumed"
    return {"rule": "box of the VIBE database", "factor": factor, "factor_source": source}


def _sequences(
    unit: Unit, rest: Leftovers, columns: Columns, videos: list[str], first: Any
) -> None:
    """Sequences of the pictures, the track of every person, and frame numbers."""
    words = {name: code for code, name in enumerate(dict.fromkeys(videos))}
    tracks = np.array([words[name] for name in videos], np.int32)
    columns.instances["extra/vid_name"] = tracks
    columns.field_attributes["extra/vid_name"] = {"vocabulary": list(words)}
    # Tracks of 3DPW end in the number of the person, who shares pictures with the others.
    shared = "3dpw" in unit.files[0].stem.lower()
    names = [PERSON.sub("", video) if shared else video for video in videos]
    order: dict[str, int] = {}
    sequence = [order.setdefault(names[row], len(order)) for row in first.tolist()]
    columns.images["sequence"] = np.array(sequence, np.int32)
    columns.sequences["name"] = [name or "unknown" for name in order]
    if "frame_id" in rest:
        found = [word if word.isdecimal() else "-1" for word in rest.words_of("frame_id")]
        columns.images["frame"] = np.array([int(found[r]) for r in first.tolist()], np.int32)


def _joints(unit: Unit, rest: Leftovers, columns: Columns, usable: Bool) -> None:
    instances, attributes = columns.instances, columns.field_attributes
    for key, field in (("joints2D", "keypoints2d"), ("joints3D", "keypoints3d")):
        if key not in rest:
            continue
        values = rest.numbers_array(key)
        if values.ndim != 3 or values.shape[1] not in CONVENTIONS or values.shape[2] != 3:
            raise DataError(
                rest.file, key, expected=f"({rest.rows}, 49 or 14, 3)", found=f"{values.shape}"
            )
        says: dict[str, Any] = {"convention": CONVENTIONS[values.shape[1]]}
        points = values.astype(np.float64)
        if field == "keypoints3d":
            there = _present(unit.files[0], points)
            points = np.dstack([points, (there[None] & usable[:, None]).astype(np.float64)])
            pelvis = points.shape[1] == 49 and bool(there[PELVIS])
            says["root"] = preprocessed.root_of(points, PELVIS, None) if pelvis else "unknown"
        preprocessed.put_joints(instances, attributes, field, points, **says)


def _present(file: Path, points: Float) -> Bool:
    """Which joints (K,) a file of joints (N, K, 3) without confidences has."""
    count = points.shape[1]
    name = file.stem.lower()
    if count == 49 and ("mpii3d" in name or "3dhp" in name):
        return np.isin(np.arange(count), FILLED_3DHP)
    if not len(points):
        return np.ones(count, bool)
    # Pairs may share a point (an OpenPose joint and SPIN's of that name); absent slots all do.
    same = np.array([(points == points[:, k : k + 1]).all(axis=(0, 2)).sum() for k in range(count)])
    return np.asarray(same < 3, bool)
