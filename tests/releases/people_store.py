"""A small sound store of stand-in bodies seen by known cameras, for whoever has to break one."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import humandata
from humandata import Store, bodymodel, geometry, keypoints
from humandata.pictures import encode_jpeg
from humandata.schema import row_ids

SIZE = (480, 360)
INTRINSICS = np.array([[520.0, 0, 240], [0, 520, 180], [0, 0, 1]])
RISE = geometry.axis_angle_to_matrix(np.array([np.pi / 2, 0, 0]))
"""From a body's rest frame (y up) to the world (z up, as in motion capture). In a world with y up
the rotation of a level camera is its own inverse, and transposing it would be no mistake."""

Columns = dict[str, dict[str, Any]]


def make_people_store(
    path: Path,
    edit: Callable[[Columns], None] | None = None,
    people: int = 24,
    pictures: bool = True,
    says: dict[str, dict[str, Any]] | None = None,
) -> Store:
    """Two people per frame of one sequence; 3D joints, 2D joints, boxes, bodies and cameras agree.

    ``edit`` may break the columns ``{"images": {...}, "instances": {...}, "sequences": {...}}``
    before they are written, and ``says`` what the fields say of themselves.
    """
    columns = people_columns(people)
    if edit is not None:
        edit(columns)
    rows = len(columns["images"]["path"])
    with humandata.create(path, dataset="people", split="test") as writer:
        writer.append(
            **columns,
            pictures=[_picture(row) for row in range(rows)] if pictures else None,
            field_attributes={
                "keypoints2d": {"convention": "coco"},
                "keypoints2d_visibility": {"convention": "coco"},
                "keypoints3d": {"convention": "smpl_45", "root": "absolute"},
                "bbox_xywh": {"rule": "extent of the joints", "factor": 1.2},
                **(says or {}),
            },
        )
    return humandata.open(path)


def people_columns(people: int) -> Columns:
    """The columns, the caller's own to break."""
    return copy.deepcopy(_people(people))


@functools.cache
def _people(people: int) -> Columns:
    rng = np.random.default_rng(3)
    images = people // 2
    image = np.repeat(np.arange(images), 2)
    extrinsics = _cameras(images, rng)
    camera = extrinsics[image]
    model = bodymodel.body_model("female")
    yaw = np.zeros((people, 3))
    yaw[:, 1] = rng.uniform(-np.pi, np.pi, people)
    upright = RISE @ geometry.axis_angle_to_matrix(yaw)
    orient = geometry.matrix_to_axis_angle(upright)
    pose = rng.normal(0, 0.15, (people, 23, 3))
    betas = np.repeat(rng.normal(0, 1, (1, 2, 10)), images, 0).reshape(people, 10)
    transl = np.tile([[-0.6, 0, 1.1], [0.6, 0, 1.1]], (images, 1)) + rng.normal(0, 0.1, (people, 3))
    vertices, joints = bodymodel.forward(model, orient, pose, betas, transl)
    world = bodymodel.joints_smpl45(vertices, joints)
    joints3d = geometry.transform(camera, world)
    joints2d = geometry.project(joints3d, INTRINSICS)
    pixels = keypoints.convert(joints2d, "smpl_45", "coco", approximate=True)[0]
    nose, shoulders = joints3d[:, 24, 2], joints3d[:, [16, 17], 2].mean(axis=1)
    seen = np.ones((people, 17))
    seen[nose > shoulders, :5] = 0  # nobody labels the face of a person seen from behind
    pixels[seen == 0] = 0
    visibility = np.where(seen > 0, rng.integers(1, 3, seen.shape), 0)
    visibility[:, :5] = 2 * seen[:, :5]
    box = geometry.bbox_from_points(pixels, seen > 0, 1.2)
    pelvis = bodymodel.rest_pelvis(model, betas)
    orient_camera, transl_camera = geometry.smpl_to_camera(orient, transl, pelvis, camera)
    ones = np.ones((people, 1))
    return {
        "images": {
            "id": row_ids("people/image", np.arange(images)),
            "path": [f"walk/{frame:06d}.jpg" for frame in range(images)],
            "width": np.full(images, SIZE[0], np.int32),
            "height": np.full(images, SIZE[1], np.int32),
            "sequence": np.zeros(images, np.int32),
            "frame": np.arange(images, dtype=np.int32),
            "intrinsics": np.tile(INTRINSICS, (images, 1, 1)).astype(np.float32),
            "intrinsics_source": np.ones(images, np.uint8),
            "extrinsics": extrinsics.astype(np.float32),
        },
        "instances": {
            "id": row_ids("people", np.arange(people)),
            "image": image.astype(np.int32),
            "person": np.tile([0, 1], images).astype(np.int32),
            "bbox_xywh": np.hstack([box, ones]).astype(np.float32),
            "keypoints2d": np.concatenate([pixels, seen[..., None]], 2).astype(np.float32),
            "keypoints2d_visibility": visibility.astype(np.uint8),
            "keypoints3d": np.concatenate([joints3d, np.ones((people, 45, 1))], 2).astype(
                np.float32
            ),
            "smpl/global_orient": orient_camera.astype(np.float32),
            "smpl/body_pose": pose.astype(np.float32),
            "smpl/betas": betas.astype(np.float32),
            "smpl/transl": transl_camera.astype(np.float32),
            "smpl/valid": np.ones(people, bool),
            "smpl/transl_valid": np.ones(people, bool),
            "gender": np.full(people, 3, np.uint8),
        },
        "sequences": {"name": ["walk"]},
    }


def _cameras(count: int, rng: np.random.Generator) -> np.ndarray:
    """World (z up) to camera (y down), four metres away, turned and tilted."""
    extrinsics = np.tile(np.eye(4), (count, 1, 1))
    for pose in extrinsics:
        turn, tilt = rng.uniform(0.3, 0.8), rng.uniform(-0.15, 0.15)
        upside = geometry.axis_angle_to_matrix(np.array([np.pi + tilt, 0, 0]))
        pose[:3, :3] = upside @ geometry.axis_angle_to_matrix(np.array([0, turn, 0])) @ RISE.T
        pose[:3, 3] = -pose[:3, :3] @ (0, 0, 0.9) + (0, 0, 4)
    return extrinsics


def _picture(row: int) -> bytes:
    across = np.linspace(60, 200, SIZE[0])[None, :, None] + np.zeros((SIZE[1], 1, 3))
    return encode_jpeg((across + row).clip(0, 255).astype(np.uint8))
