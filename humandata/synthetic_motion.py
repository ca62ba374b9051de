"""People who move and a camera that follows them; world frame: y up, the floor at 0, metres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from humandata import poses
from humandata.bodymodel import BodyModel
from humandata.posing import forward, rest_pelvis
from humandata.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from humandata.synthetic import look_at, sample_betas, sample_heading

Float = NDArray[np.float64]


def act(model: BodyModel, frames: int, rng: np.random.Generator, ahead: float) -> dict[str, Float]:
    """One actor's motion, feet on the ground.

    Parameters
    ----------
    model : BodyModel
    frames : int
        N, at 30 frames per second.
    rng : Generator
    ahead : float
        Direction the actor faces at first, radians about y, 0 for +z.

    Returns
    -------
    dict of float64 ndarray
        ``pose`` (N, 24, 3) axis-angle in radians, ``betas`` (10,), ``trans`` (N, 3) and ``joints``
        (N, 24, 3) in metres in the world, ``pelvis`` (3,) of the rest pose.
    """
    betas = sample_betas(rng)
    motion = poses.sample_performance(frames, rng)
    heading = np.zeros((frames, 3))
    heading[:, 1] = ahead + np.linspace(0, rng.normal(scale=0.4), frames)
    turn = axis_angle_to_matrix(heading) @ axis_angle_to_matrix(motion[:, 0])
    orient = np.asarray(matrix_to_axis_angle(turn), np.float64)
    vertices, joints = forward(model, orient, motion[:, 1:], np.tile(betas, (frames, 1)))
    transl = _travel(np.asarray(joints, np.float64))
    transl[:, 1] = -vertices[..., 1].min(axis=1)
    return {
        "pose": np.concatenate([orient[:, None], motion[:, 1:]], axis=1),
        "betas": betas,
        "trans": transl,
        "joints": np.asarray(joints) + transl[:, None],
        "pelvis": np.asarray(rest_pelvis(model, betas[None]))[0],
    }


def _travel(joints: Float) -> Float:
    """Translation (N, 3), level, that keeps the foot on which a body stands where it is."""
    feet = joints[:, [10, 11]]
    # The lower foot bears the weight; both do where they are equally low.
    load = np.exp(-(feet[..., 1] - feet[..., 1].min(axis=1, keepdims=True)) / 0.012)
    load /= load.sum(axis=1, keepdims=True)
    step = np.diff(feet, axis=0)
    moved = -(step * (load[1:] + load[:-1])[..., None] / 2).sum(axis=1)
    travel = np.concatenate([np.zeros((1, 3)), np.cumsum(moved, axis=0)])
    travel[:, 1] = 0
    return np.asarray(travel - travel.mean(axis=0), np.float64)


def keep_apart(bodies: list[dict[str, Float]], rng: np.random.Generator) -> None:
    """Move the second actor sideways until the two never come nearer than arm's length."""
    if len(bodies) < 2:
        return
    angle = rng.uniform(0, 2 * np.pi)
    step = 0.1 * np.array([np.sin(angle), 0.0, np.cos(angle)])
    first, second = (body["joints"][:, 0] for body in bodies)
    level = np.array([1.0, 0, 1])
    shift = 6 * step
    while np.linalg.norm((second + shift - first) * level, axis=1).min() < 0.75:
        shift = shift + step
    bodies[1]["trans"] = bodies[1]["trans"] + shift
    bodies[1]["joints"] = bodies[1]["joints"] + shift


def film(
    bodies: list[dict[str, Float]],
    intrinsics: Float,
    size: tuple[int, int],
    rng: np.random.Generator,
    yaw: float | None,
) -> Float:
    """A camera that circles slowly and keeps people in view.

    Parameters
    ----------
    bodies : list of dict
        As from :func:`act`.
    intrinsics : (3, 3)
    size : (width, height)
        Pixels.
    rng : Generator
    yaw : float or None
        See `humandata.synthetic.sample_heading`.

    Returns
    -------
    (N, 4, 4) float64
        World to camera, metres.
    """
    joints = np.concatenate([body["joints"] for body in bodies], axis=1)
    frames = len(joints)
    target = _smooth((joints.min(axis=1) + joints.max(axis=1)) / 2)
    reach = np.abs(joints - target[:, None]).max(axis=(0, 1))
    # Half the extent to each side, and room for head and hands, which reach beyond the joints.
    across = float(np.hypot(reach[0], reach[2]))
    wide, tall = (across + 0.15) / (size[0] / 2), (reach[1] + 0.2) / (size[1] / 2)
    distance = intrinsics[1, 1] * max(wide, tall) / rng.uniform(0.85, 1.05) + across / 2
    ahead = axis_angle_to_matrix(bodies[0]["pose"][0, 0])[:, 2]
    angle = np.arctan2(ahead[0], ahead[2]) + sample_heading(rng, yaw)
    angle = angle + np.linspace(0, rng.normal(scale=0.35), frames)
    sway = _smooth(np.cumsum(rng.normal(scale=0.006, size=(frames, 3)), axis=0))
    offset = np.stack([np.sin(angle), np.zeros(frames), np.cos(angle)], axis=1) * distance
    offset[:, 1] = np.clip(rng.normal(0.3, 0.4), -0.45, 1.2)
    middle = np.array(size) / 2
    cameras = [
        look_at(eye, point, middle, intrinsics)
        for eye, point in zip(target + offset + sway, target, strict=True)
    ]
    return np.stack(cameras)


def _smooth(track: Float, width: int = 15) -> Float:
    """Moving average over time of (N, 3), as long as the track."""
    half = width // 2
    padded = np.pad(track, ((half, half), (0, 0)), mode="edge")
    window = np.ones(width) / width
    return np.stack([np.convolve(padded[:, k], window, mode="valid") for k in range(3)], axis=1)
