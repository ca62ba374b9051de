"""Synthetic people: shapes, natural poses, cameras, light and backgrounds, rendered on a CPU.

What makes the package run end to end with nothing downloaded. Ground truth comes from the same
projection that draws the picture. Everything about one picture follows from ``(seed, number)``, so
pictures may be made in any order by any number of processes. :mod:`humandata.synthetic_releases`
writes them as raw releases in the true formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import poses
from humandata.bodymodel import BodyModel, body_model
from humandata.geometry import project
from humandata.posing import forward, joints_smpl54
from humandata.rasterise import Light, draw, lambert, to_linear, to_srgb, vertex_normals
from humandata.rotations import axis_angle_to_matrix, matrix_to_axis_angle

Float = NDArray[np.float64]

UPRIGHT = np.diag([1.0, -1.0, -1.0])
"""From SMPL's frame (y up, facing +z) to a camera's (y down), facing the camera."""
OCCLUSION_TOLERANCE = 0.14
"""Metres a joint may lie under the skin in front of it and still be seen."""


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
    """Ten shape coefficients, near normal, none beyond 2.5."""
    return np.clip(rng.normal(scale=0.9, size=10), -2.5, 2.5)


def sample_intrinsics(size: tuple[int, int], rng: np.random.Generator) -> Float:
    """A pinhole camera with its principal point at half the size."""
    width, height = size
    focal = rng.uniform(1.1, 1.6) * max(width, height)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def sample_person(
    size: tuple[int, int],
    intrinsics: Float,
    rng: np.random.Generator,
    folder: Path | None = None,
    share: tuple[float, float] = (0.45, 0.9),
    yaw: float | None = None,
) -> Person:
    """A person somewhere in the picture, most of it visible.

    Parameters
    ----------
    size : (width, height)
    share : (low, high)
        Height of the person as a share of the picture's.
    folder : Path, optional
        The user's SMPL files; else the stand-in body.
    yaw : float, optional
        How far people turn away from the camera: standard deviation in degrees. By default any
        direction, most of them towards the camera.
    """
    gender = str(rng.choice(["male", "female", "neutral"]))
    model = body_model(gender, folder)
    turned = sample_yaw(rng, yaw)
    # A little tilt, and a camera that looks down a bit.
    tilt = axis_angle_to_matrix(rng.normal(scale=0.07, size=3))
    pitch = axis_angle_to_matrix(np.array([rng.normal(0.08, 0.1), 0, 0]))
    turn = pitch @ UPRIGHT @ tilt @ axis_angle_to_matrix(np.array([0.0, turned, 0]))
    orient = np.asarray(matrix_to_axis_angle(turn), np.float64)
    body = poses.sample_poses(1, rng)[0]
    person = pose_person(model, orient, body, sample_betas(rng), np.zeros(3))
    low, high = person.vertices.min(axis=0), person.vertices.max(axis=0)
    width, height = size
    wanted = rng.uniform(*share) * height
    depth = intrinsics[1, 1] * max(high[1] - low[1], 0.9) / wanted + (high[2] - low[2]) / 2
    room = 0.5 * (width - wanted * (high[0] - low[0]) / (high[1] - low[1]))
    centre = np.array(
        [
            width / 2 + rng.uniform(-1, 1) * max(room, 0.08 * width),
            height / 2 + rng.uniform(-1, 1) * max(0.5 * (height - wanted), 0.03 * height),
        ]
    )
    if rng.random() < 0.12:  # now and then cut off by the edge of the picture
        centre += rng.normal(scale=0.15, size=2) * size
    place = np.append((centre - intrinsics[:2, 2]) / np.diag(intrinsics)[:2], 1) * depth
    transl = place - (low + high) / 2
    return pose_person(model, orient, body, person.betas, transl)


def sample_yaw(rng: np.random.Generator, spread: float | None = None) -> float:
    """Direction a person faces, radians from facing the camera; see :func:`sample_person`."""
    if spread is not None:
        return float(rng.normal(scale=np.deg2rad(spread)))
    return float(rng.normal() if rng.random() < 0.75 else rng.uniform(-np.pi, np.pi))


def dress(model: BodyModel, rng: np.random.Generator) -> Float:
    """Colours (V, 3) by body part, linear light: skin, hair, shirt, trousers, shoes.

    Parts follow the skinning weights. Left and right look alike: sides have to be told from the
    body, as in pictures.
    """
    part = np.argmax(model.weights, axis=1)
    skin = to_linear(np.array([[250, 219, 196], [224, 178, 142], [176, 122, 84], [104, 68, 46]]))[
        rng.integers(4)
    ]
    shirt, trousers, shoes = to_linear(np.stack([muted(rng, spread=40) for _ in range(3)]))
    hair = to_linear(rng.choice(np.array([[30, 24, 20], [90, 60, 35], [190, 155, 95]])))
    colours = np.tile(skin, (len(part), 1))
    torso, hips, knees = [3, 6, 9, 13, 14], [0, 1, 2], [4, 5]
    colours[np.isin(part, torso)] = shirt
    colours[np.isin(part, hips)] = trousers
    colours[np.isin(part, [7, 8, 10, 11])] = shoes
    if rng.random() < 0.7:
        colours[np.isin(part, knees)] = trousers
    sleeves = rng.random()
    if sleeves < 0.85:
        colours[np.isin(part, [16, 17])] = shirt
    if sleeves < 0.4:
        colours[np.isin(part, [18, 19])] = shirt
    head = part == 15
    template = model.v_template
    top, front = template[head, 1].max(), template[head, 2].max()
    span = top - template[head, 1].min()
    scalp = template[:, 1] > top - 0.28 * span
    behind = (template[:, 2] < front - 0.11) & (template[:, 1] > top - 0.75 * span)
    colours[head & (scalp | behind)] = hair
    # Cloth is not of one colour.
    stripes = 1 + 0.12 * np.sin(template[:, 1] * rng.uniform(20, 90) + rng.uniform(0, 6))
    cloth = np.isin(part, torso + hips)
    colours[cloth] *= stripes[cloth, None]
    return np.asarray(np.clip(colours, 0, 1), np.float64)


def muted(rng: np.random.Generator, spread: float = 18) -> Float:
    """A colour as rooms and clothes have them, RGB 0..255: grey with a tint."""
    return np.clip(rng.uniform(35, 220) + rng.normal(scale=spread, size=3), 5, 250)


def background(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A made-up room or street, RGB: sky or wall, ground, boxes, soft texture."""
    import cv2

    width, height = size
    wall, ground = muted(rng), muted(rng)
    horizon = int(height * rng.uniform(0.4, 0.8))
    picture = np.empty((height, width, 3), np.float32)
    fade = np.linspace(rng.uniform(0.7, 1.1), rng.uniform(0.8, 1.2), height)[:, None, None]
    picture[:] = np.where(np.arange(height)[:, None, None] < horizon, wall, ground) * fade
    for _ in range(rng.integers(3, 9)):
        x, y = rng.integers(-width // 5, width), rng.integers(-height // 5, height)
        w, h = rng.integers(width // 14, width // 2), rng.integers(height // 14, height // 2)
        colour = muted(rng).tolist()
        corner = (int(x + w), int(y + h))
        cv2.rectangle(picture, (int(x), int(y)), corner, colour, cv2.FILLED)
    grain = rng.normal(scale=9, size=(max(2, height // 16), max(2, width // 16)))
    soft = cv2.resize(grain.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    picture += soft[:, :, None]
    blurred = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.6, 2.2)))
    return np.asarray(np.clip(blurred, 0, 255), np.uint8)


@dataclass(frozen=True)
class Scene:
    """A rendered picture and the truth about it.

    Attributes
    ----------
    picture : (H, W, 3) uint8
        RGB.
    people : sequence of Person
    intrinsics : (3, 3) float64
    masks : list of (H, W) bool
        Pixels in which each person is the nearest.
    depth : (H, W) float64
        1 / z of the nearest surface, 0 where there is none.
    """

    picture: NDArray[np.uint8]
    people: Sequence[Person]
    intrinsics: Float
    masks: list[NDArray[np.bool_]]
    depth: Float

    def visible(self, person: int) -> NDArray[np.uint8]:
        """Visibility of the 54 joints: 0 outside the picture, 1 hidden, 2 seen; uint8 (54,)."""
        joints = self.people[person].joints
        pixels = project(joints, self.intrinsics)
        height, width = self.depth.shape
        with np.errstate(invalid="ignore"):
            inside = (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        column, row = np.where(inside[:, None], pixels, 0).astype(int).T
        surface = self.depth[row, column]
        hidden = (surface > 0) & (
            joints[:, 2] > 1 / np.maximum(surface, 1e-9) + OCCLUSION_TOLERANCE
        )
        return np.where(inside, np.where(hidden, 1, 2), 0).astype(np.uint8)


def render(
    people: Sequence[Person],
    colours: Sequence[Float],
    intrinsics: Float,
    backdrop: NDArray[np.uint8],
    rng: np.random.Generator,
    faces: NDArray[Any],
) -> Scene:
    """Draw people over a backdrop, with one light, blur and sensor noise."""
    import cv2

    height, width = backdrop.shape[:2]
    above = float(abs(rng.normal(0.6, 0.4)))
    strength = float(rng.uniform(0.45, 0.7))
    light = Light(
        (float(rng.normal(scale=0.8)), -above, -1.0),
        (strength, strength, strength),
        (1 - strength, 1 - strength, 1 - strength),
    )
    shaded = [
        lambert(vertex_normals(person.vertices, faces), colour, light)
        for person, colour in zip(people, colours, strict=True)
    ]
    meshes = np.stack([person.vertices for person in people])
    layer = draw(meshes, faces, intrinsics, (width, height), np.stack(shaded))
    picture = to_srgb(layer.over(to_linear(backdrop)))
    depth = np.zeros((height, width))
    owner = np.full((height, width), -1)
    rows = slice(layer.y, layer.y + layer.coverage.shape[0])
    columns = slice(layer.x, layer.x + layer.coverage.shape[1])
    depth[rows, columns] = layer.inverse_depth
    owner[rows, columns] = layer.body
    if rng.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 0.8))))
    noise = rng.normal(scale=rng.uniform(1, 4), size=picture.shape)
    picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    masks = [owner == number for number in range(len(people))]
    return Scene(picture, people, intrinsics, masks, depth)


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
        See :func:`sample_person`.
    """
    rng = np.random.default_rng([seed, number])
    intrinsics = sample_intrinsics(size, rng)
    count = 1 + int(rng.random() < crowd)
    share = (0.5, 0.92) if count == 1 else (0.4, 0.75)
    people = [sample_person(size, intrinsics, rng, folder, share, yaw) for _ in range(count)]
    colours = [dress(body_model(person.gender, folder), rng) for person in people]
    faces = body_model("neutral", folder).faces
    return render(people, colours, intrinsics, background(size, rng), rng, faces)
