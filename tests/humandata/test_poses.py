"""Sampled poses are plausible: joints bend their own way, motion is smooth, sides are equal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from humandata import keypoints, poses
from humandata.bodymodel import body_model, forward

JOINTS = keypoints.names("smpl")[1:]


def test_blending_is_spherical_interpolation_per_joint() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 3))
    for weight in (0.0, 0.25, 0.7, 1.0):
        blended = Rotation.from_rotvec(poses.blend(a, b, weight)).as_matrix()
        for j in range(5):
            ends = Rotation.from_rotvec(np.stack([a[j], b[j]]))
            expected = Slerp([0, 1], ends)(weight).as_matrix()
            np.testing.assert_allclose(blended[j], expected, atol=1e-9)


def test_every_key_pose_has_its_mirror_image() -> None:
    keys = poses.key_poses()
    assert len(keys) == 2 * len(poses.KEY_POSES)
    model = body_model()
    zero = np.zeros((len(keys), 3))
    joints = forward(model, zero, keys, np.zeros((1, 10)))[1]
    flip = keypoints.flip_permutation("smpl")
    mirrored = joints[1::2, flip] * np.array([-1, 1, 1])
    np.testing.assert_allclose(joints[::2], mirrored, atol=2e-3)


def test_knees_and_elbows_bend_the_way_they_bend() -> None:
    sampled = poses.sample_poses(500, np.random.default_rng(0))
    slack = np.deg2rad(4)
    for side, sign in (("left", -1), ("right", 1)):
        assert (sampled[:, JOINTS.index(f"{side}_knee"), 0] > -slack).all()
        assert (sign * sampled[:, JOINTS.index(f"{side}_elbow"), 1] > -slack).all()


def test_arms_hang_down_in_the_standing_pose() -> None:
    stand = poses.key_poses()[0]
    joints = forward(body_model(), np.zeros((1, 3)), stand[None], np.zeros((1, 10)))[1][0]
    for side in ("left", "right"):
        shoulder, wrist = (
            joints[keypoints.index("smpl", f"{side}_{name}")] for name in ("shoulder", "wrist")
        )
        assert wrist[1] < shoulder[1] - 0.35  # y points up in the rest frame


def test_poses_differ_and_follow_from_the_seed() -> None:
    one = poses.sample_poses(64, np.random.default_rng(3))
    np.testing.assert_array_equal(one, poses.sample_poses(64, np.random.default_rng(3)))
    assert np.isfinite(one).all()
    assert one.std(axis=0).max() > 0.3


@pytest.mark.parametrize("frames", [1, 2, 17, 60])
def test_motion_is_smooth(frames: int) -> None:
    motion = poses.sample_motion(frames, np.random.default_rng(1))
    assert motion.shape == (frames, 23, 3)
    if frames > 2:
        turns = (
            Rotation.from_rotvec(motion[1:].reshape(-1, 3))
            * Rotation.from_rotvec(motion[:-1].reshape(-1, 3)).inv()
        )
        assert np.rad2deg(turns.magnitude()).max() < 30
