"""Import of 4D-Humans (HMR 2.0): training tars with their pictures, and evaluation npz.

What is decided here:

* **Joints** are OpenPose's 25 and the first 19 of SPIN's 24 (``smpl_44``), with the confidences of
  the file. The loader of 4D-Humans distrusts the 3D limbs of OpenPose; an import does not.
* **Boxes** are ``center`` and ``scale``: pixels divided by 200 in tars, pixels in npz files, where
  the scale may be one number. Their factor is not told; it is taken for 1
  (``--option bbox_factor``).
* **Bodies** are valid where ``has_body_pose`` and ``has_betas`` both are; both flags, and poses
  without shape, are kept under ``extra/``. Root rotations are those of the camera of the crop;
  there is no translation.
* **Filters**: none but people without any label. ``--filter 4dhumans`` does what the loader does
  with the published values (``low1.yaml``): confidences below 0.3 become 0; people with 4 labelled
  joints or fewer, with a reprojection loss of 31000 or more, and nine damaged pictures of AIC are
  left out; betas beyond 3 make the body invalid, and so does a pose that AMASS does not have, by
  its histogram, if that lies above the tars (``amass_poses_hist100_SMPL+H_G.npy``, or
  ``--option pose_histogram=FILE``).
* **Pictures** of the tars are read out of them; masks give the field ``area``.

Nothing is unpickled but by the restricted reader.

Source: shubham-goel/4D-Humans, hmr2/datasets/image_dataset.py, hmr2/configs/datasets_tar.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from humandata import (
    fourdhumans_files,
    fourdhumans_poses,
    preprocessed,
    tar_files,
    unpickle,
)
from humandata.converters.converter import Columns, DatasetInfo, Option, Reject, Unit
from humandata.errors import DataError
from humandata.humandata_extra import Leftovers
from humandata.preprocessed import NEUTRAL, SIDE_PER_SCALE, Array, Float

INFO = DatasetInfo(
    name="fourdhumans",
    title="4D-Humans (HMR 2.0) training tars and evaluation npz",
    citation="Goel et al., Humans in 4D: Reconstructing and Tracking Humans with Transformers, "
    "ICCV 2023",
    url="https://github.com/shubham-goel/4D-Humans",
    licence="that of the dataset the file was made from",
    splits=preprocessed.SPLITS,
    expects="a folder of tars (dataset_tars/coco-train-2014-pruned) or one tar as RAW, with the "
    "pictures inside; or a file of hmr2_evaluation_data such as 3dpw_test.npz, with the pictures "
    "beside it or under --option pictures_root=FOLDER",
    yields="44 joints in 2D and 3D, boxes, SMPL, mask areas",
    keypoints2d="smpl_44",
    keypoints3d="smpl_44",
    options=(
        Option("pictures_root", "npz: folder that imgname is relative to; default: the file's"),
        Option(
            "filter", "'none', or the steps of the loader of 4D-Humans", ("none", "4dhumans"),
            "none",
        ),
        Option("pose_histogram", "tars: the histogram for filter=4dhumans; default: the file of "
               "4D-Humans in RAW or up to three folders above"),
        Option("bbox_factor", "how much the boxes were enlarged; default: 1"),
    ),
)  # fmt: skip

BODY, EXTRA = 25, 19
PELVIS = 39
LEAST_CONFIDENCE, FEWEST_JOINTS, LARGEST_LOSS, LARGEST_BETA = 0.3, 4, 31000, 3


def find_splits(raw: Path) -> list[str]:
    """The split that the name of the folder or file speaks of; tars are for training else."""
    shards = _shards(raw)
    if shards:
        return [_split_of(shards)]
    below = (
        [entry.name for entry in sorted(raw.iterdir()) if _shards(entry)] if raw.is_dir() else []
    )
    if below:
        raise DataError(
            raw, expected=INFO.expects, found=f"folders of tars: {', '.join(below)}",
            hint="Each is a data set of its own: give the path of one",
        )  # fmt: skip
    return sorted({preprocessed.split_of(file) for file in _files(raw)})


def _split_of(shards: list[Path]) -> str:
    found = preprocessed.split_of(shards[0].parent)
    return "train" if found == "all" else found


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit per tar; or the npz.

    Raises
    ------
    DataError
        There is neither.
    """
    shards = _shards(raw)
    if not shards:
        file = preprocessed.choose_file(raw, split, _files(raw))
        root = preprocessed.picture_root(raw, options)
        return [Unit(file.stem, split, root, (file,), dict(options))]
    if split != _split_of(shards):
        raise DataError(raw, f"split {split}", expected=_split_of(shards), found="another split")
    root = raw if raw.is_dir() else raw.parent
    histogram = _histogram(root, options)
    return [Unit(shard.stem, split, root, (shard, *histogram), dict(options)) for shard in shards]


def _histogram(root: Path, options: Mapping[str, str]) -> tuple[Path, ...]:
    """The histogram of poses, where the loader's steps are asked for and it is there."""
    if options.get("filter") != "4dhumans":
        return ()
    given = options.get("pose_histogram")
    if given:
        if not Path(given).is_file():
            raise DataError(Path(given), expected="the histogram of poses", found="no such file")
        return (Path(given),)
    above = (folder / fourdhumans_poses.FILE for folder in (root, *root.absolute().parents[:3]))
    return tuple(file for file in above if file.is_file())[:1]


def _shards(raw: Path) -> list[Path]:
    candidates = sorted(raw.iterdir()) if raw.is_dir() else [raw]
    return [file for file in candidates if file.suffix == ".tar" and file.is_file()]


def _files(raw: Path) -> list[Path]:
    return preprocessed.find_files(raw, (".npz",), is_evaluation, INFO.expects)


def is_evaluation(file: Path) -> bool:
    """Whether the member names are those of an evaluation file of 4D-Humans."""
    return preprocessed.kind_of(file) == INFO.name


def read(unit: Unit) -> Columns:
    """Read one tar, or the npz.

    Raises
    ------
    DataError
        It is damaged, or arrays have other shapes.
    UnsafePickle
        Labels would have to run code.
    """
    return _read_tar(unit) if unit.files[0].suffix == ".tar" else _read_npz(unit)


def _read_npz(unit: Unit) -> Columns:
    (file,) = unit.files
    members = unpickle.load_npz(file)
    data = {key: members[key] for key in members}
    if data["imgname"].ndim != 1:
        raise DataError(file, "imgname", expected="a path per person", found="a single value")
    rows = len(data["imgname"])
    rest = Leftovers(file, data, rows)
    paths = preprocessed.read_paths(rest, "imgname")
    images, instances, _ = preprocessed.rows_of_pictures(f"fourdhumans/{file.stem}", paths)
    scale = rest.numbers_array("scale").astype(np.float64)
    if scale.shape not in ((rows,), (rows, 1), (rows, 2)):
        raise DataError(
            file, "scale", expected=f"shape ({rows},) or ({rows}, 2)", found=f"{scale.shape}"
        )
    size = np.broadcast_to(scale.reshape(rows, -1), (rows, 2))
    boxes = preprocessed.centred_boxes(preprocessed.array(rest, "center", (2,)), size)
    joints = {}
    for axes, width in (("2d", 3), ("3d", 4)):
        joints[axes] = np.zeros((rows, BODY + EXTRA, width))
        for part, key in ((slice(BODY), "body"), (slice(BODY, None), "extra")):
            name = f"{key}_keypoints_{axes}"
            if name in rest:
                count = BODY if key == "body" else EXTRA
                joints[axes][:, part] = preprocessed.array(rest, name, (count, width))
    columns = Columns(images, instances, records=rows)
    if "body_pose" in rest and "betas" in rest:
        pose = preprocessed.array(rest, "body_pose", (72,))
        betas = preprocessed.array(rest, "betas", (10,))
        flags = [preprocessed.flag(rest, name) for name in ("has_body_pose", "has_betas")]
        _put_bodies(columns, pose, betas, np.stack(flags, axis=1))
    if "personid" in rest:
        person = preprocessed.array(rest, "personid", ())
        instances["person"] = np.nan_to_num(person, nan=-1).astype(np.int32)
    _put(unit, columns, boxes, joints["2d"], joints["3d"])
    if unit.detail.get("filter") == "4dhumans":
        columns.notes.append("the steps of 4D-Humans' loader are for tars: none was done")
    return preprocessed.finish(file, columns, rest, paths, boxes)


def _read_tar(unit: Unit) -> Columns:
    file, *histogram = unit.files
    strict = unit.detail.get("filter") == "4dhumans"
    density = fourdhumans_poses.densities(histogram[0]) if histogram else None
    people: list[dict[str, Any]] = []
    paths: list[str] = []
    areas: list[int] = []
    rejects: list[Reject] = []
    filtered: dict[str, int] = {}
    records = without_mask = 0
    shard = file.relative_to(unit.raw).as_posix()
    for sample in fourdhumans_files.samples(file):
        records += len(sample.people) + (sample.problem is not None)
        if sample.problem is not None:
            rejects.append(Reject(shard, sample.key, "labels", sample.problem))
        if strict and sample.key in fourdhumans_files.CORRUPT:
            filtered["4dhumans_corrupt"] = filtered.get("4dhumans_corrupt", 0) + len(sample.people)
            continue
        for number, entry in enumerate(sample.people):
            record = f"{sample.key}, person {number}"
            if sample.picture is None:
                detail = "expected a member .jpg, .jpeg or .png of this key"
                rejects.append(Reject(shard, record, "missing_picture", detail))
                continue
            try:
                labels = fourdhumans_files.person(entry)
            except ValueError as error:
                rejects.append(Reject(shard, record, "labels", str(error)))
                continue
            if strict and (rule := _loader(labels, density)) is not None:
                filtered[rule] = filtered.get(rule, 0) + 1
                continue
            people.append(labels)
            paths.append(f"{shard}/{sample.picture}")
            masks, at = sample.masks, labels["mask"]
            known = masks is not None and 0 <= at < len(masks)
            areas.append(int(masks[at].sum()) if masks is not None and known else 0)
            without_mask += not known
    for name in tar_files.repeated(file):
        # Labels that come again are those of another picture, or of the same people.
        if name.endswith(".data.pyd"):
            key = name.removesuffix(".data.pyd")
            rejects.append(Reject(shard, key, "duplicate_key", "this key came before"))
            records += 1
    images, instances, _ = preprocessed.rows_of_pictures(f"fourdhumans/{unit.raw.name}/{shard}",
                                                         paths)  # fmt: skip
    columns = Columns(images, instances, records=records, rejects=rejects, filtered=filtered)
    made = {
        name: np.array([labels[name] for labels in people], np.float64).reshape(-1, *shape)
        for name, shape in fourdhumans_files.SHAPES.items()
    }
    boxes = preprocessed.centred_boxes(made["center"], SIDE_PER_SCALE * made["scale"])
    flags = np.stack([made["has_body_pose"], made["has_betas"]], axis=1) > 0
    _put_bodies(columns, made["body_pose"], made["betas"], flags)
    instances["area"] = np.array(areas, np.float32)
    instances["person"] = np.array([labels["personid"] for labels in people], np.int32)
    losses = np.array([labels["reprojection_loss"] for labels in people], np.float32)
    instances["extra/reprojection_loss"] = losses
    # Every shard has the same fields, with or without labels of a kind.
    _put(unit, columns, boxes, made["keypoints_2d"], made["keypoints_3d"], always=True)
    columns.field_attributes["source_id"] = {"meaning": "row within its tar"}
    if strict and density is None:
        columns.notes.append(
            "4D-Humans' test of poses was not done: --option pose_histogram="
            f"{fourdhumans_poses.FILE} does it"
        )
    return preprocessed.leave_out_unsound(file, columns, paths, boxes)


def _loader(labels: dict[str, Any], density: Float | None) -> str | None:
    """The loader's steps on one person, in its order; the rule that leaves the person out."""
    points = labels["keypoints_2d"]
    points[points[:, 2] < LEAST_CONFIDENCE, 2] = 0
    if (np.abs(labels["betas"]) > LARGEST_BETA).any():
        labels["has_betas"] = np.zeros(())
    if density is not None and labels["has_body_pose"] > 0:
        usable = np.isfinite(labels["body_pose"]).all()
        if not usable or not fourdhumans_poses.probable(labels["body_pose"], density):
            labels["has_body_pose"] = np.zeros(())
    both = float(labels["has_betas"] > 0 and labels["has_body_pose"] > 0)
    labels["has_betas"] = labels["has_body_pose"] = np.asarray(both)
    if (points[:, 2] > 0).sum() <= FEWEST_JOINTS:
        return "4dhumans_few_joints"
    return "4dhumans_fit" if labels["reprojection_loss"] >= LARGEST_LOSS else None


def _put_bodies(columns: Columns, pose: Float, betas: Float, flags: Array) -> None:
    """Bodies with pose and shape; where only one of them is there, it is kept aside."""
    instances = columns.instances
    valid = preprocessed.put_bodies(instances, pose, betas, np.asarray(flags.all(axis=1)), None)
    instances["gender"] = np.where(valid, NEUTRAL, 0).astype(np.uint8)
    instances["smpl/source"] = np.zeros(len(pose), np.uint8)
    instances["extra/has_body_pose"], instances["extra/has_betas"] = flags[:, 0], flags[:, 1]
    posed = flags[:, 0] & preprocessed.finite_rows(pose)
    if (posed & ~valid).any():
        instances["extra/body_pose"] = np.where(posed[:, None], pose, 0).astype(np.float32)


def _put(
    unit: Unit, columns: Columns, boxes: Float, points: Float, joints: Float, always: bool = False
) -> None:
    """Boxes and joints of either form."""
    given = unit.detail.get("bbox_factor")
    try:
        factor = float(given or 1)
    except ValueError as error:
        raise DataError(
            unit.files[0], "bbox_factor", expected="a number", found=f"{given!r}"
        ) from error
    instances, attributes = columns.instances, columns.field_attributes
    instances["bbox_xywh"] = boxes.astype(np.float32)
    source = "user" if given else "assumed"
    attributes["bbox_xywh"] = {
        "rule": "center and scale of 4D-Humans", "factor": factor, "factor_source": source,
    }  # fmt: skip
    for name, values in (("keypoints2d", points), ("keypoints3d", joints)):
        says: dict[str, Any] = {"convention": "smpl_44"}
        if name == "keypoints3d":
            # Shards must not contradict each other: one may be relative to the pelvis by chance.
            says["root"] = "unknown" if always else preprocessed.root_of(values, PELVIS, None)
        if always:
            clean, damaged = preprocessed.clean_joints(values)
            instances[name], attributes[name] = clean, says
            if damaged:
                columns.notes.append(f"{damaged:,} joints of {name} were not finite: confidence 0")
        else:
            preprocessed.put_joints(instances, attributes, name, values, **says)
