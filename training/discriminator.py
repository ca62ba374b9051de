"""HMR's adversarial prior: a discriminator of bodies, and the losses that train against it.

Kanazawa et al., CVPR 2018, in the form of mmhuman3d and hmr-benchmarks
(``models/discriminators/pose_discriminator.py``, ``models/losses/gan_loss.py``), with the names and
shapes of their checkpoints (prefix ``disc.``). It differs from the TensorFlow original: no ReLU
after the two convolutions over joints, a shape branch of 10-5-1 instead of 10-10-5-1, averages over
samples *and* scores where the original sums the 25 scores (25 times as much), and only the last
iteration's bodies as fakes.

One training step, with an optimiser of its own for the discriminator (Adam, 1e-4)::

    scores = disc(prediction.pose.detach(), prediction.betas.detach()), disc(real_pose, real_betas)
    discriminator_loss(*scores).backward()               # steps the discriminator
    with frozen(disc):
        generator_loss(disc(prediction.pose, prediction.betas))      # added to the other terms

`humandata.training.prior` takes this step in training, with real bodies from a file or a store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

JOINTS = 23
"""Joints of the body; the global orientation is not judged."""

SCORES = JOINTS + 2


class _PoseDiscriminator(nn.Module):
    """Scores (B, 23) of single joints, and the features (B, 32, 1, 23) they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_blocks = nn.Sequential()
        self.conv_blocks.add_module("conv_0", nn.Conv2d(9, 32, 1))
        self.conv_blocks.add_module("conv_1", nn.Conv2d(32, 32, 1))
        self.fc_layer = nn.ModuleList(nn.Linear(32, 1) for _ in range(JOINTS))
        for name, values in self.conv_blocks.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(values, std=0.001)
            else:
                nn.init.zeros_(values)

    def forward(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv_blocks(matrices.transpose(1, 2).unsqueeze(2))
        # 23 small layers in one product, from the parameters of each as checkpoints name them.
        weight = torch.cat([layer.get_parameter("weight") for layer in self.fc_layer])
        bias = torch.cat([layer.get_parameter("bias") for layer in self.fc_layer])
        scores = torch.einsum("bcj,jc->bj", features[:, :, 0], weight) + bias
        return scores, features


class _Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.fc_blocks = nn.Sequential()
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            if i:
                self.fc_blocks.add_module(f"regressor_af_{i - 1}", nn.ReLU())
            self.fc_blocks.add_module(f"regressor_fc_{i}", nn.Linear(inputs, outputs))

    def forward(self, values: Tensor) -> Tensor:
        scores: Tensor = self.fc_blocks(values)
        return scores


class SMPLDiscriminator(nn.Module):
    """Scores of poses and shapes: 1 for real, 0 for predicted ones.

    Convolutions start from a normal distribution of deviation 0.001 and biases of 0; linear layers
    keep torch's own start, because the reference's intended one never takes effect. 1,807,509
    parameters, neither dropout nor normalisation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pose_discriminator = _PoseDiscriminator()
        self.full_pose_discriminator = _Perceptron(32 * JOINTS, 1024, 1024, 1)
        self.shape_discriminator = _Perceptron(10, 5, 1)

    def forward(self, pose: Tensor, betas: Tensor) -> Tensor:
        """Scores (B, 25): one of every joint, one of the pose, one of the shape.

        Parameters
        ----------
        pose : (B, 24, 3, 3)
            Rotation matrices, the global orientation first. Axis-angle poses of a motion capture
            set go through `humandata.training.rotations.axis_angle_to_matrix`.
        betas : (B, 10)
        """
        joints, features = self.pose_discriminator(pose[:, 1:].flatten(2))
        whole = self.full_pose_discriminator(features.flatten(1))
        return torch.cat([joints, whole, self.shape_discriminator(betas)], dim=1)


def discriminator_loss(fake_scores: Tensor, real_scores: Tensor) -> Tensor:
    """LSGAN: mean of (real - 1)^2 plus mean of fake^2, over samples and scores alike."""
    return (real_scores - 1).square().mean() + fake_scores.square().mean()


def generator_loss(fake_scores: Tensor) -> Tensor:
    """LSGAN: mean of (fake - 1)^2, what the network is trained on with weight 1."""
    return (fake_scores - 1).square().mean()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Leave a module's parameters without gradients inside: they pass on to its inputs only."""
    before = [values.requires_grad for values in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for values, required in zip(module.parameters(), before, strict=True):
            values.requires_grad_(required)
