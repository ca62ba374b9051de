"""The loss terms, against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from humandata.training import losses

HUBER = {0.25: 0.03125, -0.5: 0.125, 2.0: 1.5, -3.0: 2.5, 1.0: 0.5, 0.0: 0.0}


def skeletons(count: int = 2) -> tuple[Tensor, Tensor]:
    """Random prediction (B, 54, 3) and target (B, 54, 4) with every joint annotated."""
    rng = np.random.default_rng(3)
    prediction = torch.from_numpy(rng.normal(size=(count, 54, 3)))
    target = torch.from_numpy(np.dstack([rng.normal(size=(count, 54, 3)), np.ones((count, 54))]))
    return prediction, target


@pytest.mark.parametrize(("difference", "expected"), HUBER.items())
def test_smooth_l1_is_half_a_square_up_to_one_and_a_line_beyond(
    difference: float, expected: float
) -> None:
    value = losses.elementwise(torch.tensor(difference), torch.tensor(0.0), "smooth_l1")
    assert value.item() == pytest.approx(expected)
    assert losses.elementwise(torch.tensor(difference), torch.tensor(0.0), "l1") == abs(difference)
    assert losses.elementwise(torch.tensor(difference), torch.tensor(0.0), "mse") == difference**2


def test_the_denominator_counts_valid_elements_and_is_not_the_sum_of_confidences() -> None:
    values = torch.tensor([[[1.0, 2.0], [4.0, 8.0], [100.0, 100.0]]])
    confidence = torch.tensor([[0.5, 1.0, 0.0]])
    # (0.5 * 3 + 1 * 12) over two joints of two coordinates
    assert losses.confidence_weighted(values, confidence).item() == pytest.approx(13.5 / 4)


def test_a_joint_without_confidence_never_counts_whatever_it_holds() -> None:
    values = torch.tensor([[[1.0], [float("inf")]]], requires_grad=True)
    loss = losses.confidence_weighted(values, torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert loss.item() == 1
    assert values.grad is not None
    assert values.grad.tolist() == [[[1.0], [0.0]]]


def test_every_term_is_zero_with_zero_gradient_when_nothing_is_valid() -> None:
    prediction = torch.randn(2, 54, 3, requires_grad=True)
    nobody = torch.zeros(2, dtype=torch.bool)
    terms = [
        losses.keypoints3d_loss(prediction, torch.zeros(2, 54, 4), "l1"),
        losses.keypoints2d_loss(prediction[..., :2], torch.zeros(2, 54, 3), 224, "l1"),
        losses.vertices_loss(prediction, torch.zeros(2, 54, 3), nobody, "l1"),
        losses.betas_loss(prediction[:, 0], torch.zeros(2, 3), nobody, "mse"),
    ]
    torch.stack(terms).sum().backward()
    assert [term.item() for term in terms] == [0, 0, 0, 0]
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_3d_joints_are_compared_around_the_middle_of_the_annotated_hips() -> None:
    prediction, target = skeletons()
    moved = prediction + torch.tensor([5.0, -2.0, 9.0])
    loss = losses.keypoints3d_loss(moved, target, "l1")
    p, t = prediction.numpy(), target.numpy()[..., :3]
    p = p - (p[:, 45:46] + p[:, 46:47]) / 2
    t = t - (t[:, 45:46] + t[:, 46:47]) / 2
    assert loss.item() == pytest.approx(np.abs(p - t).mean())


def test_where_the_annotation_has_kinematic_hips_only_both_sides_are_centred_on_those() -> None:
    prediction, target = skeletons(1)
    target[:, 45:47] = 0
    loss = losses.keypoints3d_loss(prediction, target, "mse")
    p, t = prediction.numpy(), target.numpy()[..., :3]
    p = p - (p[:, 1:2] + p[:, 2:3]) / 2
    t = t - (t[:, 1:2] + t[:, 2:3]) / 2
    kept = [joint for joint in range(54) if joint not in (45, 46)]
    assert loss.item() == pytest.approx(((p - t)[:, kept] ** 2).mean())


def test_a_skeleton_without_any_hip_does_not_count_in_3d() -> None:
    prediction, target = skeletons(2)
    alone = losses.keypoints3d_loss(prediction[:1], target[:1], "l1")
    target[1, [1, 46]] = 0
    together = losses.keypoints3d_loss(prediction, target, "l1")
    assert together.item() == pytest.approx(alone.item())


def test_2d_joints_are_scaled_so_that_the_crop_spans_minus_one_to_one() -> None:
    target = torch.zeros(1, 54, 3)
    target[0, 7] = torch.tensor([223.0, 0.0, 1.0])
    # A prediction at the right upper corner: 111.5 pixels from the middle of the pixels.
    prediction = torch.zeros(1, 54, 2)
    prediction[0, 7] = torch.tensor([111.5, -111.5])
    assert losses.keypoints2d_loss(prediction, target, 224, "l1").item() == pytest.approx(
        0, abs=1e-6
    )
    prediction[0, 7] += torch.tensor([223.0, 0.0])
    # Off by twice the half side in x: |2| over the two coordinates of one joint; Huber gives 1.5.
    assert losses.keypoints2d_loss(prediction, target, 224, "l1").item() == pytest.approx(1)
    assert losses.keypoints2d_loss(prediction, target, 224, "smooth_l1").item() == pytest.approx(
        0.75
    )


def test_pose_betas_and_vertices_are_means_over_the_samples_with_a_body() -> None:
    has = torch.tensor([True, False, True])
    prediction = torch.zeros(3, 24, 3, 3)
    target = torch.zeros(3, 24, 3, 3)
    target[0], target[1], target[2] = 1.0, 50.0, 3.0
    assert losses.pose_loss(prediction, target, has, "mse").item() == pytest.approx((1 + 9) / 2)
    assert losses.pose_loss(prediction, target, has, "l1").item() == pytest.approx(2)
    assert losses.vertices_loss(prediction[..., 0], target[..., 0], has, "l1").item() == 2
    assert losses.betas_loss(prediction[:, :10, 0, 0], target[:, :10, 0, 0], has, "l1").item() == 2
