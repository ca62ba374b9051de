"""Parameters and operations of a network, against counting by hand."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from humandata.cli.main import cli
from humandata.errors import HumandataError
from humandata.training.complexity import complexity


def macs_by_hooks(network: nn.Module, pictures: torch.Tensor) -> int:
    """Multiply-accumulates of all convolutions: outputs times the inputs each one sums."""
    total = 0

    def count(module: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal total
        height, width = module.kernel_size
        total += output.numel() * height * width * module.in_channels // module.groups

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(pictures)
    return total


def test_operations_are_those_of_the_convolutions_and_of_three_passes_of_the_regressor() -> None:
    import timm

    found = complexity("hmr", "resnet18", 64)
    trunk = timm.create_model("resnet18", num_classes=0).eval()
    convolutions = macs_by_hooks(trunk, torch.zeros(1, 3, 64, 64))
    regressor = 3 * ((512 + 157) * 1024 + 1024 * 1024 + 1024 * 157)
    assert found.flops == 2 * (convolutions + regressor)
    assert found.parts["backbone"]["flops"] == 2 * convolutions
    assert found.gmacs == pytest.approx((convolutions + regressor) / 1e9)


def test_parameters_are_those_of_the_published_network() -> None:
    """ResNet-50 with HMR's head: 26.9775 M, of which the head has 3,469,469 (hmr-benchmarks)."""
    found = complexity("hmr", "resnet50", 64)
    assert found.parts["head"]["parameters"] == 3_469_469
    assert found.parameters == found.trainable == 26_977_501


def test_the_command_prints_a_table_or_json() -> None:
    arguments = ["flops", "--backbone", "resnet18", "--image-size", "64"]
    text = CliRunner().invoke(cli, arguments).output
    assert "GMACs" in text
    assert "resnet18" in text
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert document[0]["flops"] == complexity("hmr", "resnet18", 64).flops


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(HumandataError, match="resnet51"):
        complexity("hmr", "resnet51")
