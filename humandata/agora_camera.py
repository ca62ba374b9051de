"""AGORA's cameras and the way from a fitted scan into the camera frame.

The pictures were rendered in Unreal: x forward, y right, z up, centimetres, left-handed. Here all
is in OpenCV's axes (x right, y down, z forward) and metres. A scan's fit stands in a frame of its
own, y up; it is turned upside down, turned by the person's yaw, put on its place in the world, and
seen by a camera that has a yaw and a pitch but no roll.

Which camera took a picture is told by its file name; only pictures that no rule names carry their
camera in the table. Source: ``agora_evaluation/projection.py`` of the official evaluation code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from humandata.geometry import axis_angle_to_matrix

Float = NDArray[np.float64]

FULL_SIZE = (3840, 2160)
"""Width and height of the pictures that the tables' 2D joints belong to."""
SENSOR_WIDTH = 36.0
"""Millimetres; the height is 20.25, so pixels are square."""
UPSIDE_DOWN = np.diag([1.0, -1.0, -1.0])
GROUND = np.array([0.0, -1.7, 0.0])
"""Metres by which a camera of the table is moved: its z counts from the ground people stand on."""
SMALL_ENDING = "_1280x720"


@dataclass(frozen=True)
class Rule:
    """A camera that the name of a picture stands for.

    Attributes
    ----------
    word : str
        Part of the name.
    focal : float
        Millimetres.
    place : tuple of float
        Unreal world, centimetres.
    yaw, pitch : float
        Degrees.
    """

    word: str
    focal: float
    place: tuple[float, float, float]
    yaw: float
    pitch: float


RULES = (
    Rule("hdri", 50, (0, 0, 170), 0, 0),
    Rule("cam00", 18, (400, -275, 265), 135, 30),
    Rule("cam01", 18, (400, 225, 265), -135, 30),
    Rule("cam02", 18, (-490, 170, 265), -45, 30),
    Rule("cam03", 18, (-490, -275, 265), 45, 30),
    Rule("ag2", 28, (0, 0, 170), 0, 15),
)
"""Tested in this order: the first whose word is in the name counts."""
TABLE_FOCAL = 28.0
"""Focal length, millimetres, of pictures whose camera is in the table."""


@dataclass(frozen=True)
class Camera:
    """Where a picture was taken from; x_camera = rotation (x_world - centre).

    Attributes
    ----------
    focal : float
        Millimetres.
    rotation : (3, 3) float64
        World to camera.
    centre : (3,) float64
        World, metres.
    """

    focal: float
    rotation: Float
    centre: Float

    def intrinsics(self, width: int) -> Float:
        """Camera matrix (3, 3), pixels, of a picture ``width`` wide and 9/16 as high."""
        focal = self.focal / SENSOR_WIDTH * width
        height = width * FULL_SIZE[1] / FULL_SIZE[0]
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])

    def extrinsics(self) -> Float:
        """World to camera (4, 4), metres."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation
        matrix[:3, 3] = -self.rotation @ self.centre
        return matrix


def picture_name(path: str, small: bool) -> str:
    """File name of a picture in one of the two sizes, whichever of them the table names.

    The folder is dropped: a rule's word in a folder's name says nothing of the camera.
    """
    name = PurePosixPath(path.replace("\\", "/"))
    stem = name.stem.removesuffix(SMALL_ENDING)
    return f"{stem}{SMALL_ENDING if small else ''}{name.suffix or '.png'}"


def rule_of(name: str) -> Rule | None:
    """The rule for a picture's file name, None where the table holds the camera."""
    return next((rule for rule in RULES if rule.word in name), None)


def camera_of(name: str, table: ArrayLike) -> Camera:
    """The camera of a picture.

    Parameters
    ----------
    name : str
        File name of the picture.
    table : array_like, shape (4,)
        ``camX, camY, camZ`` in centimetres and ``camYaw`` in degrees; read where no rule names the
        picture.
    """
    rule = rule_of(name)
    if rule is None:
        row = np.asarray(table, np.float64)
        centre = from_unreal(row[:3]) + GROUND
        return Camera(TABLE_FOCAL, _turn_y(-row[3]), centre)
    turn = _turn_x(rule.pitch) @ _turn_y(-rule.yaw)
    return Camera(rule.focal, turn, from_unreal(rule.place))


def from_unreal(places: ArrayLike) -> Float:
    """Places (..., 3) in Unreal's world, centimetres, in OpenCV's axes and metres."""
    x, y, z = np.moveaxis(np.asarray(places, np.float64), -1, 0)
    return np.stack([y, -z, x], axis=-1) / 100


def scan_to_world(yaw: ArrayLike) -> Float:
    """Rotations (..., 3, 3) that turn fits (y up) into the world (y down), by yaw in degrees."""
    # Scans face Unreal's y axis, a quarter turn from where the yaw counts from.
    turned: Float = _turn_y(np.asarray(yaw, np.float64) - 90) @ UPSIDE_DOWN
    return turned


def _turn_y(degrees: ArrayLike) -> Float:
    return _turn(degrees, 1)


def _turn_x(degrees: ArrayLike) -> Float:
    return _turn(degrees, 0)


def _turn(degrees: ArrayLike, axis: int) -> Float:
    angle = np.deg2rad(np.asarray(degrees, np.float64))
    vector = np.zeros((*angle.shape, 3))
    vector[..., axis] = angle
    return np.asarray(axis_angle_to_matrix(vector), np.float64)
