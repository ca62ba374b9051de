"""Raw releases of synthetic people in the true formats: COCO keypoints and 3DPW.

They are read by the same converters as the real ones. Pictures are rendered by
:mod:`humandata.synthetic`; annotations are its ground truth, written the way each release writes
it. The result depends on the seed only, not on the number of processes.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import keypoints, pickle2, poses
from humandata.bodymodel import body_model
from humandata.geometry import project
from humandata.pictures import encode_jpeg
from humandata.posing import forward, rest_pelvis
from humandata.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from humandata.synthetic import (
    Scene,
    background,
    dress,
    pose_person,
    render,
    sample_betas,
    sample_scene,
    sample_yaw,
)

Float = NDArray[np.float64]
Progress = Callable[[int, int], None]

COCO_SKELETON = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9],
    [8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip
COCO_JOINTS = [name.removesuffix("_extra") for name in keypoints.names("coco")]
FIRST_PICTURE = 900_000
"""Picture ids that no picture of the real COCO carries in our splits' order."""


def write_coco(
    folder: Path,
    people: Mapping[str, int],
    *,
    seed: int = 0,
    size: tuple[int, int] = (320, 240),
    workers: int = 1,
    body_models: Path | None = None,
    yaw: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a COCO keypoint release: ``annotations/*.json`` and JPEG pictures.

    Parameters
    ----------
    folder : Path
        Becomes the raw root.
    people : mapping
        Pictures per split: ``{"train2017": 600, "val2017": 60}``; most show one person, some two.
    seed : int
    size : (width, height)
        Pixels.
    workers : int
        Processes.
    body_models : Path, optional
        The user's SMPL files; else the stand-in body.
    yaw : float, optional
        How far people turn away from the camera, standard deviation in degrees; default: any way.
    progress : callable, optional
        Called with pictures done and in all.
    """
    total, done = sum(people.values()), 0
    for number, (split, count) in enumerate(people.items()):
        place = folder / split
        place.mkdir(parents=True, exist_ok=True)
        jobs = [
            (str(place), seed, number * 1_000_000 + i, size, body_models, yaw) for i in range(count)
        ]
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, rows in _map(_coco_picture, jobs, workers):
            images.append(image)
            for row in rows:
                annotations.append(row | {"id": 2_000_000 + number * 500_000 + len(annotations)})
            done += 1
            if progress is not None:
                progress(done, total)
        content = {
            "info": {"description": "Synthetic people in COCO's format", "year": 2017},
            "licenses": [{"id": 1, "name": "CC0", "url": ""}],
            "images": images,
            "annotations": annotations,
            "categories": [
                {
                    "supercategory": "person",
                    "id": 1,
                    "name": "person",
                    "keypoints": COCO_JOINTS,
                    "skeleton": COCO_SKELETON,
                }
            ],
        }
        file = folder / "annotations" / f"person_keypoints_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")


def _coco_picture(
    place: str,
    seed: int,
    number: int,
    size: tuple[int, int],
    body_models: Path | None,
    yaw: float | None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Render one picture; its entry of ``images`` and its rows of ``annotations``."""
    scene = sample_scene(seed, number, size, body_models, yaw=yaw)
    identity = FIRST_PICTURE + number
    name = f"{identity:012d}.jpg"
    quality = 85 + number % 10
    (Path(place) / name).write_bytes(encode_jpeg(scene.picture, quality))
    image = {
        "license": 1,
        "file_name": name,
        "height": size[1],
        "width": size[0],
        "date_captured": "2017-01-01 00:00:00",
        "id": identity,
    }
    rows = [_coco_annotation(scene, person, identity) for person in range(len(scene.people))]
    return image, [row for row in rows if row is not None]


def _coco_annotation(scene: Scene, person: int, image_id: int) -> dict[str, Any] | None:
    """One person as COCO annotates it; None where nothing of it is seen."""
    import cv2

    mask = scene.masks[person]
    if not mask.any():
        return None
    pixels = project(scene.people[person].joints, scene.intrinsics)
    points, _ = keypoints.convert(pixels, "smpl_54", "coco")
    labels = np.zeros((17, 3), np.int64)
    labels[:, 2] = keypoints.convert(
        scene.visible(person)[:, None].astype(np.float64), "smpl_54", "coco"
    )[0][:, 0]
    seen = labels[:, 2] > 0
    labels[seen, :2] = points[seen].astype(np.int64)
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    # A person of a handful of pixels is boxed, but nobody would label its joints.
    if mask.sum() < 100:
        labels[:] = 0
    whole = mask.astype(np.uint8)
    outlines, _ = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return {
        "segmentation": [o.ravel().astype(float).tolist() for o in outlines if len(o) > 2],
        "num_keypoints": int((labels[:, 2] > 0).sum()),
        "area": float(mask.sum()),
        "iscrowd": 0,
        "keypoints": labels.ravel().tolist(),
        "image_id": image_id,
        "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        "category_id": 1,
    }


def write_pw3d(
    folder: Path,
    sequences: Mapping[str, int],
    *,
    frames: int = 48,
    seed: int = 0,
    size: tuple[int, int] = (320, 240),
    workers: int = 1,
    body_models: Path | None = None,
    yaw: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a 3DPW release: Python 2 sequence pickles and JPEG frames.

    One or two actors with male and female bodies move in front of a slowly moving camera; SMPL
    parameters and joints are in the world frame, detections carry a pixel of noise, and some frames
    have no valid camera, as in the release.

    Parameters
    ----------
    folder : Path
        Becomes the raw root.
    sequences : mapping
        Sequences per split: ``{"train": 24, "validation": 2, "test": 6}``.
    frames : int
        Frames of a sequence.
    seed, size, workers, body_models, yaw, progress
        As for :func:`write_coco`.
    """
    jobs = []
    for number, (split, count) in enumerate(sequences.items()):
        (folder / "sequenceFiles" / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            name = f"synthetic_{split}_{i:02d}"
            identity = number * 10_000 + i
            jobs.append((str(folder), split, name, identity, frames, seed, size, body_models, yaw))
    for done, _ in enumerate(_map(_pw3d_sequence, jobs, workers), 1):
        if progress is not None:
            progress(done * frames, len(jobs) * frames)


def _pw3d_sequence(
    folder: str,
    split: str,
    name: str,
    number: int,
    frames: int,
    seed: int,
    size: tuple[int, int],
    body_models: Path | None,
    yaw: float | None,
) -> None:
    """Move, film and write one sequence."""
    rng = np.random.default_rng([seed, 3, number])
    actors = 1 + int(rng.random() < 0.3)
    genders = [str(g) for g in rng.choice(["male", "female"], size=actors)]
    circle = float(rng.uniform(-np.pi, np.pi))  # where the camera stands
    bodies = [
        _act(gender, actor, frames, rng, body_models, circle + sample_yaw(rng, yaw))
        for actor, gender in enumerate(genders)
    ]
    width, height = size
    focal = rng.uniform(1.1, 1.6) * max(size)
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    cameras = _film(bodies, intrinsics, size, rng, circle)
    colours = [dress(body_model(gender, body_models), rng) for gender in genders]
    backdrop = background((width * 2, height), rng)
    place = Path(folder) / "imageFiles" / name
    place.mkdir(parents=True, exist_ok=True)
    detections = np.zeros((actors, frames, 3, 18))
    faces = body_model("neutral", body_models).faces
    for frame in range(frames):
        people = [
            pose_person(body_model(g, body_models), *_in_camera(b, frame, cameras[frame]))
            for g, b in zip(genders, bodies, strict=True)
        ]
        # The camera turns, so the backdrop slides.
        start = int(width / 2 * (1 + np.sin(frame / max(frames, 1))) / 2)
        view = np.ascontiguousarray(backdrop[:, start : start + width])
        scene = render(people, colours, intrinsics, view, rng, faces)
        (place / f"image_{frame:05d}.jpg").write_bytes(encode_jpeg(scene.picture, 90))
        for actor in range(actors):
            detections[actor, frame] = _detect(scene, actor, rng)
    valid = np.ones((actors, frames), np.uint8)
    valid[:, rng.random(frames) < 0.03] = 0
    data = _pw3d_record(name, genders, bodies, detections, valid, cameras, intrinsics)
    file = Path(folder) / "sequenceFiles" / split / f"{name}.pkl"
    file.write_bytes(pickle2.dumps(data))


def _act(
    gender: str,
    actor: int,
    frames: int,
    rng: np.random.Generator,
    folder: Path | None,
    facing: float,
) -> dict[str, Float]:
    """One actor's SMPL parameters in a world frame, y up, feet on the ground."""
    model = body_model(gender, folder)
    betas = sample_betas(rng)
    body = poses.sample_motion(frames, rng)
    turn = facing + np.cumsum(rng.normal(scale=0.01, size=frames)).cumsum() / 4
    orient = np.zeros((frames, 3))
    orient[:, 1] = turn
    shapes = np.tile(betas, (frames, 1))
    vertices, joints = forward(model, orient, body, shapes)
    transl = np.zeros((frames, 3))
    transl[:, 1] = -vertices[..., 1].min(axis=1)
    sway = np.cumsum(rng.normal(scale=0.004, size=(frames, 2)), axis=0)
    transl[:, ::2] = sway + np.array([0.9 * actor, 0.25 * actor])
    return {
        "pose": np.concatenate([orient[:, None], body], axis=1),
        "betas": betas,
        "trans": transl,
        "joints": np.asarray(joints) + transl[:, None],
        "pelvis": np.asarray(rest_pelvis(model, betas[None]))[0],
    }


def _film(
    bodies: list[dict[str, Float]],
    intrinsics: Float,
    size: tuple[int, int],
    rng: np.random.Generator,
    circle: float,
) -> Float:
    """World-to-camera (N, 4, 4) of a camera that circles slowly and keeps people in view."""
    joints = np.concatenate([body["joints"] for body in bodies], axis=1)
    frames = len(joints)
    target = joints.mean(axis=1)
    window = np.ones(9) / 9
    padded = np.pad(target, ((4, 4), (0, 0)), mode="edge")
    target = np.stack([np.convolve(padded[:, k], window, mode="valid") for k in range(3)], axis=1)
    reach = np.linalg.norm(joints - target[:, None], axis=-1).max()
    distance = intrinsics[1, 1] * 2.1 * reach / (min(size) * rng.uniform(0.75, 0.95))
    angle = circle + np.linspace(-0.5, 0.5, frames) * rng.normal(scale=0.35)
    height = rng.uniform(-0.1, 0.5)
    offset = np.stack([np.sin(angle), np.full(frames, height / distance), np.cos(angle)], axis=1)
    centre = target + distance * offset
    forward_axis = target - centre
    forward_axis /= np.linalg.norm(forward_axis, axis=1, keepdims=True)
    right = np.cross(forward_axis, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward_axis, right)
    matrices = np.tile(np.eye(4), (frames, 1, 1))
    matrices[:, :3, :3] = np.stack([right, down, forward_axis], axis=1)
    matrices[:, :3, 3] = -np.einsum("nij,nj->ni", matrices[:, :3, :3], centre)
    return matrices


def _in_camera(
    body: dict[str, Float], frame: int, camera: Float
) -> tuple[Float, Float, Float, Float]:
    """Root rotation, body pose, betas, translation of one frame in the camera frame."""
    root = camera[:3, :3] @ axis_angle_to_matrix(body["pose"][frame, 0])
    pelvis = body["pelvis"]
    transl = camera[:3, :3] @ (pelvis + body["trans"][frame]) + camera[:3, 3] - pelvis
    orient = np.asarray(matrix_to_axis_angle(root), np.float64)
    return orient, body["pose"][frame, 1:], body["betas"], transl


def _detect(scene: Scene, person: int, rng: np.random.Generator) -> Float:
    """What a detector would find: 18 OpenPose joints as (3, 18), channels first; zeros if few."""
    pixels = project(scene.people[person].joints, scene.intrinsics)
    seen = scene.visible(person).astype(np.float64)
    joints = np.concatenate([pixels, seen[:, None]], axis=1)
    points, mask = keypoints.convert(joints, "smpl_54", "pw3d", approximate=True)
    found = mask & (points[:, 2] > 0)
    # A hidden joint is found with less confidence, and not always.
    confidence = np.where(points[:, 2] == 2, rng.uniform(0.6, 0.95, 18), rng.uniform(0.2, 0.5, 18))
    found &= (points[:, 2] == 2) | (rng.random(18) < 0.7)
    if found.sum() < 6:
        return np.zeros((3, 18))
    noisy = points[:, :2] + rng.normal(scale=1.0, size=(18, 2))
    out = np.where(found[:, None], np.concatenate([noisy, confidence[:, None]], axis=1), 0.0)
    return np.asarray(out.T)


def _pw3d_record(
    name: str,
    genders: list[str],
    bodies: list[dict[str, Float]],
    detections: Float,
    valid: NDArray[np.uint8],
    cameras: Float,
    intrinsics: Float,
) -> dict[str, Any]:
    """The dictionary a sequence file of the release holds."""
    frames = len(cameras)
    twice = np.repeat(np.arange(frames), 2)
    return {
        "sequence": np.array(name),
        "img_frame_ids": (2 * np.arange(frames)).astype(np.uint16),
        "poses": [body["pose"].reshape(frames, 72) for body in bodies],
        "trans": [body["trans"] for body in bodies],
        "betas": [body["betas"] for body in bodies],
        "poses_60Hz": [body["pose"].reshape(frames, 72)[twice] for body in bodies],
        "trans_60Hz": [body["trans"][twice] for body in bodies],
        "betas_clothed": [body["betas"] for body in bodies],
        "genders": [gender[0] for gender in genders],
        "texture_maps": [],
        "poses2d": list(detections),
        "jointPositions": [body["joints"].reshape(frames, 72) for body in bodies],
        "cam_poses": cameras,
        "campose_valid": list(valid),
        "cam_intrinsics": intrinsics,
    }


def _map(function: Callable[..., Any], jobs: list[tuple[Any, ...]], workers: int) -> Iterator[Any]:
    """Results in the order of the jobs, made here or by spawned processes."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield function(*job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        futures = [executor.submit(function, *job) for job in jobs]
        for future in futures:
            yield future.result()
