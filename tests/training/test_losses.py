"""The loss terms, against sums written out by hand and the numbers of the published code."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from humandata.training import cameras, losses, rotations

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


def test_infinite_targets_without_a_label_leave_finite_gradients() -> None:
    for form in losses.FORMS:
        prediction = torch.randn(2, 54, 3, requires_grad=True)
        target = torch.full((2, 54, 4), torch.inf)
        target[..., 3] = 0
        target[0, :50] = 1
        has = torch.tensor([True, False])
        pose = torch.full((2, 54, 3), torch.nan)
        pose[0] = 0
        terms = [
            losses.keypoints3d_loss(prediction, target, form),
            losses.keypoints2d_loss(prediction[..., :2], target[..., 1:], 224, form),
            losses.pose_loss(prediction, pose, has, form),
        ]
        torch.stack(terms).sum().backward()
        assert prediction.grad is not None
        assert torch.isfinite(prediction.grad).all(), form


def test_the_flagged_mean_keeps_joints_without_confidence_in_its_denominator() -> None:
    values = torch.tensor([[[1.0, 3.0], [5.0, 5.0]], [[9.0, 9.0], [9.0, 9.0]]])
    confidence = torch.tensor([[0.5, 0.0], [1.0, 1.0]])
    has = torch.tensor([True, False])
    assert losses.flagged_mean(values, confidence, has).item() == pytest.approx(2 / 4)
    assert losses.flagged_mean(values, confidence, torch.zeros(2)).item() == 0


def test_the_camera_prior_is_steep_where_the_scale_is_small() -> None:
    cameras = torch.tensor([[0.0, 5.0, 5.0], [0.1, 0.0, 0.0]], dtype=torch.float64)
    assert losses.camera_prior(cameras).item() == pytest.approx((1 + np.exp(-2)) / 2)
    scale = torch.tensor([[0.9, 0.0, 0.0]], dtype=torch.float64)
    assert losses.camera_prior(scale).item() == pytest.approx(np.exp(-18))


# The numbers of the published code

REFERENCE = Path(__file__).parent / "references" / "losses.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def same(value: Tensor, expected: Tensor) -> None:
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("form", losses.FORMS)
def test_keypoint_losses_equal_mmhuman3d(reference: dict[str, Tensor], form: losses.Form) -> None:
    joints, target, has = (reference[name] for name in ("joints", "target3d", "has"))
    layouts = {
        "smpl_54": (54, losses.HIPS_EXTRA, losses.HIPS_KINEMATIC),
        "smpl_49": (49, losses.HIPS_EXTRA_49, losses.HIPS_KINEMATIC_49),
    }
    for name, (count, hips, kinematic) in layouts.items():
        pair = joints[:, :count], target[:, :count]
        always = functools.partial(
            losses.keypoints3d_loss, form=form, hips=hips, kinematic=kinematic, centring="always"
        )
        same(always(*pair), reference[f"keypoints3d_{name}_{form}"])
        same(always(*pair, has_B=has), reference[f"keypoints3d_{name}_{form}_flagged"])
    shift = cameras.weak_perspective_to_translation(reference["camera"])
    projected = cameras.perspective_projection(joints, shift)
    target = reference["target2d"]
    same(losses.keypoints2d_loss(projected, target, 224, form), reference[f"keypoints2d_{form}"])
    same(
        losses.keypoints2d_loss(projected, target, 224, form, has_B=has),
        reference[f"keypoints2d_{form}_flagged"],
    )
    in_picture = cameras.perspective_projection(
        joints, reference["full"], reference["focal"], reference["principal"]
    )
    same(
        losses.cliff_keypoints2d_loss(in_picture, reference["affine"], target, form),
        reference[f"cliff2d_{form}"],
    )


@pytest.mark.parametrize("form", losses.FORMS)
def test_body_losses_equal_mmhuman3d(reference: dict[str, Tensor], form: losses.Form) -> None:
    has = reference["has"].bool()
    same(
        losses.vertices_loss(reference["vertices"], reference["target_vertices"], has, form),
        reference[f"vertices_{form}"],
    )
    same(
        losses.betas_loss(reference["betas"], reference["target_betas"], has, form),
        reference[f"betas_{form}"],
    )
    target = rotations.axis_angle_to_matrix(reference["target_pose"].view(-1, 24, 3))
    pose = losses.pose_loss(reference["rotations"], target, has, form)
    # Its rotations of targets are off by up to 2e-8.
    assert pose.item() == pytest.approx(reference[f"pose_{form}"].item(), rel=1e-7)


def test_the_camera_prior_equals_mmhuman3d(reference: dict[str, Tensor]) -> None:
    same(losses.camera_prior(reference["prior_camera"]), reference["camera_prior"])


def test_where_all_hips_are_annotated_both_ways_of_centring_agree(
    reference: dict[str, Tensor],
) -> None:
    joints, target = reference["joints"], reference["target3d"].clone()
    target[:, 45:47, 3] = 1
    values = [
        losses.keypoints3d_loss(joints, target, "l1", centring=centring)
        for centring in ("annotated", "always")
    ]
    assert values[0] == values[1]
