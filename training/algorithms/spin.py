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
from humandata.training.backbone_weights import read
from humandata.training.batches import Batch
from humandata.training.heads import HEAD
from humandata.training.recipes import Recipe
from humandata.training.smpl import SMPL

__all__ = ["HMR", "Prediction", "build", "loss"]


def build(recipe: Recipe, pretrained: bool = True) -> HMR:
    """The network of a recipe, initialised as ``recipe.init`` says.

    A file of a whole network (an HMR, as mmhuman3d starts from) initialises the regressor too.
    """
    network = hmr.build(recipe, pretrained)
    if pretrained and recipe.init not in ("imagenet", "none"):
        tensors = read(Path(recipe.init)).tensors
        head = {key: tensors.get(f"head.{key}", tensors.get(key)) for key in HEAD}
        own = network.head.state_dict()
        if all(value is not None and value.shape == own[key].shape for key, value in head.items()):
            network.head.load_state_dict(head)
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
