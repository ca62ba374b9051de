"""Written postures: limbs point where they are said to, joints keep to their limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from humandata import geometry, keyposes, poses
from humandata.bodymodel import body_model, forward_joints

Array = NDArray[Any]


def joints_of(postures: Array) -> Array:
    """Joints (N, 24, 3) of postures (N, 24, 3), y up."""
    return forward_joints(body_model(), postures[:, 0], postures[:, 1:], np.zeros((1, 10)))


def cosine(a: Array, b: Array) -> Array:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_limbs_point_where_the_posture_says() -> None:
    entry = {
        "pelvis": "x30 z10",
        "spine_1": "y20",
        "left_arm": (0.3, -0.5, 0.8, -0.4, 0.6, 0.5),
        "right_arm": (0.7, 0.2, 0.1, 0.2, 0.9, 0.4),
        "left_leg": (0.2, -0.3, 0.9, 0.1, -0.9, -0.4),
        "right_leg": (0.1, -0.9, -0.3, 0.1, -0.5, -0.8),
    }
    joints = joints_of(keyposes.posture(entry)[None])[0]
    bones = {
        "left_arm": (16, 18, 20),
        "right_arm": (17, 19, 21),
        "left_leg": (1, 4, 7),
        "right_leg": (2, 5, 8),
    }
    for limb, chain in bones.items():
        sides = [1 if limb.startswith("left") else -1, 1, 1]
        written = np.reshape(np.array(entry[limb]), (2, 3)) * sides
        found = np.diff(joints[list(chain)], axis=0)
        # The bones of a body at rest are not quite parallel to the axes.
        assert (cosine(written, found) > np.cos(np.deg2rad(13))).all(), limb


@pytest.mark.parametrize("name", list(keyposes.FAMILIES))
def test_written_postures_keep_to_the_limits_of_joints_and_hit_nothing(name: str) -> None:
    postures = keyposes.family(name)
    np.testing.assert_allclose(poses.within_limits(postures), postures, atol=np.deg2rad(0.5))
    bad = poses.penetrates(postures)
    assert not bad.any(), [n for n, b in zip(keyposes.FAMILIES[name], bad, strict=True) if b]


def test_the_mirror_image_of_a_posture_is_the_posture_of_the_mirror_image() -> None:
    entry = keyposes.STANDING["throw"]
    mirrored: dict[str, Any] = {}
    for key, value in entry.items():
        if key in keyposes.TRUNK:
            turns = [(turn[0], float(turn[1:])) for turn in value.split()]
            mirrored[key] = " ".join(f"{a}{d if a == 'x' else -d:g}" for a, d in turns)
        else:
            side, limb = key.split("_")
            mirrored[f"{'left' if side == 'right' else 'right'}_{limb}"] = value
    expected = geometry.flip_pose(keyposes.posture(entry))
    np.testing.assert_allclose(keyposes.posture(mirrored), expected, atol=1e-9)


def test_standing_people_stand() -> None:
    joints = joints_of(keyposes.family("standing"))
    ankles, head = joints[:, [7, 8], 1], joints[:, 15, 1]  # y points up
    assert (np.ptp(ankles, axis=1) < 0.12).all()
    assert (head - ankles.min(axis=1) > 1.2).all()


def test_a_hand_in_the_belly_and_crossed_shanks_are_noticed() -> None:
    into_the_belly = {"left_arm": (0.0, -1, 0.0, -1, -0.4, 0.1)}
    through_the_leg = {
        "left_leg": (-0.17, -1, 0, -0.17, -1, 0),
        "right_leg": (-0.17, -1, 0, -0.17, -1, 0),
    }
    bad = np.stack([keyposes.posture(e) for e in (into_the_belly, through_the_leg, {})])
    np.testing.assert_array_equal(poses.penetrates(bad), [True, True, False])


def test_sampled_poses_keep_to_the_limits_and_hardly_ever_penetrate() -> None:
    postures = poses.sample_postures(400, np.random.default_rng(5))
    limits = poses.joint_limits()
    assert (postures >= limits[..., 0]).all()
    assert (postures <= limits[..., 1]).all()
    assert poses.penetrates(postures).mean() < 0.01


def test_both_sides_are_posed_alike() -> None:
    postures = poses.sample_postures(3000, np.random.default_rng(6))
    mirrored = geometry.flip_pose(postures)
    np.testing.assert_allclose(postures.mean(0), mirrored.mean(0), atol=0.06)
    np.testing.assert_allclose(postures.std(0), mirrored.std(0), atol=0.06)


def test_a_motion_keeps_its_pace_at_any_frame_rate() -> None:
    # 0.1 s more or less of a motion must not ask for another number of postures.
    slow = poses.sample_performance(31, np.random.default_rng(2), 15.0)
    fast = poses.sample_performance(62, np.random.default_rng(2), 30.0)
    np.testing.assert_allclose(fast[::2], slow, atol=1e-9)
