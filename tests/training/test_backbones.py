"""Backbones by name: timm's as they are, and those of hmr-benchmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import DropPath
from torch import nn

from humandata.errors import HumandataError
from humandata.training.backbone_variants import SUFFIX, VARIANTS, regroup
from humandata.training.backbones import Backbone


def on_meta(name: str) -> Backbone:
    """Shapes and settings without weights."""
    with torch.device("meta"):
        return Backbone(name)


# Millions of parameters that mmcv's counter finds in the reference's modules, configured as in
# configs/backbones: those with requires_grad.
PUBLISHED = {
    "resnet50": 23.5080,
    "resnet101": 42.5002,
    "resnet152": 58.1438,
    "resnext101_32x8d_hmrbench": 86.1143,
    "tf_efficientnet_b5_hmrbench": 28.3408,
    # The reference has 792 more, which make heatmaps that nobody looks at.
    "hrnet_w32_hmrbench": 31.4098 - 792e-6,
    "swin_tiny_patch4_window7_224_hmrbench": 46.4385,
    "twins_pcpvt_base_hmrbench": 43.3155,
    "twins_svt_base_hmrbench": 55.3020,
    "vit_base_patch16_224_hmrbench": 85.7971,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_parameters_are_trained_as_in_the_reference(name: str) -> None:
    trained = sum(p.numel() for p in on_meta(name).parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(PUBLISHED[name], abs=1e-4)


def test_every_variant_tells_the_length_of_its_features() -> None:
    found = {name: on_meta(name + SUFFIX).channels for name in VARIANTS}
    assert found.pop("twins_pcpvt_base") == 512
    assert found.pop("twins_svt_base") == 768
    assert set(found.values()) == {2048}


def test_norms_have_the_epsilon_of_the_reference_and_timms_without_the_suffix() -> None:
    def epsilons(name: str) -> dict[str, float]:
        modules = on_meta(name).network.named_modules()
        return {key: m.eps for key, m in modules if isinstance(m, nn.LayerNorm)}

    assert set(epsilons("vit_base_patch16_224_hmrbench").values()) == {1e-5}
    assert set(epsilons("vit_base_patch16_224").values()) == {1e-6}
    assert set(epsilons("twins_svt_base_hmrbench").values()) == {1e-5}
    assert 1e-6 in set(epsilons("twins_svt_base").values())
    pcpvt = epsilons("twins_pcpvt_base_hmrbench")
    assert {pcpvt[key] for key in pcpvt if key.startswith("patch_embeds")} == {1e-5}
    assert {pcpvt[key] for key in pcpvt if not key.startswith("patch_embeds")} == {1e-6}
    assert set(epsilons("swin_tiny_patch4_window7_224_hmrbench").values()) == {1e-5}


def test_resnext_trains_without_its_stem_first_stage_and_norms() -> None:
    network = on_meta("resnext101_32x8d_hmrbench").train().network
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 104
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert {"conv1.weight", "layer1.2.conv3.weight"} <= frozen
    assert "layer2.0.conv1.weight" not in frozen
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(86.742, abs=1e-3)


def test_the_norms_of_hrnet_keep_their_statistics_but_learn_their_weights() -> None:
    backbone = on_meta("hrnet_w32_hmrbench")
    for mode in (True, False, True):
        backbone.train(mode)
        norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 311
        assert not any(norm.training for norm in norms)
    assert backbone.training
    assert all(norm.weight.requires_grad for norm in norms)


def test_efficientnet_averages_its_statistics_slowly() -> None:
    modules = on_meta("tf_efficientnet_b5_hmrbench").modules()
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.01}
    assert {norm.eps for norm in norms} == {1e-3}
    assert all(norm.training for norm in norms)


def drop_rates(name: str) -> list[list[float]]:
    """For each branch that may be dropped, in running order, the rates of its drawings."""
    found: dict[str, list[float]] = {}
    for key, module in on_meta(name).network.named_modules():
        if isinstance(module, DropPath):
            block, _, which = key.partition(".drop_path")
            found.setdefault(f"{block} {which[:1]}", []).append(module.drop_prob)
    return list(found.values())


def test_branches_are_dropped_as_often_as_in_the_reference() -> None:
    """Rates rise evenly from 0 at the first block; Twins draw twice, but for SVT's windows."""
    b5, swin = np.linspace(0, 0.2, 39)[1:], np.linspace(0, 0.2, 12)[1:]
    pcpvt, svt = np.linspace(0, 0.3, 28)[1:], np.linspace(0, 0.3, 24)[1:]
    windows_first = [[[r], [r, r]] if n % 2 else [[r, r], [r, r]] for n, r in enumerate(svt)]
    expected = {
        "tf_efficientnet_b5": [[rate] for rate in b5],
        "swin_tiny_patch4_window7_224": [[rate] for rate in swin for _ in range(2)],
        "twins_pcpvt_base": [[rate, rate] for rate in pcpvt for _ in range(2)],
        "twins_svt_base": [branch for block in windows_first for branch in block],
    }
    for name, rates in expected.items():
        found = drop_rates(name + SUFFIX)
        assert [len(branch) for branch in found] == [len(branch) for branch in rates], name
        np.testing.assert_allclose(np.hstack(found), np.hstack(rates), atol=1e-6, err_msg=name)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_regrouping_averages_consecutive_numbers_of_the_maps(
    count: int, length: int, piece: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(count, piece, length, 2))
    expected = np.stack([[part.mean() for part in np.split(one.ravel(), length)] for one in values])
    maps = torch.from_numpy(values)
    np.testing.assert_allclose(regroup(maps, length).numpy(), expected, atol=1e-12)
    # How the numbers lie in memory does not matter, only their place in the maps.
    shuffled = maps.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(regroup(shuffled, length).numpy(), expected, atol=1e-12)


def test_regrouping_needs_pieces_of_equal_length() -> None:
    with pytest.raises(HumandataError, match=r"3 x 5 x 5 .*2048.*--image-size 224"):
        regroup(torch.zeros(1, 3, 5, 5))


def test_an_unknown_variant_is_answered_with_those_there_are() -> None:
    with pytest.raises(HumandataError, match=r"hrnet_w32_hmrbench.*resnet50"):
        Backbone("resnet50_hmrbench")


def test_pictures_may_be_higher_than_wide() -> None:
    backbone = Backbone("test_resnet", image_size=(64, 48)).eval()
    with torch.no_grad():
        assert backbone(torch.zeros(2, 3, 64, 48)).shape == (2, backbone.channels)
