"""SPIN's file of MPI-INF-3DHP: ``mpi_inf_3dhp_train.npz`` with SMPL fitted to several views."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import mpi_inf_3dhp_files, unpickle, videos
from humandata.columns import Columns, Reject, take
from humandata.errors import DataError
from humandata.schema import row_ids

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

NAME = "mpi_inf_3dhp_train.npz"
FOLDERS = ("", "dataset_extras", "data/dataset_extras")
SHAPES: dict[str, tuple[int, ...]] = {
    "center": (2,),
    "scale": (),
    "part": (24, 3),
    "S": (24, 4),
    "openpose": (25, 3),
    "pose": (72,),
    "shape": (10,),
    "has_smpl": (),
}
SIDE_PER_SCALE = 200
"""SPIN's boxes are squares of 200 pixels times ``scale``, which holds a factor of 1.2."""
BOX_FACTOR = 1.2
SIZE = 2048
SPIN, NEUTRAL = 4, 1
"""Codes of the fields ``smpl/source`` and ``gender``."""
PATTERN = re.compile(
    r"(?P<subject>S\d)/(?P<sequence>Seq\d)/(?:imageFrames/)?video_(?P<camera>\d+)/"
    r"(?:frame_)?(?P<number>\d+)\.jpg"
)


def find(raw: Path) -> Path | None:
    """The file, in the places where SPIN's instructions put it."""
    for folder in FOLDERS:
        if (raw / folder / NAME).is_file():
            return raw / folder / NAME
    return None


def read(unit: Any) -> Columns:
    """Rows of the file, in its order.

    2D joints are OpenPose's 25 and SPIN's 24 (``smpl_49``), 3D joints the 24, root-centred.

    Raises
    ------
    DataError
        If the file is damaged, lacks a key, or arrays differ in length.
    """
    (file,) = unit.files
    data = _load(file)
    rows = len(data["imgname"])
    frames = _frames(data["imgname"])
    rejects, sound = _rejects(file.name, data, frames)
    keys = np.array([_key(f) if f else -1 - row for row, f in enumerate(frames)], np.int64)
    has_smpl = data["has_smpl"].astype(bool) & np.isfinite(data["pose"]).all(axis=1)
    has_smpl &= np.isfinite(data["shape"]).all(axis=1)
    side = SIDE_PER_SCALE * data["scale"]
    box = np.column_stack([data["center"] - side[:, None] / 2, side, side, np.ones(rows)])
    points = np.concatenate([data["openpose"], data["part"]], axis=1)
    points[~(points[..., 2] > 0)] = 0
    joints = data["S"].copy()
    joints[~(joints[..., 3] > 0)] = 0
    paths, films, sequence, names = _pictures(unit.raw, frames)
    pose = np.where(has_smpl[:, None], data["pose"], 0).reshape(-1, 24, 3)
    betas = np.where(has_smpl[:, None], data["shape"], 0)
    columns = Columns(
        images={
            "id": row_ids(f"mpi_inf_3dhp/{unit.split}/image", keys),
            "path": paths,
            "video": films,
            "width": np.full(rows, SIZE, np.int32),
            "height": np.full(rows, SIZE, np.int32),
            "sequence": sequence,
            "frame": np.array([f[3] if f else -1 for f in frames], np.int32),
        },
        instances={
            "id": row_ids(f"mpi_inf_3dhp/{unit.split}", keys),
            "image": np.arange(rows, dtype=np.int32),
            "person": np.zeros(rows, np.int32),
            "bbox_xywh": box.astype(np.float32),
            "keypoints2d": points.astype(np.float32),
            "keypoints3d": joints.astype(np.float32),
            "smpl/global_orient": pose[:, 0].astype(np.float32),
            "smpl/body_pose": pose[:, 1:].astype(np.float32),
            "smpl/betas": betas.astype(np.float32),
            "smpl/valid": has_smpl,
            "smpl/source": np.where(has_smpl, SPIN, 0).astype(np.uint8),
            "gender": np.where(has_smpl, NEUTRAL, 0).astype(np.uint8),
        },
        sequences={
            "name": [f"{s}/{q}/video_{c}" for s, q, c in names],
            "subject": [s for s, _, _ in names],
            "camera": [str(c) for _, _, c in names],
        },
        field_attributes={
            "keypoints2d": {"convention": "smpl_49", "source": "OpenPose 25, then SPIN's 24"},
            "keypoints3d": {"convention": "smpl_24", "root": "pelvis"},
            "bbox_xywh": {"rule": "square around 17 joints", "factor": BOX_FACTOR},
            "video": videos.RECORDED,
        },
        rejects=rejects,
        records=rows,
    )
    return columns if sound.all() else take(columns, sound)


def _load(file: Path) -> dict[str, NDArray[Any]]:
    members = unpickle.load_npz(file)
    needed = [key for key in SHAPES if key != "openpose"]
    missing = [key for key in ["imgname", *needed] if key not in members]
    if missing:
        raise DataError(
            file, expected="the keys of SPIN's training file", found=f"no {', '.join(missing)}"
        )
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in members["imgname"].tolist()]
    data: dict[str, NDArray[Any]] = {"imgname": np.array(names, dtype=object)}
    for key, shape in SHAPES.items():
        # Some copies were made without OpenPose.
        values = members[key] if key in members else np.zeros((len(names), *shape))
        if np.shape(values) != (len(names), *shape):
            raise DataError(
                file, key, expected=f"shape {(len(names), *shape)}", found=f"{np.shape(values)}"
            )
        data[key] = np.asarray(values, np.float64)
    return data


Frame = tuple[str, str, int, int]
"""Subject, sequence, camera, and number of the frame from 0."""


def _frames(names: NDArray[Any]) -> list[Frame | None]:
    found: list[Frame | None] = []
    for name in names:
        match = PATTERN.search(name)
        # Names count from 1.
        found.append(
            (match["subject"], match["sequence"], int(match["camera"]), int(match["number"]) - 1)
            if match and int(match["number"])
            else None
        )
    return found


def _key(frame: Frame) -> int:
    subject, sequence, camera, number = frame
    return ((int(subject[1:]) * 10 + int(sequence[3:])) * 100 + camera) * 1_000_000 + number


def _pictures(
    raw: Path, frames: list[Frame | None]
) -> tuple[list[str], list[str], NDArray[np.int32], list[tuple[str, str, int]]]:
    """Paths, videos and sequence of every row, and the sequences in order of appearance."""
    names = list(dict.fromkeys(frame[:3] for frame in frames if frame is not None))
    number = {name: place for place, name in enumerate(names)}
    sequence = np.array([-1 if f is None else number[f[:3]] for f in frames], np.int32)
    number_of = np.array([-1 if f is None else f[3] for f in frames], np.int64)
    paths, films = ["?"] * len(frames), [""] * len(frames)
    for name, place in number.items():
        subject, take_, camera = name
        rows: list[int] = np.flatnonzero(sequence == place).tolist()
        folders = [
            pattern.format(subject=subject, sequence=take_)
            for pattern in mpi_inf_3dhp_files.TRAIN_FOLDERS
        ]
        folder = next((f for f in folders if (raw / f).is_dir()), folders[0])
        found = mpi_inf_3dhp_files.find_pictures(
            raw,
            mpi_inf_3dhp_files.TRAIN_FRAMES,
            f"{folder}/imageSequence/video_{camera}.avi",
            number_of[rows],
            base=folder,
            subject=subject,
            sequence=take_,
            camera=camera,
        )
        for row, path, film in zip(rows, *found, strict=True):
            paths[row], films[row] = path, film
    return paths, films, sequence, names


def _rejects(
    file: str, data: dict[str, NDArray[Any]], frames: list[Frame | None]
) -> tuple[list[Reject], Bool]:
    rows = len(frames)
    unnamed = np.array([frame is None for frame in frames], bool)
    seen: set[Frame | None] = set()
    repeated = np.zeros(rows, bool)
    for row, frame in enumerate(frames):
        repeated[row] = frame is not None and frame in seen
        seen.add(frame)
    finite = np.ones(rows, bool)
    for key in ("center", "scale", "part", "S", "openpose"):
        finite &= np.isfinite(data[key]).reshape(rows, -1).all(axis=1)
    flat = ~(data["scale"] > 0)
    rejects, done = [], np.zeros(rows, bool)
    for reason, bad, detail in (
        ("image_name", unnamed, "expected S1/Seq1/imageFrames/video_0/frame_000001.jpg"),
        ("duplicate_id", repeated, "this frame came before"),
        ("not_finite", ~finite, "box or joints hold NaN or infinity"),
        ("empty_box", flat, "scale is not positive"),
    ):
        for row in np.flatnonzero(bad & ~done).tolist():
            record = f"row {row} ({data['imgname'][row]})"
            rejects.append(Reject(file, record, reason, detail))
        done |= bad
    return rejects, ~done
