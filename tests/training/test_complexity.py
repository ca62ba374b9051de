"""Parameters and operations of a network, against counting by hand."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from humandata.cli.main import cli
from humandata.errors import HumandataError
from humandata.training.backbone_variants import SUFFIX, VARIANTS
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


ORIGINALS = {
    "resnet18": ("ResNet18_Weights", 224),
    "resnet50": ("ResNet50_Weights", 224),
    "resnet101": ("ResNet101_Weights", 224),
    "resnet152": ("ResNet152_Weights", 224),
    "resnext101_32x8d": ("ResNeXt101_32X8D_Weights", 224),
    "vit_base_patch16_224": ("ViT_B_16_Weights", 224),
    "swin_tiny_patch4_window7_224": ("Swin_T_Weights", 224),
    "tf_efficientnet_b5": ("EfficientNet_B5_Weights", 456),
}


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in [*ORIGINALS][1:])]
)
def test_backbones_are_as_large_as_torchvision_publishes(name: str) -> None:
    """Its figures of the same networks, which have a classifier of 1000 on top."""
    models = pytest.importorskip("torchvision").models
    weights, size = ORIGINALS[name]
    published = getattr(models, weights).IMAGENET1K_V1.meta
    found = complexity("hmr", name, size).parts["backbone"]
    widths = {"resnet18": 512, "vit_base_patch16_224": 768, "swin_tiny_patch4_window7_224": 768}
    features = widths.get(name, 2048)
    assert found["parameters"] + 1000 * (features + 1) == published["num_params"]
    assert found["flops"] / 2e9 + features / 1e6 == pytest.approx(published["_ops"], abs=6e-4)


# Millions of parameters and thousand millions of multiply-accumulates as the tool of
# hmr-benchmarks counts its own networks, heads included. It adds normalisation and activation.
HMRBENCH = {
    "resnet50": (26.9775, 4.1302),
    "resnet101": (45.9696, 7.8578),
    "resnet152": (61.6133, 11.5889),
    "hrnet_w32_hmrbench": (34.8792, 11.0911),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HMRBENCH)
def test_networks_are_as_large_as_hmr_benchmarks_counts(name: str) -> None:
    found = complexity("hmr", name)
    parameters, gmacs = HMRBENCH[name]
    heatmaps = 792 if "hrnet" in name else 0  # of a layer that is never run
    assert found.parameters + heatmaps == pytest.approx(parameters * 1e6, abs=50)
    assert 0.985 * gmacs < found.gmacs < gmacs


def test_cliff_is_counted_on_its_own_crops() -> None:
    """Its maps are 8 / 7 as high and 6 / 7 as wide as those of a crop of 224."""
    found, plain = complexity("cliff", "resnet18"), complexity("hmr", "resnet18")
    assert (found.image_size, plain.image_size) == (256, 224)
    assert found.parts["backbone"]["flops"] * 49 == plain.parts["backbone"]["flops"] * 48
    more_columns = 3 * 3 * 1024
    assert found.parts["head"]["flops"] - plain.parts["head"]["flops"] == 2 * more_columns


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "millions"), [("resnet50", 26.98), ("hrnet_w48", 78.89)])
def test_cliff_is_as_large_as_published(backbone: str, millions: float) -> None:
    found = complexity("cliff_original", backbone)
    assert found.parameters / 1e6 == pytest.approx(millions, abs=5e-3)


@pytest.mark.slow
def test_cliff_is_counted_on_every_backbone() -> None:
    for name in ("resnet101", "resnet152", *(name + SUFFIX for name in VARIANTS)):
        found = complexity("cliff", name)
        assert found.flops > 2e9, name
        assert set(found.parts) == {"backbone", "head"}


def test_the_command_prints_a_table_or_json() -> None:
    arguments = ["flops", "--backbone", "resnet18", "--image-size", "64"]
    text = CliRunner().invoke(cli, arguments).output
    assert "GMACs" in text
    assert "resnet18" in text
    both = [*arguments, "--algorithm", "spin", "--algorithm", "cliff", "--json"]
    document = json.loads(CliRunner().invoke(cli, both).output)
    assert [one["algorithm"] for one in document] == ["spin", "cliff"]
    # SPIN's network is HMR's.
    assert document[0]["flops"] == complexity("hmr", "resnet18", 64).flops


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(HumandataError, match="resnet51"):
        complexity("hmr", "resnet51")
