"""SPIN files in their true forms, with known truth: joint j of row i at (10 j + i, 5 j, 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROWS = 4
COCO_SLOTS = [*range(12), *range(19, 24)]
"""Of the 24 joints, those that SPIN's COCO file fills."""
H36M_SLOTS = [*range(13), 14, 16, 17, 18]


def points(rows: int, slots: list[int], count: int = 24) -> np.ndarray:
    made = np.zeros((rows, count, 3))
    joint = np.array(slots)
    made[:, slots, 0] = 10 * joint + np.arange(rows)[:, None]
    made[:, slots, 1] = 5 * joint
    made[:, slots, 2] = 1
    return made


def joints(rows: int, slots: list[int], seed: int = 2) -> np.ndarray:
    """S: metres, relative to slot 14."""
    made = np.zeros((rows, 24, 4))
    made[:, slots, :3] = np.random.default_rng(seed).normal(0, 0.4, (rows, len(slots), 3))
    made[:, slots, 3] = 1
    made[:, slots, :3] -= made[:, 14:15, :3]
    return made


def bodies(rows: int, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"pose": rng.normal(0, 0.3, (rows, 72)), "shape": rng.normal(0, 1, (rows, 10))}


def coco_values(rows: int = ROWS) -> dict[str, Any]:
    """coco_2014_train.npz: two people to a picture; no 3D, no bodies."""
    openpose = np.zeros((rows, 25, 3))
    openpose[1] = points(1, list(range(25)), 25)[0] * [1, 1, 0.7]
    return {
        "imgname": np.array([f"train2014/COCO_train2014_{r // 2:012d}.jpg" for r in range(rows)]),
        "center": np.stack([100 + np.arange(rows), 200.0 + np.arange(rows)], 1),
        "scale": 0.5 + 0.25 * np.arange(rows),
        "part": points(rows, COCO_SLOTS),
        "openpose": openpose,
    }


def mocap_values(rows: int = ROWS) -> dict[str, Any]:
    """mpi_inf_3dhp_train.npz: 3D joints, and bodies of which every second is valid."""
    names = [f"S1/Seq1/imageFrames/video_0/frame_{r + 1:06d}.jpg" for r in range(rows)]
    return {
        **coco_values(rows),
        "imgname": np.array(names),
        "part": points(rows, H36M_SLOTS),
        "S": joints(rows, H36M_SLOTS),
        **bodies(rows),
        "has_smpl": (np.arange(rows) % 2 == 0).astype(np.float64),
    }


def evaluation_values(rows: int = ROWS) -> dict[str, Any]:
    """3dpw_test.npz: bodies with genders, no joints; names as bytes, as Python 2 wrote them."""
    names = [f"imageFiles/walk_00/image_{r:05d}.jpg".encode() for r in range(rows)]
    data = coco_values(rows)
    return {
        "imgname": np.array(names),
        "center": data["center"],
        "scale": data["scale"],
        **bodies(rows),
        "gender": np.array(["m", "f"] * (rows // 2)),
    }


def write(file: Path, data: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **data)
    return file


def write_pictures(root: Path, data: dict[str, Any], size: tuple[int, int] = (640, 480)) -> None:
    """A grey JPEG (width, height) for every imgname."""
    for name in dict.fromkeys(
        np.char.decode(data["imgname"]) if data["imgname"].dtype.kind == "S" else data["imgname"]
    ):
        (root / str(name)).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / str(name)), np.full((size[1], size[0], 3), 128, np.uint8))
