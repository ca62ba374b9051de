"""3D Poses in the Wild: the sequence pickles of the official release.

One row per actor and frame whose ``campose_valid`` is set; actors outer, frames inner, as in SPIN
and mmhuman3d. SMPL's root rotation and translation are moved into the camera frame with the pelvis
offset, which needs no body model: the release's ``jointPositions[:, 0] - trans`` is the rest-pose
pelvis. Joints 3D are the 24 SMPL joints in the camera frame, metres, not root-centred.

Where this differs from the peers:

* mmhuman3d and SPIN offer train and test; the validation split is here too.
* mmhuman3d rotates the root only and drops the translation; here both are in the camera frame.
* SPIN and mmhuman3d stop at a frame without detections; here the row stays, with confidence 0 and
  the box from the projected joints.
* 2D keypoints are OpenPose detections with their confidence, not ground truth; a point further
  outside the picture than the picture is large has confidence 0 (outliers of the release).

Boxes hold the detected joints, enlarged 1.2 about their centre, not clipped to the picture.

Format: the README of the release, https://virtualhumans.mpi-inf.mpg.de/3DPW/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import geometry, unpickle
from humandata.converters.converter import Columns, DatasetInfo, Reject, Unit
from humandata.errors import DataError
from humandata.schema import row_ids

INFO = DatasetInfo(
    name="pw3d",
    title="3D Poses in the Wild",
    citation="von Marcard et al., Recovering Accurate 3D Human Pose in the Wild Using IMUs and a "
    "Moving Camera, ECCV 2018",
    url="https://virtualhumans.mpi-inf.mpg.de/3DPW",
    licence="non-commercial research, by the terms of the 3DPW page",
    splits=("train", "validation", "test"),
    expects="RAW/sequenceFiles/{train,validation,test}/*.pkl and RAW/imageFiles/<sequence>/*.jpg",
    yields="gendered SMPL in the camera frame, 24 SMPL joints in 3D, 18 detected joints in 2D, "
    "cameras",
    keypoints2d="pw3d",
    keypoints3d="smpl",
)

Float = NDArray[np.float64]

BOX_FACTOR = 1.2
GENDERS = {"m": 2, "f": 3}
"""The release's letters and the codes of the field ``gender``."""
SHAPES: dict[str, tuple[int | str, ...]] = {
    "poses": ("N", 72),
    "trans": ("N", 3),
    "jointPositions": ("N", 72),
    "poses2d": ("N", 3, 18),
    "campose_valid": ("N",),
}
"""Arrays the pickle holds per actor; N is the number of frames."""
PELVIS_SPREAD = 0.001
"""Metres by which an actor's rest-pose pelvis may move between frames; more is a wrong file."""


def find_splits(raw: Path) -> list[str]:
    """Splits whose folder holds pickles."""
    found = [split for split in INFO.splits if _files(raw, split)]
    if not found:
        raise DataError(raw, expected=INFO.expects, found="no sequence pickles")
    return found


def plan(raw: Path, split: str, options: Mapping[str, str]) -> list[Unit]:
    """One unit per sequence, sorted by name; the split is that of the folder."""
    files = _files(raw, split)
    if not files:
        raise DataError(raw, f"split {split}", expected=INFO.expects, found="no sequence pickles")
    return [Unit(file.stem, split, raw, (file,)) for file in files]


def _files(raw: Path, split: str) -> list[Path]:
    # Some archives unpack to sequenceFiles/sequenceFiles.
    for folder in ("sequenceFiles", "sequenceFiles/sequenceFiles"):
        files = sorted((raw / folder / split).glob("*.pkl"))
        if files:
            return files
    return []


def read(unit: Unit) -> Columns:
    """Read one sequence.

    Raises
    ------
    DataError
        If the pickle is damaged, or a key or shape is not that of the release.
    """
    (file,) = unit.files
    data = unpickle.load(file)
    frames, actors = _check(file, data)
    extrinsics = np.asarray(data["cam_poses"], np.float64)
    intrinsics = np.asarray(data["cam_intrinsics"], np.float64)
    width, height = (round(float(2 * c)) for c in intrinsics[:2, 2])
    people = [
        _actor(unit, file, data, actor, extrinsics, intrinsics, (width, height))
        for actor in range(actors)
    ]
    frame = np.concatenate([person.pop("frame") for person in people])
    instances = {name: np.concatenate([p[name] for p in people]) for name in people[0]}
    used, image = np.unique(frame, return_inverse=True)
    rejects, sound = _rejects(file, unit, instances, frame)
    valid = [np.asarray(v[:frames]).astype(bool) for v in data["campose_valid"]]
    invalid = sum(int((~v).sum()) for v in valid)
    columns = Columns(
        images=_images(unit, used, extrinsics, intrinsics, (width, height)),
        instances={"image": image.astype(np.int32), **instances},
        sequences={
            "name": [unit.name],
            "subject": [", ".join(str(g) for g in data["genders"])],
            "camera": ["moving phone"],
        },
        field_attributes={
            "keypoints2d": {"convention": "pw3d", "source": "OpenPose detections"},
            "keypoints3d": {"convention": "smpl", "root": "absolute"},
            "bbox_xywh": {
                "rule": "extent of the detected joints; of the projected 3D joints where none",
                "factor": BOX_FACTOR,
            },
        },
        rejects=rejects,
        filtered={"campose_invalid": invalid} if invalid else {},
        records=frames * actors,
    )
    return columns if sound.all() else _keep(columns, sound)


def _keep(columns: Columns, sound: NDArray[np.bool_]) -> Columns:
    from humandata.columns import take

    return take(columns, sound)


def _check(file: Path, data: Any) -> tuple[int, int]:
    """Number of frames and actors, after comparing every key and shape with the release's."""
    if not isinstance(data, Mapping):
        raise DataError(file, expected="a dictionary", found=type(data).__name__)
    wanted = [*SHAPES, "betas", "genders", "cam_poses", "cam_intrinsics", "sequence"]
    missing = [key for key in wanted if key not in data]
    if missing:
        raise DataError(
            file,
            expected="the keys of a 3DPW sequence",
            found=f"no {', '.join(missing)}",
            hint="Is this a pickle of sequenceFiles/?",
        )
    frames, actors = len(data["cam_poses"]), len(data["poses"])
    _need(file, "cam_poses", data["cam_poses"], (frames, 4, 4))
    _need(file, "cam_intrinsics", data["cam_intrinsics"], (3, 3))
    for key, shape in SHAPES.items():
        if len(data[key]) != actors:
            raise DataError(file, key, expected=f"{actors} actors", found=str(len(data[key])))
        for actor, values in enumerate(data[key]):
            full = tuple(frames if n == "N" else int(n) for n in shape)
            _need(file, f"{key}, actor {actor}", values, full)
    for actor, betas in enumerate(data["betas"]):
        if np.size(betas) < 10:
            raise DataError(
                file, f"betas, actor {actor}", expected="at least 10", found=str(np.size(betas))
            )
    unknown = [str(g) for g in data["genders"] if str(g) not in GENDERS]
    if unknown:
        raise DataError(file, "genders", expected="'m' or 'f'", found=repr(unknown[0]))
    return frames, actors


def _need(file: Path, record: str, values: Any, shape: tuple[int, ...]) -> None:
    found = np.shape(values)
    if found != shape:
        raise DataError(file, record, expected=f"shape {shape}", found=f"shape {found}")


def _actor(
    unit: Unit,
    file: Path,
    data: Mapping[str, Any],
    actor: int,
    extrinsics: Float,
    intrinsics: Float,
    size: tuple[int, int],
) -> dict[str, NDArray[Any]]:
    """All columns of one actor, rows where its camera is valid."""
    frame = np.flatnonzero(np.asarray(data["campose_valid"][actor]))
    rows = len(frame)
    world = np.asarray(data["jointPositions"][actor], np.float64)[frame].reshape(-1, 24, 3)
    pose = np.asarray(data["poses"][actor], np.float64)[frame].reshape(-1, 24, 3)
    trans = np.asarray(data["trans"][actor], np.float64)[frame]
    pelvis = world[:, 0] - trans
    spread = float(np.ptp(pelvis, axis=0).max()) if rows else 0.0
    if spread > PELVIS_SPREAD:
        raise DataError(
            file,
            f"actor {actor}",
            expected="jointPositions[:, :3] - trans to be one rest-pose pelvis",
            found=f"a spread of {spread * 1000:.1f} mm",
        )
    camera = extrinsics[frame]
    orient, transl = geometry.smpl_to_camera(pose[:, 0], trans, pelvis, camera)
    joints = np.asarray(geometry.transform(camera, world), np.float64)
    projected = np.asarray(geometry.project(joints, intrinsics), np.float64)
    detected = _detections(np.asarray(data["poses2d"][actor], np.float64)[frame], size)
    box = _boxes(detected, projected, joints[..., 2] > 0)
    error = _residual(detected, joints, intrinsics)
    keypoints3d = np.concatenate([joints, np.ones((rows, 24, 1))], axis=2)
    gender = np.full(rows, GENDERS[str(data["genders"][actor])], np.uint8)
    betas = np.asarray(data["betas"][actor], np.float64).ravel()[:10]
    return {
        "frame": frame,
        "id": row_ids(f"pw3d/{unit.split}/{unit.name}/actor{actor}", frame),
        "person": np.full(rows, actor, np.int32),
        "bbox_xywh": np.hstack([box, np.ones((rows, 1))]).astype(np.float32),
        "keypoints2d": detected.astype(np.float32),
        "keypoints3d": keypoints3d.astype(np.float32),
        "smpl/global_orient": orient.astype(np.float32),
        "smpl/body_pose": pose[:, 1:].astype(np.float32),
        "smpl/betas": np.tile(betas, (rows, 1)).astype(np.float32),
        "smpl/transl": transl.astype(np.float32),
        "smpl/valid": np.ones(rows, bool),
        "smpl/transl_valid": np.ones(rows, bool),
        "smpl/source": np.full(rows, 1, np.uint8),
        "gender": gender,
        "actor_gender": gender,
        "reprojection_error": error.astype(np.float32),
    }


def _detections(poses2d: Float, size: tuple[int, int]) -> Float:
    """Channels-first detections to (N, 18, 3); far outliers and missing points are all zero."""
    points = poses2d.transpose(0, 2, 1).copy()
    limit = np.array(size, np.float64)
    outside = ((points[..., :2] < -limit) | (points[..., :2] > 2 * limit)).any(axis=-1)
    points[outside | ~(points[..., 2] > 0) | ~np.isfinite(points).all(axis=-1)] = 0
    return points


def _boxes(detected: Float, projected: Float, in_front: NDArray[np.bool_]) -> Float:
    """Extent of the detected joints, or of the projected ones, enlarged about the centre."""
    seen = detected[..., 2] > 0
    box = geometry.bbox_from_points(detected[..., :2], seen, BOX_FACTOR)
    other = geometry.bbox_from_points(projected, in_front, BOX_FACTOR)
    # One point, or points on a line, make no box.
    usable = np.asarray(seen.any(axis=1) & (box[:, 2:] > 0).all(axis=1))
    result: Float = np.where(usable[:, None], box, other)
    return result


# Joints that OpenPose's 18 and SMPL's 24 share: elbows, wrists, knees, ankles, shoulders.
_DETECTED = [2, 3, 4, 5, 6, 7, 9, 10, 12, 13]
_SMPL = [17, 19, 21, 16, 18, 20, 5, 8, 4, 7]


def _residual(detected: Float, joints: Float, intrinsics: Float) -> Float:
    """Mean distance of the projected joints to the detected ones, pixels; -1 where none."""
    points = detected[:, _DETECTED]
    return geometry.residual_px(joints[:, _SMPL], points[..., :2], intrinsics, points[..., 2] > 0)


def _images(
    unit: Unit, frames: NDArray[Any], extrinsics: Float, intrinsics: Float, size: tuple[int, int]
) -> dict[str, Any]:
    rows = len(frames)
    return {
        "id": row_ids(f"pw3d/{unit.split}/{unit.name}/image", frames),
        # The picture's number is the place in the arrays; img_frame_ids counts 60 Hz samples.
        "path": [f"imageFiles/{unit.name}/image_{frame:05d}.jpg" for frame in frames.tolist()],
        "width": np.full(rows, size[0], np.int32),
        "height": np.full(rows, size[1], np.int32),
        "sequence": np.zeros(rows, np.int32),
        "frame": frames.astype(np.int32),
        "intrinsics": np.tile(intrinsics, (rows, 1, 1)).astype(np.float32),
        "intrinsics_source": np.ones(rows, np.uint8),
        "extrinsics": extrinsics[frames].astype(np.float32),
    }


def _rejects(
    file: Path, unit: Unit, instances: Mapping[str, NDArray[Any]], frame: NDArray[Any]
) -> tuple[list[Reject], NDArray[np.bool_]]:
    """Rows whose numbers are not numbers, or whose person is behind the camera."""
    numbers = ("smpl/global_orient", "smpl/body_pose", "smpl/betas", "smpl/transl", "keypoints3d")
    finite = np.ones(len(frame), bool)
    for name in numbers:
        values = instances[name].reshape(len(frame), -1)
        finite &= np.isfinite(values).all(axis=1)
    behind = finite & (instances["keypoints3d"][:, 0, 2] <= 0)
    flat = finite & ~behind & ~(instances["bbox_xywh"][:, 2:4] > 0).all(axis=1)
    rejects = []
    for reason, bad, detail in (
        ("not_finite", ~finite, "pose, shape or joints hold NaN or infinity"),
        ("behind_camera", behind, "the pelvis lies behind the camera"),
        ("empty_box", flat, "neither detections nor projected joints span a box"),
    ):
        for row in np.flatnonzero(bad):
            record = f"actor {instances['person'][row]}, frame {frame[row]}"
            rejects.append(
                Reject(f"sequenceFiles/{unit.split}/{file.name}", record, reason, detail)
            )
    return rejects, finite & ~behind & ~flat
