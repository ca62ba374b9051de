"""Optimisers of backbone and head, and the course of their rates."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from humandata.training import checkpoints, recipes
from humandata.training.optimizers import Together, make_optimizer, rate_factor, set_learning_rate
from humandata.training.recipes import Recipe

EFFICIENTNET = dataclasses.replace(
    recipes.hmr(), optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True,
    head_optimizer="adam", head_lr=2.5e-4, head_weight_decay=0.0,
)  # fmt: skip
"""configs/backbones/efficientnet_hmr_pw3d.py: SGD under a head with Adam."""

CPU = torch.device("cpu")


def network() -> nn.ModuleDict:
    torch.manual_seed(4)
    parts = {"backbone": nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), "head": nn.Linear(5, 3)}
    return nn.ModuleDict(parts).double()


def gradients(net: nn.Module, step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    found = {}
    for name, values in net.named_parameters():
        values.grad = torch.randn(values.shape, generator=generator, dtype=values.dtype)
        found[name] = values.grad.clone()
    return found


def test_sgd_moves_the_backbone_and_adam_the_head() -> None:
    """By the formulas: v = 0.9 v + g + 1e-4 p, p -= lr v; Adam without decay."""
    net = network()
    optimizer = make_optimizer(net, EFFICIENTNET, CPU)
    expected = {name: values.detach().clone() for name, values in net.named_parameters()}
    speed = {name: torch.zeros_like(values) for name, values in expected.items()}
    first, second = copy.deepcopy(speed), copy.deepcopy(speed)
    for step in range(1, 4):
        for name, gradient in gradients(net, step).items():
            if name.startswith("backbone"):
                speed[name] = 0.9 * speed[name] + gradient + 1e-4 * expected[name]
                expected[name] -= 0.1 * speed[name]
            else:
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
                expected[name] -= 2.5e-4 * mean / (square.sqrt() + 1e-8)
        optimizer.step()
    for name, values in net.named_parameters():
        torch.testing.assert_close(values.detach(), expected[name], rtol=1e-12, atol=1e-12)


def test_decay_leaves_biases_and_norms_alone_unless_told() -> None:
    decayed = dataclasses.replace(recipes.hmr(), weight_decay=0.1)
    for all_of_them in (False, True):
        recipe = dataclasses.replace(decayed, decay_all=all_of_them)
        groups = make_optimizer(network(), recipe, CPU).param_groups
        decays = {p.ndim: group["weight_decay"] for group in groups for p in group["params"]}
        assert decays == {1: 0.1 if all_of_them else 0.0, 2: 0.1}


def test_both_go_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path) -> None:
    net = network()
    optimizer = make_optimizer(net, EFFICIENTNET, CPU)
    assert isinstance(optimizer, Together)
    for step in range(2):
        gradients(net, step)
        optimizer.step()
    checkpoints.save(tmp_path, 2, net, optimizer, EFFICIENTNET)
    again = network()
    fresh = make_optimizer(again, EFFICIENTNET, CPU)
    checkpoints.restore(checkpoints.checkpoints(tmp_path)[0], again, fresh)
    for one, stepper in ((net, optimizer), (again, fresh)):
        gradients(one, 2)
        stepper.step()
    pairs = zip(net.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert [group["lr"] for group in fresh.param_groups] == [0.1, 2.5e-4]


def test_both_follow_the_schedule_and_forget_their_gradients() -> None:
    net = network()
    optimizer = make_optimizer(net, EFFICIENTNET, CPU)
    recipe = dataclasses.replace(EFFICIENTNET, schedule="step", decay_at=(0.5,))
    set_learning_rate(optimizer, recipe, 5, 10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 2.5e-5])
    gradients(net, 0)
    optimizer.zero_grad(set_to_none=True)
    assert all(values.grad is None for values in net.parameters())


@pytest.mark.parametrize("steps_per_epoch", [1, 37, 1221, 9999])
def test_the_rate_falls_with_the_first_step_of_the_epoch_that_a_reference_names(
    steps_per_epoch: int,
) -> None:
    """SPIN: after 3 of 10 epochs. CLIFF: 100 of 250, and of 160. HMR in 50 epochs: 40."""
    for epoch, epochs in ((3, 10), (100, 250), (100, 160), (40, 50)):
        last, change = epochs * steps_per_epoch, epoch * steps_per_epoch
        for recipe in (
            Recipe(schedule="step", decay_at=(epoch / epochs,), decay_factor=0.1),
            Recipe(schedule="step", decay_epochs=(epoch,), decay_factor=0.1),
        ):
            assert rate_factor(recipe, change - 1, last, steps_per_epoch) == 1
            assert rate_factor(recipe, change, last, steps_per_epoch) == pytest.approx(0.1)
