"""Everyday postures written down by hand: where limbs point, and how the trunk is turned.

Directions of limbs are ``(out, up, front)`` in the frame of a person who stands upright: ``out`` is
away from the middle of the body, so both sides are written alike. An arm or a leg is two of them,
six numbers: upper arm then forearm, thigh then shank. Turns of the trunk are degrees about the axes
of SMPL's rest pose (T-pose, y up, facing +z, left hand towards +x), applied from right to left:
positive x leans forward, positive y looks to the left, negative z leans to the left.

From the directions follow the rotations: elbows and knees are hinges, so the hip or shoulder is
turned until its hinge lies across both directions, and no posture bends a joint the wrong way.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata.rotations import axis_angle_to_matrix, matrix_to_axis_angle

Float = NDArray[np.float64]
Entry = Mapping[str, Any]

TRUNK = {"pelvis": 0, "spine_1": 3, "spine_2": 6, "spine_3": 9, "neck": 12, "head": 15}
"""Joints turned by name; numbers are SMPL's."""
_LEG = {"left": (1, 4, 7), "right": (2, 5, 8)}
_ARM = {"left": (13, 16, 18), "right": (14, 17, 19)}

_DOWN = (0.2, -1, -0.03, 0.12, -1, 0.12)
_STRAIGHT = (0.07, -1, 0.01, 0.04, -1, -0.04)
_SEATED = (0.14, -0.06, 1, 0.04, -1, 0.02)

STANDING: dict[str, Entry] = {
    "stand": {},
    "at_ease": {"left_leg": (0.14, -1, 0.16, 0.1, -1, -0.14), "pelvis": "z3", "spine_1": "z-4",
        "right_arm": (0.2, -1, 0.02, 0.05, -0.9, 0.4), "head": "y14"},
    "feet_apart": {"legs": (0.26, -1, 0.03, 0.22, -1, -0.05)},
    "a_pose": {"arms": (0.75, -0.7, 0, 0.75, -0.7, 0.08)},
    "t_pose": {"arms": (1, 0, 0, 1, 0, 0)},
    "arms_up": {"arms": (0.5, 1, 0.1, 0.25, 1, 0.1), "neck": "x-8"},
    "cheer": {"arms": (0.9, 0.35, 0.1, 0.1, 1, 0.15), "neck": "x-8"},
    "wave": {"right_arm": (0.8, -0.15, 0.3, 0.35, 1, 0.25), "head": "y-10"},
    "reach_forward": {"arms": (0.12, -0.12, 1, -0.06, 0.02, 1), "spine_1": "x8"},
    "reach_up": {"right_arm": (0.2, 1, 0.2, 0.02, 1, 0.15), "neck": "x-14", "spine_2": "z4"},
    "reach_side": {"left_arm": (1, 0.1, 0.2, 1, 0.12, 0.3), "spine_1": "z-8", "spine_2": "z-8",
        "head": "y25", "left_leg": (0.25, -1, 0.08, 0.1, -1, -0.12)},
    "point": {"right_arm": (0.35, 0.02, 1, 0.2, 0.05, 1), "head": "y-12"},
    "hands_on_hips": {"arms": (0.75, -0.75, -0.3, -0.8, -0.55, 0.4),
        "legs": (0.16, -1, 0.02, 0.13, -1, -0.05)},
    "arms_crossed": {"left_arm": (0.3, -0.9, 0.3, -0.85, 0.12, 0.55),
        "right_arm": (0.3, -0.85, 0.4, -0.8, 0.2, 0.6)},
    "hands_clasped": {"arms": (0.32, -0.95, 0.12, -0.5, -0.55, 0.75)},
    "hands_behind": {"arms": (0.35, -0.9, -0.4, -0.62, -0.75, -0.25)},
    "phone": {"right_arm": (0.45, -0.85, 0.35, -0.18, 0.95, 0.2), "head": "z5"},
    "text": {"arms": (0.2, -0.95, 0.15, -0.25, 0.3, 0.9), "neck": "x14", "head": "x12"},
    "drink": {"right_arm": (0.35, -0.6, 0.7, -0.3, 0.85, 0.35), "neck": "x-8"},
    "carry": {"arms": (0.22, -0.95, 0.15, -0.05, -0.05, 1), "spine_1": "x-5"},
    "talk": {"left_arm": (0.25, -0.95, 0.15, 0.25, 0.25, 0.9),
        "right_arm": (0.3, -0.9, 0.1, 0.35, -0.3, 0.9), "head": "y12 x-4"},
    "stretch": {"arms": (0.3, 1, -0.1, -0.25, 1, -0.1), "spine_2": "x-8", "spine_3": "x-6"},
    "hands_on_head": {"arms": (0.85, 0.6, 0, -0.75, 0.55, -0.2)},
    "side_bend": {"spine_1": "z13", "spine_2": "z13", "spine_3": "z9", "neck": "z6",
        "left_arm": (0.15, 1, 0.05, -0.5, 1, 0.1), "right_arm": (0.3, -1, 0, 0.3, -1, 0.1),
        "legs": (0.25, -1, 0.02, 0.22, -1, -0.04)},
    "look_back": {"spine_1": "y12", "spine_2": "y14", "spine_3": "y10", "neck": "y20",
        "head": "y18"},
    "box": {"left_arm": (0.25, -0.1, 1, -0.15, 0.05, 1),
        "right_arm": (0.4, -0.85, 0.3, -0.3, 0.8, 0.5),
        "left_leg": (0.12, -0.9, 0.4, 0.08, -1, -0.12),
        "right_leg": (0.2, -1, -0.1, 0.15, -0.9, -0.4), "spine_2": "y-14"},
    "guard": {"arms": (0.3, -0.8, 0.5, -0.25, 0.85, 0.45),
        "left_leg": (0.12, -0.9, 0.35, 0.08, -1, -0.15),
        "right_leg": (0.2, -1, -0.05, 0.15, -0.9, -0.4), "pelvis": "x8"},
    "throw": {"right_arm": (0.85, 0.15, -0.3, 0.2, 0.95, -0.25),
        "left_arm": (0.4, 0, 0.9, 0.15, 0.1, 1), "left_leg": (0.1, -0.9, 0.4, 0.05, -1, 0.08),
        "right_leg": (0.12, -0.95, -0.2, 0.1, -0.9, -0.4), "spine_2": "y-14", "spine_3": "y-8"},
    "play_guitar": {"left_arm": (0.4, -0.85, 0.2, 0.25, 0.35, 0.85),
        "right_arm": (0.5, -0.85, 0.05, -0.6, -0.1, 0.75), "head": "x12 y10"},
    "dance": {"left_arm": (0.7, 0.6, 0.15, -0.25, 0.95, 0.15),
        "right_arm": (0.85, -0.35, 0.25, 0.45, 0.1, 0.85),
        "left_leg": (0.35, -0.9, 0.3, 0.05, -1, -0.2), "pelvis": "z5", "spine_2": "z-9 y10"},
}  # fmt: skip
"""Both feet on the ground, trunk upright; arms and legs of two of these go together."""

MOVING: dict[str, Entry] = {
    "walk_contact": {"left_leg": (0.03, -0.92, 0.4, 0.01, -0.97, 0.2), "left_ankle": "x-8",
        "right_leg": (0.03, -0.95, -0.25, 0.02, -0.82, -0.58),
        "left_arm": (0.2, -1, -0.36, 0.15, -1, -0.1),
        "right_arm": (0.15, -1, 0.34, 0.02, -0.85, 0.55), "spine_2": "y6"},
    "walk_passing": {"left_leg": (0.04, -1, 0.05, 0.02, -1, -0.08),
        "right_leg": (0.03, -0.94, 0.28, 0.02, -0.74, -0.68),
        "left_arm": (0.2, -1, 0, 0.13, -1, 0.15), "right_arm": (0.2, -1, 0, 0.13, -1, 0.15)},
    "stride": {"left_leg": (0.03, -0.85, 0.55, 0.01, -0.97, 0.12),
        "right_leg": (0.03, -0.9, -0.42, 0.02, -0.8, -0.6),
        "left_arm": (0.2, -0.9, -0.5, 0.1, -1, 0.05),
        "right_arm": (0.15, -0.85, 0.55, -0.05, -0.4, 0.9), "pelvis": "x5", "spine_2": "y9"},
    "run_contact": {"left_leg": (0.03, -0.62, 0.8, 0.01, -0.95, -0.35),
        "right_leg": (0.03, -0.95, -0.4, 0.02, -0.35, -0.95),
        "left_arm": (0.3, -0.75, -0.65, 0.05, -0.6, 0.75),
        "right_arm": (0.2, -0.75, 0.55, -0.3, 0.5, 0.8), "pelvis": "x10", "spine_1": "x4",
        "spine_2": "y10", "right_ankle": "x30"},
    "run_passing": {"left_leg": (0.04, -0.96, 0.28, 0.02, -0.93, -0.38),
        "right_leg": (0.03, -0.97, 0.2, 0.02, -0.2, -1),
        "left_arm": (0.25, -0.95, -0.2, -0.05, -0.1, 1),
        "right_arm": (0.25, -0.95, -0.1, -0.1, 0, 1), "pelvis": "x10", "spine_1": "x4",
        "right_ankle": "x25"},
    "sprint_start": {"left_leg": (0.05, -0.25, 0.97, 0.02, -0.95, -0.3),
        "right_leg": (0.04, -0.8, -0.6, 0.02, -0.75, -0.66), "pelvis": "x35", "spine_1": "x8",
        "neck": "x-18", "left_arm": (0.25, -0.6, -0.75, 0.05, -0.75, 0.6),
        "right_arm": (0.2, -0.7, 0.65, -0.2, 0.45, 0.85)},
    "kick": {"left_leg": (0.05, -0.4, 0.9, 0.02, -0.3, 0.95),
        "right_leg": (0.06, -1, 0.05, 0.04, -0.98, -0.18), "pelvis": "x-10",
        "left_arm": (0.6, -0.7, -0.4, 0.5, -0.8, 0.1),
        "right_arm": (0.6, -0.55, 0.55, 0.2, -0.2, 0.9), "left_ankle": "x25"},
    "jump": {"arms": (0.55, 0.8, 0.2, 0.4, 1, 0.2), "legs": (0.14, -0.85, 0.5, 0.06, -0.6, -0.8),
        "left_ankle": "x30", "right_ankle": "x30"},
    "star_jump": {"arms": (0.8, 0.6, 0.05, 0.8, 0.65, 0.1),
        "legs": (0.5, -0.9, 0.05, 0.5, -0.9, -0.08), "left_ankle": "x20", "right_ankle": "x20"},
    "one_leg": {"left_leg": (0.15, -0.25, 0.95, 0.05, -0.95, -0.3),
        "arms": (0.85, -0.2, 0.25, 0.8, 0.1, 0.5)},
    "tree": {"left_leg": (0.75, -0.6, 0.35, -0.6, -0.75, -0.25),
        "arms": (0.45, 0.95, 0.05, -0.35, 1, 0.05), "left_ankle": "x30"},
    "climb": {"left_arm": (0.3, 0.95, 0.3, 0.02, 1, 0.2),
        "right_arm": (0.65, 0.15, 0.7, 0, 0.9, 0.4),
        "right_leg": (0.3, -0.15, 0.95, 0.1, -0.97, -0.15),
        "left_leg": (0.08, -0.97, 0.2, 0.05, -0.97, -0.2), "neck": "x-14"},
    "stairs": {"left_leg": (0.06, -0.5, 0.86, 0.03, -0.98, -0.1),
        "right_leg": (0.05, -0.98, -0.1, 0.04, -0.95, -0.3), "pelvis": "x8",
        "right_arm": (0.2, -0.9, 0.35, 0, -0.6, 0.8)},
    "push": {"arms": (0.2, -0.25, 1, 0, 0.1, 1), "pelvis": "x24", "neck": "x-10",
        "left_leg": (0.06, -0.75, 0.62, 0.03, -0.97, -0.25),
        "right_leg": (0.05, -0.9, -0.42, 0.03, -0.85, -0.52)},
}  # fmt: skip
"""Weight on one foot or none."""

LOW: dict[str, Entry] = {
    "half_squat": {"pelvis": "x24", "spine_1": "x5",
        "legs": (0.2, -0.72, 0.68, 0.08, -0.93, -0.36), "arms": (0.2, -0.5, 0.8, 0, -0.05, 1),
        "neck": "x-12"},
    "squat": {"pelvis": "x32", "spine_1": "x8", "spine_2": "x6",
        "legs": (0.42, 0, 0.92, 0.08, -0.93, -0.36), "arms": (0.2, -0.4, 0.85, -0.1, -0.1, 1),
        "neck": "x-16"},
    "crouch": {"pelvis": "x30", "spine_1": "x14", "spine_2": "x12",
        "legs": (0.3, 0.02, 0.95, 0.06, -0.93, -0.36),
        "arms": (0.15, -0.9, 0.5, -0.1, -0.75, 0.65), "neck": "x-14"},
    "sit": {"legs": _SEATED, "arms": (0.15, -0.9, 0.35, -0.06, -0.38, 0.92)},
    "sit_upright_gesture": {"legs": _SEATED, "left_arm": (0.25, -0.9, 0.3, 0.15, 0.35, 0.9),
        "right_arm": (0.15, -0.9, 0.35, -0.06, -0.38, 0.92), "head": "y10"},
    "sit_lean_back": {"pelvis": "x-16", "legs": (0.2, -0.06, 1, 0.06, -0.9, 0.42),
        "arms": (0.35, -0.9, -0.1, 0, -0.55, 0.85), "neck": "x10"},
    "sit_lean_forward": {"pelvis": "x14", "spine_1": "x14", "spine_2": "x12",
        "legs": (0.25, -0.06, 1, 0.02, -1, -0.06), "arms": (0.2, -0.75, 0.65, -0.4, 0.2, 0.85),
        "neck": "x-10"},
    "sit_legs_crossed": {"left_leg": (-0.02, 0.22, 1, -0.3, -0.7, 0.6),
        "right_leg": (0.12, -0.06, 1, 0.02, -1, 0.05),
        "arms": (0.25, -0.9, 0.3, -0.35, 0.0, 0.9), "pelvis": "x-4", "left_ankle": "x18"},
    "sit_on_floor": {"pelvis": "x-14", "legs": (0.15, 0.45, 0.9, 0.08, -0.65, 0.75),
        "arms": (0.3, -0.85, -0.45, 0.2, -0.95, -0.25)},
    "tailor_seat": {"legs": (0.8, 0.12, 0.6, -0.8, -0.3, 0.45),
        "arms": (0.3, -0.9, 0.3, 0.1, -0.5, 0.85), "left_ankle": "x30", "right_ankle": "x30"},
    "kneel": {"left_leg": (0.08, -0.08, 1, 0.03, -1, -0.04),
        "right_leg": (0.07, -0.99, 0.08, 0.05, -0.14, -1), "right_ankle": "x35"},
    "kneel_both": {"legs": (0.13, -1, 0.12, 0.08, -0.14, -1), "left_ankle": "x38",
        "right_ankle": "x38", "arms": (0.2, -0.95, 0.2, -0.05, -0.75, 0.65)},
    "lunge": {"left_leg": (0.06, -0.45, 0.88, 0.03, -0.99, -0.1),
        "right_leg": (0.05, -0.85, -0.5, 0.03, -0.6, -0.8),
        "arms": (0.3, -1, 0.05, 0.2, -0.9, 0.4), "pelvis": "x4"},
    "side_lunge": {"left_leg": (0.7, -0.65, 0.4, 0.08, -0.98, -0.18),
        "right_leg": (0.65, -0.78, 0, 0.65, -0.78, -0.06), "pelvis": "x12",
        "arms": (0.3, -0.4, 0.8, -0.35, 0.1, 0.9)},
    "bow": {"pelvis": "x42", "spine_1": "x12", "spine_2": "x10", "spine_3": "x8",
        "arms": (0.12, -1, 0.12, 0.06, -1, 0.2), "legs": (0.07, -1, -0.1, 0.05, -1, -0.12)},
    "touch_toes": {"pelvis": "x78", "spine_1": "x18", "spine_2": "x16", "spine_3": "x10",
        "neck": "x10", "arms": (0.1, -1, 0.15, 0.02, -1, 0.15),
        "legs": (0.08, -1, -0.16, 0.06, -1, -0.18)},
    "pick_up": {"pelvis": "x52", "spine_1": "x14", "spine_2": "x10",
        "legs": (0.15, -0.72, 0.66, 0.05, -0.92, -0.38),
        "right_arm": (0.06, -0.95, 0.35, 0, -0.95, 0.3),
        "left_arm": (0.15, -0.75, 0.6, -0.2, -0.2, 0.95)},
    "golf": {"pelvis": "x24", "spine_1": "x8", "spine_2": "y-12",
        "legs": (0.22, -0.95, 0.22, 0.16, -0.97, -0.22),
        "left_arm": (0, -0.95, 0.42, -0.22, -0.9, 0.36),
        "right_arm": (0.05, -0.95, 0.36, -0.3, -0.85, 0.42)},
    "lean_on_knees": {"pelvis": "x40", "spine_1": "x10", "spine_2": "x8",
        "legs": (0.15, -0.85, 0.52, 0.08, -0.95, -0.3),
        "arms": (0.3, -0.92, 0.25, -0.05, -0.97, 0.2), "neck": "x-20"},
}  # fmt: skip
"""Knees or trunk bent a good deal."""

GROUND: dict[str, Entry] = {
    "all_fours": {"pelvis": "x78", "legs": (0.12, -1, 0.05, 0.08, -0.08, -1), "left_ankle": "x38",
        "right_ankle": "x38", "arms": (0.1, -1, 0.1, 0.05, -1, 0.08), "neck": "x-20",
        "head": "x-10"},
    "push_up": {"pelvis": "x74", "legs": (0.08, -0.3, -0.95, 0.06, -0.3, -0.95),
        "left_ankle": "x-15", "right_ankle": "x-15", "arms": (0.2, -1, 0.15, 0.1, -1, 0.1),
        "neck": "x-14"},
    "lie_on_back": {"pelvis": "x-86", "legs": (0.1, 0.02, 1, 0.06, 0, 1),
        "arms": (0.4, -0.05, 0.9, 0.3, 0, 0.95), "left_ankle": "x25", "right_ankle": "x25"},
    "lie_knees_up": {"pelvis": "x-86", "legs": (0.12, 0.7, 0.75, 0.05, -0.8, 0.62),
        "arms": (0.7, -0.05, 0.6, 0.3, 0.1, 0.9)},
    "plank_side": {"pelvis": "z-58", "spine_1": "z5", "left_arm": (0.35, -1, 0, 0.1, -1, 0.05),
        "right_arm": (0.3, 1, 0, 0.25, 1, 0.1), "left_leg": (-0.75, -0.5, 0, -0.75, -0.52, -0.04),
        "right_leg": (0.85, -0.42, 0, 0.85, -0.42, -0.04)},
}  # fmt: skip
"""Trunk far from upright."""

FAMILIES: dict[str, dict[str, Entry]] = {
    "standing": STANDING,
    "moving": MOVING,
    "low": LOW,
    "ground": GROUND,
}


@functools.cache
def family(name: str) -> Float:
    """The postures of a family, (P, 24, 3) axis-angle in radians.

    The root is the tilt of the pelvis against an upright person who faces +z; joints 1 to 23 are
    SMPL's body pose.
    """
    return np.stack([posture(entry) for entry in FAMILIES[name].values()])


def posture(entry: Entry) -> Float:
    """SMPL's 24 rotations (24, 3), axis-angle in radians, of one written posture.

    Parameters
    ----------
    entry : mapping
        Turns (``"x10 y-5"``, degrees) of the joints of `TRUNK` and of ``left_ankle`` and
        ``right_ankle``; six numbers each for ``left_arm``, ``right_arm`` (or ``arms``),
        ``left_leg``, ``right_leg`` (or ``legs``). What is missing hangs or stands straight.
    """
    pose = np.zeros((24, 3))
    for name, joint in TRUNK.items():
        pose[joint] = matrix_to_axis_angle(_turns(entry.get(name, "")))
    pelvis = np.asarray(axis_angle_to_matrix(pose[0]), np.float64)
    chest = pelvis
    for joint in (3, 6, 9):
        chest = chest @ np.asarray(axis_angle_to_matrix(pose[joint]), np.float64)
    for side, out in (("left", 1.0), ("right", -1.0)):
        leg = entry.get(f"{side}_leg", entry.get("legs", _STRAIGHT))
        arm = entry.get(f"{side}_arm", entry.get("arms", _DOWN))
        pose[list(_LEG[side])] = _leg(pelvis, leg, out, entry.get(f"{side}_ankle"))
        pose[list(_ARM[side])] = _arm(chest, arm, out)
    return pose


def _turns(text: str) -> Float:
    matrix = np.eye(3)
    for turn in text.split():
        angle = np.zeros(3)
        angle["xyz".index(turn[0])] = np.deg2rad(float(turn[1:]))
        matrix = matrix @ axis_angle_to_matrix(angle)
    return matrix


def _directions(limb: Any, out: float, frame: Float) -> tuple[Float, Float]:
    """Both directions as unit vectors in the frame of the parent."""
    numbers = np.asarray(limb, np.float64).reshape(2, 3) * [out, 1, 1]
    first, second = (numbers / np.linalg.norm(numbers, axis=1, keepdims=True)) @ frame
    return first, second


def _leg(pelvis: Float, leg: Any, out: float, ankle: str | None) -> Float:
    thigh, shank = _directions(leg, out, pelvis)
    # At rest the leg points to -y, and the knee swings the shank towards -z.
    hip, bend = _hinge(np.array([0.0, -1, 0]), np.array([0.0, 0, -1]), thigh, shank)
    knee = np.array([bend, 0, 0])
    if ankle is not None:
        foot = np.asarray(matrix_to_axis_angle(_turns(ankle)))
    else:
        foot = _flat_foot(pelvis @ hip @ axis_angle_to_matrix(knee), pelvis @ hip)
    return np.stack([np.asarray(matrix_to_axis_angle(hip)), knee, foot])


def _flat_foot(shank: Float, thigh: Float) -> Float:
    """Turn of the ankle that lays the foot on the ground, as far as it goes."""
    heading = np.arctan2(thigh[0, 2] + shank[0, 2], thigh[2, 2] + shank[2, 2])
    flat = axis_angle_to_matrix(np.array([0, heading, 0]))
    turn = np.rad2deg(matrix_to_axis_angle(shank.T @ flat))
    return np.asarray(np.deg2rad(np.clip(turn, [-26, -12, -12], [38, 12, 12])), np.float64)


def _arm(chest: Float, arm: Any, out: float) -> Float:
    upper, _ = _directions(arm, out, chest)
    # The collar bone takes a share of raising the arm.
    collar = np.array([0, 0, out * np.deg2rad(22) * np.clip(upper[1], -0.1, 1)])
    upper, fore = _directions(arm, out, chest @ axis_angle_to_matrix(collar))
    # At rest the arm points outwards, and the elbow swings the forearm towards +z.
    shoulder, bend = _hinge(np.array([out, 0, 0]), np.array([0.0, 0, 1]), upper, fore)
    elbow = np.array([0, -out * bend, 0])
    return np.stack([collar, np.asarray(matrix_to_axis_angle(shoulder)), elbow])


def _hinge(rest: Float, swing: Float, first: Float, second: Float) -> tuple[Float, float]:
    """Rotation (3, 3) of the upper joint and angle of the hinge for two limb directions.

    ``rest`` is where the limb points unposed, ``swing`` where its hinge takes the far part.
    """
    bend = float(np.arccos(np.clip(first @ second, -1, 1)))
    shortest = _shortest_turn(rest, first)
    across = second - (second @ first) * first
    # A limb that is nearly straight does not say where its hinge lies: the shortest turn does.
    weight = np.clip((bend - np.deg2rad(6)) / np.deg2rad(20), 0, 1)
    aim = weight * across / max(float(np.linalg.norm(across)), 1e-9)
    aim = aim + (1 - weight) * (shortest @ swing)
    aim = aim - (aim @ first) * first
    aim = aim / np.linalg.norm(aim)
    before = np.stack([rest, swing, np.cross(rest, swing)], axis=1)
    after = np.stack([first, aim, np.cross(first, aim)], axis=1)
    return after @ before.T, bend


def _shortest_turn(a: Float, b: Float) -> Float:
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis)
    angle = np.arctan2(sine, a @ b)
    vector = axis / sine * angle if sine > 1e-9 else np.zeros(3)
    return np.asarray(axis_angle_to_matrix(vector), np.float64)
