"""HMR's adversarial prior: the published network's names, shapes, scores, losses and gradients."""

from __future__ import annotations

import csv
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from humandata.training import discriminator
from humandata.training.discriminator import SMPLDiscriminator, discriminator_loss, generator_loss
from humandata.training.rotations import axis_angle_to_matrix

REFERENCE = Path(__file__).parent / "references" / "discriminator.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind == "f"}


def fill(net: torch.nn.Module) -> None:
    """Weights that anybody can make again: sines, as large as the layers' own start."""
    state = net.state_dict()
    for place, (name, values) in enumerate(state.items()):
        inputs = values.shape[1] if values.ndim == 4 else values.shape[-1]
        line = torch.sin(torch.arange(values.numel(), dtype=torch.float64) * 0.7311 + place)
        state[name] = 1.5 * (line / inputs**0.5).reshape(values.shape)
    net.load_state_dict(state)


@pytest.fixture(scope="module")
def net() -> SMPLDiscriminator:
    made = SMPLDiscriminator().double()
    fill(made)
    return made


def test_names_and_shapes_are_those_of_published_checkpoints() -> None:
    with np.load(REFERENCE) as file:
        expected = dict(zip(file["names"].tolist(), file["shapes"].tolist(), strict=True))
    state = SMPLDiscriminator().state_dict()
    assert {k: "x".join(map(str, v.shape)) for k, v in state.items()} == expected
    assert list(state) == list(expected)
    assert sum(values.numel() for values in state.values()) == 1_807_509


def test_scores_and_losses_are_mmhuman3ds(
    net: SMPLDiscriminator, reference: dict[str, Tensor]
) -> None:
    fake = net(reference["pose"], reference["betas"])
    torch.testing.assert_close(fake, reference["fake_scores"], rtol=1e-10, atol=1e-10)
    real_pose = axis_angle_to_matrix(reference["real_axis_angle"].view(-1, 24, 3))
    real = net(real_pose, reference["real_betas"])
    # Its axis-angle vectors become rotations that are off by up to 2e-8.
    torch.testing.assert_close(real, reference["real_scores"], rtol=1e-6, atol=1e-7)
    assert discriminator_loss(fake, real).item() == pytest.approx(
        reference["discriminator_loss"].item(), rel=1e-6
    )
    assert generator_loss(fake).item() == pytest.approx(
        reference["generator_loss"].item(), rel=1e-10
    )


def test_the_gradient_that_reaches_the_pose_is_mmhuman3ds(
    net: SMPLDiscriminator, reference: dict[str, Tensor]
) -> None:
    pose = reference["pose"].clone().requires_grad_()
    generator_loss(net(pose, reference["betas"])).backward()
    assert pose.grad is not None
    torch.testing.assert_close(pose.grad, reference["generator_gradient"], rtol=1e-9, atol=1e-12)
    assert not pose.grad[:, 0].any()  # the global orientation is not judged


def test_a_frozen_discriminator_passes_gradients_on_and_keeps_none() -> None:
    net = SMPLDiscriminator()
    pose = axis_angle_to_matrix(torch.randn(2, 24, 3)).requires_grad_()
    betas = torch.randn(2, 10, requires_grad=True)
    with discriminator.frozen(net):
        loss = generator_loss(net(pose, betas))
    loss.backward()
    assert pose.grad is not None
    assert pose.grad[:, 1:].any()
    assert betas.grad is not None
    assert betas.grad.any()
    assert all(values.grad is None for values in net.parameters())
    assert all(values.requires_grad for values in net.parameters())
    with pytest.raises(ZeroDivisionError), discriminator.frozen(net):
        _ = 1 / 0
    assert all(values.requires_grad for values in net.parameters())


def test_real_bodies_score_one_and_fake_ones_zero() -> None:
    one, zero = torch.ones(3, 25), torch.zeros(3, 25)
    assert discriminator_loss(fake_scores=zero, real_scores=one) == 0
    assert discriminator_loss(fake_scores=one, real_scores=zero) == 2
    assert generator_loss(one) == 0
    half = torch.cat([one, zero])  # a mean over samples and scores, not a sum of scores
    assert generator_loss(half) == 0.5


def test_convolutions_start_small_and_linear_layers_as_torch_does() -> None:
    torch.manual_seed(1)
    net = SMPLDiscriminator()
    convolution = net.pose_discriminator.conv_blocks[1]
    weight, bias = convolution.get_parameter("weight"), convolution.get_parameter("bias")
    assert weight.std().item() == pytest.approx(0.001, rel=0.15)
    assert not bias.any()
    linear = net.full_pose_discriminator.fc_blocks[0].get_parameter("weight")
    assert linear.abs().max().item() == pytest.approx(736**-0.5, rel=0.01)


def test_names_and_shapes_are_those_of_mmhuman3ds_checkpoints() -> None:
    layouts = REFERENCE.with_name("checkpoint_layouts.csv.xz")
    with lzma.open(layouts, "rt", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row[0] == "mmhuman3d_disc"]
    assert rows
    expected = {row[1].removeprefix("disc."): row[2] for row in rows}
    state = SMPLDiscriminator().state_dict()
    assert {k: "x".join(map(str, v.shape)) for k, v in state.items()} == expected
