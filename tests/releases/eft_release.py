"""EFT's JSON files, with bodies whose joints fall on their keypoints, and source annotations."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from humandata import keypoints, posing
from humandata.bodymodel import standin

SIZE = (240, 320)  # height, width
DATASET_JOINTS = slice(25, 49)


@dataclass
class Fit:
    """Ground truth of one record."""

    picture: str
    pose: np.ndarray  # (24, 3) axis-angle
    betas: np.ndarray
    camera: np.ndarray
    centre: np.ndarray
    scale: float
    keypoints: np.ndarray  # (49, 3)
    annotation: int | None = None
    subject: str | None = None
    valid18: list[int] = field(default_factory=lambda: [1] * 12 + [0] * 6)

    def box(self) -> list[float]:
        left, top = self.centre - 100 * self.scale
        return [left, top, 200 * self.scale, 200 * self.scale, 1]

    def source_box(self, factor: float = 1.2) -> list[float]:
        """The annotator's box, taller than wide, whose enlarged square EFT's is."""
        height = 200 * self.scale / factor
        return [*(self.centre - [height / 4, height / 2]), height / 2, height]


def project(fit: Fit, points: np.ndarray) -> np.ndarray:
    """EFT's demo: into a crop of 224 px, then back into the picture."""
    crop = 112 + 112 * (fit.camera[0] * points[..., :2] + fit.camera[1:])
    return (crop - 112) * (200 * fit.scale / 224) + fit.centre


def fit(picture: str, seed: int, annotation: int | None = None, **fields: Any) -> Fit:
    """A person; every joint of the dataset labelled, none of OpenPose."""
    rng = np.random.default_rng(seed + 1000)
    pose, betas, points = (values.copy() for values in body(seed))
    camera = np.array([0.9, 0.02, -0.1])
    centre, scale = rng.uniform(110, 130, 2), float(rng.uniform(0.8, 1.0))
    made = Fit(picture, pose, betas, camera, centre, scale, np.zeros((49, 3)), annotation, **fields)
    made.keypoints[DATASET_JOINTS, :2] = project(made, points)[DATASET_JOINTS]
    made.keypoints[DATASET_JOINTS, 2] = 1
    return made


@functools.cache
def body(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pose, shape and joints of a body that leans and turns as the seed wills."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 0.25, (24, 3))
    upright = Rotation.from_rotvec([np.pi, 0, 0])  # y points down
    pose[0] = (Rotation.from_rotvec([0.1, 0.2 * seed, 0.8]) * upright).as_rotvec()
    betas = rng.normal(0, 1, 10)
    return pose, betas, joints(pose, betas)


def joints(pose: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """The 49 joints of a body (the stand-in's)."""
    model = standin("neutral")
    vertices, kinematic = posing.forward(model, pose[None, 0], pose[None, 1:], betas[None])
    all54 = posing.joints_smpl54(model, vertices, kinematic)
    return keypoints.convert(all54, "smpl_54", "smpl_49", approximate=True)[0][0]


def record(fit: Fit) -> dict[str, Any]:
    found: dict[str, Any] = {
        "parm_pose": Rotation.from_rotvec(fit.pose).as_matrix().tolist(),
        "parm_shape": fit.betas.tolist(),
        "parm_cam": fit.camera.tolist(),
        "bbox_scale": fit.scale,
        "bbox_center": fit.centre.tolist(),
        "gt_keypoint_2d": fit.keypoints.tolist(),
        "joint_validity_openpose18": fit.valid18,
        "smpltype": "smpl",
        "imageName": fit.picture,
    }
    if fit.annotation is not None:
        found["annotId"] = fit.annotation
    if fit.subject is not None:
        found["subjectId"] = fit.subject
    return found


def write(file: Path, fits: list[Fit], db: str = "coco") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "ver": 0.1,
        "data": [record(fit) for fit in fits],
        "meta": {"dbname": db, "rawname": "fixture"},
    }
    with open(file, "w") as stream:
        json.dump(content, stream)
    return file


def write_picture(file: Path, shade: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((*SIZE, 3), shade, np.uint8))


def coco(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def write_coco(root: Path, split_file: str = "COCO2014-All-ver01.json") -> list[Fit]:
    """Five records of three pictures, those of one picture apart; the last without an id."""
    fits = [
        fit(coco(9), 1, 442619),
        fit(coco(25), 2, 1001),
        fit(coco(9), 3, 1002),
        fit(coco(30), 4, 900100000009),
        fit(coco(25), 5, 0),
    ]
    fits[2].centre += [120, 60]  # beside the first person of its picture
    fits[2].keypoints[DATASET_JOINTS, :2] += [120, 60]
    fits[4].centre += [-90, 0]
    fits[4].keypoints[DATASET_JOINTS, :2] += [-90, 0]
    fits[0].keypoints[:25] = fits[0].keypoints[24:49]  # a half seen by OpenPose
    fits[0].keypoints[:25, 2] = np.linspace(0.05, 0.99, 25)
    fits[1].keypoints[40] = [50, 60, 0]  # coordinates left behind by an unlabelled joint
    write(root / split_file, fits)
    for number in (9, 25, 30):
        write_picture(root / "coco/train2014" / coco(number), number)
    return fits


def write_coco_annotations(root: Path, fits: list[Fit]) -> Path:
    """The source's own file; persons without an id in the fits have one here."""
    names = sorted({fit.picture for fit in fits})
    content = {
        "images": [{"id": i, "file_name": name, "width": SIZE[1], "height": SIZE[0]}
                   for i, name in enumerate(names)],
        "annotations": [
            {"id": fit.annotation or 777, "image_id": names.index(fit.picture),
             "bbox": fit.source_box(), "keypoints": [0] * 51, "num_keypoints": 0}
            for fit in fits
        ],
    }  # fmt: skip
    file = root / "coco/annotations/person_keypoints_train2014.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file
