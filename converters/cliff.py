"""Import of CLIFF's pseudo-truth: ``coco2014part_cliffGT.npz`` and ``mpii_cliffGT.npz``.

What is decided here:

* **Bodies** are in the camera of the whole picture, not of the crop: ``global_t`` is SMPL's
  translation there. mmhuman3d's import drops it, with the focal length and the annotation ids.
* **The camera** is a convention, no calibration: ``focal_l`` is the diagonal of the picture and the
  principal point its middle, so ``intrinsics_source`` says ``assumed``. It needs the size of the
  picture; where the picture is not there, the camera is unknown and ``extra/focal_l`` keeps the
  number. A picture whose diagonal is more than a pixel off belongs to another release of the
  dataset, and its people are rejected.
* **3D joints** ``S`` are regressed from the fit, relative to the pelvis, and not measured, whatever
  their confidence says; the attribute ``source`` of the field tells.
* **Boxes** are squares of the side 200 ``scale``, which holds the factor 1.2. ``annot_id`` is
  COCO's own and becomes ``source_id``.

Source: huawei-noah/noah-research, CLIFF/README.MD and CLIFF/viz_cliffGT_perImg.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import preprocessed, schema, unpickle
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError
from humandata.humandata_extra import Leftovers
from humandata.pictures import DamagedPicture, probe
from humandata.preprocessed import NEUTRAL, SIDE_PER_SCALE, Bool, Float

INFO = DatasetInfo(
    name="cliff",
    title="CLIFF pseudo-truth (npz)",
    citation="Li et al., CLIFF: Carrying Location Information in Full Frames into Human Pose and "
    "Shape Estimation, ECCV 2022",
    url="https://github.com/huawei-noah/noah-research/tree/master/CLIFF",
    licence="MIT for the fits; that of COCO or MPII for joints and pictures",
    splits=preprocessed.SPLITS,
    expects="cliffGT_v1/coco2014part_cliffGT.npz or mpii_cliffGT.npz as RAW; the pictures "
    "(train2014/, images/) beside it, or under --option pictures_root=FOLDER",
    yields="24 joints in 2D and (regressed) 3D, boxes, SMPL with translation in the camera of the "
    "whole picture",
    keypoints2d="smpl_24",
    keypoints3d="smpl_24",
    options=(Option("pictures_root", "folder that imgname is relative to; default: the file's"),),
)

NEEDED = ("imgname", "center", "scale", "part", "pose", "shape", "global_t", "focal_l")
BBOX_FACTOR = 1.2
TOLERANCE_PX = 1.0
"""How far the diagonal of a picture may be from ``focal_l``, which was rounded by some tools."""
CLIFF = schema.field("instances", "smpl/source").vocabulary.index("cliff")
ASSUMED = schema.field("images", "intrinsics_source").vocabulary.index("assumed")


def find_splits(raw: Path) -> list[str]:
    """Splits that the names of the files speak of; CLIFF's own are for training and say nothing."""
    return sorted({_split_of(file) for file in _files(raw)})


def _split_of(file: Path) -> str:
    found = preprocessed.split_of(file)
    return "train" if found == "all" else found


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: the file.

    Raises
    ------
    DataError
        There is no CLIFF file of that split, or more than one.
    """
    files = [file for file in _files(raw) if not raw.is_dir() or _split_of(file) == split]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(
            raw, f"split {split}", expected="one CLIFF file of this split", found=found,
            hint="Give the path of the file itself; humandata.concatenate joins stores",
        )  # fmt: skip
    root = preprocessed.picture_root(raw, options)
    return [Unit(files[0].stem, split, root, (files[0],), dict(options))]


def _files(raw: Path) -> list[Path]:
    return preprocessed.find_files(raw, (".npz",), is_cliff, INFO.expects)


def is_cliff(file: Path) -> bool:
    """Whether the member names are those of CLIFF: SPIN's, with the camera of the picture."""
    return preprocessed.kind_of(file) == INFO.name


def read(unit: Unit) -> Columns:
    """Read the file.

    Raises
    ------
    DataError
        It is damaged, or a key is missing or has another shape.
    UnsafePickle
        An object member would have to run code.
    """
    (file,) = unit.files
    members = unpickle.load_npz(file)
    missing = [key for key in NEEDED if key not in members]
    if missing:
        raise DataError(file, expected="the keys of a CLIFF file", found=f"no {', '.join(missing)}")
    data = {key: members[key] for key in members}
    if data["imgname"].ndim != 1:
        raise DataError(file, "imgname", expected="a path per person", found="a single value")
    rest = Leftovers(file, data, len(data["imgname"]))
    paths = preprocessed.read_paths(rest, "imgname")
    images, instances, _ = preprocessed.rows_of_pictures(f"cliff/{file.stem}", paths)
    side = SIDE_PER_SCALE * preprocessed.array(rest, "scale", ())
    boxes = preprocessed.centred_boxes(
        preprocessed.array(rest, "center", (2,)), np.column_stack([side, side])
    )
    instances["bbox_xywh"] = boxes.astype(np.float32)
    attributes: dict[str, dict[str, Any]] = {
        "bbox_xywh": {"rule": "square of the CLIFF file", "factor": BBOX_FACTOR}
    }
    points = preprocessed.array(rest, "part", (24, 3))
    preprocessed.put_joints(instances, attributes, "keypoints2d", points, convention="smpl_24")
    if "S" in rest:
        preprocessed.put_joints(
            instances, attributes, "keypoints3d", preprocessed.array(rest, "S", (24, 4)),
            convention="smpl_24", root="pelvis", source="regressed from the fit, not measured",
        )  # fmt: skip
    valid = preprocessed.put_bodies(
        instances,
        preprocessed.array(rest, "pose", (72,)),
        preprocessed.array(rest, "shape", (10,)),
        preprocessed.flag(rest, "has_smpl"),
        preprocessed.array(rest, "global_t", (3,)),
    )
    instances["smpl/source"] = np.where(valid, CLIFF, 0).astype(np.uint8)
    instances["gender"] = np.where(valid, NEUTRAL, 0).astype(np.uint8)
    repeated = np.zeros(rest.rows, bool)
    if "annot_id" in rest:
        ids = preprocessed.array(rest, "annot_id", ())
        if not (np.isfinite(ids) & (ids == np.round(ids))).all():
            raise DataError(file, "annot_id", expected="whole numbers", found="others")
        instances["source_id"] = ids.astype(np.int64)
        attributes["source_id"] = {"meaning": "annotation id of COCO (annot_id)"}
        repeated[:] = True
        repeated[np.unique(ids, return_index=True)[1]] = False
    columns = Columns(images, instances, {}, attributes, records=rest.rows)
    focal = preprocessed.array(rest, "focal_l", ())
    rest.add("focal_l", focal.astype(np.float32))
    other = _cameras(unit, columns, focal)
    columns.rejects = [
        Reject(
            file.name, f"row {row} ({paths[row]})", "other_picture",
            f"focal_l {focal[row]:.2f} is not the diagonal of the picture, "
            "which is of another release or was turned",
        )
        for row in np.flatnonzero(other).tolist()
    ]  # fmt: skip
    repeated &= ~other
    columns.rejects += [
        Reject(file.name, f"row {row} ({paths[row]})", "duplicate_id", "its annot_id came before")
        for row in np.flatnonzero(repeated).tolist()
    ]
    return preprocessed.finish(file, columns, rest, paths, boxes, other | repeated)


def _cameras(unit: Unit, columns: Columns, focal: Float) -> Bool:
    """Enter sizes and cameras of the pictures that are there; people in pictures that differ."""
    images = columns.images
    pictures: list[str] = images["path"]
    image: NDArray[np.int32] = columns.instances["image"]
    size = np.zeros((len(pictures), 2))
    for row, name in enumerate(pictures):
        try:
            found = probe((unit.raw / name).read_bytes())
        except (OSError, DamagedPicture):
            continue
        size[row] = found.width, found.height
    there = size[:, 0] > 0
    diagonal = np.hypot(size[:, 0], size[:, 1])
    matrix = np.zeros((len(pictures), 3, 3), np.float32)
    matrix[there, 0, 0] = matrix[there, 1, 1] = diagonal[there]
    matrix[there, :2, 2], matrix[there, 2, 2] = size[there] / 2, 1
    images |= {
        "width": size[:, 0].astype(np.int32),
        "height": size[:, 1].astype(np.int32),
        "intrinsics": matrix,
        "intrinsics_source": np.where(there, ASSUMED, 0).astype(np.uint8),
    }
    columns.field_attributes["intrinsics"] = {
        "rule": "focal length: the diagonal of the picture; principal point: its middle"
    }
    if not there.all():
        columns.notes.append(
            f"{int((~there).sum()):,} pictures are not there: their cameras are unknown"
        )
    return np.asarray(there[image] & ~(np.abs(diagonal[image] - focal) <= TOLERANCE_PX), bool)
