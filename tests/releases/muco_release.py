"""MuCo-3DHP in both distributions, from known ground truth.

Pictures have ids that are no places in the list; hips and spine are half a pixel off in 2D, as in
MPI-INF-3DHP.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io

from humandata.bodymodel import body_model, forward, joints_smpl54
from humandata.keypoints import convert

SIZE = 1024
NAMES = (
    "augmented_set/000001.jpg", "unaugmented_set/unaugmented_set_001/000001.jpg",
    "augmented_set/000002.jpg",
)  # fmt: skip
IMAGE_IDS = (70, 4, 31)
FOCAL, CENTRE = np.array([750.5, 748.25]), np.array([511.5, 513.75])
SHIFTED = (8, 11, 14, 15)
PEOPLE = ((0, 500), (0, 501), (1, 502), (1, 503), (2, 504), (2, 505))
"""Picture and annotation id of every person."""
HIDDEN = {502: (0, 4, 14), 504: ()}
"""Joints that are not flagged: of one person the pelvis too."""
WITHOUT_BODY, NAN_BODY = 503, 501
FLAT = 505


@functools.cache
def joints(person: int) -> np.ndarray:
    """(21, 3) metres in the camera frame: those of the body, two to six metres away."""
    fit = body(person)
    orient, pose = fit["pose"][None, :3], fit["pose"][None, 3:].reshape(1, 23, 3)
    shaped = [values.astype(np.float32) for values in (orient, pose, fit["shape"][None])]
    transl = fit["trans"][None].astype(np.float32)
    vertices, kinematic = forward(body_model(), *shaped, transl)
    every = joints_smpl54(body_model(), vertices, kinematic)
    found, known = convert(every, "smpl_54", "muco", approximate=True)
    points = found[0].astype(np.float64)
    # Hands and toes, which this body has no regressor for, near wrists and ankles.
    for joint, near in ((17, 4), (18, 7), (19, 10), (20, 13)):
        if not known[joint]:
            points[joint] = points[near] + [0.02, 0.05, -0.05]
    return np.asarray(points)


def project(points: np.ndarray, image: int) -> np.ndarray:
    pixels = points[:, :2] / points[:, 2:] * (FOCAL + image) + CENTRE
    return np.asarray(pixels)


def body(person: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1000 + person)
    pose = rng.normal(0, 0.15, 72)
    pose[:3] = [np.pi, 0, 0]  # SMPL's y is up, the camera's down
    middle = [0.3 * (person % 3) - 0.3, 0.1, 2.5 + 0.8 * (person - 500)]
    return {"pose": pose, "shape": rng.normal(0, 1, 10), "trans": np.array(middle)}


def write_json(
    root: Path,
    change: Callable[[dict[str, Any]], None] | None = None,
    places: tuple[str, str] = ("MuCo-3DHP.json", "smpl_param.json"),
) -> None:
    images = [
        {
            "id": number, "file_name": name, "width": SIZE, "height": SIZE,
            "f": (FOCAL + at).tolist(), "c": CENTRE.tolist(),
            "R": np.eye(3).ravel().tolist(), "T": [12.5, -800.0, 3000.0],
        }
        for at, (number, name) in enumerate(zip(IMAGE_IDS, NAMES, strict=True))
    ]  # fmt: skip
    annotations, bodies = [], {}
    for image, person in PEOPLE:
        points = joints(person)
        pixels = project(points, image)
        low, size = pixels.min(axis=0), np.ptp(pixels, axis=0)
        pixels[list(SHIFTED)] += 0.5
        flags = np.ones(21, int)
        flags[list(HIDDEN.get(person, ()))] = 0
        annotations.append({
            "id": person, "image_id": IMAGE_IDS[image],
            "bbox": [*low.tolist(), 0.0 if person == FLAT else float(size[0]), float(size[1])],
            "keypoints_img": pixels.tolist(), "keypoints_cam": (1000 * points).tolist(),
            "keypoints_vis": flags.tolist(),
        })  # fmt: skip
        if person != WITHOUT_BODY:
            fit = {key: values.tolist() for key, values in body(person).items()}
            if person == NAN_BODY:
                fit["pose"][5] = float("nan")
            bodies[str(person)] = fit
    content = {"images": images, "annotations": annotations}
    if change is not None:
        change(content)
    for place, data in zip(places, (content, bodies), strict=True):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(json.dumps(data))


def write_pictures(root: Path, names: tuple[str, ...] = NAMES, size: int = SIZE) -> None:
    for at, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((size, size, 3), 40 * at, np.uint8))


def write_chunk(
    root: Path,
    count: int = 17,
    folder: str = "unaugmented_set_001",
    number: int = 1,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of up to four people, the second of two; pixels and metres (2, 4, J, .)."""
    rng = np.random.default_rng(count)
    pelvis = 4 if count == 28 else 14
    pixels, space = rng.uniform(100, 1900, (2, 4, count, 2)), rng.normal(0, 0.4, (2, 4, count, 3))
    space -= space[:, :, pelvis : pelvis + 1]
    pixels[1, 2:], space[1, 2:] = 0, 0
    names = np.empty((1, 2), object)
    names[0, :] = ["000001.jpg", "000002.jpg"]
    content = {
        "img_names": names,
        "joint_loc2": pixels.transpose(3, 2, 1, 0),
        "joint_loc3": 1000 * space.transpose(3, 2, 1, 0),
    }
    if change is not None:
        change(content)
    (root / folder).mkdir(parents=True, exist_ok=True)
    file = root / folder / f"chunk_{number:05d}_annot.mat"
    scipy.io.savemat(file, content, do_compression=True)
    return pixels, space
