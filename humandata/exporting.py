"""Exports: a store as a HumanData ``.npz``, a SPIN ``.npz`` or a COCO keypoint JSON.

Pictures stay where they are: the formats hold paths. Joints are mapped by name
(:mod:`humandata.keypoints`), near joints stand in for missing ones only when asked for. Boxes carry
the factor that the format's readers expect, and no other: HumanData's are written as they are,
with the factor beside them; SPIN's are squares that hold 1.2, or what its own files of MPII and of
Human3.6M hold; COCO's are tight. Pictures of COCO keep its ids. Whatever the store
has and the format cannot hold is listed in the report, with the reason.

Sources: open-mmlab/mmhuman3d, docs/human_data.md; nkolot/SPIN, datasets/base_dataset.py;
https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from humandata import export_humandata, keypoints, npz_writing, schema
from humandata.errors import DataError, HumandataError
from humandata.export_job import GENDER_LETTERS, Job
from humandata.preprocessed import SIDE_PER_SCALE, group_by_picture
from humandata.store import Store, Table
from humandata.store_bodies import are_children

__all__ = ["FORMATS", "Exported", "export"]

Array = NDArray[Any]

NO_PLACE = "the format has no place for it"
SPIN_FACTOR = 1.2
SPIN_FACTORS = (0.9, 1.2, 1.25)
"""What boxes of SPIN's own files hold: of silhouettes (Human3.6M), of joints, of MPII."""
COCO_NAME = re.compile(r"(?:^|/)(?:COCO_[a-z0-9]+_)?(\d{12})\.jpg$")
"""Pictures of COCO, which are called by their ids."""
# What the rows and the pictures are found by needs no place in a file of paths.
_STRUCTURE = {
    "images": {"id", "pack", "offset", "length", "crc32c", "tile_width", "tile_count"},
    "instances": {"id", "image", "crop_pack", "crop_offset", "crop_length", "crop_crc32c",
                  "crop_square"},
    "sequences": set(),
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and what it could not.

    Attributes
    ----------
    left_out : dict of str to str
        Fields, joints or settings of the store that the file does not hold, and why.
    """

    format: str
    out: str
    store: str
    persons: int
    pictures: int
    left_out: dict[str, str]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def export(
    store: Store, out: Path, format: str, *, approximate: bool = False, overwrite: bool = False
) -> Exported:
    """Write a store as one annotation file of another tool.

    Parameters
    ----------
    store : Store
    out : Path
        The file to write.
    format : {"humandata", "spin", "coco"}
    approximate : bool
        Let near joints stand in for those the store lacks (:func:`humandata.keypoints.mapping`).
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Exported

    Raises
    ------
    HumandataError
        The format is unknown, or a file is there already.
    DataError
        The store lacks what the format cannot do without.
    """
    if format not in FORMATS:
        raise HumandataError(f"format {format!r}: choose among {', '.join(FORMATS)}")
    wanted, write = FORMATS[format]
    if out.suffix != wanted:
        raise HumandataError(f"{out}: a file of format {format} ends in {wanted}")
    if out.exists() and not overwrite:
        raise DataError(
            out, expected="a path for a new file", found="something there already",
            hint="Choose another path, or pass --overwrite to replace it",
        )  # fmt: skip
    job = Job(store, approximate)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename stays on one disk; a cut write leaves no false file.
    partial = out.with_name(f".{out.name}.partial")
    try:
        persons = write(job, partial)
        os.replace(partial, out)
    except OSError as error:
        raise HumandataError(f"{error.strerror or error}: {error.filename or out}") from error
    finally:
        partial.unlink(missing_ok=True)
    _say_unused(job)
    return Exported(
        format,
        str(out),
        str(store.path),
        persons,
        store.images.rows,
        dict(sorted(job.left_out.items())),
        tuple(job.notes),
    )


def _say_unused(job: Job) -> None:
    """Enter every field that holds something and was not written."""
    for name, joints in job.lost.items():
        if joints:
            job.left_out[f"instances/{name}"] = f"joints without a place: {', '.join(joints)}"
    if job.store.has_pictures or job.store.has_crops:
        job.left_out["pictures"] = "the format holds paths; the files of the release stay needed"
    for table, columns in job.store.tables().items():
        for name in columns:
            key = f"{table}/{name}"
            known = key in job.used or key in job.left_out or name in _STRUCTURE[table]
            if not known and _says_something(columns, table, name) and not _is_implied(job, key):
                job.left_out[key] = NO_PLACE


def _says_something(columns: Table, table: str, name: str) -> bool:
    values = columns[name][:]
    if isinstance(values, list):
        return any(values)
    return bool((values != schema.field(table, name, values).fill).any())


def _is_implied(job: Job, key: str) -> bool:
    """Whether the order of the rows says what the field does."""
    if key == "instances/source_id":
        return np.array_equal(job.store.instances["source_id"][:], np.arange(len(job.store)))
    if key == "instances/person":
        _, _, _, person = group_by_picture([str(row) for row in job.picture().tolist()])
        return np.array_equal(job.store.instances["person"][:], person)
    return False


# SPIN -----------------------------------------------------------------------------------------


def _write_spin(job: Job, file: Path) -> int:
    boxes, factor = job.boxes()
    usable = boxes[:, 4] > 0
    if not usable.all():
        job.left_out["people without a box"] = f"{int((~usable).sum()):,}: SPIN cuts around the box"
    larger = 1.0 if np.isclose(factor, SPIN_FACTORS).any() else SPIN_FACTOR / factor
    if not np.isclose(larger, 1):
        job.notes.append(f"boxes went from a factor of {factor:g} to SPIN's {SPIN_FACTOR:g}")
    if (boxes[usable, 2] != boxes[usable, 3]).any():
        job.notes.append("boxes became squares of their longer side")
    data: dict[str, Array] = {
        "imgname": npz_writing.text(job.paths()),
        "center": boxes[:, :2] + boxes[:, 2:4] / 2,
        "scale": boxes[:, 2:4].max(axis=1) * larger / SIDE_PER_SCALE,
    }
    if job.has("keypoints2d"):
        data["part"], _ = job.joints("keypoints2d", "smpl_24")
        data["openpose"], _ = job.joints("keypoints2d", "openpose_25")
    if job.has("keypoints3d"):
        data["S"], _ = job.joints("keypoints3d", "smpl_24")
        if job.says("keypoints3d", "root") == "absolute":
            job.notes.append(
                "S keeps its place before the camera: SPIN subtracts the pelvis itself"
            )
    if job.has("smpl/valid"):
        _put_spin_bodies(job, data)
    npz_writing.write_npz(file, {key: values[usable] for key, values in data.items()})
    return int(usable.sum())


def _put_spin_bodies(job: Job, data: dict[str, Array]) -> None:
    valid = job.instances("smpl/valid")
    young = valid & are_children(job.store, slice(None))
    if young.any():
        valid = valid & ~young
        job.notes.append(f"{int(young.sum()):,} children without a body: ten betas make none")
    orient, pose = job.instances("smpl/global_orient"), job.instances("smpl/body_pose")
    data["pose"] = np.concatenate([orient[:, None], pose], axis=1).reshape(len(valid), 72)
    data["shape"] = job.instances("smpl/betas")
    data["has_smpl"] = valid.astype(np.float32)
    if not job.has("gender"):
        return
    gender = job.instances("gender")
    # Without the key SPIN takes the neutral model; with it, whoever is not 'm' is female.
    if np.isin(gender[valid], (2, 3)).any():
        data["gender"] = np.array(GENDER_LETTERS)[gender]
        if not np.isin(gender[valid], (2, 3)).all():
            job.notes.append("SPIN takes every gender but 'm' for female; this file has others")


# COCO -----------------------------------------------------------------------------------------


def _write_coco(job: Job, file: Path) -> int:
    if not job.has("keypoints2d"):
        raise DataError(
            job.store.path, "keypoints2d", expected="2D joints, which COCO is made of", found="none"
        )
    points, _ = job.joints("keypoints2d", "coco")
    labelled = points[..., 2] > 0
    seen = _visibility(job, labelled)
    values = np.dstack([np.where(labelled[..., None], points[..., :2], 0), seen])
    boxes, factor = job.boxes()
    size = boxes[:, 2:4] / factor
    tight = np.column_stack([boxes[:, :2] + (boxes[:, 2:4] - size) / 2, size])
    if factor != 1:
        job.notes.append(f"boxes were made tight again: they held a factor of {factor:g}")
    area = size.prod(axis=1)
    if job.has("area"):
        stored = job.instances("area")
        area = np.where(stored > 0, stored, area)
    else:
        job.notes.append("area is that of the box: the store has none of masks")
    crowd = job.instances("iscrowd") if job.has("iscrowd") else np.zeros(len(points), bool)
    source = job.instances("source_id") if job.has("source_id") else np.zeros(len(points), np.int64)
    numbered = len(source) == len(np.unique(source)) and (source > 0).all()
    ids = source if numbered else np.arange(1, len(points) + 1)
    if not numbered:
        job.left_out["instances/source_id"] = "not unique numbers from 1: annotations count rows"
    paths = job.images("path")
    numbers = _picture_ids(paths)
    annotations = zip(
        ids.tolist(), [numbers[row] for row in job.picture().tolist()], crowd.astype(int).tolist(),
        _rounded(area), _rounded(tight), seen.astype(bool).sum(axis=1).tolist(),
        _rounded(values.reshape(len(points), 3 * values.shape[1])), strict=True,
    )  # fmt: skip
    keys = ("id", "image_id", "iscrowd", "area", "bbox", "num_keypoints", "keypoints")
    document = {
        "info": {"description": f"{job.store.dataset} {job.store.split}".strip()},
        "licenses": [],
        "images": [
            {"id": number, "file_name": path, "width": width, "height": height}
            for number, path, width, height in zip(
                numbers, paths, job.images("width").tolist(), job.images("height").tolist(),
                strict=True,
            )
        ],
        "annotations": [
            {**dict(zip(keys, entry, strict=True)), "category_id": 1} for entry in annotations
        ],
        "categories": [_category()],
    }  # fmt: skip
    file.write_bytes(msgspec.json.encode(document))
    return len(points)


def _picture_ids(paths: list[str]) -> list[int]:
    """COCO's own ids where all pictures are COCO's, for its evaluation; else numbers of rows."""
    found = [COCO_NAME.search(path) for path in paths]
    numbers = [int(match[1]) for match in found if match]
    whole = len(numbers) == len(paths) and len(set(numbers)) == len(numbers)
    return numbers if whole else list(range(1, len(paths) + 1))


def _visibility(job: Job, labelled: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """COCO's 0, 1, 2 of every joint; without the store's word every labelled joint is visible."""
    certain = job.store.instances["keypoints2d"][:][..., 2]
    if not np.isin(certain, (0, 1)).all():
        job.left_out["confidences of joints"] = "COCO knows labelled and unlabelled"
    if not job.has("keypoints2d_visibility"):
        return np.where(labelled, 2, 0).astype(np.uint8)
    stored = job.instances("keypoints2d_visibility")
    source = job.store.convention("keypoints2d")
    seen, _ = keypoints.convert(stored[..., None], source, "coco", job.approximate)
    return np.where(labelled, np.maximum(seen[..., 0], 1), 0).astype(np.uint8)


def _rounded(values: Array) -> Any:
    # Five decimals hold all that a float32 says of a pixel, at half the length.
    return np.asarray(values, np.float64).round(5).tolist()


def _category() -> dict[str, Any]:
    coco = keypoints.convention("coco")
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": [joint.removesuffix("_extra") for joint in coco.joints],
        "skeleton": [[a + 1, b + 1] for a, b in coco.skeleton],
    }


FORMATS: dict[str, tuple[str, Callable[[Job, Path], int]]] = {
    "humandata": (".npz", export_humandata.write),
    "spin": (".npz", _write_spin),
    "coco": (".json", _write_coco),
}
