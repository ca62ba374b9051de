"""Synthetic people: shapes, natural poses, cameras, light and places, rendered on a CPU.

What makes the package run end to end with nothing downloaded. Ground truth comes from the same
projection that draws the picture. Everything about one picture follows from ``(seed, number)``, so
pictures may be made in any order by any number of processes. :mod:`humandata.synthetic_releases`
writes them as raw releases in the true formats.

The world has y up and its floor at y = 0; the camera has x right, y down, z forward. Metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from humandata import poses, scenery
from humandata.bodymodel import BodyModel, body_model
from humandata.clothing import dress
from humandata.geometry import project, smpl_to_camera
from humandata.posing import forward, joints_smpl54, rest_pelvis
from humandata.rasterise import Light, draw, lambert, to_linear, to_srgb, vertex_normals
from humandata.rotations import axis_angle_to_matrix, matrix_to_axis_angle

Float = NDArray[np.float64]

# Metres a joint may lie under the skin in front of it and still be seen. Face, finger and toe
# points of smpl_54 lie on the skin; hips and shoulders lie deepest.
_DEPTH = np.full(54, 0.10)
_DEPTH[[0, 1, 2, 3, 6, 9]] = 0.16
_DEPTH[[4, 5, 16, 17, 13, 14]] = 0.12
_DEPTH[[20, 21, 22, 23]] = 0.07
_DEPTH[24:45] = 0.04
_DEPTH[45:] = 0.15


@dataclass(frozen=True)
class Person:
    """One body in the camera frame.

    Attributes
    ----------
    gender : str
    global_orient, transl : (3,) float64
    body_pose : (23, 3) float64
    betas : (10,) float64
    vertices : (6890, 3) float64
        Metres.
    joints : (54, 3) float64
        Convention ``smpl_54``, metres.
    """

    gender: str
    global_orient: Float
    body_pose: Float
    betas: Float
    transl: Float
    vertices: Float
    joints: Float


@dataclass(frozen=True)
class Stage:
    """Where and in which light a picture is taken.

    Attributes
    ----------
    room : scenery.Room
    towards_light : (3,) float64
        Direction in the world.
    sun, ambient : (3,) float64
        Linear light from there and from everywhere.
    shadow : float
        How dark a cast shadow is, 0 to 1.
    blur, noise : float
        Standard deviations, pixels and 0 to 255.
    """

    room: scenery.Room
    towards_light: Float
    sun: Float
    ambient: Float
    shadow: float
    blur: float
    noise: float


@dataclass(frozen=True)
class Scene:
    """A rendered picture and the truth about it.

    Attributes
    ----------
    picture : (H, W, 3) uint8
        RGB.
    people : sequence of Person
    intrinsics : (3, 3) float64
    extrinsics : (4, 4) float64
        World to camera.
    masks : list of (H, W) bool
        Pixels in which each person is the nearest.
    depth : (H, W) float64
        1 / z of the nearest surface, 0 where there is none.
    """

    picture: NDArray[np.uint8]
    people: Sequence[Person]
    intrinsics: Float
    extrinsics: Float
    masks: list[NDArray[np.bool_]]
    depth: Float

    def visible(self, person: int) -> NDArray[np.uint8]:
        """Visibility of the 54 joints: 0 outside the picture, 1 hidden, 2 seen; uint8 (54,)."""
        joints = self.people[person].joints
        pixels = project(joints, self.intrinsics)
        height, width = self.depth.shape
        with np.errstate(invalid="ignore"):
            # Pixel i reaches from i - 1/2 to i + 1/2.
            place = np.floor(pixels + 0.5)
            inside = ((place >= 0) & (place < [width, height])).all(axis=1)
        column, row = np.where(inside[:, None], place, 0).astype(int).T
        surface = self.depth[row, column]
        hidden = (surface > 0) & (joints[:, 2] > 1 / np.maximum(surface, 1e-9) + _DEPTH)
        return np.where(inside, np.where(hidden, 1, 2), 0).astype(np.uint8)


def pose_person(
    model: BodyModel, global_orient: Float, body_pose: Float, betas: Float, transl: Float
) -> Person:
    """A person from SMPL parameters in the camera frame."""
    vertices, joints = forward(
        model, global_orient[None], body_pose[None], betas[None], transl[None]
    )
    return Person(
        model.gender,
        global_orient,
        body_pose,
        betas,
        transl,
        np.asarray(vertices[0], np.float64),
        np.asarray(joints_smpl54(model, vertices, joints)[0], np.float64),
    )


def sample_betas(rng: np.random.Generator) -> Float:
    """Ten shape coefficients, normal, none beyond 2.5."""
    return np.clip(rng.normal(size=10), -2.5, 2.5)


def sample_intrinsics(size: tuple[int, int], rng: np.random.Generator) -> Float:
    """A pinhole camera with its principal point at half the size."""
    width, height = size
    focal = rng.uniform(1.1, 1.6) * max(width, height)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def sample_heading(rng: np.random.Generator, yaw: float | None = None) -> float:
    """Angle about the vertical, radians, 0 for facing the camera.

    ``yaw`` is the standard deviation in degrees; by default any direction, most of them towards
    the camera.
    """
    if yaw is not None:
        return float(rng.normal(scale=np.deg2rad(yaw)))
    return float(rng.normal(scale=1.0) if rng.random() < 0.75 else rng.uniform(-np.pi, np.pi))


def look_at(
    centre: Float, target: Float, pixel: Float, intrinsics: Float, roll: float = 0.0
) -> Float:
    """World-to-camera matrix (4, 4) of an upright camera that shows a point at a pixel.

    Parameters
    ----------
    centre, target : (3,)
        Of the camera, and what it is to show; world.
    pixel : (2,)
        Where the target appears.
    intrinsics : (3, 3)
    roll : float
        Turn about the viewing direction afterwards, radians.
    """
    away = target - centre
    ray = np.linalg.solve(intrinsics, [pixel[0], pixel[1], 1.0])
    ray /= np.linalg.norm(ray)
    # A camera that is raised by `rise` sees the ray at the target's height ...
    sine = away[1] / np.linalg.norm(away) / np.hypot(ray[1], ray[2])
    rise = np.arctan2(ray[1], ray[2]) + np.arcsin(np.clip(sine, -1, 1))
    # ... and one that is turned by `heading`, in the target's direction.
    along = ray[2] * np.cos(rise) + ray[1] * np.sin(rise)
    heading = np.arctan2(away[0], away[2]) + np.arctan2(ray[0], along)
    ahead = np.array([np.sin(heading) * np.cos(rise), np.sin(rise), np.cos(heading) * np.cos(rise)])
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(ahead, right), ahead])
    turn = np.asarray(axis_angle_to_matrix(np.array([0.0, 0.0, roll]))) @ turn
    extrinsics = np.eye(4)
    extrinsics[:3, :3], extrinsics[:3, 3] = turn, -turn @ centre
    return extrinsics


def sample_stage(points: Float, rng: np.random.Generator) -> Stage:
    """A place around the points (N, 3) of the world, people and cameras, and its light."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(35, 75))
    flat = np.cos(elevation)
    towards = np.array([flat * np.sin(azimuth), np.sin(elevation), flat * np.cos(azimuth)])
    strength = rng.uniform(0.35, 0.75)
    tint = 1 + rng.normal(scale=0.05, size=3)
    exposure = rng.uniform(0.8, 1.2)
    return Stage(
        scenery.sample_room(points, rng),
        towards,
        exposure * strength * tint,
        exposure * (1 - strength) * (2 - tint),
        float(rng.uniform(0.15, 0.3) + 0.5 * (strength - 0.35)),
        float(rng.uniform(0.3, 0.9)) if rng.random() < 0.5 else 0.0,
        float(rng.uniform(1, 4)),
    )


def render(
    people: Sequence[Person],
    colours: Sequence[Float],
    stage: Stage,
    intrinsics: Float,
    extrinsics: Float,
    size: tuple[int, int],
    rng: np.random.Generator,
    faces: NDArray[np.int32],
) -> Scene:
    """Draw people into a place: shaded, with a shadow on the floor, blur and sensor noise.

    Parameters
    ----------
    people : sequence of Person
    colours : sequence of (V, 3) float64
        As from `humandata.clothing.dress`.
    stage : Stage
    intrinsics : (3, 3)
    extrinsics : (4, 4)
        World to camera.
    size : (width, height)
    rng : Generator
        For the noise.
    faces : (F, 3) int32
    """
    import cv2

    width, height = size
    turn, move = extrinsics[:3, :3], extrinsics[:3, 3]
    meshes = np.stack([person.vertices for person in people])
    world = (meshes.reshape(-1, 3) - move) @ turn
    backdrop, floor = scenery.view(stage.room, intrinsics, extrinsics, size)
    picture = to_linear(backdrop)
    lit = scenery.cast_shadow(world, stage.towards_light, intrinsics, extrinsics, floor)
    picture *= np.float32(1) - np.float32(stage.shadow) * (1 - lit[..., None])
    towards = turn @ stage.towards_light
    light = Light(*(tuple(v.tolist()) for v in (towards, stage.sun, stage.ambient)))
    shaded = [
        lambert(vertex_normals(person.vertices, faces), colour, light)
        for person, colour in zip(people, colours, strict=True)
    ]
    layer = draw(meshes, faces, intrinsics, size, np.stack(shaded))
    developed = to_srgb(layer.over(picture))
    if stage.blur:
        developed = np.asarray(cv2.GaussianBlur(developed, (0, 0), stage.blur), np.uint8)
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(stage.noise)
    noisy = np.clip(developed + grain[..., None], 0, 255).astype(np.uint8)
    depth = np.zeros((height, width))
    owner = np.full((height, width), -1)
    rows = slice(layer.y, layer.y + layer.coverage.shape[0])
    columns = slice(layer.x, layer.x + layer.coverage.shape[1])
    depth[rows, columns], owner[rows, columns] = layer.inverse_depth, layer.body
    masks = [owner == number for number in range(len(people))]
    return Scene(noisy, people, intrinsics, extrinsics, masks, depth)


@dataclass(frozen=True)
class _Standing:
    """A body in the world, on the floor."""

    model: BodyModel
    orient: Float
    pose: Float
    betas: Float
    transl: Float
    box: Float  # (2, 3) lowest and highest corner


def _stand(
    heading: float, place: Float, rng: np.random.Generator, folder: Path | None
) -> _Standing:
    model = body_model(str(rng.choice(["male", "female", "neutral"])), folder)
    posture, betas = poses.sample_postures(1, rng)[0], sample_betas(rng)
    turn = axis_angle_to_matrix(np.array([0.0, heading, 0.0])) @ axis_angle_to_matrix(posture[0])
    orient = np.asarray(matrix_to_axis_angle(turn), np.float64)
    vertices, _ = forward(model, orient[None], posture[None, 1:], betas[None])
    low, high = vertices[0].min(axis=0), vertices[0].max(axis=0)
    middle = (low + high) / 2
    transl = np.array([place[0] - middle[0], -low[1], place[2] - middle[2]])
    box = np.stack([low, high]) + transl
    return _Standing(model, orient, posture[1:], betas, transl, box)


def sample_scene(
    seed: int,
    number: int,
    size: tuple[int, int] = (320, 240),
    folder: Path | None = None,
    crowd: float = 0.25,
    yaw: float | None = None,
) -> Scene:
    """Picture ``number`` of a seed: one person, or with probability ``crowd`` two.

    Parameters
    ----------
    seed, number : int
        Everything random follows from these two.
    size : (width, height)
        Pixels.
    folder : Path, optional
        The user's SMPL files; else the stand-in body.
    crowd : float
    yaw : float, optional
        How far people turn away from the camera, see :func:`sample_heading`.
    """
    rng = np.random.default_rng([seed, number])
    intrinsics = sample_intrinsics(size, rng)
    bodies = [_stand(sample_heading(rng, yaw), np.zeros(3), rng, folder)]
    if rng.random() < crowd:
        side, behind = rng.choice([-1, 1]) * rng.uniform(0.45, 1.1), rng.uniform(-1.2, 0.4)
        place = np.array([side, 0, behind])
        bodies.append(_stand(sample_heading(rng, yaw), place, rng, folder))
    extrinsics = _sample_camera(bodies, intrinsics, size, rng)
    people = [_into_camera(body, extrinsics) for body in bodies]
    centre = -extrinsics[:3, :3].T @ extrinsics[:3, 3]
    points = np.concatenate([body.box for body in bodies] + [centre[None]])
    stage = sample_stage(points, rng)
    colours = [dress(body.model, rng) for body in bodies]
    faces = bodies[0].model.faces
    return render(people, colours, stage, intrinsics, extrinsics, size, rng, faces)


def _into_camera(body: _Standing, extrinsics: Float) -> Person:
    pelvis = rest_pelvis(body.model, body.betas[None])[0]
    orient, transl = smpl_to_camera(body.orient, body.transl, pelvis, extrinsics)
    return pose_person(body.model, np.asarray(orient), body.pose, body.betas, np.asarray(transl))


def _sample_camera(
    bodies: Sequence[_Standing],
    intrinsics: Float,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Float:
    """A camera in front of the bodies, +z side, near enough for the first to fill the picture.

    The first person is 40 to 90 % as high as the picture, unless it would be wider than that; now
    and then the edge of the picture cuts it off.
    """
    low, high = bodies[0].box
    extent, middle = high - low, (low + high) / 2
    both = np.ptp(np.concatenate([body.box for body in bodies]), axis=0)
    share = rng.uniform(0.5, 0.92) if len(bodies) == 1 else rng.uniform(0.4, 0.78)
    limit = np.array(size)
    distance = intrinsics[1, 1] * max(
        extent[1] / (share * limit[1]), max(extent[0], 0.8 * both[0]) / (0.95 * limit[0])
    )
    distance += extent[2] / 2
    eye = np.clip(rng.normal(1.3, 0.45), 0.4, 1.1 + 0.35 * distance)
    room = 1 - extent[:2] / (distance - extent[2] / 2) * intrinsics[0, 0] / limit
    pixel = limit * (0.5 + 0.45 * rng.uniform(-1, 1, 2) * np.maximum(room, 0.06))
    if rng.random() < 0.12:
        pixel += rng.normal(scale=0.15, size=2) * limit
    angle = rng.normal(scale=0.3)
    centre = np.array([np.sin(angle) * distance, eye, np.cos(angle) * distance])
    centre += middle * [1, 0, 1]
    return look_at(centre, middle, pixel, intrinsics, float(rng.normal(scale=0.03)))
