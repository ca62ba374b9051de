"""A COCO keypoint release in its true form: one JSON as published, JPEG pictures beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

JOINTS = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
]  # fmt: skip


@dataclass
class CocoTruth:
    """What a converter must find."""

    keypoints: dict[int, np.ndarray]  # annotation id -> (17, 3) x, y, v
    boxes: dict[int, list[float]]
    picture: dict[int, str]  # annotation id -> path relative to the raw root
    labelled: list[int]  # ids with a labelled joint, in file order
    twelve_limbs: list[int]
    size: dict[str, tuple[int, int]]  # path -> width, height


def person(rng: np.random.Generator, visibility: list[int]) -> np.ndarray:
    """Integer joints within (20..180), zeros where not labelled."""
    keypoints = np.column_stack([rng.integers(20, 180, (17, 2)), visibility])
    keypoints[keypoints[:, 2] == 0] = 0
    return keypoints


def write_coco(
    root: Path, split: str = "train2017", folder: str = "{split}", seed: int = 0
) -> CocoTruth:
    """Two pictures (one grey), five persons: 17 joints, 12 limbs, 11 limbs, a crowd, nobody."""
    rng = np.random.default_rng(seed)
    prefix = f"COCO_{split}_" if "2014" in split else ""
    images, sizes = [], {}
    place = folder.format(split=split)
    (root / place).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for image_id, (width, height), grey in ((9, (200, 240), False), (25, (320, 200), True)):
        name = f"{prefix}{image_id:012d}.jpg"
        pixels = rng.integers(0, 255, (height, width) if grey else (height, width, 3), np.uint8)
        cv2.imwrite(str(root / place / name), pixels)
        images.append({"license": 1, "file_name": name, "height": height, "width": width,
                       "date_captured": "2013-11-14 17:02:52", "id": image_id})  # fmt: skip
        sizes[f"{place}/{name}"] = (width, height)
    limbs = [0] * 5 + [2, 1] * 6
    eleven = [*limbs[:-1], 0]
    cases: list[tuple[int, int, list[int], int]] = [
        (442619, 25, [2] * 17, 0),
        (1001, 9, limbs, 0),
        (1002, 25, eleven, 0),  # out of picture order on purpose
        (900100000009, 9, [0] * 17, 1),
        (1003, 25, [0] * 17, 0),
    ]
    truth = CocoTruth({}, {}, {}, [442619, 1001, 1002], [442619, 1001], sizes)
    annotations: list[dict[str, Any]] = []
    for identity, image_id, visibility, crowd in cases:
        keypoints = person(rng, visibility)
        if identity == 1001:
            keypoints[5, :2] = (7, 30)  # three pixels left of its box
        box = [10.25, 15.5, 189.75, 180.0] if identity == 1001 else [12.0, 10.0, 170.0, 175.0]
        annotations.append({
            "segmentation": {"counts": [100, 20, 47880], "size": [240, 200]} if crowd
            else [[12.0, 10.0, 182.0, 10.0, 182.0, 185.0]],
            "num_keypoints": int((keypoints[:, 2] > 0).sum()), "area": 14875.5, "iscrowd": crowd,
            "keypoints": keypoints.ravel().tolist(), "image_id": image_id, "bbox": box,
            "category_id": 1, "id": identity,
        })  # fmt: skip
        truth.keypoints[identity] = keypoints
        truth.boxes[identity] = box
        truth.picture[identity] = f"{place}/{prefix}{image_id:012d}.jpg"
    content = {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
        "licenses": [{"id": 1, "name": "Attribution License"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"supercategory": "person", "id": 1, "name": "person",
                        "keypoints": JOINTS, "skeleton": [[16, 14], [14, 12]]}],
    }  # fmt: skip
    path = root / "annotations" / f"person_keypoints_{split}.json"
    path.write_text(json.dumps(content))
    return truth


def edit(root: Path, split: str, change: Any) -> None:
    """Apply ``change(content)`` to the JSON of a release."""
    path = root / "annotations" / f"person_keypoints_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
