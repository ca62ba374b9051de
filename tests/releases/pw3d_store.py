"""A store as the 3DPW converter makes it, of posed bodies: two genders, several sequences."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

import humandata
from humandata.bodymodel import body_model, forward
from humandata.schema import row_ids

SEQUENCES = {"downtown_arguing_00": 50, "flat_guitar_01": 20, "office_phoneCall_00": 40}
MALE, FEMALE = 2, 3
SIZE, FOCAL = 128, 400.0


def write_pw3d_store(
    path: Path,
    sequences: dict[str, int] | None = None,
    seed: int = 0,
    split: str = "test",
    pictures: bool = False,
    gender: int | None = None,
    dataset: str = "pw3d",
) -> Path:
    """Write one row per frame; the persons of odd frames are female unless ``gender`` is given."""
    rng = np.random.default_rng(seed)
    names = SEQUENCES if sequences is None else sequences
    lengths = list(names.values())
    count = sum(lengths)
    sequence = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    frame = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    pose = rng.normal(0, 0.3, (count, 24, 3)).astype(np.float32)
    pose[:, 0] = np.array([np.pi, 0, 0]) + rng.normal(0, 0.3, (count, 3))
    betas = rng.normal(0, 1, (count, 10)).astype(np.float32)
    genders = np.where(frame % 2 == 0, MALE, FEMALE) if gender is None else np.full(count, gender)
    transl = np.tile(np.array([0, 0.1, 7], np.float32), (count, 1))
    joints = forward(body_model(), pose[:, 0], pose[:, 1:], betas, transl)[1]
    pixels = joints[..., :2] / joints[..., 2:] * FOCAL + SIZE / 2
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    extent = (high - low) * 1.2
    box = np.hstack([(low + high) / 2 - extent / 2, extent, np.ones((count, 1))])
    intrinsics = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]], np.float32)
    grey = bytes(cv2.imencode(".jpg", np.full((SIZE, SIZE, 3), 120, np.uint8))[1])
    with humandata.create(path, dataset=dataset, split=split) as writer:
        writer.append(
            sequences={"name": list(names)},
            images={
                "id": row_ids("pw3d/image", np.arange(count)),
                "path": [f"imageFiles/image_{i:05d}.jpg" for i in range(count)],
                "height": np.full(count, SIZE, np.int32),
                "width": np.full(count, SIZE, np.int32),
                "sequence": sequence,
                "frame": frame,
                "intrinsics": np.repeat(intrinsics[None], count, axis=0),
                "intrinsics_source": np.full(count, 1, np.uint8),
            },
            instances={
                "id": row_ids("pw3d/instance", np.arange(count)),
                "image": np.arange(count, dtype=np.int32),
                "person": np.zeros(count, np.int32),
                "bbox_xywh": box.astype(np.float32),
                "smpl/global_orient": pose[:, 0],
                "smpl/body_pose": pose[:, 1:],
                "smpl/betas": betas,
                "smpl/transl": transl,
                "smpl/valid": np.ones(count, bool),
                "smpl/transl_valid": np.ones(count, bool),
                "gender": genders.astype(np.uint8),
            },
            pictures=[grey] * count if pictures else None,
            field_attributes={"bbox_xywh": {"rule": "joints", "factor": 1.2}},
        )
    return path
