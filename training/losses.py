"""Loss terms of human mesh recovery, each with its mask and its exact denominator.

Formulas and reductions follow mmhuman3d's ``body_models/../losses`` and its mesh estimator, as
trained in hmr-benchmarks (Pang et al., "Benchmarking and Analyzing 3D Human Pose and Shape
Estimation", NeurIPS 2022). Every term is a scalar tensor. A term for which a batch holds no valid
target is a constant zero, so that data sets without that label neither move the network nor dilute
the others.

Shape letters: B samples, J joints, V vertices, S number of betas.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["smooth_l1", "l1", "mse"]
FORMS: tuple[Form, ...] = get_args(Form)

#: Joints of smpl_54 between which a skeleton is centred: the hips regressed from the skin, which is
#: what annotators and motion capture mean by "hip", and the hips of the kinematic tree.
HIPS_EXTRA = (45, 46)
HIPS_KINEMATIC = (1, 2)


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


def centre_on_hips(
    prediction_BJ3: Tensor, target_BJ3: Tensor, confidence_BJ: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Move both skeletons so that the middle of their hips is the origin.

    The hips are joints 45 and 46 of smpl_54. mmhuman3d uses them whatever their confidence, so
    that a data set which does not annotate them is silently compared against an uncentred
    skeleton. Here such a sample is centred, on both sides alike, on the hips of the kinematic tree
    (joints 1 and 2) when those are annotated, and is left out when they are not either. Where 45
    and 46 are annotated the two agree.

    Parameters
    ----------
    prediction_BJ3, target_BJ3 : (B, 54, 3) metres, camera frame, smpl_54.
    confidence_BJ : (B, 54) confidences of the target.

    Returns
    -------
    prediction, target : (B, 54, 3), centred.
    confidence : (B, 54), zero for samples that could not be centred.
    """

    def middle(points: Tensor, pair: tuple[int, int]) -> Tensor:
        return (points[:, pair[0]] + points[:, pair[1]])[:, None] / 2

    valid = confidence_BJ > 0
    extra = valid[:, HIPS_EXTRA[0]] & valid[:, HIPS_EXTRA[1]]
    tree = valid[:, HIPS_KINEMATIC[0]] & valid[:, HIPS_KINEMATIC[1]]
    use_extra = extra[:, None, None]
    centred = [
        points - torch.where(use_extra, middle(points, HIPS_EXTRA), middle(points, HIPS_KINEMATIC))
        for points in (prediction_BJ3, target_BJ3)
    ]
    return centred[0], centred[1], confidence_BJ * (extra | tree)[:, None]


def keypoints3d_loss(prediction_BJ3: Tensor, target_BJ4: Tensor, form: Form) -> Tensor:
    """Distance of hip-centred joints.

    Parameters
    ----------
    prediction_BJ3 : (B, 54, 3) joints in metres, smpl_54, in the axes of the camera.
    target_BJ4 : (B, 54, 4) x, y, z, confidence, the same joints and axes.
    """
    prediction, target, confidence = centre_on_hips(
        prediction_BJ3, target_BJ4[..., :3], target_BJ4[..., 3]
    )
    return confidence_weighted(elementwise(prediction, target, form), confidence)


def keypoints2d_loss(
    prediction_BJ2: Tensor, target_BJ3: Tensor, image_size: int, form: Form
) -> Tensor:
    """Distance of projected joints, the crop spanning -1 to 1.

    Parameters
    ----------
    prediction_BJ2 : (B, J, 2) pixels *relative to the centre of the crop*.
    target_BJ3 : (B, J, 3) x, y in pixels of the crop, confidence.

    Notes
    -----
    The target's zero lies at pixel (size - 1) / 2 while the crop is built around pixel size / 2.
    The reference has this constant half pixel, trained networks expect it, and so it is kept.
    """
    scale = 2.0 / (image_size - 1)
    values = elementwise(prediction_BJ2 * scale, target_BJ3[..., :2] * scale - 1.0, form)
    return confidence_weighted(values, target_BJ3[..., 2])


def vertices_loss(
    prediction_BV3: Tensor, target_BV3: Tensor, has_smpl_B: Tensor, form: Form
) -> Tensor:
    """Distance of mesh vertices (B, V, 3) in metres, over the samples that have a body."""
    return sample_mean(elementwise(prediction_BV3, target_BV3, form), has_smpl_B)


def pose_loss(
    prediction_BJ33: Tensor, target_BJ33: Tensor, has_smpl_B: Tensor, form: Form
) -> Tensor:
    """Distance of rotation matrices (B, 24, 3, 3), over the samples that have a body."""
    return sample_mean(elementwise(prediction_BJ33, target_BJ33, form), has_smpl_B)


def betas_loss(prediction_BS: Tensor, target_BS: Tensor, has_smpl_B: Tensor, form: Form) -> Tensor:
    """Distance of shape coefficients (B, 10), over the samples that have a body."""
    return sample_mean(elementwise(prediction_BS, target_BS, form), has_smpl_B)
