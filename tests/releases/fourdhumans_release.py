"""Files of 4D-Humans with known truth: joint j of person i at (10 j + i, 5 j)."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

JOINTS = 44


def person(number: int, **changes: Any) -> dict[str, Any]:
    """One entry of .data.pyd; box of 200 x 100 px about (100, 50)."""
    rng = np.random.default_rng(number)
    joint = np.arange(JOINTS)
    points = np.stack([10.0 * joint + number, 5.0 * joint, 0.9 + 0 * joint], 1).astype(np.float32)
    solid = np.concatenate([rng.normal(size=(JOINTS, 3)), np.ones((JOINTS, 1))], 1)
    loss = np.empty((), dtype=object)
    loss[()] = {"reprojection_loss": np.float32(100 + number)}
    return {
        "keypoints_2d": points,
        "keypoints_3d": solid.astype(np.float32),
        "center": np.array([100.0, 50.0], np.float32),
        "scale": np.array([1.0, 0.5], np.float32),
        "body_pose": rng.normal(0, 0.3, 72).astype(np.float32),
        "betas": rng.normal(0, 0.5, 10).astype(np.float32),
        "has_body_pose": np.array(1.0),
        "has_betas": np.array(1.0),
        "personid": number,
        "extra_info": {"fitting_loss": loss, "detection_npz_idx": number % 2},
        **changes,
    }


def picture(width: int = 64, height: int = 48, ending: str = ".jpg") -> bytes:
    return bytes(cv2.imencode(ending, np.full((height, width, 3), 120, np.uint8))[1])


def masks(*areas: int, width: int = 64, height: int = 48) -> bytes:
    """A .detection.npz whose mask k holds areas[k] pixels."""
    flat = np.arange(width * height)[None] < np.array(areas)[:, None]
    stream = io.BytesIO()
    np.savez(stream, masks=flat.reshape(len(areas), height, width))
    return stream.getvalue()


def labels(*people: dict[str, Any]) -> bytes:
    return pickle.dumps(list(people), protocol=4)


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def shard() -> dict[str, bytes]:
    """Two keys: one person in a folder with a dot in its name; two people with masks."""
    return {
        "set-v1.0/000000_a.jpg": picture(),
        "set-v1.0/000000_a.data.pyd": labels(person(0)),
        "set-v1.0/000001_b.png": picture(ending=".png"),
        "set-v1.0/000001_b.data.pyd": labels(person(1), person(2, has_betas=np.array(0.0))),
        "set-v1.0/000001_b.detection.npz": masks(300, 500),
    }


def evaluation(rows: int = 3) -> dict[str, Any]:
    """An npz of hmr2_evaluation_data: names in bytes, scale (N, 2) in pixels."""
    people = [person(row) for row in range(rows)]
    points = np.stack([entry["keypoints_2d"] for entry in people])
    solid = np.stack([entry["keypoints_3d"] for entry in people])
    return {
        "imgname": np.array([f"imageFiles/walk/image_{r:05d}.jpg".encode() for r in range(rows)]),
        "center": np.tile([100.0, 50.0], (rows, 1)),
        "scale": np.tile([200.0, 100.0], (rows, 1)),
        "body_keypoints_2d": points[:, :25],
        "extra_keypoints_2d": points[:, 25:],
        "body_keypoints_3d": solid[:, :25],
        "extra_keypoints_3d": solid[:, 25:],
        "body_pose": np.stack([entry["body_pose"] for entry in people]),
        "betas": np.stack([entry["betas"] for entry in people]),
        "has_body_pose": np.ones(rows),
        "has_betas": np.array([1.0, 0.0, 1.0][:rows]),
        "extra_info": np.array([{} for _ in range(rows)], dtype=object),
    }  # fmt: skip


def write_npz(file: Path, data: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **data)
    return file
