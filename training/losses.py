"""Loss terms of human mesh recovery, each with its mask and its exact denominator.

Formulas and reductions follow mmhuman3d's ``models/losses`` and its mesh estimators, as trained in
hmr-benchmarks (Pang et al., "Benchmarking and Analyzing 3D Human Pose and Shape Estimation",
NeurIPS 2022); `WEIGHTS` are those of its configurations. Every term is a scalar tensor without its
weight. A term for which a batch holds no valid target is a constant zero, so that data sets without
that label neither move the network nor dilute the others. SPIN's own losses, which average in other
ways, are in `humandata.training.spin_losses`, HMR's adversarial prior is in
`humandata.training.discriminator`.

Shape letters: B samples, J joints, V vertices, S number of betas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["smooth_l1", "l1", "mse"]
FORMS: tuple[Form, ...] = get_args(Form)

WEIGHTS: Mapping[str, float] = {
    "keypoints3d": 100.0, "keypoints2d": 10.0, "vertices": 2.0, "pose": 3.0, "betas": 0.02,
    "camera": 60.0, "adversarial": 1.0,
}  # fmt: skip
"""Weights in the configurations of HMR, SPIN and CLIFF; ``camera`` in SPIN's, ``adversarial`` in
HMR's only."""

#: Joints of smpl_54 between which a skeleton is centred: the hips regressed from the skin, which is
#: what annotators and motion capture mean by "hip", and the hips of the kinematic tree.
HIPS_EXTRA = (45, 46)
HIPS_KINEMATIC = (1, 2)

#: The same in smpl_49, the 49 joints of SPIN.
HIPS_EXTRA_49 = (27, 28)
HIPS_KINEMATIC_49 = (9, 12)

Centring = Literal["annotated", "always"]


def elementwise(prediction: Tensor, target: Tensor, form: Form) -> Tensor:
    """Distance of every element: squared, absolute, or Huber's with beta 1 (``smooth_l1``)."""
    if form == "mse":
        return (prediction - target).square()
    if form == "l1":
        return (prediction - target).abs()
    return F.smooth_l1_loss(prediction, target, reduction="none", beta=1.0)


def confidence_weighted(values_BJD: Tensor, confidence_BJ: Tensor) -> Tensor:
    """Sum of the values times confidence, over the number of elements with confidence above zero.

    The denominator counts elements; it is neither the sum of confidences nor the size of the array.
    Zero when nothing is valid.

    Parameters
    ----------
    values_BJD : (B, J, D) element-wise losses.
    confidence_BJ : (B, J) confidences, 0 where a joint has no annotation.
    """
    valid = confidence_BJ > 0
    # A masked element may hold anything, infinity included, and infinity times zero is not zero.
    kept = torch.where(valid[..., None], values_BJD * confidence_BJ[..., None], 0.0)
    elements = valid.sum() * values_BJD.shape[-1]
    return kept.sum() / elements.clamp(min=1)


def sample_mean(values_BX: Tensor, has_B: Tensor) -> Tensor:
    """Mean of all elements of the samples that carry the label; zero when none does.

    Parameters
    ----------
    values_BX : (B, ...) element-wise losses.
    has_B : (B,) bool.
    """
    values = values_BX.flatten(1)
    kept = torch.where(has_B[:, None], values, 0.0)
    return kept.sum() / (has_B.sum() * values.shape[1]).clamp(min=1)


def flagged_mean(values_BJD: Tensor, confidence_BJ: Tensor, has_B: Tensor) -> Tensor:
    """Mean of values times confidence over *all* elements of the flagged samples; zero for none.

    What mmhuman3d computes where a batch carries ``has_keypoints2d`` or ``has_keypoints3d``: joints
    of confidence zero stay in the denominator, other than in `confidence_weighted`. Its published
    configurations do not collect these keys.

    Parameters
    ----------
    values_BJD : (B, J, D) element-wise losses.
    confidence_BJ : (B, J).
    has_B : (B,) bool.
    """
    valid = confidence_BJ > 0
    weighted = torch.where(valid[..., None], values_BJD * confidence_BJ[..., None], 0.0)
    return sample_mean(weighted, has_B.bool())


def centre_on_hips(
    prediction_BJ3: Tensor,
    target_BJ3: Tensor,
    confidence_BJ: Tensor,
    hips: tuple[int, int] = HIPS_EXTRA,
    kinematic: tuple[int, int] = HIPS_KINEMATIC,
    centring: Centring = "annotated",
) -> tuple[Tensor, Tensor, Tensor]:
    """Move both skeletons so that the middle of their hips is the origin.

    The hips are joints 45 and 46 of smpl_54. mmhuman3d uses them whatever their confidence, so
    that a data set which does not annotate them is silently compared against an uncentred
    skeleton (``always``). By default such a sample is centred, on both sides alike, on the hips of
    the kinematic tree (joints 1 and 2) when those are annotated, and is left out when they are not
    either. Where 45 and 46 are annotated the two agree.

    Parameters
    ----------
    prediction_BJ3, target_BJ3 : (B, J, 3) metres, camera frame.
    confidence_BJ : (B, J) confidences of the target.
    hips, kinematic : positions of the two pairs, by default in smpl_54.
    centring : "annotated", or "always" for the reference to the letter.

    Returns
    -------
    prediction, target : (B, J, 3), centred.
    confidence : (B, J), zero for samples that could not be centred.
    """

    def middle(points: Tensor, pair: tuple[int, int]) -> Tensor:
        return (points[:, pair[0]] + points[:, pair[1]])[:, None] / 2

    if centring == "always":
        return (
            prediction_BJ3 - middle(prediction_BJ3, hips),
            target_BJ3 - middle(target_BJ3, hips),
            confidence_BJ,
        )
    valid = confidence_BJ > 0
    extra = valid[:, hips[0]] & valid[:, hips[1]]
    tree = valid[:, kinematic[0]] & valid[:, kinematic[1]]
    use_extra = extra[:, None, None]
    centred = [
        points - torch.where(use_extra, middle(points, hips), middle(points, kinematic))
        for points in (prediction_BJ3, target_BJ3)
    ]
    return centred[0], centred[1], confidence_BJ * (extra | tree)[:, None]


def keypoints3d_loss(
    prediction_BJ3: Tensor,
    target_BJ4: Tensor,
    form: Form,
    *,
    hips: tuple[int, int] = HIPS_EXTRA,
    kinematic: tuple[int, int] = HIPS_KINEMATIC,
    centring: Centring = "annotated",
    has_B: Tensor | None = None,
) -> Tensor:
    """Distance of hip-centred joints.

    Parameters
    ----------
    prediction_BJ3 : (B, J, 3) joints in metres, in the axes of the camera; smpl_54 by default.
    target_BJ4 : (B, J, 4) x, y, z, confidence, the same joints and axes.
    form : of the distance.
    hips, kinematic, centring : see `centre_on_hips`.
    has_B : (B,) flags of samples with 3D joints, for the average of `flagged_mean`; by default the
        elements with confidence are averaged (`confidence_weighted`).
    """
    prediction, target, confidence = centre_on_hips(
        prediction_BJ3, target_BJ4[..., :3], target_BJ4[..., 3], hips, kinematic, centring
    )
    return _keypoints_mean(prediction, target, confidence, form, has_B)


def keypoints2d_loss(
    prediction_BJ2: Tensor,
    target_BJ3: Tensor,
    image_size: int,
    form: Form,
    *,
    has_B: Tensor | None = None,
) -> Tensor:
    """Distance of projected joints, the crop spanning -1 to 1.

    Parameters
    ----------
    prediction_BJ2 : (B, J, 2) pixels *relative to the centre of the crop*.
    target_BJ3 : (B, J, 3) x, y in pixels of the crop, confidence.
    image_size : pixels.
    form : of the distance.
    has_B : as in `keypoints3d_loss`.

    Notes
    -----
    The target's zero lies at pixel (size - 1) / 2 while the crop is built around pixel size / 2.
    The reference has this constant half pixel, trained networks expect it, and so it is kept.
    """
    scale = 2.0 / (image_size - 1)
    target = target_BJ3[..., :2] * scale - 1.0
    return _keypoints_mean(prediction_BJ2 * scale, target, target_BJ3[..., 2], form, has_B)


def cliff_keypoints2d_loss(
    prediction_BJ2: Tensor,
    crop_B23: Tensor,
    target_BJ3: Tensor,
    form: Form,
    *,
    image_size: int = 224,
    has_B: Tensor | None = None,
) -> Tensor:
    """Distance of joints projected into the whole picture and taken from there into the crop.

    mmhuman3d's CLIFF: both sides count from the corner of the crop, so there is no half pixel, and
    both axes are scaled by 2 / 223 although the crop has 192 x 256 pixels.

    Parameters
    ----------
    prediction_BJ2 : (B, J, 2) pixels of the whole picture.
    crop_B23 : (B, 2, 3) affine from the picture to the crop without its rotation.
    target_BJ3 : (B, J, 3) x, y in pixels of the crop, confidence.
    form : of the distance.
    image_size : the reference's 224, whatever the size of the crop.
    has_B : as in `keypoints3d_loss`.
    """
    cropped = prediction_BJ2 @ crop_B23[..., :2].mT + crop_B23[..., None, :, 2]
    scale = 2.0 / (image_size - 1)
    target = target_BJ3[..., :2] * scale - 1.0
    return _keypoints_mean(cropped * scale - 1.0, target, target_BJ3[..., 2], form, has_B)


def camera_prior(camera_B3: Tensor, sharpness: float = 10.0) -> Tensor:
    """Mean of ``exp(-10 s)^2``: what keeps the scale s of cameras (B, 3) positive in SPIN."""
    return torch.exp(-sharpness * camera_B3[:, 0]).square().mean()


def vertices_loss(
    prediction_BV3: Tensor, target_BV3: Tensor, has_smpl_B: Tensor, form: Form
) -> Tensor:
    """Distance of mesh vertices (B, V, 3) in metres, over the samples that have a body."""
    return _sample_distance(prediction_BV3, target_BV3, has_smpl_B, form)


def pose_loss(
    prediction_BJ33: Tensor, target_BJ33: Tensor, has_smpl_B: Tensor, form: Form
) -> Tensor:
    """Distance of rotation matrices (B, 24, 3, 3), over the samples that have a body."""
    return _sample_distance(prediction_BJ33, target_BJ33, has_smpl_B, form)


def betas_loss(prediction_BS: Tensor, target_BS: Tensor, has_smpl_B: Tensor, form: Form) -> Tensor:
    """Distance of shape coefficients (B, 10), over the samples that have a body."""
    return _sample_distance(prediction_BS, target_BS, has_smpl_B, form)


def _keypoints_mean(
    prediction_BJD: Tensor,
    target_BJD: Tensor,
    confidence_BJ: Tensor,
    form: Form,
    has_B: Tensor | None,
) -> Tensor:
    # Targets without confidence may hold anything. Masking the distances alone would not do: the
    # gradient of an infinite distance times zero is not zero.
    target = torch.where(confidence_BJ[..., None] > 0, target_BJD, 0.0)
    values = elementwise(prediction_BJD, target, form)
    if has_B is None:
        return confidence_weighted(values, confidence_BJ)
    return flagged_mean(values, confidence_BJ, has_B)


def _sample_distance(prediction: Tensor, target: Tensor, has_B: Tensor, form: Form) -> Tensor:
    known = has_B.view(-1, *[1] * (target.ndim - 1))
    return sample_mean(elementwise(prediction, torch.where(known, target, 0.0), form), has_B)
