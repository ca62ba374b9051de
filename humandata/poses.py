"""Natural poses without motion capture: key poses of everyday actions, blended and varied.

A key pose is written by hand as rotations per joint, in degrees about the axes of SMPL's rest pose
(T-pose, y up, facing +z, left hand towards +x), applied from right to left: ``"x-30 z-70"`` lowers
the left arm by 70 degrees (about z) and then swings it forward by 30 (about x). Sides are mirrored
to double their number.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import keypoints
from humandata.geometry import flip_pose
from humandata.rotations import axis_angle_to_matrix, matrix_to_axis_angle

Float = NDArray[np.float64]

_ARMS_DOWN = {"left_shoulder": "x-5 z-72", "right_shoulder": "x-5 z72",
              "left_elbow": "y-15", "right_elbow": "y15"}  # fmt: skip

KEY_POSES: dict[str, dict[str, str]] = {
    "stand": {**_ARMS_DOWN, "left_hip": "z3", "right_hip": "z-3"},
    "stand_relaxed": {**_ARMS_DOWN, "left_hip": "x-8 z6", "left_knee": "x14", "spine_1": "z-4",
                      "spine_2": "z3", "head": "y15", "right_elbow": "y30"},
    "arms_open": {"left_shoulder": "x-15 z-25", "right_shoulder": "x-15 z25",
                  "left_elbow": "y-20", "right_elbow": "y20"},
    "t_pose": {},
    "walk_contact": {"left_hip": "x-26", "left_knee": "x6", "left_ankle": "x-6",
                     "right_hip": "x18", "right_knee": "x14", "right_ankle": "x18",
                     "left_shoulder": "x22 z-74", "right_shoulder": "x-24 z74",
                     "left_elbow": "y-18", "right_elbow": "y30", "spine_2": "y8"},
    "walk_passing": {"left_hip": "x2", "left_knee": "x4", "right_hip": "x-18", "right_knee": "x48",
                     "left_shoulder": "x-2 z-74", "right_shoulder": "x2 z74",
                     "left_elbow": "y-22", "right_elbow": "y22"},
    "run": {"left_hip": "x-58", "left_knee": "x78", "right_hip": "x24", "right_knee": "x42",
            "right_ankle": "x22", "spine_1": "x10", "spine_2": "x6 y10",
            "left_shoulder": "x42 z-70", "right_shoulder": "x-40 z70",
            "left_elbow": "y-85", "right_elbow": "y85"},
    "arms_up": {"left_shoulder": "z62", "right_shoulder": "z-62", "left_collar": "z12",
                "right_collar": "z-12", "left_elbow": "y-12", "right_elbow": "y12",
                "neck": "x-10"},
    "wave": {**_ARMS_DOWN, "left_shoulder": "x-10 z18", "left_elbow": "z62",
             "head": "y10"},
    "reach_forward": {"left_shoulder": "y-78 z-12", "right_shoulder": "y78 z12",
                      "left_elbow": "y-12", "right_elbow": "y12", "spine_1": "x12",
                      "spine_2": "x8"},
    "reach_up": {**_ARMS_DOWN, "left_shoulder": "x-20 z66", "left_collar": "z14",
                 "left_elbow": "y-8", "right_hip": "x8", "spine_2": "z-8", "neck": "x-16"},
    "point": {**_ARMS_DOWN, "left_shoulder": "y-55 z-4", "left_elbow": "y-6", "head": "y20"},
    "hands_on_hips": {"left_shoulder": "x18 z-48", "right_shoulder": "x18 z48",
                      "left_elbow": "y-88 x-20", "right_elbow": "y88 x-20",
                      "left_hip": "z7", "right_hip": "z-7"},
    "arms_crossed": {"left_shoulder": "x-38 z-66", "right_shoulder": "x-38 z66",
                     "left_elbow": "y-100", "right_elbow": "y100"},
    "phone": {**_ARMS_DOWN, "right_shoulder": "x-22 z52", "right_elbow": "y132",
              "head": "z-8 y-8", "neck": "x8"},
    "drink": {**_ARMS_DOWN, "right_shoulder": "x-50 z48", "right_elbow": "y112", "neck": "x-12"},
    "sit": {"left_hip": "x-84 z6", "right_hip": "x-84 z-6", "left_knee": "x84", "right_knee": "x84",
            "spine_1": "x6", "left_shoulder": "x-32 z-64", "right_shoulder": "x-32 z64",
            "left_elbow": "y-38", "right_elbow": "y38"},
    "sit_crossed": {"left_hip": "x-88 z4", "left_knee": "x80", "right_hip": "x-98 z-2",
                    "right_knee": "x62", "spine_1": "x-8", "spine_2": "x12",
                    "left_shoulder": "x-28 z-60", "right_shoulder": "x-24 z64",
                    "left_elbow": "y-62", "right_elbow": "y44"},
    "squat": {"left_hip": "x-98 z16", "right_hip": "x-98 z-16", "left_knee": "x112",
              "right_knee": "x112", "left_ankle": "x-22", "right_ankle": "x-22",
              "spine_1": "x22", "spine_2": "x12", "left_shoulder": "y-66 z-12",
              "right_shoulder": "y66 z12", "left_elbow": "y-18", "right_elbow": "y18"},
    "half_squat": {"left_hip": "x-52 z10", "right_hip": "x-52 z-10", "left_knee": "x66",
                   "right_knee": "x66", "left_ankle": "x-16", "right_ankle": "x-16",
                   "spine_1": "x18", "left_shoulder": "x-40 z-62", "right_shoulder": "x-40 z62",
                   "left_elbow": "y-60", "right_elbow": "y60"},
    "kneel": {"left_hip": "x-86", "left_knee": "x88", "right_hip": "x4", "right_knee": "x92",
              "right_ankle": "x26", "spine_1": "x8", **_ARMS_DOWN},
    "lunge": {"left_hip": "x-66", "left_knee": "x74", "right_hip": "x28", "right_knee": "x18",
              "right_ankle": "x-16", "spine_1": "x4", "left_shoulder": "x-24 z-52",
              "right_shoulder": "x12 z52", "left_elbow": "y-30", "right_elbow": "y30"},
    "bow": {"spine_1": "x34", "spine_2": "x22", "spine_3": "x14", "left_hip": "x-24",
            "right_hip": "x-24", "neck": "x10", "left_shoulder": "x-52 z-72",
            "right_shoulder": "x-52 z72", "left_elbow": "y-10", "right_elbow": "y10"},
    "pick_up": {"spine_1": "x30", "spine_2": "x20", "left_hip": "x-64", "right_hip": "x-58",
                "left_knee": "x62", "right_knee": "x66", "left_ankle": "x-18",
                "right_ankle": "x-18", "left_shoulder": "x-72 z-66", "right_shoulder": "x-30 z66",
                "left_elbow": "y-14", "right_elbow": "y30"},
    "kick": {**_ARMS_DOWN, "left_hip": "x-72", "left_knee": "x16", "left_ankle": "x18",
             "right_hip": "x6", "right_knee": "x10", "spine_1": "x-12",
             "left_shoulder": "x26 z-46", "right_shoulder": "x-34 z40"},
    "throw": {"right_shoulder": "y-22 z-14", "right_elbow": "z-86", "left_shoulder": "y-52 z-16",
              "left_elbow": "y-24", "left_hip": "x-32", "left_knee": "x18", "right_hip": "x16",
              "right_knee": "x12", "spine_2": "y-22", "spine_1": "x-6"},
    "box": {"left_shoulder": "y-62 z-34", "right_shoulder": "y50 z52", "left_elbow": "y-64",
            "right_elbow": "y118", "left_hip": "x-20", "left_knee": "x24", "right_hip": "x8",
            "right_knee": "x26", "spine_2": "y-16"},
    "jump": {"left_shoulder": "x-30 z46", "right_shoulder": "x-30 z-46", "left_hip": "x-34 z8",
             "right_hip": "x-24 z-8", "left_knee": "x70", "right_knee": "x62",
             "left_ankle": "x26", "right_ankle": "x26"},
    "side_bend": {"spine_1": "z16", "spine_2": "z16", "spine_3": "z10", "left_shoulder": "z-84",
                  "right_shoulder": "z-58", "right_elbow": "y16", "left_hip": "z8",
                  "right_hip": "z-8"},
    "one_leg": {"left_hip": "x-62 z14", "left_knee": "x96", "left_shoulder": "z-18",
                "right_shoulder": "z18", "left_elbow": "y-10", "right_elbow": "y10"},
    "climb": {"left_shoulder": "x-30 z58", "left_elbow": "y-46", "right_shoulder": "x-46 z24",
              "right_elbow": "y72", "left_hip": "x-30", "left_knee": "x34",
              "right_hip": "x-84 z-12", "right_knee": "x92", "neck": "x-14"},
    "golf": {"spine_1": "x24", "spine_2": "x10 y-24", "left_hip": "x-26 z6",
             "right_hip": "x-26 z-6", "left_knee": "x20", "right_knee": "x20",
             "left_shoulder": "y-46 z-62",
             "right_shoulder": "y40 z56", "left_elbow": "y-6", "right_elbow": "y20"},
}  # fmt: skip
"""Joint -> rotations; a joint that is not named stays as in the T-pose."""

# Spread of a joint about its key pose, degrees (x, y, z); what is not listed gets the last.
_SPREAD = {
    "hip": (8, 6, 5), "knee": (7, 1, 1), "ankle": (6, 3, 3), "foot": (3, 1, 1),
    "spine": (5, 5, 4), "neck": (6, 9, 5), "head": (6, 9, 5), "collar": (2, 3, 3),
    "shoulder": (11, 11, 10), "elbow": (4, 10, 5), "wrist": (9, 9, 9), "hand": (2, 2, 2),
}  # fmt: skip


@functools.cache
def key_poses() -> Float:
    """All key poses and their mirror images as axis-angle, radians, (P, 23, 3)."""
    joints = keypoints.names("smpl")[1:]
    poses = []
    for entry in KEY_POSES.values():
        pose = np.zeros((24, 3))
        for joint, turns in entry.items():
            pose[joints.index(joint) + 1] = _compose(turns)
        poses += [pose, np.asarray(flip_pose(pose))]
    return np.stack(poses)[:, 1:]


def _compose(turns: str) -> Float:
    matrix = np.eye(3)
    for turn in turns.split():
        angle = np.zeros(3)
        angle["xyz".index(turn[0])] = np.deg2rad(float(turn[1:]))
        matrix = matrix @ axis_angle_to_matrix(angle)
    return np.asarray(matrix_to_axis_angle(matrix))


@functools.cache
def _spread() -> Float:
    joints = keypoints.names("smpl")[1:]
    kinds = [joint.removeprefix("left_").removeprefix("right_").split("_")[0] for joint in joints]
    return np.deg2rad([_SPREAD[kind] for kind in kinds])


def blend(a: Float, b: Float, weight: Any) -> Float:
    """Spherical interpolation per joint: ``a`` at 0, ``b`` at 1.

    Parameters
    ----------
    a, b : (..., J, 3)
        Axis-angle, radians.
    weight : float or (..., 1, 1)
    """
    start = axis_angle_to_matrix(a)
    step = matrix_to_axis_angle(np.swapaxes(start, -1, -2) @ axis_angle_to_matrix(b))
    return np.asarray(matrix_to_axis_angle(start @ axis_angle_to_matrix(step * weight)))


def within_limits(pose: Float) -> Float:
    """Bend knees and elbows the way they bend, and keep the rest below what joints allow.

    A knee turns about +x, a left elbow about -y, a right one about +y; small overstretching stays.
    """
    joints = keypoints.names("smpl")[1:]
    pose = pose.copy()
    slack = np.deg2rad(3)
    for side in ("left", "right"):
        knee = joints.index(f"{side}_knee")
        pose[..., knee, 0] = np.clip(pose[..., knee, 0], -slack, np.deg2rad(140))
    low, high = -np.deg2rad(145), slack
    left, right = joints.index("left_elbow"), joints.index("right_elbow")
    pose[..., left, 1] = np.clip(pose[..., left, 1], low, high)
    pose[..., right, 1] = np.clip(pose[..., right, 1], -high, -low)
    return pose


def sample_poses(count: int, rng: np.random.Generator) -> Float:
    """Independent poses: two key poses blended, every joint varied.

    Returns
    -------
    (count, 23, 3) float64
        Body pose, axis-angle in radians.
    """
    keys = key_poses()
    a, b = (keys[rng.integers(len(keys), size=count)] for _ in range(2))
    # Most poses stay near one action; half-way poses are the transitions between two.
    mixed = blend(a, b, rng.beta(0.6, 1.8, size=(count, 1, 1)))
    return within_limits(mixed + rng.normal(size=mixed.shape) * _spread())


def sample_motion(frames: int, rng: np.random.Generator, hold: int = 16) -> Float:
    """A smooth motion through key poses.

    Parameters
    ----------
    frames : int
    rng : Generator
    hold : int
        Frames from one key pose to the next, about.

    Returns
    -------
    (frames, 23, 3) float64
    """
    keys = key_poses()
    stops = frames // hold + 2
    chosen = keys[rng.integers(len(keys), size=stops)]
    chosen = within_limits(chosen + rng.normal(size=chosen.shape) * _spread())
    at = np.linspace(0, max(stops - 1 - 1e-9, 0), frames) + rng.uniform(0, 1e-6)
    at = np.clip(at, 0, stops - 1 - 1e-9)
    place = at.astype(int)
    # Slow at the key poses, fast between them, as people move.
    eased = 0.5 - 0.5 * np.cos(np.pi * (at - place))
    return within_limits(blend(chosen[place], chosen[place + 1], eased[:, None, None]))
