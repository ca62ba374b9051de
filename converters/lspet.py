"""LSP-Extended: 14 joints of 10,000 people from Flickr, or HR-LSPET, its high resolution subset.

The release is told by its files: ``images/im00001.jpg`` and 10,000 joints for the original, PNG
files and as many joints for HR-LSPET (``--option release=`` chooses). In the original the number in
a picture's name says which joints are its own. In HR-LSPET names have gaps and joints follow the
sorted names, so one missing picture would shift all that follow: there must be as many as joints.

The flag of the original says 1 for a labelled joint (in LSP it says 1 for an occluded one).
Unlabelled joints hold a zero and a negative number; they get confidence 0 and do not count for the
box, which holds the labelled ones, enlarged 1.2 about its centre and not clipped. Left and right
are meant as the person's, but were exchanged by some of the annotators: ``extra/sides_disagree``
marks clear views whose shoulders and hips contradict each other. ``extra/outside`` marks joints
beyond the picture. Coordinates are as released: whether MATLAB's count from 1 is meant is not
known, and no reader subtracts anything.

Where this differs from the peers, all of which ignore the flag:

* SPIN, 4D-Humans, EFT and mmhuman3d give all 14 joints confidence 1 and make the box of all of
  them, which on the original release doubles its side; ``--option joints=all`` does the same.
* mmhuman3d and hmr-benchmarks leave out pictures with a joint beyond the picture
  (``--option filter=mmhuman3d``): of the original that is most of them.
* EFT wants six labelled joints (``filter=eft``).
* All peers pair HR-LSPET's pictures and joints without looking whether their numbers agree.

Sources: README of the release; nkolot/SPIN (hr_lspet.py), mmhuman3d (lsp_extended.py), TUCH.
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

Bool = NDArray[np.bool_]

INFO = DatasetInfo(
    name="lspet",
    title="Leeds Sports Pose Extended",
    citation="Johnson and Everingham, Learning Effective Human Pose Estimation from Inaccurate "
    "Annotation, CVPR 2011",
    url="https://sam.johnson.io/research/lspet.html",
    licence="research with citation",
    splits=("train",),
    expects=(
        "RAW/joints.mat with RAW/images/im00001.jpg ... (original release), or with "
        "RAW/im00001.png ... (HR-LSPET)"
    ),
    yields="14 keypoints, box",
    keypoints2d="lsp",
    options=(
        Option("release", "which release it is", ("auto", "original", "hr"), "auto"),
        Option(
            "filter",
            "'none' keeps people with a labelled joint; 'eft' those with six; 'mmhuman3d' those "
            "whose 14 joints all lie in the picture",
            ("none", "eft", "mmhuman3d"),
            "none",
        ),
        Option(
            "joints",
            "'labelled' by the release's flag; 'all' 14 count, as SPIN and mmhuman3d have it",
            ("labelled", "all"),
            "labelled",
        ),
    ),
)

ROOTS = ("", "lspet_dataset", "hr-lspet", "lspet", "LSPET")
FOLDERS = {"original": ("images/", ""), "hr": ("", "images/", "images_highres/")}
ENDING = {"original": "jpg", "hr": "png"}
DIGITS = 5
FACTOR = 1.2
EFT_JOINTS = 6


def find_splits(raw: Path) -> list[str]:
    """``train``, if the joints are there."""
    if not _roots(raw):
        raise DataError(raw, expected=INFO.expects, found="no joints.mat")
    return ["train"]


def _roots(raw: Path) -> list[Path]:
    return [raw / name for name in ROOTS if (raw / name / "joints.mat").is_file()]


def _root(raw: Path, release: str = "auto") -> Path:
    """The folder with ``joints.mat``: RAW, or a folder in it with one of the customary names."""
    roots = _roots(raw)
    if not roots:
        raise DataError(raw, expected=INFO.expects, found="no joints.mat")
    if release != "auto":
        fitting = [root for root in roots if _pictures(root, release)[1]]
        return (fitting or roots)[0]
    if len(roots) > 1:
        places = ", ".join(root.name for root in roots)
        raise HumandataError(
            f"{raw} holds several releases ({places}): choose with --option release=original or hr"
        )
    return roots[0]


def _pictures(root: Path, release: str) -> tuple[str, dict[int, str]]:
    """Folder and pictures, by number, of a release; none where they are not there."""
    for folder in FOLDERS[release]:
        found = lsp_files.numbered(root / folder, ENDING[release], DIGITS)
        if found:
            return folder, found
    return FOLDERS[release][0], {}


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: ``joints.mat``."""
    chosen = {option.name: option.default for option in INFO.options} | dict(options)
    root = _root(raw, chosen["release"])
    if chosen["release"] == "auto":
        chosen["release"] = "hr" if _pictures(root, "hr")[1] else "original"
    return [Unit(split, split, root, (root / "joints.mat",), chosen)]


def read(unit: Unit) -> Columns:
    """Read the joints of all pictures.

    Raises
    ------
    DataError
        If the file is damaged or LSP's, or HR-LSPET has not as many pictures as joints.
    """
    (file,) = unit.files
    release = unit.detail["release"]
    joints = lsp_files.read_joints(file, lsp_files.EXTENDED)
    count = len(joints)
    folder, pictures = _pictures(unit.raw, release)
    notes = [f"this is the {'high resolution' if release == 'hr' else 'original'} release"]
    if release == "hr":
        if len(pictures) != count:
            raise DataError(
                file,
                "joints",
                expected=f"joints of {len(pictures)} pictures, as many as there are PNG files",
                found=f"joints of {count}",
                hint="Joints follow the sorted pictures: with one missing all would be wrong. "
                "Unpack HR-LSPET again",
            )
        numbers = np.array(list(pictures), np.int64)
    else:
        numbers = np.arange(1, count + 1)
        if not lsp_files.is_official(joints, lsp_files.EXTENDED):
            notes.append(lsp_files.UNOFFICIAL)
        beyond = [name for number, name in pictures.items() if number > count]
        if beyond:
            notes.append(f"{len(beyond):,} pictures have no joints: {beyond[0]} and others")
    names = [pictures.get(n, f"im{n:05d}.{ENDING[release]}") for n in numbers.tolist()]
    paths = [folder + name for name in names]
    points, flag = joints[..., :2], joints[..., 2]
    finite: Bool = np.asarray(np.isfinite(joints).all(axis=(1, 2)))
    labelled = (flag > 0) & finite[:, None]
    if release == "hr" and not labelled.any():
        labelled[:] = finite[:, None]
        notes.append("no joint is flagged as labelled: the flag is not used")
    some: Bool = np.asarray(labelled.any(axis=1))
    if unit.detail["joints"] == "all":
        labelled = np.broadcast_to(finite[:, None], labelled.shape).copy()
    points = np.nan_to_num(points)
    box = np.asarray(geometry.bbox_from_points(points, labelled, FACTOR))
    flat = labelled.any(axis=1) & ~(box[:, 2:] > 0).all(axis=1)
    sizes = picture_sizes(unit.raw, paths)
    rejects = [
        Reject("joints.mat", name, reason, detail)
        for reason, bad, detail in (
            ("not_finite", ~finite, "a joint is NaN or infinite"),
            ("empty_box", flat, "the labelled joints span no box"),
        )
        for name in np.array(names)[bad].tolist()
    ]
    keep = finite & some & ~flat
    filtered = {"no_labelled_joint": int((finite & ~some & ~flat).sum())}
    rule = unit.detail["filter"]
    if rule != "none":
        wanted = (
            labelled.sum(axis=1) >= EFT_JOINTS
            if rule == "eft"
            else ~lsp_files.extent_leaves(points, sizes)
        )
        filtered[rule] = int((keep & ~wanted).sum())
        keep &= wanted
    keypoints = np.dstack([np.where(labelled[..., None], points, 0), labelled])
    long = lsp_files.long_sides(points, labelled)
    columns = Columns(
        images={
            "id": row_ids(f"lspet/{release}/image", numbers),
            "path": paths,
            "width": sizes[:, 0],
            "height": sizes[:, 1],
        },
        instances={
            "id": row_ids(f"lspet/{release}", numbers),
            "image": np.arange(count, dtype=np.int32),
            "source_id": numbers,
            "bbox_xywh": np.hstack([box, np.ones((count, 1))]).astype(np.float32),
            "keypoints2d": keypoints.astype(np.float32),
            "extra/outside": lsp_files.outside(points, sizes) & labelled,
            "extra/sides_disagree": lsp_files.sides_disagree(points, labelled, long),
        },
        field_attributes={
            "keypoints2d": {
                "convention": "lsp",
                "release": release,
                "origin": "as released",
            },
            "bbox_xywh": {
                "rule": f"extent of the {unit.detail['joints']} joints",
                "factor": FACTOR,
            },
        },
        rejects=rejects,
        filtered={name: left for name, left in filtered.items() if left},
        records=count,
        notes=notes,
    )
    return take(columns, keep)
