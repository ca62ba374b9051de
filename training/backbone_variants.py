"""Backbones exactly as hmr-benchmarks uses them, where timm's network of the name is not that.

A timm name alone gives timm's network. With ``_hmrbench`` behind it the network computes what the
published checkpoints of hmr-benchmarks (Pang et al., NeurIPS 2022) were trained with:

========================================  ====================================================
name                                      difference to timm's network
========================================  ====================================================
``resnext101_32x8d_hmrbench``             training: batch norm keeps its statistics and its
                                          weights, stem and first stage are frozen
``tf_efficientnet_b5_hmrbench``           training: momentum 0.01 of batch norm, drop-path that
                                          reaches 0.2 at the last block
``hrnet_w32_hmrbench``                    the four last maps, upsampled by convolutions and joined
                                          to 480 x 56 x 56, regrouped into 2048 features;
                                          training: batch norm keeps its statistics
``vit_base_patch16_224_hmrbench``         tokens after blocks 3, 6, 9, 12 without final norm, as
                                          3072 x 14 x 14, regrouped into 2048; norms' eps 1e-5
``swin_tiny_patch4_window7_224_hmrbench`` windows shifted in the last stage too; the four maps
                                          normalised, upsampled and joined to 1440 x 56 x 56,
                                          regrouped into 2048; training: drop-path 0.2
``twins_pcpvt_base_hmrbench``             eps 1e-6 of the norms of spatial reduction;
                                          training: drop-path 0.3, drawn twice for each branch
``twins_svt_base_hmrbench``               eps 1e-5 of all norms; maps that windows of 7 do not
                                          fill (crops other than 224) are masked; training:
                                          drop-path 0.3, drawn twice but for attention in windows
========================================  ====================================================

ResNet-50, -101 and -152 and HRNet-W48 (CLIFF's) need no variant. *Regrouped* means that the head of
hmr-benchmarks (``HMRHrNetHead``) cuts the C x H x W numbers of the maps, in their order in memory,
into 2048 pieces of equal length and averages each; what belongs to one position or one channel is
not kept together, but a published checkpoint works with nothing else, and only on crops of the size
it was trained on (224).

Sources: ``mmhuman3d/models/backbones/*.py``, ``models/heads/hmr_hrnet_head.py`` and
``configs/backbones/*`` of smplbody/hmr-benchmarks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from humandata.errors import HumandataError

SUFFIX = "_hmrbench"

HRNET_CHANNELS = (32, 64, 128, 256)
SWIN_CHANNELS = (96, 192, 384, 768)
VIT_BLOCKS = (2, 5, 8, 11)


@dataclass(frozen=True)
class Variant:
    """How timm's network is changed.

    Attributes
    ----------
    channels : int
        Length of the feature vector.
    options : mapping
        Arguments for ``timm.create_model``.
    adapt : callable
        Changes the network in place: adds and removes parts. Parts that are added have the
        reference's names (``upsample_stage_2.1.weight``).
    features : callable, optional
        (network, pictures) to the feature vector; by default ``forward_features``, averaged.
    frozen : tuple of str
        Prefixes of the parameters that are not trained.
    norm_frozen : bool
        No parameter of a batch norm is trained.
    norm_eval : bool
        Batch norm keeps its running statistics in training.
    """

    channels: int
    options: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[Any], None] | None = None
    features: Callable[[Any, Tensor], Tensor] | None = None
    frozen: tuple[str, ...] = ()
    norm_frozen: bool = False
    norm_eval: bool = False


def regroup(maps: Tensor, length: int = 2048) -> Tensor:
    """Features (B, length) from maps (B, C, H, W), as ``HMRHrNetHead`` of hmr-benchmarks.

    Feature j is the mean of numbers j n to (j + 1) n - 1 of the C x H x W numbers in row-major
    order, n being C H W / length.

    Raises
    ------
    HumandataError
        When the numbers cannot be divided so.
    """
    flat = maps.flatten(1)
    if flat.shape[1] % length:
        raise HumandataError(
            f"maps of {' x '.join(map(str, maps.shape[1:]))} cannot be cut into {length} equal "
            "pieces: this backbone wants crops of 224 pixels (--image-size 224)"
        )
    return flat.view(len(flat), length, -1).mean(-1)


def _upsampling(channels: int, doublings: int) -> nn.Sequential:
    """Bilinear doubling, 3 x 3 convolution, batch norm and ReLU, so many times."""
    layers: list[nn.Module] = []
    for _ in range(doublings):
        layers += [
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _add_upsampling(network: Any, channels: tuple[int, ...]) -> None:
    for doublings, count in enumerate(channels[1:], 1):
        setattr(network, f"upsample_stage_{doublings + 1}", _upsampling(count, doublings))


def _joined(network: Any, maps: list[Tensor]) -> Tensor:
    upsampled = [
        getattr(network, f"upsample_stage_{number}")(one) for number, one in enumerate(maps[1:], 2)
    ]
    return torch.cat([maps[0], *upsampled], dim=1)


def _adapt_hrnet(network: Any) -> None:
    network.incre_modules = network.downsamp_modules = network.final_layer = None
    _add_upsampling(network, HRNET_CHANNELS)


def _hrnet_features(network: Any, images: Tensor) -> Tensor:
    x = network.act1(network.bn1(network.conv1(images)))
    x = network.act2(network.bn2(network.conv2(x)))
    return regroup(_joined(network, network.stages(x)))


def _adapt_swin(network: Any) -> None:
    for number, channels in enumerate(SWIN_CHANNELS[:-1]):
        setattr(network, f"norm{number}", nn.LayerNorm(channels))
    _add_upsampling(network, SWIN_CHANNELS)


def _swin_features(network: Any, images: Tensor) -> Tensor:
    x = network.patch_embed(images)
    norms = (network.norm0, network.norm1, network.norm2, network.norm)
    maps = []
    for layer, norm in zip(network.layers, norms, strict=True):
        x = layer(x)
        maps.append(norm(x).permute(0, 3, 1, 2))
    return regroup(_joined(network, maps))


def _adapt_vit(network: Any) -> None:
    network.norm = nn.Identity()
    _set_eps(network, 1e-5)


def _vit_features(network: Any, images: Tensor) -> Tensor:
    x = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
    kept = []
    for number, block in enumerate(network.blocks):
        x = block(x)
        if number in VIT_BLOCKS:
            kept.append(x[:, network.num_prefix_tokens :].mT)
    return regroup(torch.cat(kept, dim=1))


def _set_eps(network: nn.Module, eps: float, ending: str = "") -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.LayerNorm) and name.endswith(ending):
            module.eps = eps


def _adapt_pcpvt(network: Any) -> None:
    _set_eps(network, 1e-6, "attn.norm")
    _drop_twice(network)


def _adapt_svt(network: Any) -> None:
    _set_eps(network, 1e-5)
    for blocks in network.blocks:
        for block in blocks[::2]:
            block.attn = MaskedWindowAttention(block.attn)
    _drop_twice(network)


class MaskedWindowAttention(nn.Module):
    """Attention within windows that tells what was padded from what is picture.

    timm fills up the last windows with zeros, to which the picture attends too; the reference adds
    -1000 to the scores between the two. It does so only where both sides of the map are padded:
    its mask of no rows, ``mask[:, -0:]``, is one of all rows.

    Parameters
    ----------
    attention : timm's ``LocallyGroupedAttn``
        Gives its layers, which keep their names.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads, self.window = int(attention.num_heads), int(attention.ws)
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (B, H W, C) of a map of size (H, W), to as many."""
        batch, _, channels = tokens.shape
        height, width = size
        below, right = -height % self.window, -width % self.window
        maps = tokens.view(batch, height, width, channels)
        windows = self._cut(nn.functional.pad(maps, (0, 0, 0, right, 0, below)))
        qkv = self.qkv(windows)
        # Three of (B, windows, heads, tokens, C / heads)
        split = qkv.view(*qkv.shape[:-1], 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        mask = None
        if below and right:
            padded = torch.ones(1, height + below, width + right, 1, device=tokens.device)
            padded[:, :height, :width] = 0
            flags = self._cut(padded)[..., 0]
            apart = flags[:, :, :, None] != flags[:, :, None, :]
            mask = (apart * -1000.0)[:, :, None].to(qkv.dtype)
        x = nn.functional.scaled_dot_product_attention(split[0], split[1], split[2], mask)
        rows = (height + below) // self.window
        x = x.transpose(2, 3).reshape(batch, rows, -1, self.window, self.window, channels)
        x = x.transpose(2, 3).reshape(batch, height + below, width + right, channels)
        result: Tensor = self.proj(x[:, :height, :width].reshape(batch, height * width, channels))
        return result

    def _cut(self, maps: Tensor) -> Tensor:
        """Windows (B, n, window^2, C) of maps (B, H, W, C)."""
        batch, _, width, channels = maps.shape
        across = width // self.window
        cut = maps.reshape(batch, -1, self.window, across, self.window, channels).transpose(2, 3)
        return cut.reshape(batch, -1, self.window * self.window, channels)


def _drop_twice(network: Any) -> None:
    """Draw drop-path again inside of each branch, as the reference's Twins do.

    Its attention over the whole map and its feed-forward part end in a drop-path, and the block
    puts another around them; its attention within windows (SVT) has none of its own.
    """
    for blocks in network.blocks:
        for block in blocks:
            if isinstance(block.drop_path1, nn.Identity):
                continue
            if not isinstance(block.attn, MaskedWindowAttention):
                block.drop_path1 = nn.Sequential(block.drop_path1, copy.deepcopy(block.drop_path1))
            block.drop_path2 = nn.Sequential(block.drop_path2, copy.deepcopy(block.drop_path2))


def _adapt_efficientnet(network: Any) -> None:
    blocks = [block for stage in network.blocks for block in stage]
    for block in blocks:
        # timm's rates rise to that of one block after the last, the reference's to the last's.
        if (rate := getattr(block.drop_path, "drop_prob", 0.0)) > 0:
            block.drop_path.drop_prob = rate * len(blocks) / (len(blocks) - 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01


VARIANTS: Mapping[str, Variant] = {
    "resnext101_32x8d": Variant(
        2048, frozen=("conv1.", "bn1.", "layer1."), norm_frozen=True, norm_eval=True
    ),
    "tf_efficientnet_b5": Variant(2048, {"drop_path_rate": 0.2}, _adapt_efficientnet),
    "hrnet_w32": Variant(2048, {}, _adapt_hrnet, _hrnet_features, norm_eval=True),
    "vit_base_patch16_224": Variant(2048, {}, _adapt_vit, _vit_features),
    "swin_tiny_patch4_window7_224": Variant(
        2048, {"always_partition": True, "drop_path_rate": 0.2}, _adapt_swin, _swin_features
    ),
    "twins_pcpvt_base": Variant(512, {"drop_path_rate": 0.3}, _adapt_pcpvt),
    "twins_svt_base": Variant(768, {"drop_path_rate": 0.3}, _adapt_svt),
}
"""By timm's name, without `SUFFIX`."""


def variant_of(name: str) -> tuple[str, Variant | None]:
    """timm's name (with its tag of weights), and how the network is changed.

    Raises
    ------
    HumandataError
        When the name ends in `SUFFIX` and there is no such variant.
    """
    model, dot, tag = name.partition(".")
    if not model.endswith(SUFFIX):
        return name, None
    model = model.removesuffix(SUFFIX)
    if model not in VARIANTS:
        listed = ", ".join(known + SUFFIX for known in VARIANTS)
        raise HumandataError(
            f"no backbone {name!r}; there are {listed}. What hmr-benchmarks uses as timm has it "
            "goes by timm's name alone, such as resnet50"
        )
    return model + dot + tag, VARIANTS[model]
