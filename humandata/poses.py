"""Natural poses and motions without motion capture: written postures, blended and varied.

The postures are in :mod:`humandata.keyposes`. Two of them are blended, arms and legs of different
ones are combined, every joint is varied within what joints allow, sides are exchanged, and what
would push a hand into the trunk is drawn again.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humandata import keypoints, keyposes
from humandata.geometry import flip_pose
from humandata.rotations import axis_angle_to_matrix, matrix_to_axis_angle

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

KEY_POSES = {n: entry for family in keyposes.FAMILIES.values() for n, entry in family.items()}
"""All written postures by name."""
SHARES = {"standing": 0.46, "moving": 0.28, "low": 0.23, "ground": 0.03}
"""How often each family is drawn."""
MIXED_ARMS = 0.4
"""Share of poses whose arms come from another posture than their legs."""

# Degrees about x, y, z that a joint of the left side may turn, axis-angle: a knee bends to +x, a
# left elbow to -y, a hip forward to -x.
_LIMITS = {
    "pelvis": ((-95, 95), (-30, 30), (-65, 65)),
    "hip": ((-130, 40), (-35, 95), (-28, 60)),
    "knee": ((0, 140), (-6, 6), (-4, 4)),
    "ankle": ((-30, 45), (-18, 18), (-18, 18)),
    "foot": ((-12, 12), (-6, 6), (-6, 6)),
    "spine": ((-14, 28), (-20, 20), (-18, 18)),
    "neck": ((-28, 28), (-32, 32), (-18, 18)),
    "head": ((-24, 24), (-36, 36), (-16, 16)),
    "collar": ((-6, 6), (-16, 12), (-10, 28)),
    "shoulder": ((-115, 105), (-100, 50), (-105, 72)),
    "elbow": ((-20, 20), (-148, 0), (-5, 5)),
    "wrist": ((-30, 30), (-22, 22), (-45, 45)),
    "hand": ((-6, 6), (-10, 10), (-15, 15)),
}
# Standard deviation of a joint about its posture, degrees.
_SPREAD = {
    "pelvis": (4, 0, 3), "hip": (6, 5, 4), "knee": (6, 1, 1), "ankle": (5, 3, 3),
    "foot": (3, 1, 1), "spine": (3, 4, 3), "neck": (5, 7, 4), "head": (5, 8, 4),
    "collar": (1, 3, 3), "shoulder": (10, 9, 9), "elbow": (4, 9, 1), "wrist": (8, 7, 12),
    "hand": (1, 3, 4),
}  # fmt: skip
# The body as capsules: two joints, and the radius in metres into which no wrist or hand may come.
_CAPSULES = (
    (0, 3, 0.12), (3, 9, 0.13), (9, 12, 0.11), (12, 15, 0.08), (15, 15, 0.12),
    (1, 4, 0.08), (2, 5, 0.08),
)  # fmt: skip
_HANDS = (20, 21, 22, 23)
_SHANKS = (((4, 7), (5, 8)), ((5, 8), (4, 7)))
_SHANK_RADIUS = 0.04
_ROUNDS = 12


def _kind(joint: str) -> str:
    return joint.removeprefix("left_").removeprefix("right_").split("_")[0]


@functools.cache
def joint_limits() -> Float:
    """Least and largest axis-angle component of the 24 joints, (24, 3, 2) radians."""
    rows = []
    for joint in keypoints.names("smpl"):
        x, y, z = _LIMITS[_kind(joint)]
        if joint.startswith("right"):
            y, z = (-y[1], -y[0]), (-z[1], -z[0])
        rows.append((x, y, z))
    return np.deg2rad(np.array(rows, np.float64))


@functools.cache
def _spread() -> Float:
    return np.deg2rad([_SPREAD[_kind(joint)] for joint in keypoints.names("smpl")])


@functools.cache
def key_poses() -> Float:
    """Body poses of all postures, each followed by its mirror image, (P, 23, 3) radians."""
    written = np.concatenate([keyposes.family(name) for name in keyposes.FAMILIES])
    both = np.stack([written, np.asarray(flip_pose(written), np.float64)], axis=1)
    return both.reshape(-1, 24, 3)[:, 1:]


@functools.cache
def _family(name: str) -> Float:
    """The postures of a family and their mirror images, (P, 24, 3)."""
    written = keyposes.family(name)
    return np.concatenate([written, np.asarray(flip_pose(written), np.float64)])


def within_limits(pose: Float) -> Float:
    """Poses (..., 24, 3) with every component moved into `joint_limits`."""
    limits = joint_limits()
    return np.clip(pose, limits[..., 0], limits[..., 1])


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


def sample_poses(count: int, rng: np.random.Generator) -> Float:
    """Independent natural body poses.

    Parameters
    ----------
    count : int
    rng : Generator

    Returns
    -------
    (count, 23, 3) float64
        SMPL's joints 1 to 23, axis-angle in radians.
    """
    return sample_postures(count, rng)[:, 1:]


def sample_postures(count: int, rng: np.random.Generator) -> Float:
    """Independent natural poses with the tilt of the pelvis that belongs to them.

    Returns
    -------
    (count, 24, 3) float64
        Axis-angle in radians. The root is the tilt against a person who stands upright and faces
        +z, y up; turn it by the heading, then into the camera, to get SMPL's global orientation.
    """
    poses = _draw(count, rng)
    for _ in range(_ROUNDS):
        again = np.flatnonzero(penetrates(poses))
        if not len(again):
            break
        poses[again] = _draw(len(again), rng)
    return poses


def _draw(count: int, rng: np.random.Generator) -> Float:
    poses = np.empty((count, 24, 3))
    families = list(SHARES)
    chosen = rng.choice(len(families), size=count, p=list(SHARES.values()))
    for number, name in enumerate(families):
        rows = np.flatnonzero(chosen == number)
        keys = _family(name)
        a, b = (keys[rng.integers(len(keys), size=len(rows))] for _ in range(2))
        # Most poses stay near one posture; half-way ones are the transitions between two.
        poses[rows] = blend(a, b, rng.beta(0.5, 1.6, size=(len(rows), 1, 1)))
    arms = np.flatnonzero((rng.random(count) < MIXED_ARMS) & (chosen != families.index("ground")))
    donors = _family("standing")[rng.integers(len(_family("standing")), size=len(arms))]
    poses[arms, 13:15], poses[arms, 16:] = donors[:, 13:15], donors[:, 16:]
    return _vary(poses, rng)


def _vary(poses: Float, rng: np.random.Generator, scale: float = 1.0) -> Float:
    return within_limits(poses + scale * rng.normal(size=poses.shape) * _spread())


def sample_motion(frames: int, rng: np.random.Generator, fps: float = 30.0) -> Float:
    """Body poses (frames, 23, 3) of a smooth motion, without the tilt of `sample_performance`."""
    return sample_performance(frames, rng, fps)[:, 1:]


def sample_performance(frames: int, rng: np.random.Generator, fps: float = 30.0) -> Float:
    """A smooth motion: a walk or a run, or one posture after another.

    Parameters
    ----------
    frames : int
    rng : Generator
    fps : float
        Frames a second.

    Returns
    -------
    (frames, 24, 3) float64
        As from `sample_postures`, on the spot: the body does not travel.
    """
    seconds = frames / fps
    if rng.random() < 0.35:
        stops, pace = _gait(seconds, rng)
    else:
        pace = rng.uniform(0.45, 0.9)
        stops = sample_postures(int(seconds / pace) + 3, rng)
    at = rng.uniform(0, 0.9) + np.arange(frames) / fps / pace
    place = np.minimum(at.astype(int), len(stops) - 2)
    # Slow at the postures, fast between them, as people move.
    eased = 0.5 - 0.5 * np.cos(np.pi * np.clip(at - place, 0, 1))
    return within_limits(blend(stops[place], stops[place + 1], eased[:, None, None]))


def _gait(seconds: float, rng: np.random.Generator) -> tuple[Float, float]:
    """Postures of a walk or run, step after step, and the seconds between them."""
    running = rng.random() < 0.35
    names = ("run_contact", "run_passing") if running else ("walk_contact", "walk_passing")
    half = np.stack([keyposes.posture(keyposes.MOVING[name]) for name in names])
    # One person keeps one manner of walking, and no step is quite like another.
    half = _vary(half, rng, 0.5)
    cycle = np.concatenate([half, np.asarray(flip_pose(half), np.float64)])
    pace = rng.uniform(0.16, 0.2) if running else rng.uniform(0.24, 0.32)
    start, count = int(rng.integers(4)), int(seconds / pace) + 3
    stops = cycle[(start + np.arange(count)) % 4]
    return _vary(stops, rng, 0.25), float(pace)


def penetrates(poses: Float) -> Bool:
    """Which poses (N, 24, 3) put a hand into the body or one leg into the other, roughly.

    Compares joints of a mean body with capsules around its bones.
    """
    joints = _skeleton(poses)
    bad = np.zeros(len(poses), bool)
    for first, last, radius in _CAPSULES:
        for hand in _HANDS:
            bad |= _distance(joints[:, hand], joints[:, first], joints[:, last]) < radius
    for own, (knee, ankle) in _SHANKS:
        for joint in own:
            away = _distance(joints[:, joint], joints[:, knee], joints[:, ankle])
            bad |= away < _SHANK_RADIUS
    return bad


def _distance(point: Float, start: Float, end: Float) -> Float:
    """Distance of points (N, 3) from segments."""
    along = end - start
    length = np.maximum((along * along).sum(axis=1), 1e-12)
    share = np.clip(((point - start) * along).sum(axis=1) / length, 0, 1)
    distance: Float = np.linalg.norm(point - start - share[:, None] * along, axis=1)
    return distance


def _skeleton(poses: Float) -> Float:
    from humandata.bodymodel import forward_joints

    zeros = np.zeros((1, 10))
    return np.asarray(forward_joints(_body(), poses[:, 0], poses[:, 1:], zeros), np.float64)


@functools.cache
def _body() -> Any:
    # Always the stand-in: poses must not depend on which body files a user has.
    from humandata.bodymodel import standin

    return standin("neutral")
