"""Weights of backbones and regressors: brought to timm's names, and loaded.

`to_timm` knows the names of torchvision and timm (``layer1.0.conv1``), of mmcls, which
hmr-benchmarks took over (``stages.0.blocks.0.attn.w_msa.qkv``), and of Microsoft's Swin. Sources:
the state dicts of these projects; how timm's and mmcls' networks correspond was measured on equal
weights (see ``tests/training/test_networks.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from humandata.errors import DataError
from humandata.training.backbones import Backbone
from humandata.training.heads import HEAD, HMRHead
from humandata.training.weight_files import TRUNKS, Tensors, read

Rename = Callable[[str], str]


def family(names: Mapping[str, Any]) -> str:
    """Whose names a backbone's tensors have: ``mmcls_...``, ``swin_official`` or ``timm``."""
    if "layers.0.conv.weight" in names:
        return "mmcls_efficientnet"
    if "layers.0.ln1.weight" in names:
        return "mmcls_vit"
    if "stages.0.blocks.0.norm1.weight" in names and "patch_embed.projection.weight" in names:
        return "mmcls_swin"
    if "position_encodings.0.proj.weight" in names:
        return "mmcls_twins"
    if "layers.0.downsample.reduction.weight" in names:
        return "swin_official"
    return "timm"


def to_timm(tensors: Mapping[str, Tensor]) -> tuple[Tensors, dict[str, str]]:
    """A backbone's tensors under timm's names, reordered where timm orders them otherwise.

    Returns
    -------
    tensors : dict
    origin : dict
        Name in the file, by timm's name.
    """
    rename = _RENAME[family(tensors)]
    swin = rename is _swin
    result, origin = {}, {}
    for key, tensor in tensors.items():
        name = rename(key)
        if swin and _MERGING.match(key) and tensor.ndim and tensor.shape[-1] % 4 == 0:
            tensor = _reorder_merging(tensor)
        result[name], origin[name] = tensor, key
    return result, origin


def _substituting(*rules: tuple[str, str]) -> Rename:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(key: str) -> str:
        for pattern, replacement in compiled:
            key = pattern.sub(replacement, key)
        return key

    return rename


_FFN = (
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
_vit = _substituting(
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.attn\.(?:attn\.)?in_proj_", r"blocks.\1.attn.qkv."),
    (r"^layers\.(\d+)\.attn\.(?:attn\.)?out_proj\.", r"blocks.\1.attn.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    *_FFN,
    (r"^ln1\.", "norm."),
)
_swin = _substituting(
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.0\.downsample\.", "layers.1.downsample."),
    (r"^stages\.1\.downsample\.", "layers.2.downsample."),
    (r"^stages\.2\.downsample\.", "layers.3.downsample."),
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    *_FFN,
    (r"^norm3\.", "norm."),
)
_swin_official = _substituting(
    (r"^layers\.2\.downsample\.", "layers.3.downsample."),
    (r"^layers\.1\.downsample\.", "layers.2.downsample."),
    (r"^layers\.0\.downsample\.", "layers.1.downsample."),
)
_twins = _substituting(
    (r"^patch_embeds\.(\d)\.projection\.", r"patch_embeds.\1.proj."),
    (r"^position_encodings\.(\d)\.proj\.", r"pos_block.\1.proj.0."),
    (r"^stages\.", "blocks."),
    *_FFN,
    (r"^norm_after_stage3\.", "norm."),
)
_MERGING = re.compile(r"stages\.\d\.downsample\.(norm|reduction)\.")


def _reorder_merging(tensor: Tensor) -> Tensor:
    """Patch merging: mmcls unfolds channel by channel, timm joins four maps of half the size.

    The last axis, of 4 c numbers, goes from (c, row, column) to (column, row, c).
    """
    pieces = tensor.reshape(*tensor.shape[:-1], -1, 4)[..., [0, 2, 1, 3]]
    return pieces.mT.flatten(-2).contiguous()


_EFFICIENTNET = re.compile(r"^layers\.([1-5])\.(\d+)\.(.*)$")
_EFFICIENTNET_OUTER = _substituting(
    (r"^layers\.0\.conv\.", "conv_stem."),
    (r"^layers\.0\.bn\.", "bn1."),
    (r"^layers\.6\.conv\.", "conv_head."),
    (r"^layers\.6\.bn\.", "bn2."),
)
_EXPANDED = _substituting(
    (r"^expand_conv\.conv\.", "conv_pw."),
    (r"^expand_conv\.bn\.", "bn1."),
    (r"^depthwise_conv\.conv\.", "conv_dw."),
    (r"^depthwise_conv\.bn\.", "bn2."),
    (r"^linear_conv\.conv\.", "conv_pwl."),
    (r"^linear_conv\.bn\.", "bn3."),
    (r"^se\.conv1\.conv\.", "se.conv_reduce."),
    (r"^se\.conv2\.conv\.", "se.conv_expand."),
)
_NOT_EXPANDED = _substituting(
    (r"^depthwise_conv\.conv\.", "conv_dw."),
    (r"^depthwise_conv\.bn\.", "bn1."),
    (r"^linear_conv\.conv\.", "conv_pw."),
    (r"^linear_conv\.bn\.", "bn2."),
    (r"^se\.conv1\.conv\.", "se.conv_reduce."),
    (r"^se\.conv2\.conv\.", "se.conv_expand."),
)

B5_SPLIT = {4: 7, 5: 9}
"""Blocks of mmcls' layers 4 and 5 of EfficientNet-B5 that are timm's blocks 3 and 5; the rest of
the layer is timm's blocks 4 and 6."""


def _efficientnet(key: str) -> str:
    match = _EFFICIENTNET.match(key)
    if match is None:
        return _EFFICIENTNET_OUTER(key)
    layer, block, rest = int(match[1]), int(match[2]), match[3]
    stage = layer - 1 if layer < 5 else 5
    if block >= B5_SPLIT.get(layer, 1000):
        stage, block = stage + 1, block - B5_SPLIT[layer]
    inner = _NOT_EXPANDED if stage == 0 else _EXPANDED
    return f"blocks.{stage}.{block}.{inner(rest)}"


_RENAME: Mapping[str, Rename] = {
    "timm": lambda key: key,
    "mmcls_efficientnet": _efficientnet,
    "mmcls_vit": _vit,
    "mmcls_swin": _swin,
    "mmcls_twins": _twins,
    "swin_official": _swin_official,
}

_RESNETS = {
    (3, 4, 6, 3): ("resnet34", "resnet50"),
    (2, 2, 2, 2): ("resnet18", ""),
    (3, 4, 23, 3): ("", "resnet101"),
    (3, 8, 36, 3): ("", "resnet152"),
}


HRNETS = tuple(f"hrnet_w{width}" for width in (18, 30, 32, 40, 44, 48, 64))
"""Those that timm has in this form."""


def backbone_of(names: Tensors) -> str | None:
    """timm's name of the network that tensors (under timm's names) belong to."""
    branch = names.get("stage2.0.branches.0.0.conv1.weight")
    if branch is not None and branch.ndim == 4:
        name = f"hrnet_w{branch.shape[0]}"
        return name if name in HRNETS else None
    if "layer1.0.conv1.weight" in names and "layer4.0.conv1.weight" in names:
        return _resnet_of(names)
    patches = names.get("patch_embed.proj.weight")
    if patches is not None and "cls_token" in names and _blocks(names, "blocks") == 12:
        known = {"768 x 3 x 16 x 16": "vit_base", "384 x 3 x 16 x 16": "vit_small"}
        size = known.get(" x ".join(map(str, patches.shape)))
        return f"{size}_patch16_224" if size else None
    if patches is not None and tuple(patches.shape) == (96, 3, 4, 4):
        return "swin_tiny_patch4_window7_224" if _blocks(names, "layers.2.blocks") == 6 else None
    position = names.get("pos_block.0.proj.0.weight")
    if position is not None and position.ndim == 4:
        known_twins = {
            (64, 18): "twins_pcpvt_base", (96, 18): "twins_svt_base",
            (64, 6): "twins_pcpvt_small", (64, 10): "twins_svt_small",
            (64, 27): "twins_pcpvt_large", (128, 18): "twins_svt_large",
        }  # fmt: skip
        return known_twins.get((position.shape[0], _blocks(names, "blocks.2")))
    stem, top = names.get("conv_stem.weight"), names.get("conv_head.weight")
    if stem is not None and top is not None and stem.shape[:1] + top.shape[:1] == (48, 2048):
        return "tf_efficientnet_b5"
    return None


def _resnet_of(names: Tensors) -> str | None:
    counts = tuple(_blocks(names, f"layer{number}") for number in (1, 2, 3, 4))
    if counts not in _RESNETS:
        return None
    name = _RESNETS[counts]["layer1.0.conv3.weight" in names]
    middle = names.get("layer1.0.conv2.weight")
    if middle is None or middle.ndim != 4:
        return None
    inner, per_group = middle.shape[:2]
    groups = {(64, 64): "", (256, 8): "32x8d", (128, 4): "32x4d"}.get((inner, per_group))
    if groups is None or not name:
        return None
    return f"resnext{name.removeprefix('resnet')}_{groups}" if groups else name


def _blocks(names: Iterable[str], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return 1 + max((int(m[1]) for name in names if (m := pattern.match(name))), default=-1)


STAYS_RANDOM = re.compile(
    r"upsample_stage_\d\.|stage4\.2\.fuse_layers\.[123]\.|norm[0-2]\.(?:weight|bias)$"
)
"""Parts of the variants that no file of a plain backbone holds. hmr-benchmarks trains them from
their random start too: pose networks end in a fusion to one scale, and the upsampling is added."""


def trunk(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors of the backbone of a network, without its prefix; all where there is none."""
    for prefix in TRUNKS:
        if any(key.startswith(prefix) for key in tensors):
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    return dict(tensors)


def load_backbone_weights(backbone: Backbone, path: Path) -> int:
    """Fill a backbone from a file of weights; every tensor of the backbone must be found.

    Parameters
    ----------
    backbone : Backbone
    path : Path
        ``.safetensors`` or a PyTorch file, of the backbone alone or of a whole network, with names
        as `to_timm` knows them. Tensors may lie under ``state_dict`` and carry a prefix such as
        ``backbone.``; classifier tensors are ignored.

    Returns
    -------
    int
        The number of tensors that were taken.

    Raises
    ------
    DataError
        When the file is not one of these or lacks a tensor of the backbone. What a variant adds to
        the network, and no backbone file can hold (`STAYS_RANDOM`), may be lacking.
    """
    tensors, _ = to_timm(trunk(read(path).tensors))
    wanted = backbone.network.state_dict()
    # Files of old PyTorch versions do not count batches; the count only matters to cumulative
    # averages.
    missing = [
        key
        for key in wanted
        if key not in tensors
        and not key.endswith("num_batches_tracked")
        and not STAYS_RANDOM.match(key)
    ]
    wrong = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if missing or wrong:
        key = (missing or wrong)[0]
        found = (
            f"no such tensor ({len(missing)} of {len(wanted)} are missing)"
            if missing
            else f"shape {tuple(tensors[key].shape)}"
        )
        raise DataError(
            path,
            key,
            expected=f"a tensor of shape {tuple(wanted[key].shape)} for {backbone.name}",
            found=found,
            hint="Is --backbone the network this file was made with? humandata weights import "
            "tells what a file holds.",
        )
    taken = {key: tensors[key] for key in wanted if key in tensors}
    backbone.network.load_state_dict(taken, strict=False)
    return len(taken)


def load_head_weights(head: HMRHead, path: Path) -> bool:
    """Fill a regressor from a file of a whole network, if that has one of the same shapes.

    Parameters
    ----------
    head : HMRHead
    path : Path
        As for `load_backbone_weights`.

    Returns
    -------
    bool
        Whether it was filled. A file of a backbone alone, or with the regressor of another network
        (HMR's takes no box, CLIFF's does), leaves it as it was.
    """
    tensors = read(path).tensors
    found = {key: tensors.get(f"head.{key}", tensors.get(key)) for key in HEAD}
    own = head.state_dict()
    taken = {
        key: tensor
        for key, tensor in found.items()
        if tensor is not None and tensor.shape == own[key].shape
    }
    if len(taken) < len(HEAD):
        return False
    head.load_state_dict(taken)
    return True
