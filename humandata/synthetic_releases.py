"""Raw releases of synthetic people in the true formats: COCO keypoints and 3DPW.

They are read by the same converters as the real ones. Pictures are rendered by
:mod:`humandata.synthetic`; annotations are its ground truth, written the way each release writes
it. The result depends on the seed only, not on the number of processes.

What the annotations do not say (whole bodies, exact joints) can be kept beside a release as
``truth/<split>.npz``, for tests and for measuring a fit.
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

from humandata import keypoints, pickle2
from humandata.bodymodel import BodyModel, body_model
from humandata.clothing import dress
from humandata.geometry import project, smpl_to_camera
from humandata.pictures import encode_jpeg
from humandata.synthetic import (
    Person,
    Scene,
    pose_person,
    render,
    sample_intrinsics,
    sample_scene,
    sample_stage,
)
from humandata.synthetic_motion import act, film, keep_apart

Float = NDArray[np.float64]
Progress = Callable[[int, int], None]
Truth = dict[str, NDArray[Any]]

COCO_SKELETON = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9],
    [8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip
UNLABELLED, CROWD = 23, 37
"""Of so many pictures, one shows a person nobody labelled, one has a region marked as a crowd."""
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
    truth: Path | None = None,
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
    truth : Path, optional
        Folder for ``<split>.npz``: bodies, exact joints and cameras, a row per annotation that has
        one, named by ``annotation`` or by ``sequence``, ``actor`` and ``frame``.
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
        bodies: list[Truth] = []
        for image, rows, known in _map(_coco_picture, jobs, workers):
            images.append(image)
            for row, body in zip(rows, known, strict=True):
                identity = 2_000_000 + number * 500_000 + len(annotations)
                annotations.append(row | {"id": identity})
                if body is not None:
                    bodies.append({"annotation": np.array(identity), **body})
            done += 1
            if progress is not None:
                progress(done, total)
        content = {
            "info": {"description": "Synthetic people in COCO's format", "year": 2017},
            "licenses": [{"id": 1, "name": "CC0", "url": ""}],
            "images": images,
            # The official files do not keep the persons of a picture together either.
            "annotations": sorted(annotations, key=lambda row: (row["id"] * 7919) % 10_007),
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
        _save(truth, split, bodies)


def _coco_picture(
    place: str,
    seed: int,
    number: int,
    size: tuple[int, int],
    body_models: Path | None,
    yaw: float | None,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Truth | None]]:
    """Render one picture; its entry of ``images``, its rows of ``annotations``, and their truth."""
    scene = sample_scene(seed, number, size, body_models, yaw=yaw)
    identity = FIRST_PICTURE + number
    name = f"{identity:012d}.jpg"
    quality = int(np.random.default_rng([seed, number, 1]).integers(85, 96))
    (Path(place) / name).write_bytes(encode_jpeg(scene.picture, quality))
    image = {
        "license": 1,
        "file_name": name,
        "height": size[1],
        "width": size[0],
        "date_captured": "2017-01-01 00:00:00",
        "id": identity,
    }
    rows: list[dict[str, Any]] = []
    known: list[Truth | None] = []
    for person in range(len(scene.people)):
        row = _coco_annotation(scene, person, identity)
        if row is not None:
            rows.append(row)
            known.append(_truth(scene, person))
    if number % UNLABELLED == UNLABELLED - 1 and rows:
        rows[-1] |= {"keypoints": [0] * 51, "num_keypoints": 0}
    if number % CROWD == CROWD - 1:
        rows.append(_crowd(identity, size))
        known.append(None)
    return image, rows, known


def _coco_annotation(scene: Scene, person: int, image_id: int) -> dict[str, Any] | None:
    """One person as COCO annotates it; None where nothing of it is seen."""
    import cv2

    mask = scene.masks[person]
    if not mask.any():
        return None
    pixels = project(scene.people[person].joints, scene.intrinsics)
    points, _ = keypoints.convert(pixels, "smpl_54", "coco")
    labels = np.zeros((17, 3), np.int64)
    seen = scene.visible(person)[:, None].astype(np.float64)
    labels[:, 2] = keypoints.convert(seen, "smpl_54", "coco")[0][:, 0]
    # A person of a handful of pixels is boxed, but nobody would label its joints.
    if mask.sum() < 100:
        labels[:] = 0
    there = labels[:, 2] > 0
    labels[there, :2] = np.floor(points[there] + 0.5).astype(np.int64)
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    whole = mask.astype(np.uint8)
    outlines, _ = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return {
        "segmentation": [o.ravel().astype(float).tolist() for o in outlines if len(o) > 2],
        "num_keypoints": int(there.sum()),
        "area": float(mask.sum()),
        "iscrowd": 0,
        "keypoints": labels.ravel().tolist(),
        "image_id": image_id,
        "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        "category_id": 1,
    }


def _crowd(image_id: int, size: tuple[int, int]) -> dict[str, Any]:
    """A region of the picture marked as a crowd: run lengths down the columns, no joints."""
    width, height = size
    w, h = max(width // 8, 1), max(height // 10, 1)
    # Empty pixels first, then full and empty ones by turns, column after column.
    counts = [0, *([h, height - h] * w)]
    counts[-1] += (width - w) * height
    return {
        "segmentation": {"counts": counts, "size": [height, width]},
        "num_keypoints": 0,
        "area": float(w * h),
        "iscrowd": 1,
        "keypoints": [0] * 51,
        "image_id": image_id,
        "bbox": [0, 0, w, h],
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
    truth: Path | None = None,
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
    seed, size, workers, body_models, yaw, truth, progress
        As for :func:`write_coco`.
    """
    jobs, splits = [], []
    for number, (split, count) in enumerate(sequences.items()):
        (folder / "sequenceFiles" / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            name = f"synthetic_{split}_{i:02d}"
            identity = number * 10_000 + i
            job = (str(folder), split, name, identity, frames, seed, size, body_models, yaw)
            jobs.append(job)
            splits.append(split)
    known: dict[str, list[Truth]] = {split: [] for split in sequences}
    for done, rows in enumerate(_map(_pw3d_sequence, jobs, workers), 1):
        known[splits[done - 1]] += rows
        if progress is not None:
            progress(done * frames, len(jobs) * frames)
    for split, bodies in known.items():
        _save(truth, split, bodies)


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
) -> list[Truth]:
    """Move, film and write one sequence; its truth, actors inner, frames outer."""
    rng = np.random.default_rng([seed, 3, number])
    genders = [str(g) for g in rng.choice(["male", "female"], size=1 + int(rng.random() < 0.3))]
    models = [body_model(gender, body_models) for gender in genders]
    # Without a yaw everybody faces another way; with one, all face the side the camera is on.
    ahead = rng.uniform(-np.pi, np.pi)
    headings = [ahead if yaw is not None else rng.uniform(-np.pi, np.pi) for _ in models]
    bodies = [
        act(model, frames, rng, heading) for model, heading in zip(models, headings, strict=True)
    ]
    keep_apart(bodies, rng)
    intrinsics = sample_intrinsics(size, rng)
    cameras = film(bodies, intrinsics, size, rng, yaw)
    colours = [dress(model, rng) for model in models]
    turns, moves = cameras[:, :3, :3], cameras[:, :3, 3]
    eyes = -np.einsum("nji,nj->ni", turns, moves)
    stage = sample_stage(np.concatenate([b["joints"].reshape(-1, 3) for b in bodies] + [eyes]), rng)
    place = Path(folder) / "imageFiles" / name
    place.mkdir(parents=True, exist_ok=True)
    detections = np.zeros((len(bodies), frames, 3, 18))
    known: list[Truth] = []
    for frame, camera in enumerate(cameras):
        people = [
            _in_camera(model, body, frame, camera)
            for model, body in zip(models, bodies, strict=True)
        ]
        scene = render(people, colours, stage, intrinsics, camera, size, rng, models[0].faces)
        (place / f"image_{frame:05d}.jpg").write_bytes(encode_jpeg(scene.picture, 90))
        for actor in range(len(bodies)):
            detections[actor, frame] = _detect(scene, actor, rng)
            row = {"sequence": np.array(name), "actor": np.array(actor), "frame": np.array(frame)}
            known.append(row | _truth(scene, actor))
    valid = (rng.random((len(bodies), frames)) >= 0.03).astype(np.uint8)
    data = _pw3d_record(name, models, bodies, detections, valid, cameras, intrinsics)
    file = Path(folder) / "sequenceFiles" / split / f"{name}.pkl"
    file.write_bytes(pickle2.dumps(data))
    return known


def _in_camera(model: BodyModel, body: dict[str, Float], frame: int, camera: Float) -> Person:
    root, trans = body["pose"][frame, 0], body["trans"][frame]
    orient, transl = smpl_to_camera(root, trans, body["pelvis"], camera)
    pose = body["pose"][frame, 1:]
    return pose_person(model, np.asarray(orient), pose, body["betas"], np.asarray(transl))


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
    models: list[BodyModel],
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
        "v_template_clothed": [np.asarray(model.v_template, np.float64) for model in models],
        "genders": [model.gender[0] for model in models],
        "texture_maps": [],
        "poses2d": list(detections),
        "jointPositions": [body["joints"].reshape(frames, 72) for body in bodies],
        "cam_poses": cameras,
        "campose_valid": list(valid),
        "cam_intrinsics": intrinsics,
    }


def _truth(scene: Scene, person: int) -> Truth:
    """What is exactly known of one person of a picture, in the camera frame."""
    body = scene.people[person]
    return {
        "gender": np.array(body.gender),
        "global_orient": body.global_orient,
        "body_pose": body.body_pose,
        "betas": body.betas,
        "transl": body.transl,
        "joints": body.joints,
        "visible": scene.visible(person),
        "intrinsics": scene.intrinsics,
        "extrinsics": scene.extrinsics,
    }


def _save(folder: Path | None, split: str, rows: list[Truth]) -> None:
    if folder is None or not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    np.savez_compressed(folder / f"{split}.npz", **columns)


def _map(function: Callable[..., Any], jobs: list[tuple[Any, ...]], workers: int) -> Iterator[Any]:
    """Results in the order of the jobs, made here or by spawned processes."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield function(*job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_use_one_thread) as executor:
        futures = [executor.submit(function, *job) for job in jobs]
        for future in futures:
            yield future.result()


def _use_one_thread() -> None:
    import cv2

    # One process per core is enough; OpenCV would start as many threads in each.
    cv2.setNumThreads(1)
