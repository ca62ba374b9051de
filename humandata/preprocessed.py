"""What imports of preprocessed files share: rows of parallel arrays become columns of a store.

The files (HumanData, SPIN, CLIFF, VIBE, 4D-Humans) hold one entry per person in every array, so
their imports group the rows by picture, take boxes and joints as they are, and keep what the store
has no field for (:class:`humandata.humandata_extra.Leftovers`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import unpickle
from humandata.columns import Columns, Reject, take
from humandata.errors import DataError
from humandata.humandata_extra import Leftovers
from humandata.humandata_npz import is_humandata
from humandata.schema import row_ids

Array = NDArray[Any]
Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

SPLITS = ("train", "trainval", "validation", "test", "all")
SPLIT_WORDS = {
    "train": "train", "trainval": "trainval", "val": "validation", "valid": "validation",
    "validation": "validation", "test": "test",
}  # fmt: skip
GENDERS = {"neutral": 1, "n": 1, "male": 2, "m": 2, "female": 3, "f": 3}
"""Words for a gender in these files, and the codes of the field ``gender``."""
NEUTRAL = 1
LONGEST = 100
"""No person is as long as this in metres, nor as short in millimetres."""
SIDE_PER_SCALE = 200
"""A ``scale`` of SPIN and its kin is the side of a square box in pixels, divided by this."""


def split_of(file: Path) -> str:
    """The split that the name of a file speaks of; ``all`` where it says nothing."""
    words = file.stem.lower().replace("-", "_").split("_")
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "all")


def kind_of(file: Path) -> str:
    """Converter that reads an ``.npz``, told by the names of its members; empty if none does.

    SPIN, CLIFF and 4D-Humans use the same names for some of their keys.

    Raises
    ------
    DataError
        It is no ``.npz``, or is damaged.
    """
    members = set(unpickle.load_npz(file))
    if {"imgname", "global_t", "focal_l"} <= members:
        return "cliff"
    if {"imgname", "center", "scale"} <= members:
        own = {"body_keypoints_2d", "extra_keypoints_2d", "body_keypoints_3d", "body_pose"}
        return "fourdhumans" if own & members else "spin"
    return "humandata" if is_humandata(file) else ""


def nothing_found(raw: Path, expects: str) -> DataError:
    """The error that no file of the kind is there, which says what is there instead."""
    candidates = sorted(raw.iterdir()) if raw.is_dir() else [raw]
    kinds = {}
    for file in candidates:
        try:
            kind = kind_of(file) if file.suffix == ".npz" and file.is_file() else ""
        except DataError:
            kind = ""
        if kind:
            kinds[file.name] = kind
    hint = None
    if kinds:
        name, kind = next(iter(kinds.items()))
        hint = f"{name} is a file for 'humandata convert {kind}'"
    else:
        inside = [entry.name for entry in candidates if entry.is_dir()]
        hint = (
            f"Is it in a folder below ({', '.join(inside[:5])})? Give its path" if inside else None
        )
    names = [entry.name for entry in candidates]
    found = "only other files" if raw.is_dir() and names else "another kind of file"
    return DataError(raw, expected=expects, found=found if names else "nothing there", hint=hint)


def find_files(
    raw: Path, suffixes: Sequence[str], is_one: Callable[[Path], bool], expects: str
) -> list[Path]:
    """``raw`` itself, or the files in it, of the kind that ``is_one`` knows.

    Raises
    ------
    DataError
        There is none.
    """
    candidates = sorted(raw.iterdir()) if raw.is_dir() else [raw]
    files = []
    for file in candidates:
        if file.suffix not in suffixes or not file.is_file():
            continue
        try:
            known = is_one(file)
        except DataError:
            # A damaged neighbour is none of our business; the file that was named is.
            if not raw.is_dir():
                raise
            continue
        if known:
            files.append(file)
    if not files:
        raise nothing_found(raw, expects)
    return files


def choose_file(raw: Path, split: str, files: Sequence[Path]) -> Path:
    """The one file of a split.

    Raises
    ------
    DataError
        There is none, or more than one.
    """
    found = [file for file in files if not raw.is_dir() or split_of(file) == split]
    if len(found) != 1:
        raise DataError(
            raw, f"split {split}", expected="one file of this split",
            found=", ".join(file.name for file in found) or "none",
            hint="Give the path of the file itself; humandata.concatenate joins stores",
        )  # fmt: skip
    return found[0]


def picture_root(raw: Path, options: Mapping[str, str]) -> Path:
    """The folder that paths of pictures are relative to: as the user says, or beside the file.

    Raises
    ------
    DataError
        The user's is no folder.
    """
    root = Path(options.get("pictures_root") or (raw if raw.is_dir() else raw.parent))
    if not root.is_dir():
        raise DataError(root, expected="the folder of the pictures", found="no folder")
    return root


def array(rest: Leftovers, key: str, shape: tuple[int, ...], what: str = "") -> Float:
    """Take a key as float64 of shape (rows, *shape); rows that hold one number may be (rows, 1).

    Raises
    ------
    DataError
        It is no array of numbers, or has another shape; ``what`` says what to do then.
    """
    values = rest.numbers_array(key)
    if values.shape == (rest.rows, 1) and not shape:
        values = values.reshape(rest.rows)
    if values.shape != (rest.rows, *shape):
        raise DataError(
            rest.file, key, expected=f"shape {(rest.rows, *shape)}", found=f"{values.shape}",
            hint=what or None,
        )  # fmt: skip
    return values.astype(np.float64)


def read_paths(rest: Leftovers, key: str) -> list[str]:
    """Paths of the pictures with forward slashes, one per person."""
    return [path.replace("\\", "/") for path in rest.words_of(key)]


def group_by_picture(
    paths: Sequence[str],
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Pictures in order of first appearance, and where every person is.

    Returns
    -------
    pictures : list of str
    first : (pictures,) int64
        The first person of each.
    image, person : (N,) int32
        Row of the picture, and number of the person in it.
    """
    order: dict[str, int] = {}
    image = np.array([order.setdefault(path, len(order)) for path in paths], np.int32)
    _, first = np.unique(image, return_index=True)
    place = np.argsort(image, kind="stable")
    counts = np.bincount(image, minlength=len(order))
    person = np.empty(len(paths), np.int32)
    person[place] = np.arange(len(paths)) - np.repeat(np.cumsum(counts) - counts, counts)
    return list(order), first.astype(np.int64), image, person


def rows_of_pictures(
    namespace: str, paths: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Array], NDArray[np.int64]]:
    """Columns of ``images`` (sizes unknown) and of ``instances``, and each picture's first row."""
    pictures, first, image, person = group_by_picture(paths)
    unknown = np.zeros(len(pictures), np.int32)
    images: dict[str, Any] = {
        "id": row_ids(f"{namespace}/images", first),
        "path": pictures,
        "height": unknown,
        "width": unknown.copy(),
    }
    rows = np.arange(len(paths), dtype=np.int64)
    instances: dict[str, Array] = {
        "id": row_ids(f"{namespace}/instances", rows),
        "image": image,
        "person": person,
        "source_id": rows,
    }
    return images, instances, first


def centred_boxes(center: Float, size: Float) -> Float:
    """Boxes (N, 5), confidence 1, from centres (N, 2) and sizes (N, 2) in pixels."""
    return np.column_stack([center - size / 2, size, np.ones(len(center))])


def clean_joints(points: Float) -> tuple[NDArray[np.float32], int]:
    """Joints (N, K, D) with all of a joint 0 where its confidence is, and how many were damaged.

    Damaged are those that are not finite or have a negative confidence.
    """
    bad = ~np.isfinite(points).all(axis=2) | (points[..., -1] < 0)
    clean = points.astype(np.float32)
    clean[bad | ~(points[..., -1] > 0)] = 0
    return clean, int(bad.sum())


def put_joints(
    instances: dict[str, Array],
    attributes: dict[str, dict[str, Any]],
    field: str,
    points: Float,
    **says: Any,
) -> None:
    """Enter joints into the columns, unless nobody has any: such an array says nothing."""
    clean, damaged = clean_joints(points)
    if damaged:
        says["damaged_joints"] = damaged
    elif not (clean[..., -1] > 0).any():
        return
    instances[field] = clean
    attributes[field] = says


def put_bodies(
    instances: dict[str, Array], pose: Array, betas: Array, usable: Bool, transl: Array | None
) -> Bool:
    """Enter SMPL bodies: pose (N, 72) in radians, betas (N, 10), translation (N, 3) in metres.

    Returns
    -------
    (N,) bool
        Which are valid: usable and finite.
    """
    rows = len(pose)
    valid = usable & finite_rows(pose, betas)
    joints = np.where(valid[:, None], pose, 0).reshape(rows, 24, 3).astype(np.float32)
    instances["smpl/global_orient"] = joints[:, 0]
    instances["smpl/body_pose"] = joints[:, 1:]
    instances["smpl/betas"] = np.where(valid[:, None], betas, 0).astype(np.float32)
    instances["smpl/valid"] = valid
    if transl is not None:
        moved = valid & finite_rows(transl)
        instances["smpl/transl"] = np.where(moved[:, None], transl, 0).astype(np.float32)
        instances["smpl/transl_valid"] = moved
    return valid


def finite_rows(*arrays: Array) -> Bool:
    """Rows (N,) that are finite in all of the arrays (N, D)."""
    finite = [np.isfinite(values).all(axis=1) for values in arrays]
    return np.asarray(np.stack(finite).all(axis=0), bool)


def root_of(joints: Float, pelvis: int, told: str | None) -> str:
    """Origin of 3D joints (N, K, 4): the user's word, or pelvis where that joint is always zero."""
    if told:
        return told
    labelled = joints[:, pelvis, 3] > 0
    at_origin = np.abs(joints[labelled, pelvis, :3]) < 1e-6
    return "pelvis" if labelled.any() and bool(at_origin.all()) else "unknown"


def in_metres(joints: Float, told: str | None) -> tuple[Float, bool]:
    """3D joints (N, K, 4) in metres, and whether they were millimetres.

    By the user's word ``m`` or ``mm``; else they are millimetres where people are typically more
    than 100 of the unit long. (A mistake in circulation makes people 12 m long, which is no unit.)
    """
    there = (joints[..., 3:] > 0) & np.isfinite(joints).all(axis=2, keepdims=True)
    low = np.where(there, joints[..., :3], np.inf).min(axis=1, initial=np.inf)
    high = np.where(there, joints[..., :3], -np.inf).max(axis=1, initial=-np.inf)
    length = np.where(there.any(axis=(1, 2)), (high - low).max(axis=1, initial=-np.inf), 0)
    length = length[length > 0]
    if told == "m" or (told != "mm" and not (len(length) and np.median(length) > LONGEST)):
        return joints, False
    scaled = joints.copy()
    scaled[..., :3] /= 1000
    return scaled, True


def finish(
    file: Path,
    columns: Columns,
    rest: Leftovers,
    paths: Sequence[str],
    boxes: Float,
    refused: Bool | None = None,
) -> Columns:
    """Keep what nobody took, say what was lost, and leave out rows that cannot be used.

    ``refused`` rows (N,) are among ``columns.rejects`` already.
    """
    columns.instances.update(rest.columns(columns.field_attributes))
    columns.field_attributes["source_id"] = {
        "meaning": "row of the file",
        **columns.field_attributes.get("source_id", {}),
        "file_level": rest.file_level,
        "left_out": rest.left_out,
    }
    columns.notes += [f"{key} is not kept: {why}" for key, why in rest.left_out.items()]
    for name in ("keypoints2d", "keypoints3d"):
        if damaged := columns.field_attributes.get(name, {}).get("damaged_joints"):
            columns.notes.append(f"{damaged:,} joints of {name} were not finite: confidence 0")
    return leave_out_unsound(file, columns, paths, boxes, refused)


def leave_out_unsound(
    file: Path,
    columns: Columns,
    paths: Sequence[str],
    boxes: Float,
    refused: Bool | None = None,
) -> Columns:
    """Leave out rows that cannot be used (rejects) or say nothing of a person (filtered).

    Rejected: a path that leads out of the pictures, a box that is not finite or has no size.
    Filtered: persons without a labelled joint or body, in files that have either.
    """
    instances, rows = columns.instances, len(paths)
    earlier = np.zeros(rows, bool) if refused is None else refused
    outside = np.array([leads_out(path) for path in paths], bool)
    finite = np.isfinite(boxes).all(axis=1)
    sized = (boxes[:, 2:4] > 0).all(axis=1) | (boxes[:, 4] == 0)
    for row in np.flatnonzero((outside | ~finite | ~sized) & ~earlier).tolist():
        reason, detail = (
            ("picture_path", f"{paths[row]!r} is no path under the pictures")
            if outside[row]
            else ("box_without_size", f"bbox_xywh is {boxes[row].tolist()}")
        )
        columns.rejects.append(Reject(file.name, f"row {row}", reason, detail))
    sound = ~outside & finite & sized & ~earlier
    labels = [
        instances[key][..., -1] > 0 for key in ("keypoints2d", "keypoints3d") if key in instances
    ]
    bodies = [instances[key][:, None] for key in ("smpl/valid", "smplx/valid") if key in instances]
    if labels or bodies:
        labelled = np.concatenate([*labels, *bodies], axis=1).any(axis=1)
        empty = int((sound & ~labelled).sum())
        if empty:
            columns.filtered["no_labelled_joint"] = empty
        sound &= labelled
    return columns if sound.sum() == rows else take(columns, sound)


def leads_out(path: str) -> bool:
    """Whether a path is empty, absolute, or leaves the folder it is relative to."""
    normal = posixpath.normpath(path)
    return path in ("", "None") or normal.startswith(("/", "../")) or ":" in normal[:3]


def genders(
    rest: Leftovers, key: str, numbers: Mapping[str, int] | None = None
) -> NDArray[np.uint8] | None:
    """Codes of a column of genders, None without one; words without a meaning are told.

    ``numbers`` are the codes of genders that are written as numbers, where it is known.
    """
    if key not in rest:
        return None
    words = [word.strip().lower() for word in rest.words_of(key)]
    known = {**GENDERS, **(numbers or {})}
    codes = np.array([known.get(word, 0) for word in words], np.uint8)
    unknown = sorted({word for word, code in zip(words, codes, strict=True) if code == 0})
    if unknown:
        rest.left_out[key] = f"values without a meaning: {', '.join(unknown[:5])}"
    return codes


def flag(rest: Leftovers, key: str) -> Bool:
    """A column of 0 and 1 (or True and False), all True where it is absent, and taken."""
    chosen = rest.flags(key)
    rest.forget(key)
    return chosen
