"""EFT: SMPL fitted to people of COCO, MPII, LSP-Extended, PoseTrack and OCHuman, from their JSON.

One split per release. All records are kept, each with its 49 joints (25 of OpenPose, whose
confidences are OpenPose's, and 24 of the source dataset), the pose as axis-angle, the shape of the
neutral body, and EFT's camera in ``extra/weak_camera``. That camera is one of a crop: a point X of
the body (metres) falls on ``centre + (s X_xy + t) side / 2`` of the picture, centre and side being
those of the box. It is no translation, so ``smpl/transl`` is not given; CLIFF's and SPIN's formulas
make one of it for an assumed focal length. ``inspect`` holds the bodies against the 2D joints
through it. Of ``subjectId`` the sequence and track of PoseTrack are kept, no more.

Pictures are those of the source dataset: looked for in RAW and beside it under the official names
(``coco``, ``mpii``, ``hr-lspet``, ``posetrack``, ``ochuman``), or where
``--option pictures_root=coco=FOLDER,mpii=FOLDER`` says. Where the source's annotations lie there
too (``annotations/person_keypoints_train2014.json``; MPII's ``.mat`` or HDF5 lists; PoseTrack's
JSON; HR-LSPET's ``joints.mat``), every fit is held against its person: by id and box, else by
picture and box. A fit whose id is of another picture or place is rejected; ``extra/verified`` says
how each row was verified. OCHuman's boxes EFT made of corners taken for sizes: not verified.

``lspet`` is the union of both training files: LSPet_ver01 and the manually filtered
LSPet_train_ver10, which wins where both hold a picture. LSPET's joints all have confidence 1, even
those nobody labelled, as EFT has them. COCO-Part is contained in COCO-All: do not mix the two.

Where this differs from the peers: mmhuman3d drops the camera, the ids and the validity of joints,
and takes the persons of a picture to be neighbours in the file, which is not promised. The readers
of the official demo switch off ankles at the lower border that OpenPose is not sure of;
``--option ankles=eft`` does so. Counts in EFT's README are not those of the files.

Boxes are EFT's squares; they hold the source's enlargement (1.25 for MPII, else 1.2) already.

Sources: docs/README_dataformat.md, demo/visEFTFit.py, eft/utils/exportDB.py and eft/db_processing
of facebookresearch/eft.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import eft_files, eft_sources, keypoints
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.eft_files import Fits
from humandata.errors import DataError, HumandataError
from humandata.picture_sizes import picture_sizes
from humandata.rotations import matrix_to_axis_angle
from humandata.schema import row_ids

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

SPLITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "coco_all": ("coco", ("COCO2014-All-ver01.json",)),
    "coco_part": ("coco", ("COCO2014-Part-ver01.json",)),
    "mpii": ("mpii", ("MPII_ver01.json",)),
    "lspet": ("lspet", ("LSPet_train_ver10.json", "LSPet_ver01.json")),
    "posetrack": ("posetrack", ("PoseTrack_ver01.json",)),
    "ochuman": ("ochuman", ("OCHuman_train_ver10.json",)),
    "coco_val": ("coco", ("COCO2014-Val-ver10.json",)),
    "lspet_test": ("lspet", ("LSPet_test_ver10.json",)),
    "ochuman_test": ("ochuman", ("OCHuman_test_ver10.json",)),
}
"""Split -> source dataset and its files; of several, the first that holds a picture wins."""
FOLDERS = (
    "", "eft_fit", "pose3d", "coco_2014_train_fit", "MPII_fit", "LSPet_fit", "PoseTrack_fit",
    "OCHuman_fit",
)  # fmt: skip
PICTURE_ROOTS = {
    "coco": ("coco",),
    "mpii": ("mpii",),
    "lspet": ("hr-lspet", "lspet"),
    "posetrack": ("posetrack", "posetrack18", "posetrack3d"),
    "ochuman": ("ochuman",),
}
PICTURE_FOLDERS = {
    "coco": ("{year}/", "images/{year}/"),
    "mpii": ("images/",),
    "lspet": ("", "images_highres/", "images/"),
    "posetrack": ("images/train/",),
    "ochuman": ("images/",),
}
FACTORS = {"mpii": 1.25}
OPENPOSE = slice(0, 25)
ANKLES = ((25, 11), (30, 14))
"""Each ankle of the source dataset, and OpenPose's."""
BORDER_PX, UNSURE = 10, 0.1
SOURCE_EFT, NEUTRAL = 3, 1
"""Codes of the fields ``smpl/source`` and ``gender``."""
BAD_SHARE = 0.1
"""Typical miss of the fits, as a share of the box, from which on something is wrong."""

INFO = DatasetInfo(
    name="eft",
    title="EFT fits",
    citation="Joo et al., Exemplar Fine-Tuning for 3D Human Model Fitting Towards In-the-Wild 3D "
    "Human Pose Estimation, 3DV 2021",
    url="https://github.com/facebookresearch/eft",
    licence="fits CC BY-NC 4.0; pictures under the terms of their datasets",
    splits=tuple(SPLITS),
    expects=(
        "RAW/COCO2014-All-ver01.json (or another of EFT's files; also in RAW/eft_fit/), and the "
        "pictures of the source dataset in RAW/coco/, RAW/../coco/ (mpii, hr-lspet, posetrack, "
        "ochuman) or where --option pictures_root says"
    ),
    yields="SMPL of the neutral body, 49 keypoints, box, weak-perspective camera of the box",
    keypoints2d="smpl_49",
    options=(
        Option(
            "pictures_root",
            "where pictures lie: FOLDER, or NAME=FOLDER,... with coco, mpii, lspet, posetrack, "
            "ochuman",
        ),
        Option(
            "ankles",
            "'eft' gives confidence 0 to ankles at the lower border that OpenPose is unsure of",
            ("as_released", "eft"),
            "as_released",
        ),
    ),
)


def find_splits(raw: Path) -> list[str]:
    """Splits of which a file is there."""
    found = [split for split in SPLITS if _files(raw, split)]
    if not found:
        raise DataError(raw, expected=INFO.expects, found="none of EFT's files of fits")
    return found


def _files(raw: Path, split: str) -> tuple[Path, ...]:
    if raw.is_file():
        return (raw,) if raw.name in SPLITS[split][1] else ()
    found = []
    for name in SPLITS[split][1]:
        places = (raw / base / folder / name for base in ("", "eft") for folder in FOLDERS)
        found += [file for file in places if file.is_file()][:1]
    return tuple(found)


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: the file of the split (for ``lspet`` both)."""
    chosen = {option.name: option.default for option in INFO.options} | dict(options)
    fits = _files(raw, split)
    if not fits:
        names = " or ".join(SPLITS[split][1])
        raise DataError(raw, f"split {split}", expected=names, found="no such file")
    source = SPLITS[split][0]
    root, found = _picture_root(raw, source, chosen["pictures_root"])
    year = "val2014" if split == "coco_val" else "train2014"
    files = fits + (eft_sources.files(source, root, year) if found else ())
    detail = {**chosen, "source": source, "fits": len(fits), "year": year, "found": found}
    return [Unit(split, split, root, files, detail)]


def _picture_root(raw: Path, source: str, option: str) -> tuple[Path, bool]:
    """Where the source's pictures lie, and whether there is such a folder."""
    given: dict[str, str] = {}
    for part in filter(None, (word.strip() for word in option.split(","))):
        name, equals, folder = part.partition("=")
        if equals and name not in PICTURE_ROOTS:
            known = ", ".join(PICTURE_ROOTS)
            raise HumandataError(f"pictures_root={part}: the source datasets are {known}")
        given[name if equals else source] = folder if equals else name
    if source in given:
        root = Path(given[source]).expanduser()
        if not root.is_dir():
            raise DataError(root, expected=f"the pictures of {source}", found="no such folder")
        return root, True
    base = raw.resolve().parent if raw.is_file() else raw.resolve()
    for parent in (base, base.parent):
        for name in PICTURE_ROOTS[source]:
            if (parent / name).is_dir():
                return parent / name, True
    return base / PICTURE_ROOTS[source][0], False


def read(unit: Unit) -> Columns:
    """Read the fits of a split.

    Raises
    ------
    DataError
        If a file is damaged or of another form.
    """
    source = unit.detail["source"]
    count = unit.detail["fits"]
    fits = eft_files.join([eft_files.read(file) for file in unit.files[:count]])
    pictures = [_picture(source, fits, row) for row in range(len(fits))]
    side = 200 * fits.scale
    squares = np.column_stack([fits.centre, side])
    rejects, unsound = _rejects(fits, pictures, squares, source)
    replaced = _replaced(fits, pictures, ~unsound) if count > 1 else np.zeros(len(fits), bool)
    keep = ~unsound & ~replaced
    verified, more, notes = _verify(unit, fits, pictures, squares, keep)
    rejects += more
    keep &= verified.keep
    rows = np.flatnonzero(keep)
    names, image = np.unique(np.array([pictures[row] for row in rows], str), return_inverse=True)
    folder = _picture_folder(unit, names.tolist())
    paths = [folder + name for name in names.tolist()]
    sizes = picture_sizes(unit.raw, paths)
    joints = fits.keypoints[rows].astype(np.float32)
    joints[..., 2] = np.maximum(joints[..., 2], 0)
    joints[joints[..., 2] == 0] = 0
    if unit.detail["ankles"] == "eft":
        notes += _switch_off_ankles(joints, sizes[image, 1])
    rotations = np.asarray(matrix_to_axis_angle(fits.pose[rows]), np.float32)
    box = np.column_stack([fits.centre - side[:, None] / 2, side, side, np.ones(len(side))])
    instances: dict[str, Any] = {
        "id": _row_ids(unit.split, source, fits, pictures)[rows],
        "image": image.astype(np.int32),
        "person": verified.person[rows].astype(np.int32),
        "source_id": verified.identity[rows],
        "bbox_xywh": box[rows].astype(np.float32),
        "keypoints2d": joints,
        "smpl/global_orient": rotations[:, 0],
        "smpl/body_pose": rotations[:, 1:],
        "smpl/betas": fits.betas[rows].astype(np.float32),
        "smpl/valid": np.ones(len(rows), bool),
        "smpl/source": np.full(len(rows), SOURCE_EFT, np.uint8),
        "gender": np.full(len(rows), NEUTRAL, np.uint8),
        "extra/weak_camera": fits.camera[rows].astype(np.float32),
        "extra/openpose18_valid": fits.openpose18[rows] > 0,
        "extra/verified": verified.how[rows],
    }
    notes += _compare(instances, fits.camera[rows], squares[rows])
    columns = Columns(
        images={
            "id": np.array([_hash(f"eft/{source}/image/{path}") for path in paths], np.uint64),
            "path": paths,
            "width": sizes[:, 0],
            "height": sizes[:, 1],
        },
        instances=instances,
        field_attributes={
            "keypoints2d": {"convention": "smpl_49"},
            "bbox_xywh": {
                "rule": "EFT: the source's box, squared and enlarged",
                "factor": FACTORS.get(source, 1.2),
            },
            "extra/weak_camera": {
                "meaning": "s, tx, ty: X falls on box centre + (s X_xy + t) * box side / 2"
            },
            "extra/verified": {"vocabulary": list(eft_sources.VERIFIED)},
        },
        rejects=rejects,
        filtered={"replaced_by_ver10": int(replaced.sum())} if replaced.any() else {},
        records=len(fits),
        notes=notes,
    )
    if not unit.detail["found"]:
        columns.notes.append(
            f"no folder of {source}'s pictures in RAW or beside it; they are expected in "
            f"{unit.raw.name}/, or name the folder: --option pictures_root={source}=FOLDER"
        )
    if fits.without_keypoints:
        columns.notes.append(f"{fits.without_keypoints:,} records hold no gt_keypoint_2d")
    if source == "posetrack":
        _add_sequences(columns, names.tolist(), [fits.subject[row] for row in rows], image)
    return columns


def _picture(source: str, fits: Fits, row: int) -> str:
    """Name of a picture below the folder of its dataset; PoseTrack's has its sequence's folder."""
    name = fits.picture[row].strip().replace("\\", "/").lstrip("/")
    if source != "posetrack":
        return name.rsplit("/", 1)[-1]
    if "/" in name:
        return "/".join(name.split("/")[-2:])
    sequence = fits.subject[row].rpartition("_")[0]
    return f"{sequence}/{name}" if sequence and name else ""


def _picture_folder(unit: Unit, names: list[str]) -> str:
    patterns = PICTURE_FOLDERS[unit.detail["source"]]
    folders = [pattern.format(year=unit.detail["year"]) for pattern in patterns]
    for folder in folders:
        if any((unit.raw / folder / name).is_file() for name in names[:100]):
            return folder
    return folders[0]


def _rejects(
    fits: Fits, pictures: list[str], squares: Float, source: str
) -> tuple[list[Reject], Bool]:
    """Records that cannot be used, each once, by the first reason."""
    problem = np.zeros(len(fits), bool)
    problem[list(fits.problems)] = True
    unnamed = np.array([not name or ".." in name.split("/") for name in pictures], bool)
    no_picture = "imageName names no picture"
    if source == "posetrack":
        no_picture += ", or no sequence: neither it nor subjectId holds one"
    checks = [
        ("", problem, ""),
        ("no_picture", unnamed, no_picture),
        ("empty_box", ~(squares[:, 2] > 0), "bbox_scale is not above 0"),
    ]
    seen = np.zeros(len(fits), bool)
    rejects = []
    for reason, bad, detail in checks:
        for row in np.flatnonzero(bad & ~seen).tolist():
            why, said = fits.problems[row] if not reason else (reason, detail)
            rejects.append(_reject(fits, row, why, said))
        seen |= bad
    known: dict[tuple[object, ...], int] = {}
    for row in np.flatnonzero(~seen).tolist():
        first = known.setdefault(_key(source, fits, pictures, row), row)
        if first != row:
            said = f"record {fits.record[first]} of this file is the same"
            rejects.append(_reject(fits, row, "duplicate", said))
            seen[row] = True
    return rejects, seen


def _reject(fits: Fits, row: int, reason: str, detail: str) -> Reject:
    record = f"record {fits.record[row]} ({fits.picture[row] or 'no picture'})"
    return Reject(fits.file[row], record, reason, detail)


def _key(source: str, fits: Fits, pictures: list[str], row: int) -> tuple[object, ...]:
    """What must not occur twice in a file: an annotation, of LSPET a picture, else the person."""
    if source == "coco" and fits.annotation[row] > 0:
        return fits.file[row], int(fits.annotation[row])
    if source == "lspet":
        return fits.file[row], pictures[row]
    values = (fits.centre[row].tobytes(), float(fits.scale[row]), fits.pose[row].tobytes())
    return fits.file[row], pictures[row], *values


def _replaced(fits: Fits, pictures: list[str], sound: Bool) -> Bool:
    """Records of a later file whose picture an earlier one holds already."""
    first: dict[str, str] = {}
    replaced = np.zeros(len(fits), bool)
    for row in np.flatnonzero(sound).tolist():
        replaced[row] = first.setdefault(pictures[row], fits.file[row]) != fits.file[row]
    return replaced


class _Verified:
    """What holding the fits against their source found; one entry per record."""

    def __init__(self, fits: Fits) -> None:
        rows = len(fits)
        self.how = np.zeros(rows, np.uint8)
        self.person = np.full(rows, -1, np.int64)
        self.identity = fits.annotation.copy()
        self.keep = np.ones(rows, bool)


def _verify(
    unit: Unit, fits: Fits, pictures: list[str], squares: Float, keep: Bool
) -> tuple[_Verified, list[Reject], list[str]]:
    found = _Verified(fits)
    source = eft_sources.load(unit.detail["source"], unit.files[unit.detail["fits"] :])
    if source is None:
        return found, [], ["not held against the annotations of the source: none are at hand"]
    rows = np.flatnonzero(keep)
    match = eft_sources.match(
        source, [pictures[row] for row in rows], fits.annotation[rows], squares[rows]
    )
    found.how[rows], found.person[rows] = match.verified, match.person
    found.identity[rows] = match.identity
    rejects = []
    for at, (reason, detail) in match.problems.items():
        row = int(rows[at])
        found.keep[row] = False
        rejects.append(_reject(fits, row, reason, detail))
    counts = [int((match.verified == how).sum()) for how in (1, 2)]
    notes = [
        f"held against the source's annotations: {counts[0]:,} agree by id and box, {counts[1]:,} "
        f"by picture and box, {len(rejects):,} differ, {match.unknown:,} are not among them"
    ]
    return found, rejects, notes


def _row_ids(split: str, source: str, fits: Fits, pictures: list[str]) -> NDArray[np.uint64]:
    """By annotation; of LSPET by picture, which both of its files share; else by record."""
    ids = row_ids(f"eft/{split}/record", fits.record)
    if source == "coco":
        known = fits.annotation > 0
        ids[known] = row_ids(f"eft/{split}", fits.annotation[known])
    elif source == "lspet":
        ids = np.array([_hash(f"eft/{split}/{name}") for name in pictures], np.uint64)
    return ids


def _hash(text: str) -> int:
    return int(row_ids(text, np.zeros(1, np.int64))[0])


def _switch_off_ankles(joints: NDArray[np.float32], height: NDArray[np.int32]) -> list[str]:
    """The rule of EFT's demo; needs the pictures, whose height it is about."""
    for ankle, openpose in ANKLES:
        low = (height > 0) & (joints[:, ankle, 1] > height - BORDER_PX)
        joints[low & (joints[:, openpose, 2] < UNSURE), ankle] = 0
    unknown = int((height == 0).sum())
    return [f"ankles=eft: {unknown:,} persons whose picture is missing stay"] if unknown else []


def _compare(instances: dict[str, Any], camera: Float, squares: Float) -> list[str]:
    """Hold the bodies against the 2D joints, where the user has SMPL; fills ``smpl/fit_error``."""
    from humandata.bodymodel import FOLDER_VARIABLE, body_model, forward_joints

    rows = len(camera)
    instances["smpl/fit_error"] = np.full(rows, -1, np.float32)
    if not rows or not os.environ.get(FOLDER_VARIABLE):
        return []
    orient = instances["smpl/global_orient"].astype(np.float64)
    rest = [instances[f"smpl/{name}"].astype(np.float64) for name in ("body_pose", "betas")]
    model = body_model("neutral")
    labels = instances["keypoints2d"]

    def miss(body: Float, sides: Any = slice(None)) -> Float:
        """Mean distance per person, pixels; -1 where no joint can be compared."""
        flat = camera[:, None, :1] * body[..., :2] + camera[:, None, 1:]
        flat = squares[:, None, :2] + flat * squares[:, None, 2:] / 2
        points, mask = keypoints.convert(flat, "smpl", "smpl_49")
        confidence = labels[..., 2] * mask
        confidence[:, OPENPOSE] = 0
        distance = np.linalg.norm(points[:, sides] - labels[..., :2], axis=-1)
        known = (confidence > 0).sum(axis=1)
        total = np.where(confidence > 0, distance, 0).sum(axis=1)
        return np.where(known > 0, total / np.maximum(known, 1), -1)

    def typical(error: Float) -> float:
        share = (error / squares[:, 2])[error >= 0]
        return float(np.median(share)) if len(share) else 0.0

    error = miss(np.asarray(forward_joints(model, orient, *rest), np.float64))
    instances["smpl/fit_error"] = error.astype(np.float32)
    if typical(error) <= BAD_SHARE:
        return []
    turned = np.asarray(forward_joints(model, -orient, -rest[0], rest[1]), np.float64)
    body = np.asarray(forward_joints(model, orient, *rest), np.float64)
    tried = {
        ": the rotations are transposed": miss(turned),
        ": left and right are exchanged": miss(body, keypoints.flip_permutation("smpl_49")),
        ": the body hangs upside down, y points up": miss(
            (body - body[:, :1]) * [1, -1, -1] + body[:, :1]
        ),
    }
    words = next((w for w, e in tried.items() if typical(e) < typical(error) / 2), "")
    return [
        f"the fits miss the 2D joints by {100 * typical(error):.0f} % of the box (median){words}"
    ]


def _add_sequences(
    columns: Columns, names: list[str], subjects: list[str], image: NDArray[Any]
) -> None:
    """PoseTrack's videos, frame numbers and tracks."""
    folders = [name.split("/", 1)[0] for name in names]
    sequences, place = np.unique(folders, return_inverse=True)
    stems = [name.rsplit("/", 1)[-1].rsplit(".", 1)[0] for name in names]
    columns.sequences = {"name": sequences.tolist()}
    columns.images["sequence"] = place.astype(np.int32)
    columns.images["frame"] = np.array(
        [int(stem) if stem.isdecimal() else -1 for stem in stems], np.int32
    )
    tracks = [subject.rpartition("_")[2] for subject in subjects]
    columns.instances["person"] = np.array(
        [int(track) if track.isdecimal() and len(track) < 10 else -1 for track in tracks], np.int32
    )
