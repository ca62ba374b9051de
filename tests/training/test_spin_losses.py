"""SPIN's own losses equal those of its trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from humandata.training import losses, spin_losses

REFERENCE = Path(__file__).parent / "references" / "spin.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def same(value: Tensor, expected: Tensor) -> None:
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_every_term_is_spins(reference: dict[str, Tensor]) -> None:
    k2, t2 = reference["keypoints2d"], reference["target2d"]
    same(spin_losses.keypoints2d_loss(k2, t2), reference["loss_keypoints2d"])
    same(spin_losses.keypoints2d_loss(k2, t2, 0.5, 2.0), reference["loss_keypoints2d_openpose"])
    same(
        spin_losses.keypoints3d_loss(
            reference["joints"], reference["target3d"], reference["has_3d"]
        ),
        reference["loss_keypoints3d"],
    )
    valid = reference["valid_fit"].bool()
    same(
        losses.vertices_loss(reference["vertices"], reference["target_vertices"], valid, "l1"),
        reference["loss_vertices"],
    )


def test_the_sum_is_spins(reference: dict[str, Tensor]) -> None:
    prediction = {
        "keypoints2d": reference["keypoints2d"], "joints": reference["joints"],
        "pose": reference["rotations"], "betas": reference["betas"], "camera": reference["camera"],
    }  # fmt: skip
    target = {
        "keypoints2d": reference["target2d"], "joints": reference["target3d"],
        "pose": reference["target_rotations"], "betas": reference["target_betas"],
        "has_3d": reference["has_3d"], "valid_fit": reference["valid_fit"],
    }  # fmt: skip
    total, terms = spin_losses.total(prediction, target)
    same(total, reference["total"])
    same(terms["pose"], reference["loss_pose"])
    same(terms["betas"], reference["loss_betas"])


def test_coordinates_are_halves_of_224_and_not_of_223() -> None:
    corners = spin_losses.normalised(torch.tensor([[0.0, 112.0], [224.0, 223.0]]))
    assert corners.tolist() == [[-1, 0], [1, pytest.approx(2 * 223 / 224 - 1)]]


def test_24_joints_count_and_49_divide() -> None:
    prediction, target = torch.zeros(3, 49, 2), torch.ones(3, 49, 3)
    assert spin_losses.keypoints2d_loss(prediction, target).item() == pytest.approx(24 / 49)


def test_a_batch_without_labels_is_zero_with_zero_gradient() -> None:
    joints = torch.randn(2, 49, 3, requires_grad=True)
    target = torch.full((2, 24, 4), torch.nan)
    value = spin_losses.keypoints3d_loss(joints, target, torch.zeros(2))
    value = value + spin_losses.keypoints2d_loss(joints[..., :2], torch.zeros(2, 49, 3))
    value.backward()
    assert value.item() == 0
    assert joints.grad is not None
    assert not joints.grad.any()
