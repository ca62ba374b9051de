"""HMR: iterative regression of a SMPL body and a weak-perspective camera from one picture.

Kanazawa et al., "End-to-end Recovery of Human Shape and Pose", CVPR 2018, in the form that SPIN,
mmhuman3d and hmr-benchmarks train (``models/heads/hmr_head.py``): 6D rotations, no non-linearity
between the fully connected layers, three iterations of which the last is supervised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from humandata.training import losses
from humandata.training.backbone_weights import load_backbone_weights, load_head_weights
from humandata.training.backbones import Backbone
from humandata.training.batches import Batch
from humandata.training.heads import DEFAULTS, HMRHead
from humandata.training.recipes import Recipe
from humandata.training.smpl import SMPL, axis_angle_to_matrix, rotation6d_to_matrix

FOCAL_LENGTH = 5000.0
"""Focal length, in pixels of the crop, of the camera that projects the body into the crop."""

__all__ = ["FOCAL_LENGTH", "HMR", "HMRHead", "Prediction", "build", "loss", "project", "terms"]


@dataclass(frozen=True)
class Prediction:
    """A body and a camera for each of B crops.

    Attributes
    ----------
    pose : (B, 24, 3, 3)
        Rotation matrices relative to the parent joint; joint 0 in the axes of the camera.
    betas : (B, 10)
    camera : (B, 3)
        Weak perspective: scale s, and tx, ty in metres at the body; s = 1 fits 2 m into the crop.
    """

    pose: Tensor
    betas: Tensor
    camera: Tensor

    def translation(self, size: int = 224) -> Tensor:
        """Position (B, 3) of the body in metres, before a camera of 5000 px and a crop of ``size``.

        ``(tx, ty, 2 f / (size s + 1e-9))``, as in the reference.
        """
        scale, x, y = self.camera.unbind(-1)
        return torch.stack([x, y, 2 * FOCAL_LENGTH / (size * scale + 1e-9)], dim=-1)


class HMR(nn.Module):
    """Backbone and regressor.

    Parameters
    ----------
    backbone : Backbone
    head : HMRHead
    """

    def __init__(self, backbone: Backbone, head: HMRHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch whose pixels `augment.prepare` has normalised."""
        return self.predict(batch.images)

    def predict(self, images: Tensor) -> Prediction:
        """Predict normalised crops (B, 3, S, S)."""
        features = self.backbone(images)
        # The regressor adds small corrections and the rotations are orthonormalised: both want the
        # full mantissa, and cost next to nothing.
        with torch.autocast(features.device.type, enabled=False):
            pose, betas, camera = self.head(features.float())
            matrices = rotation6d_to_matrix(pose.view(-1, 24, 6))
        return Prediction(matrices, betas, camera)


def build(recipe: Recipe, pretrained: bool = True) -> HMR:
    """The network of a recipe, initialised as ``recipe.init`` says.

    A file of a whole HMR initialises the regressor too, as a fine-tuning wants it.

    Parameters
    ----------
    recipe : Recipe
    pretrained : bool
        False leaves the backbone random whatever the recipe says, for weights that are loaded
        afterwards.
    """
    from_timm = pretrained and recipe.init == "imagenet"
    backbone = Backbone(recipe.backbone, from_timm, recipe.image_size)
    options = dataclasses.replace(DEFAULTS, dropout=recipe.dropout)
    folder = Path(recipe.body_models) if recipe.body_models else None
    head = HMRHead(backbone.channels, options, folder)
    if pretrained and recipe.init not in ("imagenet", "none"):
        load_backbone_weights(backbone, Path(recipe.init))
        load_head_weights(head, Path(recipe.init))
    return HMR(backbone, head)


def project(joints: Tensor, camera_translation: Tensor) -> Tensor:
    """Pixels (B, J, 2) relative to the centre of the crop, of joints (B, J, 3) in metres.

    ``u = f (X + tx) / (Z + tz)``, ``v = f (Y + ty) / (Z + tz)`` with the focal length of 5000
    pixels.
    """
    placed = joints + camera_translation[:, None]
    return FOCAL_LENGTH * placed[..., :2] / placed[..., 2:]


def loss(batch: Batch, prediction: Prediction, body: SMPL, recipe: Recipe) -> dict[str, Tensor]:
    """Weighted terms of the loss; the network is trained on their sum.

    Targets are compared in the training body model (neutral), as in the reference: 54 joints in 3D
    around the hips and projected into the crop, vertices, rotation matrices, betas. A weight of 0
    leaves a term out. Without the vertices' term ``body`` may be
    `humandata.training.smpl.SMPL.without_mesh`.

    Returns
    -------
    dict of str to scalar Tensor
        ``keypoints3d``, ``keypoints2d``, ``vertices``, ``pose``, ``betas``.
    """

    def keypoints2d(joints: Tensor) -> Tensor:
        projected = project(joints, prediction.translation(batch.size))
        return losses.keypoints2d_loss(projected, batch.keypoints2d, batch.size, recipe.loss)

    return terms(batch, prediction, body, recipe, keypoints2d)


def terms(
    batch: Batch,
    prediction: Prediction,
    body: SMPL,
    recipe: Recipe,
    keypoints2d: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """What `loss` gives, with the term of 2D keypoints by a function of the joints (B, 54, 3)."""
    form, has_smpl = recipe.loss, batch.has_smpl
    vertices, joints = body(prediction.pose, prediction.betas)
    target_pose = axis_angle_to_matrix(batch.pose)
    # HMR's base losses measure vertices by L1 where keypoints take smooth-L1, and pose and betas
    # squared.
    vertices_form: losses.Form = "mse" if form == "mse" else "l1"
    body_form: losses.Form = "l1" if form == "l1" else "mse"
    found: dict[str, Tensor] = {}
    if recipe.keypoints3d_weight:
        value = losses.keypoints3d_loss(joints, batch.keypoints3d, form)
        found["keypoints3d"] = recipe.keypoints3d_weight * value
    if recipe.keypoints2d_weight:
        found["keypoints2d"] = recipe.keypoints2d_weight * keypoints2d(joints)
    if recipe.vertices_weight:
        with torch.no_grad():
            target, _ = body(target_pose, batch.betas)
        value = losses.vertices_loss(vertices, target, has_smpl, vertices_form)
        found["vertices"] = recipe.vertices_weight * value
    if recipe.pose_weight:
        value = losses.pose_loss(prediction.pose, target_pose, has_smpl, body_form)
        found["pose"] = recipe.pose_weight * value
    if recipe.betas_weight:
        value = losses.betas_loss(prediction.betas, batch.betas, has_smpl, body_form)
        found["betas"] = recipe.betas_weight * value
    return found
