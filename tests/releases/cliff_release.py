"""CLIFF's npz with known truth: bodies whose joints, projected by its camera, are its joints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from humandata.bodymodel import body_model, forward, joints_smpl54
from humandata.keypoints import convert

SLOTS = list(range(12))
SIZES = {"train2014/COCO_train2014_000000000036.jpg": (640, 480),
         "train2014/COCO_train2014_000000000049.jpg": (500, 375)}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    values: dict[str, Any]
    joints: np.ndarray  # (3, 24, 3) metres, camera of the whole picture


def make() -> Truth:
    """Three people: two in the first picture, one in the second; sizes 640 x 480 and 500 x 375."""
    rng = np.random.default_rng(11)
    pose = rng.normal(0, 0.2, (3, 24, 3)).astype(np.float32)
    pose[:, 0] = [np.pi, 0, 0]
    betas = rng.normal(0, 1, (3, 10)).astype(np.float32)
    transl = np.array([[0.1, -0.05, 6.0], [-1.0, 0.1, 7.0], [0.3, 0.0, 5.0]], np.float32)
    vertices, kinematic = forward(body_model(), pose[:, 0], pose[:, 1:], betas, transl)
    joints, _ = convert(joints_smpl54(body_model(), vertices, kinematic), "smpl_54", "smpl_24")
    names = [list(SIZES)[row] for row in (0, 0, 1)]
    size = np.array([SIZES[name] for name in names], np.float64)
    focal = np.sqrt((size**2).sum(axis=1))
    part, points = np.zeros((3, 24, 3)), joints.astype(np.float64)
    # u = f (X + tx) / (Z + tz) + w / 2; the translation is in the joints already.
    part[..., :2] = focal[:, None, None] * points[..., :2] / points[..., 2:] + size[:, None] / 2
    part[:, SLOTS, 2] = 1
    part[part[..., 2] == 0] = 0
    regressed = np.concatenate([points - points[:, 14:15], np.ones((3, 24, 1))], axis=2)
    values = {
        "imgname": np.array(names),
        "annot_id": np.array([453981, 1215, 7]),
        "center": part[:, SLOTS, :2].mean(axis=1),
        "scale": np.array([1.0, 1.5, 0.75]),
        "part": part,
        "pose": pose.reshape(3, 72),
        "shape": betas,
        "has_smpl": np.ones(3),
        "global_t": transl,
        "focal_l": focal,
        "S": regressed,
    }
    return Truth(values, points)


def write(file: Path, values: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **values)
    return file


def write_pictures(root: Path) -> None:
    for name, (width, height) in SIZES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((height, width, 3), 90, np.uint8))
