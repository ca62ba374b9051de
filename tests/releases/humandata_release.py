"""HumanData files in their true forms, as mmhuman3d and its descendants write them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

UNION = 190
# Places in the 190-joint union, from the list in mmhuman3d's docs/keypoints_convention.md.
SMPL = [*range(22), 188, 189]
COCO = [55, 57, 56, 59, 58, 16, 17, 18, 19, 20, 21, 145, 144, 4, 5, 7, 8]
ROWS = 23


def keypoints(rows: int, places: list[int], width: int = 3) -> np.ndarray:
    """Joint j of row i at (100 i + j, 7 j, 1 ...) in the union, j counted along `places`."""
    union = np.zeros((rows, UNION, width))
    joint = np.arange(len(places))
    union[:, places, 0] = 100 * np.arange(rows)[:, None] + joint
    union[:, places, 1] = 7 * joint
    union[:, places, 2:] = 1
    return union


def mask(places: list[int]) -> np.ndarray:
    present = np.zeros(UNION, np.uint8)
    present[places] = 1
    return present


def smpl(rows: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "body_pose": rng.normal(size=(rows, 23, 3)).astype(np.float32),
        "global_orient": rng.normal(size=(rows, 3)).astype(np.float32),
        "betas": rng.normal(size=(rows, 10)),
        "transl": rng.normal(size=(rows, 3)),
    }


def values(rows: int = ROWS, places: list[int] | None = None) -> dict[str, Any]:
    """What HumanData.dump writes: compressed keypoints, SMPL, meta; two persons per picture."""
    places = SMPL if places is None else places
    present = mask(places)
    numbers = np.arange(rows, dtype=np.float64)
    return {
        "__key_strict__": False,
        "__data_len__": rows,
        "__keypoints_compressed__": True,
        "image_path": [f"images/{row // 2:04d}.jpg" for row in range(rows)],
        "bbox_xywh": np.stack([numbers, numbers, 10 + numbers, 20 + numbers, 0 * numbers + 1], 1),
        "keypoints2d": keypoints(rows, places)[:, present == 1],
        "keypoints2d_mask": present,
        "keypoints2d_convention": "human_data",
        "smpl": smpl(rows),
        "meta": {"gender": ["m", "female"] * (rows // 2) + ["f"] * (rows % 2)},
        "misc": {"bbox_body_scale": 1.2, "smpl_source": "original"},
        "config": "mine",
    }


def write_npz(file: Path, data: dict[str, Any]) -> Path:
    np.savez_compressed(file, **data)
    return file


def write_pkl(file: Path, data: dict[str, Any]) -> Path:
    file.write_bytes(pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL))
    return file


def old_values(rows: int = ROWS) -> dict[str, Any]:
    """v0.3 and third parties: boxes of 4 columns, no conventions, no length, not compressed."""
    new = values(rows)
    return {
        "image_path": np.array(new["image_path"]),
        "bbox_xywh": new["bbox_xywh"][:, :4],
        "keypoints2d": keypoints(rows, SMPL),
        "keypoints2d_mask": new["keypoints2d_mask"],
        "smpl": new["smpl"],
        "meta": {"gender": np.array(new["meta"]["gender"])},
        "config": "mine",
    }


def cache_values(rows: int = ROWS, slice_size: int = 10) -> dict[str, Any]:
    """HumanDataCacheWriter: keypoints already in the training convention smpl_54."""
    new = values(rows)
    points = np.zeros((rows, 54, 3))
    points[:, :22] = keypoints(rows, SMPL)[:, :22]
    present = np.zeros(54, np.uint8)
    present[:22] = 1
    data: dict[str, Any] = {
        "slice_size": slice_size,
        "data_len": rows,
        "keypoints_info": {
            "keypoints2d_mask": present, "keypoints2d_convention": "smpl_54",
        },
        "non_sliced_data": {"config": "mine", "misc": new["misc"]},
        "key_strict": False,
    }  # fmt: skip
    for number, start in enumerate(range(0, rows, slice_size)):
        part = slice(start, min(start + slice_size, rows))
        data[str(number)] = {
            "image_path": new["image_path"][part],
            "bbox_xywh": new["bbox_xywh"][part],
            "keypoints2d": points[part][:, present == 1],
            "smpl": {name: array[part] for name, array in new["smpl"].items()},
            "meta": {"gender": new["meta"]["gender"][part]},
        }
    return data


def multi_values() -> dict[str, Any]:
    """MultiHumanData: three persons in two pictures, `__data_len__` counts the pictures."""
    data = values(3)
    data["__data_len__"], data["__instance_num__"] = 2, 3
    data["frame_range"] = np.array([[0, 2], [2, 3]])
    return data


def hybrik_values(rows: int = 4) -> dict[str, Any]:
    """mmhuman3d's HybrIK files: 3D in millimetres, pose as ``thetas``, cameras in one dictionary.

    ``keypoints3d`` are pixels and a depth relative to the root; the mask is that of SMPL's joints.
    """
    rng = np.random.default_rng(7)
    camera = np.zeros((rows, UNION, 4))
    middle = np.array([100, -50, 4500])
    camera[:, SMPL, :3] = middle + rng.uniform(-800, 800, (rows, len(SMPL), 3))
    camera[:, SMPL, 3] = 1
    focal, centre = np.array([1145.0, 1143.0]), np.array([512.0, 515.0])
    picture = camera.copy()
    picture[:, SMPL, :2] = camera[:, SMPL, :2] / camera[:, SMPL, 2:3] * focal + centre
    picture[:, SMPL, 2] -= camera[:, :1, 2]
    relative = camera.copy()
    relative[:, SMPL, :3] -= camera[:, :1, :3]
    matrix = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])
    sets = {"keypoints3d": picture, "keypoints3d_cam": camera, "keypoints3d_relative": relative}
    present = mask(SMPL)
    data = {key: points[:, present == 1] for key, points in sets.items()}
    return data | {f"{key}_mask": present for key in sets} | {
        "__key_strict__": False,
        "__data_len__": rows,
        "__keypoints_compressed__": True,
        "image_path": [f"S1/images/a/a_{row:06d}.jpg" for row in range(rows)],
        "image_height": [1000] * rows,
        "image_width": [1002] * rows,
        "bbox_xywh": np.tile([100.0, 120, 300, 300, 1], (rows, 1)),
        "smpl": {"thetas": rng.normal(size=(rows, 24, 3)), "betas": rng.normal(size=(rows, 10))},
        "cam_param": {
            "f": np.tile(focal, (rows, 1, 1)),
            "c": np.tile(centre, (rows, 1, 1)),
            "intrinsic": np.tile(np.linalg.inv(matrix), (rows, 1, 1)),
        },
        "root_cam": camera[:, 0, :3],
        "depth_factor": np.full(rows, 2000.0),
        "config": "h36m",
    }  # fmt: skip


def write_pictures(root: Path, data: dict[str, Any], size: tuple[int, int] = (48, 32)) -> None:
    """A grey JPEG (width, height) for every image_path under `root`."""
    for path in dict.fromkeys(map(str, data["image_path"])):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / path), np.full((size[1], size[0], 3), 128, np.uint8))
