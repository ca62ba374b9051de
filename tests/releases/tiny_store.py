"""A store of a few people with known truth, for tests that need batches rather than a release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

import humandata
from humandata.bodymodel import body_model, forward, joints_smpl54
from humandata.zarr_files import crc32c

WIDTH, HEIGHT, FOCAL = 192, 160, 240.0


def write_tiny_store(
    path: Path,
    count: int = 12,
    seed: int = 0,
    without: tuple[str, ...] = (),
    picture_size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Path:
    """Write ``count`` posed stand-in bodies, one to a picture of coloured noise, all labels exact.

    Joints are smpl_54 in 2D and 3D, cameras are known, boxes hold the joints with the factor 1.2
    applied. ``without`` names instance fields to leave out.
    """
    rng = np.random.default_rng(seed)
    width, height = picture_size
    pose = rng.normal(0, 0.25, (count, 24, 3)).astype(np.float32)
    pose[:, 0] = np.array([np.pi, 0, 0]) + rng.normal(0, 0.2, (count, 3))
    betas = rng.normal(0, 1, (count, 10)).astype(np.float32)
    transl = np.array([0, 0.1, 5.0]) + rng.normal(0, 0.2, (count, 3))
    model = body_model()
    vertices, kinematic = forward(model, pose[:, 0], pose[:, 1:], betas, transl.astype(np.float32))
    points = joints_smpl54(model, vertices, kinematic).astype(np.float32)
    scale = width / WIDTH
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], np.float32)
    intrinsics[:2] *= scale
    pixels = points[..., :2] / points[..., 2:] * FOCAL * scale + intrinsics[:2, 2]
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    middle, extent = (low + high) / 2, (high - low) * 1.2
    one = np.ones((count, 1), np.float32)
    instances: dict[str, Any] = {
        "id": np.arange(count, dtype=np.uint64) + 1,
        "image": np.arange(count, dtype=np.int32),
        "bbox_xywh": np.hstack([middle - extent / 2, extent, one]).astype(np.float32),
        "keypoints2d": np.dstack([pixels, np.ones((count, 54))]).astype(np.float32),
        "keypoints3d": np.dstack([points, np.ones((count, 54))]).astype(np.float32),
        "smpl/global_orient": pose[:, 0],
        "smpl/body_pose": pose[:, 1:],
        "smpl/betas": betas,
        "smpl/transl": transl.astype(np.float32),
        "smpl/valid": np.ones(count, bool),
        "smpl/transl_valid": np.ones(count, bool),
        "gender": np.full(count, 1, np.uint8),
    }
    attributes: dict[str, dict[str, Any]] = {
        "keypoints2d": {"convention": "smpl_54"},
        "keypoints3d": {"convention": "smpl_54", "root": "absolute"},
        "bbox_xywh": {"rule": "joints", "factor": 1.2},
    }
    instances = {
        key: value for key, value in instances.items() if not key.startswith(without or ("-",))
    }
    pictures = [_picture(rng, width, height) for _ in range(count)]
    with humandata.create(path, dataset=path.stem, split="train") as writer:
        writer.append(
            images={
                "id": np.arange(count, dtype=np.uint64) + 1,
                "path": [f"{number:03d}.jpg" for number in range(count)],
                "height": np.full(count, height, np.int32),
                "width": np.full(count, width, np.int32),
                "intrinsics": np.repeat(intrinsics[None], count, axis=0),
                "intrinsics_source": np.full(count, 1, np.uint8),
            },
            instances=instances,
            pictures=pictures,
            field_attributes={key: attributes[key] for key in attributes if key in instances},
        )
    return path


def damage(path: Path, *rows: int) -> Path:
    """Overwrite stored pictures with zeros, as a bad disk would; a commit refuses such pictures."""
    images = humandata.open(path).images
    for row in rows:
        offset, length = int(images["offset"][row]), int(images["length"][row])
        with (path / "images" / "packs" / "00000" / "c" / "0").open("r+b") as chunk:
            chunk.seek(offset)
            chunk.write(bytes(length))
    return path


def spoil(path: Path, *rows: int) -> Path:
    """Damage stored pictures with their checksums, as if the release itself had been damaged."""
    damage(path, *rows)
    images = humandata.open(path).images
    chunk = path / "images" / "crc32c" / "c" / "0"
    sums = np.frombuffer(chunk.read_bytes()[:-4], "<u4").copy()
    for row in rows:
        sums[row] = crc32c(bytes(int(images["length"][row])))
    chunk.write_bytes(sums.tobytes() + crc32c(sums).to_bytes(4, "little"))
    return path


def _picture(rng: np.random.Generator, width: int, height: int) -> bytes:
    coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return bytes(cv2.imencode(".jpg", picture)[1])
