"""MPII Human Pose: 16 joints of people in 25,000 pictures, from any of the forms in use.

The official ``.mat`` holds the people of all training pictures (``trainval``). Which of them are
train and which are val (Tompson's division) is said by the lists of the hourglass networks (HDF5)
and of HRNet and MMPose (JSON); with the ``.mat`` beside the HDF5 lists, rows and order are the
lists' and values the ``.mat``'s. ``--option form=`` chooses; by default the ``.mat`` goes before
the HDF5 list (which truncates coordinates to integers), and this before JSON (which does not tell
occluded joints from visible ones). Test pictures have no labels.

Every person with a labelled joint is kept; confidence is 1 for occluded joints too, as in all
peers, and the visibility is kept apart. Coordinates are those of the release, unchanged: peers
disagree whether they count from 0 or 1, values of 0 and below occur, and nobody but MMPose (in the
centre) and HRNet subtracts anything. ``upper neck`` and ``head top`` are computed by the release.

Boxes are squares of 250 * scale about the rough position, moved down by 15 * scale: what the
hourglass lists have baked in and SPIN, mmhuman3d and EFT use. Where a form has it applied already,
it is not applied again. ``--option box=mmpose`` makes MMPose's (200 * scale, a pixel up and left),
``box=posepile`` posepile's (200 * scale). The option ``filter`` keeps what peers keep:

* ``mmhuman3d``: all 32 coordinates, truncated to integers, above 0 (SPIN, mmhuman3d, EFT). It drops
  people with a joint on the border as well, and gives the published counts from any form.
* ``posepile``: people listed in ``single_person``, which the official file alone has.

Sources: README of the release; pose-hg-train, SPIN, mmhuman3d, HRNet and MMPose for its copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata import mpii_files
from humandata.columns import take
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError, HumandataError
from humandata.mpii_files import People
from humandata.picture_sizes import picture_sizes
from humandata.schema import row_ids

INFO = DatasetInfo(
    name="mpii",
    title="MPII Human Pose",
    citation="Andriluka et al., 2D Human Pose Estimation: New Benchmark and State of the Art "
    "Analysis, CVPR 2014",
    url="http://human-pose.mpi-inf.mpg.de",
    licence="annotations Simplified BSD; pictures for research only",
    splits=("train", "val", "trainval"),
    expects=(
        "RAW/images/ and RAW/mpii_human_pose_v1_u12_2/mpii_human_pose_v1_u12_1.mat, "
        "RAW/annot/{train,valid}.h5, RAW/annot/{train,valid,trainval}.json or "
        "RAW/annotations/mpii_{train,val,trainval}.json"
    ),
    yields="16 keypoints with visibility, box, scale; head boxes and actions of the official file",
    keypoints2d="mpii",
    options=(
        Option("form", "which annotations to read", ("auto", "mat", "h5", "json"), "auto"),
        Option(
            "filter",
            "'none' keeps every person with a labelled joint; 'mmhuman3d' (SPIN, EFT) those whose "
            "coordinates are all above 0; 'posepile' those marked as apart from others",
            ("none", "mmhuman3d", "posepile"),
            "none",
        ),
        Option(
            "box",
            "250 * scale (official: SPIN, mmhuman3d), or MMPose's or posepile's 200 * scale",
            ("official", "mmpose", "posepile"),
            "official",
        ),
    ),
)

BOXES = {"official": (1.25, 0.0), "mmpose": (1.0, -1.0), "posepile": (1.0, 0.0)}
"""Rule -> side of the box over 200 * scale, and by how many pixels its centre moves."""
MOST_PEOPLE = 1000
"""More than any picture holds: row ids are made of picture and person."""


def find_splits(raw: Path) -> list[str]:
    """Splits of which annotations of some form are there."""
    found = [split for split in INFO.splits if _forms(raw, split)]
    if not found:
        raise DataError(raw, expected=INFO.expects, found="no annotations of MPII")
    return found


def _forms(raw: Path, split: str) -> dict[str, tuple[Path, ...]]:
    """Forms in which a split can be read, the preferred one first, with their files."""
    official, listed = (mpii_files.find(raw, kind, split) for kind in ("mat", "h5"))
    one, plain = (mpii_files.find(raw, kind, split) for kind in ("one_h5", "json"))
    heads = mpii_files.find(raw, "heads", split)
    forms: dict[str, tuple[Path, ...]] = {}
    if official is not None and split == "trainval":
        forms["mat"] = (official,)
    elif official is not None and listed is not None:
        forms["mat"] = (official, listed)
    if listed is not None:
        forms["h5"] = (listed,)
    elif one is not None and split == "trainval":
        forms["h5"] = (one,)
    if plain is not None:
        forms["json"] = (plain,) if heads is None else (plain, heads)
    return forms


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit: the annotations of the split, in the chosen form."""
    chosen = {option.name: option.default for option in INFO.options} | dict(options)
    forms = _forms(raw, split)
    form = chosen["form"] if chosen["form"] != "auto" else next(iter(forms), "")
    if form not in forms:
        hint = None
        if mpii_files.find(raw, "mat", split) is not None:
            hint = (
                "The .mat does not say who is train and who is val: convert --split trainval, or "
                "put the lists annot/train.h5 and annot/valid.h5 of the hourglass networks "
                "(pose-hg-train) beside it"
            )
        raise DataError(
            raw,
            f"split {split}, form {chosen['form']}",
            expected=INFO.expects,
            found=f"only {', '.join(forms)}" if forms else "no annotations of this split",
            hint=hint,
        )
    if chosen["filter"] == "posepile" and form != "mat":
        raise HumandataError("filter=posepile needs single_person, which only the .mat file has")
    return [Unit(split, split, raw, forms[form], {**chosen, "form": form})]


def read(unit: Unit) -> Columns:
    """Read the annotations of a split.

    Raises
    ------
    DataError
        If a file is damaged or of another form.
    """
    people = _people(unit)
    rows = len(people)
    labelled = people.visibility > 0
    side, shift = BOXES[unit.detail["box"]]
    width = 200 * side * people.scale
    low = people.centre + shift + np.stack([0 * width, mpii_files.SHIFT * people.scale], 1)
    box = np.column_stack([low - width[:, None] / 2, width, width, np.ones(rows)])
    rejects, unsound = _rejects(unit, people)
    keep = ~unsound & labelled.any(axis=1)
    filtered = dict(people.skipped)
    filtered["no_labelled_joint"] = int((~unsound & ~keep).sum())
    if unit.detail["filter"] != "none":
        wanted = _wanted(people, labelled, unit.detail["filter"])
        filtered[unit.detail["filter"]] = int((keep & ~wanted).sum())
        keep &= wanted
    keypoints = np.where(labelled[..., None], people.joints, 0)
    names, image = np.unique(np.array(people.picture, str), return_inverse=True)
    paths = [f"images/{name}" for name in names.tolist()]
    sizes = picture_sizes(unit.raw, paths)
    instances = {
        "id": row_ids(*_keys(unit, people)),
        "image": image.astype(np.int32),
        "person": people.person.astype(np.int32),
        "bbox_xywh": np.nan_to_num(box).astype(np.float32),
        "keypoints2d": np.nan_to_num(np.dstack([keypoints, labelled])).astype(np.float32),
        "keypoints2d_visibility": people.visibility,
        "extra/objpos": np.nan_to_num(people.centre).astype(np.float32),
        "extra/scale": np.nan_to_num(people.scale).astype(np.float32),
    }
    if np.isfinite(people.head).all(axis=1).any():
        instances["extra/head_box"] = np.nan_to_num(people.head).astype(np.float32)
    if people.apart is not None:
        instances["extra/apart"] = people.apart
    images = {
        "id": row_ids("mpii/image", np.array([_number(n) for n in names.tolist()], np.int64)),
        "path": paths,
        "width": sizes[:, 0],
        "height": sizes[:, 1],
    }
    columns = Columns(
        images=images,
        instances=instances,
        field_attributes={
            "keypoints2d": {"convention": "mpii", "origin": "as released"},
            "keypoints2d_visibility": {"convention": "mpii"},
            "bbox_xywh": {"rule": f"position and scale, {unit.detail['box']}", "factor": side},
            "extra/head_box": {"meaning": "corners x1, y1, x2, y2 of the head rectangle"},
        },
        rejects=rejects,
        filtered={rule: count for rule, count in filtered.items() if count},
        records=rows + sum(people.skipped.values()),
        notes=_notes(unit),
    )
    columns.field_attributes = {
        name: attributes
        for name, attributes in columns.field_attributes.items()
        if name in instances
    }
    if people.sequence is not None and people.sequences:
        place = np.full(len(names), -1, np.int32)
        place[image] = people.sequence
        images["sequence"] = place
        columns.sequences = {
            "name": [video for video, _ in people.sequences],
            "action": [action for _, action in people.sequences],
        }
    return take(columns, keep)


def _people(unit: Unit) -> People:
    files = unit.files
    if unit.detail["form"] == "h5":
        return mpii_files.read_hourglass(files[0])
    if unit.detail["form"] == "json":
        return mpii_files.read_list(files[0], files[1] if len(files) > 1 else None)
    people = mpii_files.read_official(files[0])
    if unit.split == "trainval":
        return people
    return mpii_files.choose(people, mpii_files.read_hourglass(files[1]), files[1])


def _wanted(people: People, labelled: NDArray[np.bool_], rule: str) -> NDArray[np.bool_]:
    if rule == "posepile":
        assert people.apart is not None
        return people.apart
    # The lists these peers read hold integers: 0.6 has become 0 there and does not count as above.
    whole = np.where(labelled[..., None], np.trunc(people.joints), 0)
    return np.asarray((whole > 0).all(axis=(1, 2)))


def _number(name: str) -> int:
    """The number in a picture's name; a hash of the name where it is no number."""
    stem = Path(name).stem
    if stem.isdecimal():
        return int(stem)
    return int(row_ids(name, np.zeros(1, np.int64)).view(np.int64)[0])


def _keys(unit: Unit, people: People) -> tuple[str, NDArray[np.int64]]:
    """Namespace and keys of the rows: place in the release, else picture and place in it."""
    if (people.index >= 0).all() and (people.person >= 0).all():
        return "mpii", people.index * MOST_PEOPLE + people.person
    seen: dict[str, int] = {}
    keys = np.zeros(len(people), np.int64)
    for row, name in enumerate(people.picture):
        keys[row] = _number(name) * MOST_PEOPLE + seen.get(name, 0)
        seen[name] = seen.get(name, 0) + 1
    return f"mpii/{unit.detail['form']}", keys


def _rejects(unit: Unit, people: People) -> tuple[list[Reject], NDArray[np.bool_]]:
    """People who cannot be used, each once, by the first reason."""
    labelled = people.visibility > 0
    some = labelled.any(axis=1)
    finite = (np.isfinite(people.joints) | ~labelled[..., None]).all(axis=(1, 2))
    problem = np.zeros(len(people), bool)
    problem[list(people.problems)] = True
    checks = [
        ("", problem, ""),
        ("no_picture", np.array([not name for name in people.picture], bool), "no picture named"),
        ("not_finite", ~finite, "a labelled joint is NaN or infinite"),
        ("no_position", some & ~np.isfinite(people.centre).all(axis=1), "objpos is not given"),
        ("no_scale", some & ~(people.scale > 0), "scale is not given, or not above 0"),
        ("duplicate_person", _repeated(people), "this person came before"),
    ]
    rejects = []
    seen = np.zeros(len(people), bool)
    shown = unit.files[0].name
    for reason, bad, detail in checks:
        for row in np.flatnonzero(bad & ~seen).tolist():
            why, said = people.problems[row] if not reason else (reason, detail)
            place = people.person[row] if people.person[row] >= 0 else f"at row {row}"
            rejects.append(Reject(shown, f"{people.picture[row]}, person {place}", why, said))
        seen |= bad
    return rejects, seen


def _repeated(people: People) -> NDArray[np.bool_]:
    """Rows that repeat one before them: place in the release, or without it, all values."""
    placed = (people.index >= 0) & (people.person >= 0)
    seen: set[tuple[object, ...]] = set()
    repeated = np.zeros(len(people), bool)
    for row, name in enumerate(people.picture):
        key: tuple[object, ...] = (int(people.index[row]), int(people.person[row]))
        if not placed[row]:
            values = (people.centre[row], people.scale[row], people.joints[row])
            key = (name, *(np.asarray(value).tobytes() for value in values))
        repeated[row] = key in seen
        seen.add(key)
    return repeated


def _notes(unit: Unit) -> list[str]:
    notes = [f"read from {unit.files[0].name} (form {unit.detail['form']})"]
    if unit.split == "trainval":
        notes.append("trainval repeats the people of train and val: mix it with neither")
        if not any(_forms(unit.raw, split) for split in ("train", "val")):
            notes.append(
                "for train and val apart, put the lists annot/train.h5 and annot/valid.h5 of the "
                "hourglass networks (pose-hg-train) beside the .mat"
            )
    return notes
