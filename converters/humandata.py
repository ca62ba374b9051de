"""Import of HumanData files (mmhuman3d v0.x and its many descendants): `.npz`, `.pkl`, caches.

What is decided here:

* **Keypoints** keep no 190-joint union where that is not needed: if the joints that the mask leaves
  are exactly those of a named convention (``coco``, ``smpl``, ``h36m`` ...), they are stored in it;
  else in the union itself (``human_data``: 190 joints), the rest with confidence 0. Not-finite
  joints become confidence 0; attributes of the field count them.
* **The frame of 3D joints** is what the user says (``--option keypoints3d_root=...``) or the file
  (``misc.kps3d_root_aligned``); ``pelvis`` where a pelvis is zero in every row, else ``unknown``.
  They are metres; files of HybrIK and hmr-benchmarks' MuCo hold millimetres, which people more
  than 100 units long give away (``--option keypoints3d_unit=...``).
* **Keys of other names.** HybrIK's ``smpl.thetas`` are root rotation and pose. Its
  ``keypoints3d`` are pixels with a depth, and the joints are in ``keypoints3d_cam``. Its
  ``cam_param`` holds ``f`` and ``c`` of every row, and under ``intrinsic`` the inverse of the
  matrix. hmr-benchmarks writes hands of PROX in principal components under ``left_hand_pose``.
  Joints of its union carry other names in the face, in the same places.
* **Boxes** are taken as they are. mmhuman3d enlarges boxes by 1.2 before it writes them (UP-3D's by
  0.9), so the factor on record is ``misc.bbox_body_scale``, else that, or
  ``--option bbox_factor=...``.
* **Gender** codes of ``meta`` are those of the body model where the file has bodies, the actor's
  where not. AGORA names scans: its SMPL fits are neutral. Whole numbers have two opposite meanings
  (SURREAL 0 female, SPIN 0 male) and are used only where the file says ``surreal`` or the user
  ``--option gender_numbers=...``.
* **Nothing is lost silently.** Numbers per person that the store has no field for become
  ``extra/KEY``, words become codes with a vocabulary; single values and settings (``config``,
  ``misc``) are in the attribute ``file_level`` of ``source_id``, and what could be kept in neither
  way is named in its attribute ``left_out``.

Rows whose box has no size or whose path leads out of the pictures are rejected; persons without any
labelled joint or body are filtered. ``transl`` is marked valid only where the file has one; in
which frame it is, these files do not say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import humandata_npz, schema
from humandata.converters.converter import Columns, DatasetInfo, Option, Unit
from humandata.errors import DataError
from humandata.humandata_extra import Leftovers
from humandata.humandata_npz import Array, Keypoints, numeric, per_row, read_keypoints, texts
from humandata.keypoints import names
from humandata.preprocessed import (
    GENDERS,
    find_files,
    group_by_picture,
    in_metres,
    leave_out_unsound,
    root_of,
    split_of,
)
from humandata.schema import row_ids

INFO = DatasetInfo(
    name="humandata",
    title="HumanData file (mmhuman3d)",
    citation="OpenMMLab 3D Human Parametric Model Toolbox and Benchmark (mmhuman3d), 2021",
    url="https://github.com/open-mmlab/mmhuman3d",
    licence="that of the dataset the file was made from",
    splits=("train", "trainval", "validation", "test", "all"),
    expects="a file as RAW (NAME.npz, NAME.pkl, or a cache), or a folder that holds one per "
    "split; the pictures beside it, or under --option pictures_root=FOLDER",
    yields="whatever the file holds: keypoints, boxes, SMPL and SMPL-X, cameras, extra fields",
    options=(
        Option("pictures_root", "folder that image_path is relative to; default: the file's"),
        Option(
            "keypoints3d_root",
            "where the 3D joints have their origin; default: what the file says, else pelvis where "
            "that is zero, else unknown",
            ("absolute", "pelvis", "unknown"),
        ),
        Option(
            "keypoints3d_unit",
            "unit of the 3D joints; auto: millimetres where people are longer than 100",
            ("auto", "m", "mm"),
            "auto",
        ),
        Option("bbox_factor", "how much the boxes were enlarged; default: the file's word or 1.2"),
        Option(
            "gender_numbers",
            "what gender 0 and 1 mean, where genders are numbers",
            ("female_male", "male_female"),
        ),
    ),
)

BBOX_FACTOR, UP3D_FACTOR = 1.2, 0.9
PELVES = ("pelvis", "pelvis_extra", "pelvis_openpose")

# Of several label sets the dataset's own come first, then those made from fits.
KEYPOINTS2D = ("keypoints2d", "keypoints2d_original", "keypoints2d_smpl", "keypoints2d_smplx")
KEYPOINTS3D = (
    "keypoints3d_cam", "keypoints3d", "keypoints3d_original", "keypoints3d_smpl",
    "keypoints3d_smplx",
)  # fmt: skip
BODIES: dict[str, dict[str, tuple[int, ...]]] = {
    "smpl": {"global_orient": (3,), "body_pose": (23, 3), "betas": (10,), "transl": (3,)},
    "smplx": {
        "global_orient": (3,), "body_pose": (21, 3), "betas": (10,), "transl": (3,),
        "left_hand_pose": (15, 3), "right_hand_pose": (15, 3), "jaw_pose": (3,),
        "leye_pose": (3,), "reye_pose": (3,), "expression": (10,),
    },
}  # fmt: skip
NEEDED = ("global_orient", "body_pose", "betas")
HANDS = ("left_hand_pose", "right_hand_pose")
FIT_SOURCES = schema.field("instances", "smpl/source").vocabulary
SMPL_SOURCES = {
    "original": "release", "eft": "eft", "cliff_annot": "cliff", "nerual_annot": "neuralannot",
    "neural_annot": "neuralannot",
}  # fmt: skip
"""Words of ``misc.smpl_source`` and those of the field ``smpl/source``."""


def find_splits(raw: Path) -> list[str]:
    """Splits that the names of the files speak of; ``all`` where a name says nothing."""
    return sorted({split_of(file) for file in _files(raw)})


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: the file.

    Raises
    ------
    DataError
        There is no HumanData file of that split, or more than one.
    """
    files = _files(raw)
    if raw.is_dir():
        files = [file for file in files if split_of(file) == split]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(
            raw, f"split {split}", expected="one file of this split", found=found,
            hint="Give the path of the file itself; humandata.concatenate joins stores",
        )  # fmt: skip
    root = raw if raw.is_dir() else raw.parent
    pictures = Path(options.get("pictures_root") or root)
    if not pictures.is_dir():
        raise DataError(pictures, expected="the folder of the pictures", found="no folder")
    return [Unit(files[0].stem, split, pictures, (files[0],), dict(options))]


def _files(raw: Path) -> list[Path]:
    suffixes = humandata_npz.SUFFIXES
    return find_files(raw, suffixes, humandata_npz.is_humandata, INFO.expects)


def read(unit: Unit) -> Columns:
    """Read the file.

    Raises
    ------
    DataError
        It is damaged, is no HumanData, or its entries differ in length.
    UnsafePickle
        An object member would have to run code.
    """
    (file,) = unit.files
    data = humandata_npz.load(file)
    rows = humandata_npz.row_count(file, data)
    rest = Leftovers(file, data, rows)
    hint = f"{file.stem} {data.get('config', '')}"
    paths = _paths(file, rest, rows)
    images, sequences, image, person = _images(unit, rest, paths)
    instances: dict[str, Array] = {
        "id": row_ids(f"humandata/{file.stem}/instances", np.arange(rows)),
        "image": image,
        "person": person,
        "source_id": np.arange(rows, dtype=np.int64),
    }
    attributes: dict[str, dict[str, Any]] = {}
    boxes = _boxes(unit, rest, instances, attributes, hint)
    _keypoints(unit, rest, instances, attributes, hint)
    has_bodies = _bodies(rest, instances, attributes)
    _genders(unit, rest, instances, hint, has_bodies)
    instances.update(rest.columns(attributes))
    attributes["source_id"] = {
        "meaning": "row of the file",
        "file_level": rest.file_level,
        "left_out": rest.left_out,
    }
    columns = Columns(images, instances, sequences, attributes, records=rows)
    columns.notes = [f"{key} is not kept: {why}" for key, why in rest.left_out.items()]
    for name in ("keypoints2d", "keypoints3d"):
        if damaged := attributes.get(name, {}).get("damaged_joints"):
            columns.notes.append(f"{damaged:,} joints of {name} were not finite: confidence 0")
    return leave_out_unsound(file, columns, paths, boxes)


def _paths(file: Path, rest: Leftovers, rows: int) -> list[str]:
    """Picture of every person; MultiHumanData may list it once per picture."""
    if "image_path" not in rest:
        raise DataError(
            file, "image_path", expected="the picture of every person", found="no such key",
            hint="Motion without pictures (AMASS) is not converted by this command",
        )  # fmt: skip
    listed = [
        path.replace("\\", "/") for path in texts(file, "image_path", rest.take("image_path"))
    ]
    if "frame_range" in rest:
        spans = numeric(file, "frame_range", rest.take("frame_range"))
        if spans.ndim != 2 or spans.shape[1:] != (2,) or spans.dtype.kind not in "iu":
            raise DataError(file, "frame_range", expected="(pictures, 2)", found=f"{spans.shape}")
        counts = spans[:, 1] - spans[:, 0]
        starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
        if (counts < 0).any() or counts.sum() != rows or (spans[:, 0] != starts).any():
            raise DataError(
                file, "frame_range", expected=f"spans that cover the {rows} rows in order",
                found=f"{len(spans)} spans of {int(counts.sum())} rows",
            )  # fmt: skip
        if len(listed) == len(spans) != rows:
            listed = [path for path, n in zip(listed, counts, strict=True) for _ in range(n)]
    per_row(file, "image_path", listed, rows)
    return listed


def _images(
    unit: Unit, rest: Leftovers, paths: list[str]
) -> tuple[dict[str, Any], dict[str, Any], NDArray[np.int32], NDArray[np.int32]]:
    """Pictures in order of first appearance, and every person's picture and number in it."""
    pictures, first, image, person = group_by_picture(paths)
    sizes = {
        side: rest.numbers_of_pictures((f"image_{side}", f"meta.{side}"), first)
        for side in ("height", "width")
    }
    images: dict[str, Any] = {
        "id": row_ids(f"humandata/{unit.files[0].stem}/images", first),
        "path": pictures,
    }
    cameras, camera_sizes = rest.cameras(first)
    for side in ("height", "width"):
        known = sizes[side] if sizes[side] is not None else camera_sizes[side]
        images[side] = np.zeros(len(pictures), np.int32) if known is None else known
    images.update(cameras)
    sequences: dict[str, Any] = {}
    if "video_path" in rest:
        videos = rest.words_of("video_path")
        names: dict[str, int] = {}
        sequence = [names.setdefault(videos[row], len(names)) for row in first]
        images["sequence"] = np.array(sequence, np.int32)
        sequences["name"] = [name or "unknown" for name in names]
        frames = rest.numbers_of_pictures(("frame_idx",), first, missing=-1)
        if frames is not None:
            images["frame"] = frames
    return images, sequences, image, person


def _boxes(
    unit: Unit,
    rest: Leftovers,
    instances: dict[str, Array],
    attributes: dict[str, dict[str, Any]],
    hint: str,
) -> NDArray[np.float64]:
    """Boxes as in the file, with confidence 1 where older files have four columns."""
    rows = len(instances["id"])
    given = unit.detail.get("bbox_factor")
    said = rest.misc("bbox_body_scale")
    try:
        usual = UP3D_FACTOR if "up3d" in hint.lower() else BBOX_FACTOR
        factor = float(given or said or usual)
    except (TypeError, ValueError) as error:
        raise DataError(
            rest.file, "bbox_factor", expected="a number", found=f"{given or said!r}"
        ) from error
    source = rest.misc("bbox_source")
    attributes["bbox_xywh"] = {
        "rule": f"of the HumanData file: {source}" if source else "of the HumanData file",
        "factor": factor,
        "factor_source": "user" if given else "file" if said else "assumed",
    }
    boxes = np.zeros((rows, 5))
    if "bbox_xywh" in rest:
        stored = rest.numbers_array("bbox_xywh")
        if stored.ndim != 2 or stored.shape[1] not in (4, 5):
            raise DataError(
                rest.file, "bbox_xywh", expected=f"({rows}, 5) numbers", found=f"{stored.shape}"
            )
        boxes[:, 4] = 1
        boxes[:, : stored.shape[1]] = stored
    instances["bbox_xywh"] = boxes.astype(np.float32)
    return boxes


def _keypoints(
    unit: Unit,
    rest: Leftovers,
    instances: dict[str, Array],
    attributes: dict[str, dict[str, Any]],
    hint: str,
) -> None:
    """The first 2D and 3D set become the store's; further sets are kept beside them."""
    rows = len(instances["id"])
    for field, keys in (("keypoints2d", KEYPOINTS2D), ("keypoints3d", KEYPOINTS3D)):
        chosen = next((key for key in keys if key in rest), None)
        others = [key for key in rest.keypoint_keys() if key.startswith(field) and key != chosen]
        for key, name in [(chosen, field), *((key, f"extra/{key}") for key in others)]:
            if key is None:
                continue
            try:
                made = read_keypoints(rest.file, rest.data, key, rows, hint)
            except DataError:
                # A further set that fits no convention is kept as the numbers it is.
                if name == field:
                    raise
                continue
            rest.forget(key, f"{key}_mask", f"{key}_convention")
            instances[name] = made.points
            attributes[name] = _describe(made, key)
            if field == "keypoints3d":
                instances[name] = _describe_3d(unit, rest, made, attributes[name])
    rest.forget("__keypoints_compressed__", "__key_strict__", *humandata_npz._LENGTH_KEYS)


def _describe(made: Keypoints, key: str) -> dict[str, Any]:
    counts = {"damaged_joints": made.damaged, "masked_out_joints": made.masked_out}
    told = {name: count for name, count in counts.items() if count}
    return {"convention": made.convention, "source_key": key, **told}


def _describe_3d(
    unit: Unit, rest: Leftovers, made: Keypoints, told: dict[str, Any]
) -> NDArray[np.float32]:
    """3D joints in metres; ``told`` gets their origin and what unit the file has them in."""
    key = told["source_key"]
    if "keypoints3d_cam" in rest.data and key in ("keypoints3d", "keypoints3d17"):
        told |= {"frame": "pixels of the picture, and the depth", "root": "unknown"}
        return made.points
    points, millimetres = in_metres(
        made.points.astype(np.float64), str(unit.detail.get("keypoints3d_unit") or "auto")
    )
    if millimetres:
        told["unit_in_file"] = "mm"
    told["root"] = _root(unit, rest, points, made.convention)
    return points.astype(np.float32)


def _root(unit: Unit, rest: Leftovers, points: Array, convention: str) -> str:
    aligned = rest.misc("kps3d_root_aligned")
    given = str(unit.detail.get("keypoints3d_root") or "")
    if given or isinstance(aligned, bool | int):
        return given or ("pelvis" if aligned else "absolute")
    places = [at for at, joint in enumerate(names(convention)) if joint in PELVES]
    roots = [root_of(points, at, None) for at in places]
    return "pelvis" if "pelvis" in roots else "unknown"


def _bodies(
    rest: Leftovers, instances: dict[str, Array], attributes: dict[str, dict[str, Any]]
) -> bool:
    """SMPL and SMPL-X parameters with their validity."""
    found = False
    for model, shapes in BODIES.items():
        if not isinstance(rest.data.get(model), dict):
            continue
        found = True
        given = {
            name: _parameter(rest, model, name, shape)
            for name, shape in shapes.items()
            if f"{model}.{name}" in rest and not _is_pca(rest, model, name)
        }
        rows = len(instances["id"])
        if model == "smpl" and "smpl.thetas" in rest and "body_pose" not in given:
            thetas = _parameter(rest, model, "thetas", (24, 3))
            given |= {"global_orient": thetas[:, 0], "body_pose": thetas[:, 1:]}
        usable = rest.flags(f"has_{model}", "has_smpl")
        for name in NEEDED:
            usable &= _finite(given.get(name), rows)
        # Files of this package say so where not every valid body has a translation.
        moved = _finite(given.get("transl"), rows) & rest.flags(f"has_{model}_transl")
        rest.forget(f"has_{model}_transl")
        for name, values in given.items():
            valid = moved if name == "transl" else _finite(values, rows)
            instances[f"{model}/{name}"] = _zero_where(~valid, values).astype(np.float32)
        for name in NEEDED:
            if name not in given:
                instances[f"{model}/{name}"] = np.zeros((rows, *shapes[name]), np.float32)
        instances[f"{model}/valid"] = usable
        instances[f"{model}/transl_valid"] = usable & moved
        if model == "smpl" and rest.misc("smpl_source") in SMPL_SOURCES:
            made_by = FIT_SOURCES.index(SMPL_SOURCES[str(rest.misc("smpl_source"))])
            instances["smpl/source"] = np.where(usable, made_by, 0).astype(np.uint8)
        flat = rest.misc("flat_hand_mean")
        if model == "smplx" and flat is not None:
            for side in ("left", "right"):
                attributes[f"smplx/{side}_hand_pose"] = {"flat_hand_mean": bool(flat)}
    if found:
        rest.forget("has_smpl", "has_smplx")
    return found


def _is_pca(rest: Leftovers, model: str, name: str) -> bool:
    """Whether a hand is told in principal components, as hmr-benchmarks' PROX file does.

    They are no rotations until the hand model of SMPL-X makes some of them, so they are kept aside.
    """
    if name not in HANDS:
        return False
    values = np.asarray(rest.data[model][name])
    if values.ndim < 2 or math.prod(values.shape[1:]) >= math.prod(BODIES[model][name]):
        return False
    key = f"{model}.{name}"
    rest.add(f"{model}_{name}_pca", rest.numbers_array(key).reshape(len(values), -1))
    return True


def _parameter(
    rest: Leftovers, model: str, name: str, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    key = f"{model}.{name}"
    values = rest.numbers_array(key)
    rows, wanted, width = len(values), math.prod(shape), math.prod(values.shape[1:])
    if width < wanted:
        expected = f"shape ({rows}, {', '.join(map(str, shape))})"
        raise DataError(rest.file, key, expected=expected, found=f"{values.shape}")
    flat = values.reshape(rows, width).astype(np.float64)
    if width > wanted:
        if name not in ("betas", "expression"):
            raise DataError(rest.file, key, expected=f"{wanted} numbers", found=f"{values.shape}")
        # Only the first ten components are common to all models; the rest is kept aside.
        rest.add(f"{model}_{name}_{wanted}_on", flat[:, wanted:].astype(np.float32))
    return flat[:, :wanted].reshape(rows, *shape)


def _finite(values: Array | None, rows: int) -> NDArray[np.bool_]:
    if values is None:
        return np.zeros(rows, bool)
    return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))), bool)


def _zero_where(bad: NDArray[np.bool_], values: Array) -> Array:
    return np.where(bad.reshape(-1, *[1] * (values.ndim - 1)), 0, values)


def _genders(
    unit: Unit, rest: Leftovers, instances: dict[str, Array], hint: str, has_bodies: bool
) -> None:
    if "meta.gender" not in rest:
        return
    words = [word.strip().lower() for word in rest.words_of("meta.gender")]
    meaning = unit.detail.get("gender_numbers")
    if not meaning and "surreal" in hint.lower():
        meaning = "female_male"
    codes = dict(GENDERS)
    if meaning:
        codes |= {str(n): GENDERS[word] for n, word in enumerate(meaning.split("_"))}
    gender = np.array([codes.get(word, 0) for word in words], np.uint8)
    unknown = sorted({word for word, code in zip(words, gender, strict=True) if code == 0})
    if unknown and unknown != ["unknown"]:
        rest.left_out["meta.gender"] = f"values without a meaning: {', '.join(unknown[:5])}"
    if "agora" in hint.lower() and "smpl/valid" in instances:
        instances["gender"] = np.full(len(gender), GENDERS["neutral"], np.uint8)
        instances["scan_gender"] = gender
    else:
        instances["gender" if has_bodies else "actor_gender"] = gender
