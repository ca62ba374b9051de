"""CLIFF: HMR's regressor that is told where in the picture its crop lies.

Li et al., "CLIFF: Carrying Location Information in Full Frames into Human Pose and Shape
Estimation", ECCV 2022, in the form that mmhuman3d trains (``configs/cliff``, ``cliff_head.py``,
``cliff_mesh_estimator.py``). `humandata.training.algorithms.cliff_original` is the form of the
authors' own networks; the two differ in what the length b of a box means, and the weights of one
must not be run as the other.

The network sees three quarters of a square crop, its middle columns: 192 x 256 pixels of 256 x 256.
In this form b is the width of what it sees, so a square must be 4/3 times the box (`Form.square`);
training and evaluation cut it so. ``image_size`` 256 gives the published size.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from humandata.cameras import CLIFF_CROP, CliffForm, cliff_box
from humandata.errors import HumandataError
from humandata.training import losses
from humandata.training.algorithms import hmr
from humandata.training.backbone_weights import load_backbone_weights, load_head_weights
from humandata.training.backbones import Backbone
from humandata.training.batches import Batch
from humandata.training.cameras import crop_camera_to_full_frame, perspective_projection
from humandata.training.heads import BOX, DEFAULTS, HMRHead
from humandata.training.recipes import Recipe
from humandata.training.smpl import SMPL, rotation6d_to_matrix

FORM: CliffForm = "mmhuman3d"

ASPECT = CLIFF_CROP[0] / CLIFF_CROP[1]
"""Width of what the network sees, over its height."""

IMAGE_SIZE = CLIFF_CROP[1]
"""Side of the crops of the published networks, in pixels."""

CROP_FACTOR = 1 / ASPECT
"""How much larger than the enlarged box of a store the square crop is in training."""

#: b, the length that the network is told, over the side of the square crop.
_LENGTH = {"mmhuman3d": ASPECT, "cliff": 1.0}


@dataclass(frozen=True)
class Prediction(hmr.Prediction):
    """A body and its cameras; see `humandata.training.algorithms.hmr.Prediction`.

    Where a crop was flipped the whole picture is meant as flipped.

    Attributes
    ----------
    full_translation : (B, 3)
        Position of the body in metres, before the camera of the whole picture.
    focal : (B,)
        Its focal length in pixels, the diagonal of the picture; the principal point is the middle.
    """

    full_translation: Tensor
    focal: Tensor


@dataclass(frozen=True)
class Place:
    """Where crops lie in their whole (where need be, flipped) pictures.

    Attributes
    ----------
    centre : (B, 2) pixels.
    length : (B,) pixels, the b of CLIFF.
    middle : (B, 2) pixels, the middle of the picture.
    focal : (B,) pixels.
    """

    centre: Tensor
    length: Tensor
    middle: Tensor
    focal: Tensor

    def box_info(self) -> Tensor:
        """The three numbers (B, 3) that the regressor is told; see `humandata.cameras`."""
        off = 2.8 * (self.centre - self.middle) / self.focal[:, None]
        size = (self.length - 0.24 * self.focal) / (0.06 * self.focal)
        return torch.cat([off, size[:, None]], dim=1)


def place_of(batch: Batch, form: CliffForm = FORM) -> Place:
    """Places of the crops of a batch.

    As in mmhuman3d the scale of augmentation counts, a flip mirrors the centre (x to W - 1 - x),
    and a turn is left out.
    """
    width = batch.picture_size[:, 0]
    linear = batch.affine[:, :, :2]
    flipped = linear[:, 0, 0] * linear[:, 1, 1] < linear[:, 0, 1] * linear[:, 1, 0]
    x = torch.where(flipped, width - 1 - batch.centre[:, 0], batch.centre[:, 0])
    return Place(
        torch.stack([x, batch.centre[:, 1]], dim=1),
        batch.side * _LENGTH[form],
        batch.picture_size / 2,
        torch.linalg.vector_norm(batch.picture_size, dim=1),
    )


class CLIFF(nn.Module):
    """Backbone, and a regressor that takes the box beside the features.

    Parameters
    ----------
    backbone : Backbone
        Of crops that are ``image_size`` high and three quarters of it wide.
    head : HMRHead
        Built with ``box=3``.
    form : {"mmhuman3d", "cliff"}
    """

    def __init__(self, backbone: Backbone, head: HMRHead, form: CliffForm = FORM) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.form: CliffForm = form

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch of square crops whose pixels `augment.prepare` has normalised."""
        place = place_of(batch, self.form)
        pose, betas, camera = self.predict(middle_columns(batch.images), place.box_info())
        translation = crop_camera_to_full_frame(
            camera, place.centre, place.length, place.focal, place.middle
        )
        matrices = rotation6d_to_matrix(pose.view(-1, 24, 6))
        return Prediction(matrices, betas, camera, translation, place.focal)

    def predict(self, images: Tensor, box_info: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """6D pose (B, 144), betas (B, 10), camera (B, 3) of crops (B, 3, H, 3/4 H)."""
        features = self.backbone(images)
        with torch.autocast(features.device.type, enabled=False):
            result: tuple[Tensor, Tensor, Tensor] = self.head(features.float(), box_info.float())
        return result

    def crop_boxes(self, bbox_xywh: ArrayLike, factor: float | None = None) -> NDArray[np.floating]:
        """Squares to cut for this network: see `squares`."""
        return squares(bbox_xywh, factor, self.form)


def squares(
    bbox_xywh: ArrayLike, factor: float | None = None, form: CliffForm = FORM
) -> NDArray[np.floating]:
    """Square boxes (n, 4) x, y, width, height to cut for CLIFF, from a store's boxes (n, 4).

    ``mmhuman3d``: 4/3 of the longer side of the box, enlarged by 1.2. ``cliff``: the length b of
    `humandata.cameras.cliff_box` on the box as a detector draws it.

    Parameters
    ----------
    bbox_xywh : (n, 4) or more columns, pixels
    factor : float, optional
        How much larger than tight the boxes are already; by default 1.2, as converters make them.
    form : {"mmhuman3d", "cliff"}
    """
    boxes = np.array(bbox_xywh, np.float64)[:, :4]
    change = (1.2 if form == "mmhuman3d" else 1.0) / (factor or 1.2)
    middle = boxes[:, :2] + boxes[:, 2:] / 2
    boxes[:, 2:] *= change
    boxes[:, :2] = middle - boxes[:, 2:] / 2
    centre, length = cliff_box(boxes, form)
    side = np.asarray(length)[:, None] / _LENGTH[form]
    return np.concatenate([centre - side / 2, side, side], axis=1)


def middle_columns(images: Tensor) -> Tensor:
    """The middle three quarters of square pictures (B, 3, S, S): columns S / 8 to 7 S / 8."""
    size = images.shape[-1]
    if size % 8:
        raise HumandataError(
            f"CLIFF sees three quarters of a crop, so --image-size {size} must be a multiple of 8; "
            "the published networks have 256"
        )
    return images[..., size // 8 : size - size // 8]


def build(recipe: Recipe, pretrained: bool = True, form: CliffForm = FORM) -> CLIFF:
    """The network of a recipe, initialised as ``recipe.init`` says.

    A file of a whole CLIFF initialises the regressor too; that of an HMR, which takes no box, only
    the backbone.

    Parameters
    ----------
    recipe : Recipe
    pretrained : bool
        False leaves the backbone random whatever the recipe says.
    form : {"mmhuman3d", "cliff"}
    """
    height = recipe.image_size
    width = middle_columns(torch.empty(0, 3, height, height)).shape[-1]
    from_timm = pretrained and recipe.init == "imagenet"
    backbone = Backbone(recipe.backbone, from_timm, (height, width))
    options = dataclasses.replace(DEFAULTS, dropout=recipe.dropout)
    folder = Path(recipe.body_models) if recipe.body_models else None
    head = HMRHead(backbone.channels, options, folder, box=BOX)
    if pretrained and recipe.init not in ("imagenet", "none"):
        load_backbone_weights(backbone, Path(recipe.init))
        load_head_weights(head, Path(recipe.init))
    return CLIFF(backbone, head, form)


def loss(
    batch: Batch,
    prediction: Prediction,
    body: SMPL,
    recipe: Recipe,
    form: CliffForm = FORM,
) -> dict[str, Tensor]:
    """Weighted terms of the loss: HMR's, with 2D joints compared through the whole picture.

    The predicted joints are projected into the whole picture and taken from there into the crop as
    if it were not turned (`humandata.training.losses.cliff_keypoints2d_loss`).

    Returns
    -------
    dict of str to scalar Tensor
        As `humandata.training.algorithms.hmr.loss`.
    """
    place = place_of(batch, form)

    def keypoints2d(joints: Tensor) -> Tensor:
        pixels = perspective_projection(
            joints, prediction.full_translation, prediction.focal, place.middle
        )
        scale = batch.size / batch.side
        crop = torch.zeros_like(batch.affine)
        crop[:, 0, 0] = crop[:, 1, 1] = scale
        crop[:, :, 2] = batch.size / 2 - scale[:, None] * place.centre
        # The reference's 224 belongs to a crop 256 pixels high.
        size = round(batch.size * 224 / 256)
        return losses.cliff_keypoints2d_loss(
            pixels, crop, batch.keypoints2d, recipe.loss, image_size=size
        )

    return hmr.terms(batch, prediction, body, recipe, keypoints2d)
