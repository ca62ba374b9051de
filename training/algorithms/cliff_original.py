"""CLIFF as its authors published it: `humandata.training.algorithms.cliff` with another box.

The length b of a box is the height of what the network sees, 1.1 times what holds the detector's
box at 3 to 4; the squares cut are b wide and high. Source: huawei-noah/noah-research, ``CLIFF``,
which has no code for training: it is trained here with the losses of mmhuman3d's form, on squares
around the boxes of the stores, which are not widened for people who are wider than high.
"""

from __future__ import annotations

from torch import Tensor

from humandata.cameras import CliffForm
from humandata.training.algorithms import cliff
from humandata.training.algorithms.cliff import CLIFF, Prediction
from humandata.training.batches import Batch
from humandata.training.recipes import Recipe
from humandata.training.smpl import SMPL

FORM: CliffForm = "cliff"

IMAGE_SIZE = cliff.IMAGE_SIZE


def build(recipe: Recipe, pretrained: bool = True) -> CLIFF:
    """As `humandata.training.algorithms.cliff.build`, in the authors' form."""
    return cliff.build(recipe, pretrained, FORM)


def loss(batch: Batch, prediction: Prediction, body: SMPL, recipe: Recipe) -> dict[str, Tensor]:
    """As `humandata.training.algorithms.cliff.loss`, in the authors' form."""
    return cliff.loss(batch, prediction, body, recipe, FORM)
