"""Import of SPIN files: the ``.npz`` of SPIN, GraphCMR, PyMAF, PARE, EFT and Meta-HMR, with fits.

What is decided here:

* **2D joints** are OpenPose's 25 and the dataset's 24 (``smpl_49``); a half that the file lacks is
  unlabelled. Coordinates stay as they are: 0-based for COCO, MPI-INF-3DHP and 3DPW, as in the
  releases (probably 1-based) for LSP, LSPET and MPII.
* SPIN gives **LSP and LSPET** joints confidence 1 even where nobody labelled them. In files whose
  name says ``lsp``, joints outside of their picture are unlabelled here (``--option outside=keep``
  leaves them); the upper bounds need the pictures.
* **3D joints** ``S`` count where their fourth column says so: EFT's files hold nothing but zeros.
  Their origin is ``pelvis`` where slot 14 is zero in every row that has it, else unknown, unless
  ``--option keypoints3d_root`` says.
* **Boxes** are the squares around ``center`` with the side 200 ``scale``, which holds a factor of
  1.2 (0.9 in Human3.6M's files, 1.25 in SPIN's of MPII; ``--option bbox_factor``).
* **Bodies** ``pose`` and ``shape`` are valid where ``has_smpl`` is 1, everywhere without that key.
  ``--option fits=FILE`` adds SPIN's fits, row by row, to people who have none of their own:
  ``NAME_fits.npy`` (72 numbers of pose, 10 of shape; a pose of zeros is no fit) or an ``.npz`` of
  ``pose``, ``betas`` or ``shape``, and ``valid_fit`` or ``has_smpl``. Their root rotation is that
  of the camera of the crop (weak perspective), so there is no translation.
* **Gender** is the file's; bodies without one are of the neutral model, as in SPIN, whose loader
  also says what numbers mean: 0 male, 1 female, -1 neither.

Nothing is lost silently: other numbers per person become ``extra/KEY``, words become codes, and
what could be kept in neither way is named.

Source: nkolot/SPIN, datasets/base_dataset.py, datasets/preprocess, train/fits_dict.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from humandata import preprocessed, schema, unpickle
from humandata.converters.converter import Columns, DatasetInfo, Option, Unit
from humandata.errors import DataError
from humandata.humandata_extra import Leftovers
from humandata.pictures import DamagedPicture, probe
from humandata.preprocessed import NEUTRAL, SIDE_PER_SCALE, Array, Bool, Float

FIT_SOURCES = schema.field("instances", "smpl/source").vocabulary

INFO = DatasetInfo(
    name="spin",
    title="SPIN file (npz)",
    citation="Kolotouros et al., Learning to Reconstruct 3D Human Pose and Shape via "
    "Model-fitting in the Loop, ICCV 2019",
    url="https://github.com/nkolot/SPIN",
    licence="that of the dataset the file was made from",
    splits=preprocessed.SPLITS,
    expects="a file such as coco_2014_train.npz or 3dpw_test.npz as RAW, or a folder that holds "
    "one per split; the pictures beside it, or under --option pictures_root=FOLDER",
    yields="49 joints in 2D (OpenPose, then SPIN's 24), 24 in 3D, boxes, SMPL, static and final "
    "fits",
    keypoints2d="smpl_49",
    keypoints3d="smpl_24",
    options=(
        Option("pictures_root", "folder that imgname is relative to; default: the file's"),
        Option("fits", "NAME_fits.npy or final fits (npz): bodies for people who have none"),
        Option(
            "fit_source",
            "who made pose and shape of the file; default: guessed from its name",
            FIT_SOURCES,
        ),
        Option(
            "keypoints3d_root",
            "where S has its origin; default: pelvis where that is zero, else unknown",
            ("absolute", "pelvis", "unknown"),
        ),
        Option(
            "bbox_factor", "how much the boxes were enlarged; default: 1.2, h36m 0.9, mpii 1.25"
        ),
        Option(
            "outside",
            "lsp files: joints outside of the picture are unlabelled, or kept",
            ("drop", "keep"),
            "drop",
        ),
    ),
)

PARTS = {"openpose": 25, "part": 24}
GENDER_NUMBERS = {"-1": NEUTRAL, "0": preprocessed.GENDERS["m"], "1": preprocessed.GENDERS["f"]}
"""As SPIN's loader numbers them; files of its descendants hold these numbers."""
PELVIS = 14
"""Of the 24 joints, the one that is subtracted where S is relative to the pelvis."""
BBOX_FACTOR = 1.2
BBOX_FACTORS = {"h36m": 0.9, "mpii_train": 1.25}
"""By words in the names of files. EFT's files of MPII are called otherwise, and hold their own."""
SOURCE_WORDS = {
    "eft": "eft", "cliff": "cliff", "h36m": "mosh", "mpi_inf_3dhp": "spin", "3dpw": "release",
    "pw3d": "release", "surreal": "release",
}  # fmt: skip
OTHER_FORM = "This is no SPIN file: MMPose, CLIFF and 4D-Humans use the same names otherwise"


def find_splits(raw: Path) -> list[str]:
    """Splits that the names of the files speak of; ``all`` where a name says nothing."""
    return sorted({preprocessed.split_of(file) for file in _files(raw)})


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: the file, and the file of fits.

    Raises
    ------
    DataError
        There is no SPIN file of that split, or more than one; or no such file of fits.
    """
    files = [preprocessed.choose_file(raw, split, _files(raw))]
    if options.get("fits"):
        files.append(Path(options["fits"]))
        if not files[1].is_file():
            raise DataError(files[1], expected="the file of fits", found="no such file")
    root = preprocessed.picture_root(raw, options)
    return [Unit(files[0].stem, split, root, tuple(files), dict(options))]


def _files(raw: Path) -> list[Path]:
    return preprocessed.find_files(raw, (".npz",), is_spin, INFO.expects)


def is_spin(file: Path) -> bool:
    """Whether the member names are those of a SPIN file, and not of one of its kin."""
    return preprocessed.kind_of(file) == INFO.name


def read(unit: Unit) -> Columns:
    """Read the file, row by row as it is, so that fits can be joined.

    Raises
    ------
    DataError
        It is damaged, a key is missing or has another shape, or the fits have other rows.
    UnsafePickle
        An object member would have to run code.
    """
    file, *fits = unit.files
    members = unpickle.load_npz(file)
    data = {key: members[key] for key in members}
    names = data.get("imgname")
    if not isinstance(names, np.ndarray) or names.ndim != 1:
        raise DataError(file, "imgname", expected="a path per person", found="none")
    rest = Leftovers(file, data, len(names))
    paths = preprocessed.read_paths(rest, "imgname")
    namespace = f"spin/{file.stem}"
    images, instances, _ = preprocessed.rows_of_pictures(namespace, paths)
    side = SIDE_PER_SCALE * preprocessed.array(rest, "scale", (), OTHER_FORM)
    boxes = preprocessed.centred_boxes(
        preprocessed.array(rest, "center", (2,)), np.column_stack([side, side])
    )
    instances["bbox_xywh"] = boxes.astype(np.float32)
    attributes: dict[str, dict[str, Any]] = {"bbox_xywh": _rule(unit)}
    columns = Columns(images, instances, {}, attributes, records=rest.rows)
    _joints(unit, rest, columns, paths)
    _bodies(unit, rest, columns, fits)
    ids = data.get("annotIds")
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.shape == (rest.rows,):
        instances["source_id"] = rest.take("annotIds").astype(np.int64)
        attributes["source_id"] = {"meaning": "annotation id of the file (annotIds)"}
    return preprocessed.finish(file, columns, rest, paths, boxes)


def _rule(unit: Unit) -> dict[str, Any]:
    given = unit.detail.get("bbox_factor")
    name = unit.files[0].stem.lower()
    known = {word: factor for word, factor in BBOX_FACTORS.items() if word in name}
    usual = BBOX_FACTOR if "eft" in name else next(iter(known.values()), BBOX_FACTOR)
    try:
        factor = float(given or usual)
    except ValueError as error:
        raise DataError(
            unit.files[0], "bbox_factor", expected="a number", found=f"{given!r}"
        ) from error
    source = "user" if given else "assumed"
    return {"rule": "square of the SPIN file", "factor": factor, "factor_source": source}


def _joints(unit: Unit, rest: Leftovers, columns: Columns, paths: list[str]) -> None:
    instances, attributes = columns.instances, columns.field_attributes
    points = np.zeros((rest.rows, sum(PARTS.values()), 3))
    place = 0
    for key, count in PARTS.items():
        if key in rest:
            points[:, place : place + count] = preprocessed.array(rest, key, (count, 3), OTHER_FORM)
        place += count
    says: dict[str, Any] = {"convention": "smpl_49", "source": "OpenPose 25, then SPIN's 24"}
    if "lsp" in unit.files[0].stem.lower() and unit.detail.get("outside", "drop") != "keep":
        outside, unseen = _outside(unit.raw, columns.images["path"], instances["image"], points)
        points[outside] = 0
        says["outside_joints"] = int(outside.sum())
        columns.notes.append(f"{int(outside.sum()):,} joints outside of their picture: unlabelled")
        if unseen:
            columns.notes.append(
                f"{unseen:,} pictures are not there: joints right of or below them were kept"
            )
    preprocessed.put_joints(instances, attributes, "keypoints2d", points, **says)
    if "S" in rest:
        joints = preprocessed.array(rest, "S", (24, 4), OTHER_FORM)
        root = preprocessed.root_of(joints, PELVIS, unit.detail.get("keypoints3d_root") or None)
        preprocessed.put_joints(
            instances, attributes, "keypoints3d", joints, convention="smpl_24", root=root
        )


def _outside(root: Path, pictures: list[str], image: Array, points: Float) -> tuple[Bool, int]:
    """Joints (N, 49) of the dataset's 24 outside of their pictures; pictures that are not there."""
    sizes = np.full((len(pictures), 2), np.inf)
    for row, name in enumerate(pictures):
        try:
            found = probe((root / name).read_bytes())
        except (OSError, DamagedPicture):
            continue
        sizes[row] = found.width, found.height
    where = points[..., :2]
    low, high = (where < 0).any(axis=2), (where >= sizes[image][:, None]).any(axis=2)
    ours = np.arange(points.shape[1]) >= PARTS["openpose"]
    outside = (low | high) & ours & (points[..., 2] > 0)
    return outside, int(np.isinf(sizes[:, 0]).sum())


def _bodies(unit: Unit, rest: Leftovers, columns: Columns, fits: list[Path]) -> None:
    """The file's own bodies, and the fits for people who have none."""
    rows = rest.rows
    pose, betas = np.zeros((rows, 72)), np.zeros((rows, 10))
    valid, source = np.zeros(rows, bool), np.zeros(rows, np.uint8)
    if "pose" in rest:
        if "shape" not in rest:
            raise DataError(rest.file, "shape", expected="betas beside pose", found="no such key")
        pose = preprocessed.array(rest, "pose", (72,))
        betas = preprocessed.array(rest, "shape", (10,))
        valid = preprocessed.flag(rest, "has_smpl")
        valid &= preprocessed.finite_rows(pose, betas)
        source[valid] = FIT_SOURCES.index(_source(unit))
    elif not fits:
        return
    gender = preprocessed.genders(rest, "gender", GENDER_NUMBERS)
    code = np.full(rows, NEUTRAL, np.uint8) if gender is None else gender.copy()
    for file in fits:
        fit_pose, fit_betas, usable = read_fits(file, rows)
        used = usable & ~valid
        pose[used], betas[used] = fit_pose[used], fit_betas[used]
        source[used], code[used] = FIT_SOURCES.index("spin"), NEUTRAL
        valid |= used
        columns.notes.append(f"{int(used.sum()):,} bodies come from {file.name}")
    if gender is not None:
        columns.instances["actor_gender"] = gender
    valid = preprocessed.put_bodies(columns.instances, pose, betas, valid, None)
    columns.instances["smpl/source"] = np.where(valid, source, 0).astype(np.uint8)
    columns.instances["gender"] = np.where(valid, code, 0).astype(np.uint8)


def _source(unit: Unit) -> str:
    name = unit.files[0].stem.lower()
    guess = next((source for word, source in SOURCE_WORDS.items() if word in name), "unknown")
    return unit.detail.get("fit_source") or guess


def read_fits(file: Path, rows: int) -> tuple[Float, Float, Bool]:
    """Pose (N, 72), betas (N, 10) and which rows have a fit, of a file of fits.

    Raises
    ------
    DataError
        It is damaged, or has not one row per row of the file that it belongs to.
    """
    if file.suffix == ".npy":
        stored: dict[str, Any] = {"fits": unpickle.load_npy(file)}
        rest = Leftovers(file, stored, rows)
        joined = preprocessed.array(rest, "fits", (82,), "Fits belong to one file, row by row")
        pose, betas = joined[:, :72], joined[:, 72:]
        usable = np.asarray((pose != 0).any(axis=1), bool)
    else:
        members = unpickle.load_npz(file)
        rest = Leftovers(file, {key: members[key] for key in members}, rows)
        shape = "betas" if "betas" in rest else "shape"
        if "pose" not in rest or shape not in rest:
            raise DataError(file, expected="pose and betas or shape", found=", ".join(members))
        pose = preprocessed.array(rest, "pose", (72,), "Fits belong to one file, row by row")
        betas = preprocessed.array(rest, shape, (10,))
        usable = preprocessed.flag(rest, "valid_fit" if "valid_fit" in rest else "has_smpl")
    return pose, betas, usable & preprocessed.finite_rows(pose, betas)
