"""AGORA: the pandas tables with joints of the official release, and the fits they refer to.

One row per person whose ``isValid`` is set (occlusion within 0 to 90 %), pictures outer. Joints
are those of the tables, 45 of SMPL or 127 of SMPL-X, in 3D in the camera frame, metres, not
root-centred; the 2D joints of the tables are pixels of 3840x2160 and are scaled to the pictures
that are used. Nothing says which joints are hidden: their confidence is 1, but for joints behind
the camera, which are in no picture (2D confidence 0). The test split has no ground truth.

Fits stand in their scan's own frame. Root rotation and translation are moved into the camera frame
by the person's and the camera's turns, with the pelvis offset; no body model is needed, because the
table's pelvis says where the fit's rest pelvis was: it is kept as ``extra/rest_pelvis``. SMPL fits
are of the neutral model; SMPL-X fits of the scan's gender, except that girls have the neutral one.
``scan_gender`` is the scan's. Hands of SMPL-X are relative to the mean hand. Children's shapes
have an eleventh number, the weight of SMIL's template, kept as ``extra/kid_weight``; without it
their betas are those of somebody else. An adult's is 0 whatever the file says, as in official code.
``inspect`` poses children where ``smpl_kid_template.npy`` lies beside the body models; training
takes their joints and not their bodies, for no ten betas make one.

Where this differs from the peers:

* mmhuman3d turns the fits upside down on the wrong side of the root rotation and leaves the
  translation where it was, so its ``global_orient`` is wrong for everybody whose root is turned.
  ``--option root=mmhuman3d`` reproduces it; translations are marked unusable then.
* mmhuman3d drops the children's eleventh number, so that recipes learn from children's bodies as
  from adults'; ``--option children=mmhuman3d`` does. It does not clip boxes (``box=mmhuman3d``).
* agora_processing_code has no camera for ``ag2`` pictures; here they have the official one.
* Official code looks for the camera's word in the whole path, so a folder's name can change the
  camera; here the file name counts.

``filter=processing`` keeps whom agora_processing_code keeps: occlusion up to 70 %, 8 of the first
25 joints in the picture; ``box=processing`` makes its square. (It projects joints of neutral
refits, which differ by some pixels.) ``filter=none`` keeps everybody.

Every person is checked: the 3D joints must fall on the 2D joints (``reprojection_error``), and the
hips and spine of the 3D joints must stand as the stored root rotation has them
(``extra/root_angle``, degrees: some 5 to 10, for no body is built at right angles).

Boxes hold all 2D joints, enlarged 1.2 about their centre, clipped to the picture.

Source: ``agora_evaluation`` of the release; posepile and mmhuman3d for how others read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import agora_bodies, agora_camera, agora_files, geometry
from humandata.agora_checks import (
    GENDERS,
    Problems,
    check_cameras,
    check_fits,
    check_joints,
    tell_genders,
    tell_spread,
)
from humandata.agora_files import Table
from humandata.columns import take
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError
from humandata.schema import row_ids

INFO = DatasetInfo(
    name="agora",
    title="AGORA",
    citation="Patel et al., AGORA: Avatars in Geography Optimized for Regression Analysis, CVPR "
    "2021",
    url="https://agora.is.tue.mpg.de",
    licence="non-commercial research, by the terms of the AGORA page",
    splits=("train", "validation"),
    expects=(
        "RAW/SMPL/{train,validation}_*_withjv.pkl and RAW/smpl_gt/<group>/<scan>.pkl (or SMPLX/ "
        "and smplx_gt/); pictures of one size or both in RAW/images/<split>/, RAW/images/, "
        "RAW/train_0/ ... RAW/validation/"
    ),
    yields="45 joints of SMPL or 127 of SMPL-X in 2D and 3D, the fits in the camera frame, "
    "cameras, child flag and weight, occlusion, age, ethnicity",
    keypoints2d="smpl_45",
    keypoints3d="smpl_45",
    options=(
        Option(
            "fits", "which tables and fits; auto: SMPL if there", ("auto", "smpl", "smplx"), "auto"
        ),
        Option(
            "resolution",
            "size of the pictures; auto: the one that is there, of both the smaller",
            ("auto", "1280x720", "3840x2160"),
            "auto",
        ),
        Option(
            "filter",
            "keep valid persons (occlusion up to 90 %), those of agora_processing_code, or all",
            ("valid", "processing", "none"),
            "valid",
        ),
        Option(
            "box",
            "extent of the joints clipped to the picture, unclipped as mmhuman3d's, or the square "
            "of agora_processing_code",
            ("clipped", "mmhuman3d", "processing"),
            "clipped",
        ),
        Option(
            "root",
            "root rotation in the camera frame, or as mmhuman3d computes it",
            ("camera", "mmhuman3d"),
            "camera",
        ),
        Option(
            "children",
            "keep the weight of the child's template, or drop it as mmhuman3d: adults to training",
            ("weighted", "mmhuman3d"),
            "weighted",
        ),
    ),
)

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

CONVENTIONS = {"smpl": "smpl_45", "smplx": "agora"}
SHAPES = {
    "smpl": {"body_pose": (23, 3)},
    "smplx": {"body_pose": (21, 3), "left_hand_pose": (15, 3), "right_hand_pose": (15, 3)},
}
"""Parameters with an axis per joint; the others are rows of numbers."""
PARTS_PER_SPLIT = 10
BOX_FACTOR = 1.2
NEUTRAL = GENDERS["neutral"]


def find_splits(raw: Path) -> list[str]:
    """Splits of which tables with joints are there, of SMPL or SMPL-X."""
    found = [split for split in INFO.splits if _bodies(raw, split)]
    if not found:
        raise DataError(raw, expected=INFO.expects, found="no tables with joints (*_withjv.pkl)")
    return found


def _bodies(raw: Path, split: str) -> list[str]:
    return [body for body in CONVENTIONS if agora_files.find_tables(raw, body, split)]


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit per table; the split is that of the table's name."""
    chosen = {option.name: option.default for option in INFO.options} | dict(options)
    bodies = _bodies(raw, split)
    body = bodies[0] if chosen["fits"] == "auto" and bodies else chosen["fits"]
    if body not in bodies:
        raise DataError(
            raw,
            f"split {split}, fits {chosen['fits']}",
            expected=INFO.expects,
            found=f"tables of {bodies[0]} only" if bodies else "no tables with joints",
        )
    files = agora_files.find_tables(raw, body, split)
    notes = []
    here = {agora_files.number_of(file) for file in files}
    absent = [str(number) for number in range(PARTS_PER_SPLIT) if number not in here]
    if absent:
        notes.append(f"tables {', '.join(absent)} of {PARTS_PER_SPLIT} are not there")
    folders = agora_files.picture_folders(raw, split)
    small, told = _small(raw, folders, chosen["resolution"])
    has_fits = (raw / agora_files.FITS[body]).is_dir()
    if not has_fits:
        notes.append(f"no {agora_files.FITS[body]}/: joints only, without bodies")
    detail = {**chosen, "body": body, "small": small, "folders": folders, "has_fits": has_fits}
    # The names say what was found, so that a run is not resumed on other pictures or fits.
    kind = f"{body}, {'1280x720' if small else '3840x2160'}{'' if has_fits else ', no fits'}"
    return [
        Unit(f"{file.stem} ({kind})", split, raw, (file,),
             {**detail, "notes": [] if number else notes + told})
        for number, file in enumerate(files)
    ]  # fmt: skip


def _small(raw: Path, folders: list[str], wanted: str) -> tuple[bool, list[str]]:
    """Whether the smaller pictures are used, and what to tell of the choice."""
    if wanted != "auto":
        return wanted == "1280x720", []
    files = [file.stem for folder in folders for file in (raw / folder).glob("*.png")]
    names = [name for name in files if "_mask" not in name]
    small = any(name.endswith(agora_camera.SMALL_ENDING) for name in names)
    large = any(not name.endswith(agora_camera.SMALL_ENDING) for name in names)
    if small and large:
        return True, ["pictures of both sizes are there: 1280x720 is used"]
    if not small and not large:
        return False, ["no pictures found: pixels are of 3840x2160 (--option resolution=1280x720)"]
    return small, []


def read(unit: Unit) -> Columns:
    """Read one table and the fits it names.

    Raises
    ------
    DataError
        If the table is damaged, lacks columns, or its joints do not fall where its cameras see
        them.
    """
    (file,) = unit.files
    table = agora_files.read_table(file, unit.detail["body"])
    width = 1280 if unit.detail["small"] else agora_camera.FULL_SIZE[0]
    size = np.array([width, width * 9 // 16])
    names = [agora_camera.picture_name(name, unit.detail["small"]) for name in table.pictures]
    cameras = [agora_camera.camera_of(n, row) for n, row in zip(names, table.camera, strict=True)]
    intrinsics = np.array([c.intrinsics(width) for c in cameras]).reshape(-1, 3, 3)
    extrinsics = np.array([c.extrinsics() for c in cameras]).reshape(-1, 4, 4)
    joints2d = table.joints2d * (width / agora_camera.FULL_SIZE[0])
    in_front = table.joints3d[..., 2] > 0
    extent = geometry.bbox_from_points(joints2d, in_front, BOX_FACTOR).astype(np.float64)
    box = _boxes(extent, joints2d, size, unit.detail["box"])
    error = geometry.residual_px(table.joints3d, joints2d, intrinsics[table.row], in_front)

    kept, rule = _wanted(table, joints2d, size, unit.detail["filter"])
    problems = Problems(len(table), kept)
    check_joints(problems, table, names, extrinsics, box)
    share = error / np.maximum(extent[:, 2:].max(axis=1), 1)
    check_cameras(file, problems, share, error)
    tell_genders(problems, table)
    bodies = _bodies_of(unit, table, extrinsics, problems) if unit.detail["has_fits"] else {}
    sound = kept & ~problems.bad
    keypoints2d = np.dstack([np.where(in_front[..., None], joints2d, 0), in_front])
    keypoints3d = np.dstack([table.joints3d, np.ones(in_front.shape)])
    instances = {
        "id": _ids(unit, names, table),
        "image": table.row.astype(np.int32),
        "person": table.person.astype(np.int32),
        "bbox_xywh": np.hstack([box, np.ones((len(table), 1))]).astype(np.float32),
        "keypoints2d": np.nan_to_num(keypoints2d).astype(np.float32),
        "keypoints3d": keypoints3d.astype(np.float32),
        "scan_gender": np.array([_gender(w) for w in table.words["gender"]], np.uint8),
        "reprojection_error": error.astype(np.float32),
        "extra/kid": table.flags["kid"],
        "extra/occlusion": np.nan_to_num(table.numbers["occlusion"], nan=-1).astype(np.float32),
        "extra/valid": table.flags["isValid"],
        "extra/face_and_hands": np.array(["bfh" in path for path in table.fits], bool),
        **bodies,
    }
    body = unit.detail["body"]
    attributes: dict[str, dict[str, Any]] = {
        "keypoints2d": {"convention": CONVENTIONS[body]},
        "keypoints3d": {"convention": CONVENTIONS[body], "root": "absolute"},
        "bbox_xywh": {
            "rule": f"extent of the 2D joints, {unit.detail['box']}",
            "factor": BOX_FACTOR,
        },
        "extra/occlusion": {"unit": "percent", "missing": "-1"},
        "extra/face_and_hands": {"meaning": "face and hands were fitted, not the body alone"},
    }
    for word in ("age", "ethnicity"):
        vocabulary = sorted({"", *table.words[word]})
        codes = {text: code for code, text in enumerate(vocabulary)}
        values = [codes[text] for text in table.words[word]]
        instances[f"extra/{word}"] = np.array(values, np.uint16)
        attributes[f"extra/{word}"] = {"vocabulary": vocabulary}
    if bodies:
        attributes |= _body_attributes(unit)
    uneven = [
        (row, person) for row, count in table.uneven.items() for person in range(max(count, 1))
    ]
    filtered = int((~kept).sum())
    columns = Columns(
        images=_images(unit, names, intrinsics, extrinsics, size),
        instances=instances,
        field_attributes=attributes,
        rejects=[
            *problems.rejects(file, names, table),
            *(
                Reject(file.name, f"{names[row]}, person {person}", "uneven_lists",
                       "the lists of this picture differ in length")
                for row, person in uneven
            ),
        ],
        filtered={rule: filtered} if filtered else {},
        records=len(table) + len(uneven),
        notes=[*unit.detail["notes"], *problems.notes],
    )  # fmt: skip
    return take(columns, sound)


def _wanted(table: Table, joints2d: Float, size: NDArray[Any], rule: str) -> tuple[Bool, str]:
    """Whom the chosen rule keeps, and the name under which the others are counted."""
    if rule == "valid":
        return table.flags["isValid"], "not_valid"
    if rule == "none":
        return np.ones(len(table), bool), "none"
    first = joints2d[:, :25]
    inside = ((first >= 0) & (first <= size)).all(axis=-1).sum(axis=1)
    return (table.numbers["occlusion"] <= 70) & (inside >= 8), "agora_processing_code"


def _boxes(extent: Float, joints2d: Float, size: NDArray[Any], rule: str) -> Float:
    if rule == "mmhuman3d":
        return extent
    if rule == "clipped":
        low = np.clip(extent[:, :2], 0, size)
        high = np.clip(extent[:, :2] + extent[:, 2:], 0, size)
        return np.hstack([low, high - low])
    first = joints2d[:, :25]
    inside = ((first >= 0) & (first <= size)).all(axis=-1)
    tight = np.asarray(geometry.bbox_from_points(first, inside), np.float64)
    side = BOX_FACTOR * tight[:, 2:].max(axis=1, keepdims=True)
    return np.hstack([tight[:, :2] + tight[:, 2:] / 2 - side / 2, side, side])


def _gender(word: str) -> int:
    return GENDERS.get(word.lower(), 0)


def _model_genders(body: str, table: Table) -> NDArray[np.uint8]:
    """Gender of the body model that each fit belongs to (README of agora_evaluation)."""
    if body == "smpl":
        return np.full(len(table), NEUTRAL, np.uint8)
    gender = np.array([_gender(word) for word in table.words["gender"]], np.uint8)
    girl = table.flags["kid"] & (gender == GENDERS["female"])
    return np.where(girl, NEUTRAL, gender).astype(np.uint8)


def _bodies_of(
    unit: Unit, table: Table, extrinsics: Float, problems: Problems
) -> dict[str, NDArray[Any]]:
    """Fits in the camera frame; persons without a file keep their joints and have no body."""
    body = unit.detail["body"]
    wanted = problems.kept & ~problems.bad
    fits = _read_fits(unit, table, wanted, problems)
    rows = len(table)
    names = [*agora_files.POSES[body], "betas"]
    has = np.array([path in fits for path in table.fits], bool) & wanted & ~problems.bad
    whole = {name: np.zeros((rows, agora_files.POSES[body][name][1])) for name in names[:-1]}
    whole["betas"] = np.zeros((rows, 11))
    short = np.zeros(rows, bool)
    for row in np.flatnonzero(has).tolist():
        for name, values in fits[table.fits[row]].items():
            whole[name][row, : values.size] = values
        short[row] = fits[table.fits[row]]["betas"].size < 11
    problems.add(
        has & table.flags["kid"] & short,
        "kid_without_weight",
        "the fit of a child has 10 betas: the weight of the child's template is missing",
    )
    gender = _model_genders(body, table)
    problems.add(has & (gender == 0), "no_gender", "which body model the fit belongs to is unknown")
    has &= ~problems.bad

    ground = np.stack([table.numbers[name] for name in "XYZ"], axis=1)
    some = np.flatnonzero(has)
    moves = agora_bodies.scan_to_camera(
        table.numbers["Yaw"][some], ground[some], extrinsics[table.row[some]]
    )
    placed = agora_bodies.place(
        whole["global_orient"][some], whole["transl"][some], table.joints3d[some], moves
    )
    check_fits(unit.files[0], problems, some, placed)
    usable = has
    tell_spread(problems, [table.fits[row] for row in some.tolist()], placed.pelvis)
    orient = placed.orient
    if unit.detail["root"] == "mmhuman3d":
        orient = agora_bodies.root_of_mmhuman3d(whole["global_orient"][some], moves)
        usable = np.zeros(rows, bool)
    whole["global_orient"][some], whole["transl"][some] = orient, placed.transl
    pelvis, angle = np.zeros((rows, 3)), np.full(rows, -1.0)
    pelvis[some], angle[some] = placed.pelvis, placed.angle
    betas = whole.pop("betas")
    bodies: dict[str, NDArray[Any]] = {
        f"{body}/{name}": np.where(has[:, None], values, 0)
        .reshape(rows, *SHAPES[body].get(name, (values.shape[1],)))
        .astype(np.float32)
        for name, values in whole.items()
    }
    weighted = has & table.flags["kid"] & (unit.detail["children"] == "weighted")
    kid_weight = np.where(weighted, betas[:, 10], 0)
    if body == "smpl":
        bodies["smpl/source"] = has.astype(np.uint8)
    return {
        **bodies,
        f"{body}/betas": np.where(has[:, None], betas[:, :10], 0).astype(np.float32),
        f"{body}/valid": has,
        f"{body}/transl_valid": usable,
        "gender": np.where(has, gender, 0).astype(np.uint8),
        "extra/kid_weight": kid_weight.astype(np.float32),
        "extra/rest_pelvis": pelvis.astype(np.float32),
        "extra/root_angle": angle.astype(np.float32),
    }


def _read_fits(
    unit: Unit, table: Table, wanted: Bool, problems: Problems
) -> dict[str, dict[str, Float]]:
    """Fits by the table's path, each read once; what cannot be read is a problem of its people."""
    body = unit.detail["body"]
    fits: dict[str, dict[str, Float]] = {}
    absent: dict[str, None] = {}
    paths = np.array(table.fits, object)
    people = dict.fromkeys(path for path, w in zip(table.fits, wanted, strict=True) if w)
    for path in people:
        file = agora_files.find_fit(unit.raw, body, path)
        if file is None:
            absent[path] = None
            continue
        try:
            fits[path] = agora_files.read_fit(file, body)
        except agora_files.UnusableFit as error:
            problems.add(np.asarray(paths == path, bool), error.reason, error.detail)
    if absent:
        lacking = np.array([path in absent for path in table.fits], bool)
        count = int((lacking & wanted).sum())
        problems.notes.append(
            f"{unit.files[0].name}: {count} persons have no body, for {len(absent)} of "
            f"{len(people)} fits are not there (such as {next(iter(absent))})"
        )
    return fits


def _body_attributes(unit: Unit) -> dict[str, dict[str, Any]]:
    attributes: dict[str, dict[str, Any]] = {
        "extra/kid_weight": {
            "meaning": "weight of the child's template in the shape; betas alone do not make it"
        },
        "extra/rest_pelvis": {"unit": "metre", "meaning": "joint 0 of the shaped rest body"},
        "extra/root_angle": {
            "unit": "degree",
            "missing": "-1",
            "meaning": "angle between the root rotation and that of hips and spine in 3D",
        },
    }
    if unit.detail["body"] == "smplx":
        attributes |= {f"smplx/{s}_hand_pose": {"flat_hand_mean": False} for s in ("left", "right")}
    if unit.detail["root"] == "mmhuman3d":
        attributes[f"{unit.detail['body']}/global_orient"] = {"rule": "as mmhuman3d computes it"}
    return attributes


def _ids(unit: Unit, names: list[str], table: Table) -> NDArray[np.uint64]:
    """Ids of the persons, the same for both sizes and both bodies."""
    spaces = [f"agora/{unit.split}/{agora_camera.picture_name(n, small=False)}" for n in names]
    ids = np.zeros(len(table), np.uint64)
    for row, space in enumerate(spaces):
        here = table.row == row
        ids[here] = row_ids(space, table.person[here])
    return ids


def _images(
    unit: Unit, names: list[str], intrinsics: Float, extrinsics: Float, size: NDArray[Any]
) -> dict[str, Any]:
    rows = len(names)
    folder_of: dict[str, str] = {}
    for folder in reversed(unit.detail["folders"]):
        there = {file.name for file in (unit.raw / folder).iterdir() if file.suffix == ".png"}
        folder_of |= dict.fromkeys(there, folder)
    space = f"agora/{unit.split}/images/"
    full = [agora_camera.picture_name(name, small=False) for name in names]
    usual = f"images/{unit.split}"
    return {
        "id": np.array([row_ids(space + n, np.zeros(1, np.int64))[0] for n in full], np.uint64),
        "path": [f"{folder_of.get(name, usual)}/{name}" for name in names],
        "width": np.full(rows, size[0], np.int32),
        "height": np.full(rows, size[1], np.int32),
        "intrinsics": intrinsics.astype(np.float32),
        "intrinsics_source": np.ones(rows, np.uint8),
        "extrinsics": np.nan_to_num(extrinsics).astype(np.float32),
    }
