"""MuCo-3DHP: composites of one to four persons of MPI-INF-3DHP, with 3D joints and SMPL bodies.

Two distributions are read. ``MuCo-3DHP.json`` with ``smpl_param.json`` (by the author of RootNet
and I2L-MeshNet) has 21 joints in pixels and in the camera frame, a camera for every picture and
bodies for most persons. The official Matlab build has chunks with 17, 21 or 28 joints, whose 3D is
relative to the pelvis, without cameras or bodies (``--option form=``).

What is decided here:

* **Persons** are kept with or without a body, if a joint is flagged (``keypoints_vis``) and the box
  has a size; flags are the confidences in 2D and 3D. People pasted behind others keep all labels.
* **Units**: joints are millimetres and become metres; translations are metres already. The camera
  is the picture's own ``f`` and ``c``, never that of MPI-INF-3DHP; ``R`` and ``T`` are of one take
  though the persons come from several, and are not used.
* **Bodies** are neutral, in the camera frame, fitted by SMPLify-X. A fit with NaN or null is none:
  hmr-benchmarks stops at a null and drops the person at a NaN.
* **Boxes** are the file's, as they are, also where they leave the picture; in chunks they hold the
  joints, enlarged 1.2. hmr-benchmarks cuts its crops at the box itself; training here enlarges it
  by 1.2, as it does every annotator's box.
* Hips and spine of MPI-INF-3DHP are up to a pixel off in 2D, so ``reprojection_error`` is of the
  other joints. Rows 3759 to 5852 of its S4/Seq2 have exchanged sides; which composites hold them
  is not recorded.
* ``--filter hmr-benchmarks`` keeps whom its converter keeps: persons with a sound body whose pelvis
  is flagged. With ``--option keypoints3d=drop`` that is ``muco3dhp_no3dkp_train``, the file of its
  mixes. Its older converter left 3D joints in millimetres. ``--option pictures_of=`` takes the
  augmented or the unaugmented pictures, told by the start of the name: one word contains the other.

Sources: mks0601/3DMPPE_ROOTNET_RELEASE and I2L-MeshNet_RELEASE (data/MuCo), smplbody/hmr-benchmarks
(muco.py), the official scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, keypoints, muco_files, preprocessed, schema
from humandata.checks import blocks
from humandata.columns import take
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError, HumandataError
from humandata.muco_files import Bodies, People
from humandata.picture_sizes import picture_sizes
from humandata.schema import row_ids

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

INFO = DatasetInfo(
    name="muco",
    title="MuCo-3DHP",
    citation="Mehta et al., Single-Shot Multi-Person 3D Pose Estimation From Monocular RGB, "
    "3DV 2018",
    url="https://vcai.mpi-inf.mpg.de/projects/SingleShotMultiPerson",
    licence="research only, by the terms of MPI-INF-3DHP",
    splits=("train",),
    expects=(
        "RAW/MuCo-3DHP.json (or in RAW/data/, RAW/../extras/) with RAW/augmented_set/ and "
        "RAW/unaugmented_set/ (or in RAW/images/, RAW/data/), and RAW/smpl_param.json (or in "
        "RAW/SMPLX/, RAW/data/) if at hand; or the official build, "
        "RAW/unaugmented_set_001/chunk_00001_annot.mat beside its pictures"
    ),
    yields="21 joints in 2D and 3D, cameras, boxes, SMPL in the camera frame",
    options=(
        Option("form", "the JSON or the chunks of the official build", ("auto", "json", "chunks"),
               "auto"),
        Option("pictures_of", "which of the two sets", ("both", "augmented", "unaugmented"),
               "both"),
        Option("filter", "'none', or persons with a body and a flagged pelvis",
               ("none", "hmr-benchmarks"), "none"),
        Option("keypoints3d", "keep the 3D joints, or drop them as muco3dhp_no3dkp_train does",
               ("keep", "drop"), "keep"),
    ),
)  # fmt: skip

JSON_PLACES = ("MuCo-3DHP.json", "data/MuCo-3DHP.json", "../extras/MuCo-3DHP.json",
               "extras/MuCo-3DHP.json")  # fmt: skip
BODY_PLACES = ("smpl_param.json", "SMPLX/smpl_param.json", "data/smpl_param.json",
               "../SMPLX/smpl_param.json")  # fmt: skip
PICTURE_PLACES = ("", "images/", "data/")
PELVIS = 14
SHIFTED = (8, 11, 14, 15)
"""Hips, pelvis and spine, which MPI-INF-3DHP has a pixel off."""
FACTOR = 1.2
SIZE = 2048
RELEASE = schema.field("instances", "smpl/source").vocabulary.index("release")


def find_splits(raw: Path) -> list[str]:
    """``train``, if either distribution is there."""
    if _first(raw, JSON_PLACES) is None and not _chunks(raw):
        raise DataError(raw, expected=INFO.expects, found="neither MuCo-3DHP.json nor chunks")
    return ["train"]


def _first(raw: Path, places: tuple[str, ...]) -> Path | None:
    return next((raw / place for place in places if (raw / place).is_file()), None)


def _chunks(raw: Path) -> list[Path]:
    return sorted({*raw.glob("chunk_*_annot.mat"), *raw.glob("*/chunk_*_annot.mat")})


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit for the JSON and its bodies; or one per chunk.

    Raises
    ------
    DataError
        Neither is there.
    """
    chosen = {option.name: option.default for option in INFO.options} | dict(options)
    file, chunks = _first(raw, JSON_PLACES), _chunks(raw)
    if file is not None and chosen["form"] != "chunks":
        bodies = _first(raw, BODY_PLACES)
        files = (file,) if bodies is None else (file, bodies)
        return [Unit(split, split, raw, files, chosen)]
    if not chunks or chosen["form"] == "json":
        raise DataError(
            raw, f"form {chosen['form']}", expected=INFO.expects,
            found=f"{len(chunks)} chunks" if chunks else "only the JSON" if file else "neither",
        )  # fmt: skip
    if chosen["filter"] != "none":
        raise HumandataError("filter=hmr-benchmarks needs bodies, which the chunks do not have")
    return [
        Unit(chunk.relative_to(raw).as_posix().removesuffix("_annot.mat"), split, raw, (chunk,),
             chosen)
        for chunk in chunks
    ]  # fmt: skip


def read(unit: Unit) -> Columns:
    """Read the JSON, or one chunk.

    Raises
    ------
    DataError
        A file is damaged or of another form.
    """
    return _read_chunk(unit) if unit.files[0].suffix == ".mat" else _read_json(unit)


def _read_json(unit: Unit) -> Columns:
    people = muco_files.read_people(unit.files[0])
    bodies = muco_files.read_bodies(unit.files[1] if len(unit.files) > 1 else None, people.id)
    place, rejects, unsound = _check(unit.files[0], people)
    names = [image.file_name for image in people.images]
    sets = np.array([_set_of(name) for name in names], str)[place] if names else np.zeros(0, str)
    keep = ~unsound & people.flagged.any(axis=1)
    filtered = {"no_labelled_joint": int((~unsound & ~keep).sum())}
    if unit.detail["pictures_of"] != "both":
        other = sets != unit.detail["pictures_of"]
        filtered["other_set"] = int((keep & other).sum())
        keep &= ~other
    if unit.detail["filter"] != "none":
        wanted = bodies.valid & people.flagged[:, PELVIS]
        filtered["hmr-benchmarks"] = int((keep & ~wanted).sum())
        keep &= wanted
    prefix = _prefix(unit.raw, names)
    columns = Columns(
        images=_pictures(people, prefix),
        instances=_persons(unit, people, bodies, place, sets == "augmented"),
        field_attributes={
            "keypoints2d": {"convention": "muco"},
            "keypoints3d": {"convention": "muco", "root": "absolute"},
            "bbox_xywh": {"rule": "of MuCo-3DHP.json", "factor": 1.0},
        },
        rejects=rejects,
        filtered={rule: count for rule, count in filtered.items() if count},
        records=len(people.id),
    )
    if len(unit.files) == 1:
        columns.notes.append("smpl_param.json is not there: nobody has a body")
    if bodies.damaged:
        columns.notes.append(f"{bodies.damaged:,} fits hold NaN or null: no body for these persons")
    del people, bodies  # a million of them fill the memory
    if unit.detail["keypoints3d"] == "drop":
        del columns.instances["keypoints3d"], columns.field_attributes["keypoints3d"]
    return take(columns, keep)


def _check(file: Path, people: People) -> tuple[NDArray[np.intp], list[Reject], Bool]:
    """Place of everyone's picture, and who cannot be used, each once, by the first reason."""
    ids = np.array([image.id for image in people.images], np.int64)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids[order], people.image_id), max(len(ids) - 1, 0))
    place = order[at] if len(ids) else np.zeros(len(people.id), np.intp)
    known = ids[place] == people.image_id if len(ids) else np.zeros(len(people.id), bool)
    values, counts = np.unique(ids, return_counts=True)
    twice = np.isin(people.image_id, values[counts > 1])
    cameras = np.array([_camera(image)[0, 0] > 0 for image in people.images], bool)
    seen = cameras[place] if len(ids) else known
    there = people.flagged
    finite = (np.isfinite(people.pixels) | ~there[..., None]).all(axis=(1, 2))
    finite &= (np.isfinite(people.space) | ~there[..., None]).all(axis=(1, 2))
    flat = there.any(axis=1) & ~((people.box[:, 2:] > 0).all(axis=1)
                                 & np.isfinite(people.box).all(axis=1))  # fmt: skip
    repeated = np.ones(len(people.id), bool)
    repeated[np.unique(people.id, return_index=True)[1]] = False
    form = np.zeros(len(people.id), bool)
    form[list(people.problem)] = True
    bad_path = np.array([preprocessed.leads_out(image.file_name) for image in people.images], bool)
    outside = bad_path[place] if len(ids) else known
    checks = (
        ("image_not_listed", ~known, "its image_id is not among images"),
        ("duplicate_image", twice, "several pictures have its image_id"),
        ("picture_path", outside, "the picture's file_name is no path below the pictures"),
        ("keypoints", form, ""),
        ("not_finite", ~finite, "a flagged joint is NaN or infinite"),
        ("no_camera", ~seen, "its picture has no f and c of two positive numbers"),
        ("empty_box", flat, "the box has no size"),
        ("duplicate_id", repeated, "this annotation id came before"),
    )
    rejects, unsound = [], np.zeros(len(people.id), bool)
    for reason, bad, detail in checks:
        for row in np.flatnonzero(bad & ~unsound).tolist():
            said = detail or people.problem[row]
            rejects.append(Reject(file.name, f"annotation {people.id[row]}", reason, said))
        unsound |= bad
    return place, rejects, unsound


def _set_of(name: str) -> str:
    # "augmented_set" is contained in "unaugmented_set", and folders may lie above either.
    folders = name.split("/")[:-1]
    if any(folder.startswith("unaugmented_set") for folder in folders):
        return "unaugmented"
    return "augmented" if any(folder.startswith("augmented_set") for folder in folders) else ""


def _camera(image: muco_files.Image) -> Float:
    """Intrinsics (3, 3) of a picture; zeros where its f or c is no pair of numbers."""
    matrix = np.zeros((3, 3))
    values = np.array([*image.f, *image.c], np.float64)
    if len(image.f) == len(image.c) == 2 and np.isfinite(values).all() and (values[:2] > 0).all():
        matrix[:] = [[values[0], 0, values[2]], [0, values[1], values[3]], [0, 0, 1]]
    return matrix


def _prefix(raw: Path, names: list[str]) -> str:
    """Folder under RAW that the names are relative to."""
    for place in PICTURE_PLACES:
        if any((raw / (place + name)).exists() for name in names[:100]):
            return place
    return next((place for place in PICTURE_PLACES if (raw / place / "augmented_set").is_dir()), "")


def _pictures(people: People, prefix: str) -> dict[str, Any]:
    images = people.images
    cameras = np.array([_camera(image) for image in images]).reshape(-1, 3, 3)
    return {
        "id": row_ids("muco/image", np.array([image.id for image in images], np.int64)),
        "path": [prefix + image.file_name for image in images],
        "width": np.array([image.width for image in images], np.int32),
        "height": np.array([image.height for image in images], np.int32),
        "intrinsics": cameras.astype(np.float32),
        "intrinsics_source": (cameras[:, 0, 0] > 0).astype(np.uint8),
    }


def _persons(
    unit: Unit, people: People, bodies: Bodies, place: NDArray[np.intp], augmented: Bool
) -> dict[str, NDArray[Any]]:
    count = len(people.id)
    _, _, _, person = preprocessed.group_by_picture([str(row) for row in place.tolist()])
    confidence = people.flagged[..., None]
    instances: dict[str, NDArray[Any]] = {
        "id": row_ids("muco", people.id),
        "image": place.astype(np.int32),
        "person": person,
        "source_id": people.id,
        "bbox_xywh": np.nan_to_num(np.hstack([people.box, np.ones((count, 1))])).astype(np.float32),
        "keypoints2d": _joints(people.pixels, confidence),
        "keypoints3d": _joints(people.space, confidence),
        "reprojection_error": _errors(people, place),
        "extra/augmented": augmented,
    }
    if len(unit.files) > 1:
        valid = preprocessed.put_bodies(
            instances, bodies.pose, bodies.betas, bodies.valid, bodies.transl
        )
        instances["gender"] = np.where(valid, preprocessed.NEUTRAL, 0).astype(np.uint8)
        instances["smpl/source"] = np.where(valid, RELEASE, 0).astype(np.uint8)
    return instances


def _errors(people: People, place: NDArray[np.intp]) -> NDArray[np.float32]:
    """Residual (N,) of the joints whose 2D and 3D agree, pixels; -1 where it is not known."""
    cameras = np.array([_camera(image) for image in people.images]).reshape(-1, 3, 3)
    firm = np.setdiff1d(np.arange(muco_files.JOINTS), SHIFTED)
    found = np.full(len(place), -1, np.float32)
    for rows in blocks(len(place)) if len(cameras) else ():
        seen = (part[rows][:, firm] for part in (people.space, people.pixels, people.flagged))
        space, pixels, flagged = seen
        error = geometry.residual_px(space, pixels, cameras[place[rows]], flagged)
        found[rows] = np.nan_to_num(error, nan=-1, posinf=-1)
    return found


def _joints(points: NDArray[Any], there: Bool) -> NDArray[np.float32]:
    """Joints with their flags for confidences; zeros where there is none."""
    made = np.zeros((*points.shape[:-1], points.shape[-1] + 1), np.float32)
    np.copyto(made[..., :-1], np.nan_to_num(points), where=there)
    made[..., -1:] = there
    return made


def _read_chunk(unit: Unit) -> Columns:
    (file,) = unit.files
    names, pixels, space = muco_files.read_chunk(file)
    pictures, most, joints = pixels.shape[:3]
    folder = file.parent.relative_to(unit.raw).as_posix()
    folder = "" if folder == "." else f"{folder}/"
    paths = [folder + name.rsplit("/", 1)[-1] for name in names]
    pixels, space = pixels.reshape(-1, joints, 2), space.reshape(-1, joints, 3)
    image = np.repeat(np.arange(pictures), most)
    # Pictures with fewer people than others have places that nobody takes.
    empty = ~(np.nan_to_num(pixels) != 0).any(axis=(1, 2))
    finite = np.isfinite(pixels).all(axis=(1, 2)) & np.isfinite(space).all(axis=(1, 2))
    there = np.ones((len(pixels), joints, 1), bool)
    box = np.asarray(geometry.bbox_from_points(np.nan_to_num(pixels), factor=FACTOR))
    unnamed = np.array([not name for name in names], bool)[image]
    flat = ~(box[:, 2:] > 0).all(axis=1)
    rejects, unsound = [], empty.copy()
    for reason, bad, detail in (
        ("no_picture", unnamed, "img_names is empty here"),
        ("not_finite", ~finite, "a joint is NaN or infinite"),
        ("empty_box", flat, "the joints span no box"),
    ):
        for row in np.flatnonzero(bad & ~unsound).tolist():
            record = f"picture {image[row]} ({paths[image[row]]}), person {row % most}"
            rejects.append(Reject(file.name, record, reason, detail))
        unsound |= bad
    convention = muco_files.CONVENTIONS[joints]
    solid = _joints(space, there)
    pelvis = solid[~unsound, keypoints.index(convention, "pelvis_extra"), :3]
    if (np.abs(pelvis) > 1e-6).any():
        raise DataError(
            file, "joint_loc3", expected="joints relative to the pelvis, as the official build has",
            found=f"pelvises up to {float(np.abs(pelvis).max()):.3f} m away from it",
            hint="This is a build of other scripts, whose coordinates are not known",
        )  # fmt: skip
    sizes = picture_sizes(unit.raw, paths)
    sizes[(sizes == 0).any(axis=1)] = SIZE
    number = int("".join(filter(str.isdigit, folder + file.stem)) or 0)
    keep = ~unsound
    if unit.detail["pictures_of"] not in ("both", _set_of(folder)):
        keep[:] = False
    columns = Columns(
        images={
            "id": row_ids(f"muco/{folder}{file.stem}/image", np.arange(pictures)),
            "path": paths,
            "width": sizes[:, 0],
            "height": sizes[:, 1],
        },
        instances={
            "id": row_ids(f"muco/{folder}{file.stem}", np.arange(len(image))),
            "image": image.astype(np.int32),
            "person": (np.arange(len(image)) % most).astype(np.int32),
            "source_id": number * 10_000 + np.arange(len(image), dtype=np.int64),
            "bbox_xywh": np.hstack([box, np.ones((len(box), 1))]).astype(np.float32),
            "keypoints2d": _joints(pixels, there),
            "keypoints3d": solid,
            "extra/augmented": np.full(len(image), _set_of(folder) == "augmented"),
        },
        field_attributes={
            "keypoints2d": {"convention": convention},
            "keypoints3d": {"convention": convention, "root": "pelvis"},
            "bbox_xywh": {"rule": "extent of the joints", "factor": FACTOR},
        },
        rejects=rejects,
        filtered={"other_set": int((~unsound & ~keep).sum())},
        records=int((~empty).sum()),
    )
    columns.filtered = {rule: count for rule, count in columns.filtered.items() if count}
    if unit.detail["keypoints3d"] == "drop":
        del columns.instances["keypoints3d"], columns.field_attributes["keypoints3d"]
    return take(columns, keep)
