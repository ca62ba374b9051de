"""The losses of SPIN's own code, which average differently from mmhuman3d's.

Kolotouros et al., "Learning to Reconstruct 3D Human Pose and Shape via Model-fitting in the Loop",
ICCV 2019; ``train/trainer.py`` of nkolot/SPIN. All are squared errors but the vertices'. Keypoints
are averaged over *all* elements of a batch, those without confidence included, and 2D coordinates
are halves of 224 where mmhuman3d divides by 223. SPIN as mmhuman3d trains it has HMR's losses
(`humandata.training.losses`) with the camera prior.

Shape letters: B samples, V vertices. The 49 joints are 25 of OpenPose and then 24 annotated ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from humandata.training.losses import (
    betas_loss,
    camera_prior,
    elementwise,
    pose_loss,
    vertices_loss,
)

OPENPOSE = 25
"""Joints of the 49 that OpenPose finds; the 24 annotated ones follow."""

HIPS = (2, 3)
"""Right and left hip among the 24 annotated joints."""

WEIGHTS: Mapping[str, float] = {
    "keypoints2d": 5.0, "keypoints3d": 5.0, "pose": 1.0, "betas": 0.001, "vertices": 0.0,
    "camera": 1.0,
}  # fmt: skip
"""``--keypoint_loss_weight`` and its companions; the sum is multiplied by `TOTAL`."""

TOTAL = 60.0


def normalised(pixels: Tensor, image_size: int = 224) -> Tensor:
    """Pixels of a crop as SPIN's targets: -1 at its corner, 1 at ``image_size``.

    Predictions, relative to the crop's centre, are divided by half of ``image_size`` alone.
    """
    return 2.0 * pixels / image_size - 1.0


def keypoints2d_loss(
    prediction_B492: Tensor,
    target_B493: Tensor,
    openpose_weight: float = 0.0,
    annotated_weight: float = 1.0,
) -> Tensor:
    """Squared distance times confidence, averaged over all 98 numbers of every sample.

    With the default weights 24 joints count and 49 divide.

    Parameters
    ----------
    prediction_B492 : (B, 49, 2) in units of half a crop, from its centre.
    target_B493 : (B, 49, 3) x, y as `normalised`, confidence.
    openpose_weight, annotated_weight : factors of the confidences of the two kinds of joints.
    """
    confidence = target_B493[..., 2]
    confidence = torch.cat(
        [confidence[:, :OPENPOSE] * openpose_weight, confidence[:, OPENPOSE:] * annotated_weight],
        dim=1,
    )
    return (
        _weighted_sum(prediction_B492, target_B493[..., :2], confidence) / prediction_B492.numel()
    )


def keypoints3d_loss(prediction_B493: Tensor, target_B244: Tensor, has_3d_B: Tensor) -> Tensor:
    """Squared distance times confidence around the middle of the hips, averaged over 72 numbers.

    Parameters
    ----------
    prediction_B493 : (B, 49, 3) metres; the 24 annotated joints are compared.
    target_B244 : (B, 24, 4) metres and confidence. The hips are used whatever their confidence.
    has_3d_B : (B,) bool, samples with 3D joints; zero where there is none.
    """
    prediction = prediction_B493[:, OPENPOSE:]
    target = target_B244[..., :3]
    prediction, target = (
        points - (points[:, HIPS[0]] + points[:, HIPS[1]])[:, None] / 2
        for points in (prediction, target)
    )
    has = has_3d_B.bool()
    confidence = torch.where(has[:, None], target_B244[..., 3], 0.0)
    elements = has.sum() * prediction[0].numel()
    return _weighted_sum(prediction, target, confidence) / elements.clamp(min=1)


def total(
    prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """SPIN's loss and its terms without their weights.

    Parameters
    ----------
    prediction : mapping
        ``keypoints2d`` (B, 49, 2), ``joints`` (B, 49, 3), ``pose`` (B, 24, 3, 3), ``betas``
        (B, 10), ``camera`` (B, 3), and, unless it has no weight, ``vertices`` (B, V, 3).
    target : mapping
        ``keypoints2d`` (B, 49, 3), ``joints`` (B, 24, 4), ``pose`` and ``betas`` and ``vertices``
        of the fit or of the annotation, ``has_3d`` (B,) and ``valid_fit`` (B,).

    Returns
    -------
    loss : scalar Tensor
    terms : dict of str to scalar Tensor
        Under the names of `WEIGHTS`.
    """
    valid = target["valid_fit"].bool()
    terms = {
        "keypoints2d": keypoints2d_loss(prediction["keypoints2d"], target["keypoints2d"]),
        "keypoints3d": keypoints3d_loss(prediction["joints"], target["joints"], target["has_3d"]),
        "pose": pose_loss(prediction["pose"], target["pose"], valid, "mse"),
        "betas": betas_loss(prediction["betas"], target["betas"], valid, "mse"),
        "camera": camera_prior(prediction["camera"]),
    }
    if WEIGHTS["vertices"]:
        terms["vertices"] = vertices_loss(prediction["vertices"], target["vertices"], valid, "l1")
    weighted = torch.stack([WEIGHTS[name] * term for name, term in terms.items()])
    return TOTAL * weighted.sum(), terms


def _weighted_sum(prediction_BJD: Tensor, target_BJD: Tensor, confidence_BJ: Tensor) -> Tensor:
    # What has no confidence may hold anything; see the same place in `humandata.training.losses`.
    target = torch.where(confidence_BJ[..., None] > 0, target_BJD, 0.0)
    return (confidence_BJ[..., None] * elementwise(prediction_BJD, target, "mse")).sum()
