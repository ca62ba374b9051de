"""Leeds Sports Pose: 14 joints of 2,000 people from Flickr, in either pixel scale.

Pictures 1 to 1000 are ``train``, the others ``test``, by the number in their names; mmhuman3d and
hmr-benchmarks halve the number of files they find instead, so that with some missing, test pictures
are trained on. The release comes in two scales: ``original`` with full pictures, ``small`` with
people scaled to 150 pixels. Nothing but the coordinates tells their ``joints.mat`` apart;
``--option release=`` says which it is where RAW holds both (by default then train is taken from the
original and test from the small one, as SPIN and mmhuman3d do). Joints that do not fit the pictures
beside them are refused.

The third row of the joints, which the README calls visibility, says 1 for an *occluded* joint and 0
for a visible one: taken for a confidence, it keeps the occluded ones only. Here all 14 joints have
confidence 1, as in all peers, and the flag is kept as visibility. Left and right are the person's.
Coordinates are as released: whether MATLAB's count from 1 is meant is not known, and no reader
subtracts anything.

The box holds all joints, enlarged 1.2 about its centre and not clipped. mmhuman3d and
hmr-benchmarks leave out pictures with a joint beyond the picture: ``--option filter=mmhuman3d``.

Sources: README of the release; nkolot/SPIN (lsp_dataset.py, lsp_dataset_original.py), mmhuman3d
(lsp.py), TUCH on the flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, lsp_files
from humandata.columns import take
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError, HumandataError
from humandata.picture_sizes import picture_sizes
from humandata.schema import row_ids

Float = NDArray[np.float64]
Int = NDArray[np.int64]

INFO = DatasetInfo(
    name="lsp",
    title="Leeds Sports Pose",
    citation="Johnson and Everingham, Clustered Pose and Nonlinear Appearance Models for Human "
    "Pose Estimation, BMVC 2010",
    url="https://sam.johnson.io/research/lsp.html",
    licence="research with citation",
    splits=("train", "test"),
    expects=(
        "RAW/joints.mat and RAW/images/im0001.jpg ..., or both releases in RAW/lsp_dataset/ "
        "(small) and RAW/lsp_dataset_original/"
    ),
    yields="14 keypoints with visibility, box",
    keypoints2d="lsp",
    options=(
        Option("release", "which release to read", ("auto", "original", "small"), "auto"),
        Option(
            "filter",
            "'none' keeps all; 'mmhuman3d' those whose joints all lie in the picture",
            ("none", "mmhuman3d"),
            "none",
        ),
    ),
)

ROOTS = {
    "original": ("lsp_dataset_original", "lsp"),
    "small": ("lsp_dataset",),
}
"""Customary folders of each release; RAW itself may be either."""
FIRST_TEST = 1001
PICTURES = 2000
DIGITS = 4
FACTOR = 1.2
ORIGINAL_SIDE = 230.0
"""Typical long side of a person from which on it is the original release: about 385 px against
150 px in the small one."""
FEW = 20
"""Pictures that are needed to say that the joints are too small for them."""
TINY, BEYOND = 0.5, 0.02
"""Joints that end before half of typical pictures, and those that end beyond by this share."""


def find_splits(raw: Path) -> list[str]:
    """Both splits, if the joints are there: one file holds them."""
    if not _roots(raw):
        raise DataError(raw, expected=INFO.expects, found="no joints.mat")
    return list(INFO.splits)


def _roots(raw: Path) -> dict[str, Path]:
    """Folders with ``joints.mat`` by release; of RAW itself the release is not known yet."""
    if (raw / "joints.mat").is_file():
        return {"": raw}
    found: dict[str, Path] = {}
    for release, names in ROOTS.items():
        for name in names:
            if (raw / name / "joints.mat").is_file():
                found.setdefault(release, raw / name)
    return found


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: ``joints.mat`` of the release."""
    chosen = {option.name: option.default for option in INFO.options} | dict(options)
    roots = _roots(raw)
    if not roots:
        raise DataError(raw, expected=INFO.expects, found="no joints.mat")
    wanted = chosen["release"]
    both = len(roots) == 2
    if wanted == "auto" and both:
        wanted = "original" if split == "train" else "small"
    root = roots.get(wanted) or next(iter(roots.values()))
    chosen |= {"wanted": wanted, "both": "yes" if both else ""}
    return [Unit(split, split, root, (root / "joints.mat",), chosen)]


def read(unit: Unit) -> Columns:
    """Read the joints of a split.

    Raises
    ------
    DataError
        If the file is damaged or LSP-Extended's, or joints and pictures are of two releases.
    """
    (file,) = unit.files
    every = lsp_files.read_joints(file, lsp_files.LSP)
    release = _release(file, every, unit.detail["wanted"])
    notes = [f"this is the {release} release"]
    if unit.detail["both"] and unit.detail["release"] == "auto":
        notes.append("of the two releases, train is the original's and test the small one's")
    if release == "original" and not lsp_files.is_official(every, lsp_files.LSP):
        notes.append(lsp_files.UNOFFICIAL)
    if len(every) != PICTURES:
        notes.append(f"joints.mat holds {len(every):,} pictures; the release has {PICTURES:,}")
    numbers = np.arange(1, len(every) + 1)
    mine = (numbers < FIRST_TEST) == (unit.split == "train")
    numbers, joints = numbers[mine], every[mine]
    pictures = lsp_files.numbered(unit.raw / "images", "jpg", DIGITS)
    beyond = [name for number, name in pictures.items() if number > len(every)]
    if beyond:
        notes.append(f"{len(beyond):,} pictures have no joints: {beyond[0]} and others")
    names = [pictures.get(n, f"im{n:04d}.jpg") for n in numbers.tolist()]
    paths = [f"images/{name}" for name in names]
    sizes = picture_sizes(unit.raw, paths)
    finite = np.isfinite(joints).all(axis=(1, 2))
    odd = finite & ~np.isin(joints[..., 2], (0, 1)).all(axis=1)
    points = np.nan_to_num(joints[..., :2])
    _compare(file, points[finite], sizes[finite], release)
    box = np.asarray(geometry.bbox_from_points(points, None, FACTOR))
    flat = finite & ~odd & ~(box[:, 2:] > 0).all(axis=1)
    rejects = [
        Reject("joints.mat", name, reason, detail)
        for reason, bad, detail in (
            ("not_finite", ~finite, "a joint is NaN or infinite"),
            ("flag", odd, "the third row holds other numbers than 0 and 1"),
            ("empty_box", flat, "the joints span no box"),
        )
        for name in np.array(names, str)[bad].tolist()
    ]
    keep = finite & ~odd & ~flat
    filtered = {}
    if unit.detail["filter"] == "mmhuman3d":
        leaves = lsp_files.extent_leaves(points, sizes)
        filtered = {"mmhuman3d": int((keep & leaves).sum())}
        keep &= ~leaves
    count = len(numbers)
    occluded = np.nan_to_num(joints[..., 2]) > 0
    long = lsp_files.long_sides(points, np.ones((count, lsp_files.JOINTS), bool))
    columns = Columns(
        images={
            "id": row_ids(f"lsp/{release}/image", numbers),
            "path": paths,
            "width": sizes[:, 0],
            "height": sizes[:, 1],
        },
        instances={
            "id": row_ids(f"lsp/{release}", numbers),
            "image": np.arange(count, dtype=np.int32),
            "source_id": numbers,
            "bbox_xywh": np.hstack([box, np.ones((count, 1))]).astype(np.float32),
            "keypoints2d": np.dstack([points, np.ones_like(occluded)]).astype(np.float32),
            "keypoints2d_visibility": np.where(occluded, 1, 2).astype(np.uint8),
            "extra/outside": lsp_files.outside(points, sizes),
            "extra/sides_disagree": lsp_files.sides_disagree(points, np.ones_like(occluded), long),
        },
        field_attributes={
            "keypoints2d": {"convention": "lsp", "release": release, "origin": "as released"},
            "keypoints2d_visibility": {"convention": "lsp"},
            "bbox_xywh": {"rule": "extent of the joints", "factor": FACTOR},
        },
        rejects=rejects,
        filtered={rule: left for rule, left in filtered.items() if left},
        records=count,
        notes=notes,
    )
    return take(columns, keep)


def _release(file: Path, joints: Float, wanted: str) -> str:
    """Which release the joints are of, by the size of the people."""
    finite = np.isfinite(joints).all(axis=(1, 2))
    sides = lsp_files.long_sides(joints[finite, :, :2], np.ones(joints[finite].shape[:2], bool))
    typical = float(np.median(sides)) if len(sides) else 0.0
    found = "original" if typical >= ORIGINAL_SIDE else "small"
    if wanted not in ("auto", found):
        raise HumandataError(
            f"{file} is of the {found} release (people are {typical:.0f} px long, typically), not "
            f"of the {wanted} one"
        )
    return found


def _compare(file: Path, points: Float, sizes: NDArray[np.int32], release: str) -> None:
    """Refuse joints that are of other pictures than those beside them.

    A few joints beyond the picture are in the release itself; most people beyond it are not.
    """
    known = (sizes > 0).all(axis=1)
    if not known.any():
        return
    reach = (points[known].max(axis=1) / sizes[known]).max(axis=1)
    too_far = float((reach > 1 + BEYOND).mean())
    tiny = known.sum() >= FEW and float(np.median(reach)) < TINY
    if too_far > 0.5 or tiny:
        words = (
            f"{100 * too_far:.0f} % of the people reach beyond them"
            if too_far > 0.5
            else f"people end at {100 * float(np.median(reach)):.0f} % of them"
        )
        raise DataError(
            file,
            "joints",
            expected=f"joints of the pictures in {file.parent / 'images'}",
            found=f"joints of the {release} release, while {words}",
            hint="joints.mat and pictures are of the two releases, original and small: put those "
            "of one release together",
        )
