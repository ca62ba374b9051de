"""SPIN: HMR's network, trained on bodies that were fitted to the pictures.

Kolotouros et al., "Learning to Reconstruct 3D Human Pose and Shape via Model-fitting in the Loop",
ICCV 2019, in the form that mmhuman3d and hmr-benchmarks train (``configs/spin``): HMR's losses
without the adversarial prior, and a prior that keeps the scale of the camera positive. The losses
of SPIN's own code, which average in other ways, are in `humandata.training.spin_losses`.

**The fitting in the loop is not in here.** ``pose`` and ``betas`` of the stores are the targets as
they are: the static fits that SPIN starts from, or whatever else the store holds.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from humandata.training import losses
from humandata.training.algorithms import hmr
from humandata.training.algorithms.hmr import HMR, Prediction
from humandata.training.backbone_weights import load_head_weights
from humandata.training.batches import Batch
from humandata.training.recipes import Recipe
from humandata.training.smpl import SMPL

__all__ = ["HMR", "Prediction", "build", "loss"]


def build(recipe: Recipe, pretrained: bool = True) -> HMR:
    """The network of a recipe, initialised as ``recipe.init`` says.

    A file of a whole network (an HMR, as mmhuman3d starts from) initialises the regressor too.
    """
    network = hmr.build(recipe, pretrained)
    if pretrained and recipe.init not in ("imagenet", "none"):
        load_head_weights(network.head, Path(recipe.init))
    return network


def loss(batch: Batch, prediction: Prediction, body: SMPL, recipe: Recipe) -> dict[str, Tensor]:
    """Weighted terms of the loss: HMR's, and 60 times the mean of ``exp(-10 s)^2``.

    Returns
    -------
    dict of str to scalar Tensor
        Those of `humandata.training.algorithms.hmr.loss`, and ``camera``.
    """
    terms = hmr.loss(batch, prediction, body, recipe)
    terms["camera"] = losses.WEIGHTS["camera"] * losses.camera_prior(prediction.camera)
    return terms
