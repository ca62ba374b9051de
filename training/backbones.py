"""Image encoders: any timm network by its name, giving one feature vector per picture.

Names that end in ``_hmrbench`` are the networks as hmr-benchmarks uses them; see
`humandata.training.backbone_variants`. Files of weights are read by
`humandata.training.backbone_weights`.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from humandata.errors import HumandataError
from humandata.training.backbone_variants import SUFFIX, VARIANTS, Variant, variant_of


class Backbone(nn.Module):
    """A timm network without its classifier, its last feature map averaged over all positions.

    For the ResNets of HMR this is the pooling of the original head (mean over width, then height);
    for networks whose last stage gives tokens it is the mean of the patch tokens.

    Parameters
    ----------
    name : str
        timm's name, with or without a tag of weights: ``resnet50``, ``hrnet_w32``,
        ``resnet50.tv_in1k``; or a variant of the reference, ``hrnet_w32_hmrbench``.
    pretrained : bool
        Load timm's weights of that name (downloaded on first use, then cached).
    image_size : int, or (height, width)
        Size of the crops, which are square unless two numbers are given. Convolutional networks
        take any; vision transformers are built for it.

    Attributes
    ----------
    channels : int
        Length of the feature vector.
    """

    def __init__(
        self, name: str, pretrained: bool = False, image_size: int | tuple[int, int] = 224
    ) -> None:
        super().__init__()
        self.name = name
        plain, self._variant = variant_of(name)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.network = _create(plain, pretrained, image_size, self._variant)
        if self._variant is not None:
            self.channels = self._variant.channels
            self._freeze()
            self.train(self.training)
            return
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            # Measured, not read from num_features: MobileNet-like networks announce the width of a
            # head that forward_features does not run.
            self.channels = int(self(torch.zeros(1, 3, height, width)).shape[1])
        self.network.train(training)

    def train(self, mode: bool = True) -> Backbone:
        """Batch norm stays in evaluation where the reference leaves it there."""
        super().train(mode)
        if self._variant is not None and self._variant.norm_eval:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _freeze(self) -> None:
        assert self._variant is not None
        for name, parameter in self.network.named_parameters():
            if self._variant.frozen and name.startswith(self._variant.frozen):
                parameter.requires_grad_(False)
        for module in self.network.modules():
            if self._variant.norm_frozen and isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, channels) of normalised pictures (B, 3, height, width)."""
        if self._variant is not None and self._variant.features is not None:
            return self._variant.features(self.network, images)
        features: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return pool(features, self.network)


def pool(features: Tensor, network: nn.Module) -> Tensor:
    """Mean over all positions of a feature map.

    Parameters
    ----------
    features : (B, C, H, W), (B, H, W, C) or (B, tokens, C)
        What timm's ``forward_features`` of this network returns; prefix tokens (class, registers)
        are left out.
    network : nn.Module
        Says, by timm's attributes ``output_fmt`` and ``num_prefix_tokens``, which of the three it
        is.

    Returns
    -------
    Tensor, (B, C)
    """
    if features.ndim == 4:
        channels_last = str(getattr(network, "output_fmt", "NCHW")).upper().endswith("NHWC")
        return features.mean(dim=(1, 2) if channels_last else (2, 3))
    if features.ndim == 3:
        return features[:, int(getattr(network, "num_prefix_tokens", 0) or 0) :].mean(dim=1)
    if features.ndim == 2:
        return features
    raise HumandataError(f"a feature map of shape {tuple(features.shape)} cannot be pooled")


def _create(
    name: str,
    pretrained: bool,
    image_size: int | tuple[int, int],
    variant: Variant | None,
) -> nn.Module:
    try:
        import timm
    except RuntimeError as error:
        # torchvision, which timm imports, registers its operators with the torch it was built for.
        raise HumandataError(
            f"timm cannot be imported ({error}). Most often torchvision was built for another "
            "torch than the one installed: pip install --upgrade torch torchvision"
        ) from error

    wanted, there = name.split(".")[0], timm.list_models()
    if wanted not in set(there):
        near = difflib.get_close_matches(
            wanted, [*there, *(known + SUFFIX for known in VARIANTS)], 6
        )
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise HumandataError(f"timm {timm.__version__} has no backbone named {name!r}{hint}")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if variant is not None:
        options.update(variant.options)
    try:
        try:
            network = timm.create_model(name, img_size=image_size, **options)
        except TypeError:  # convolutional networks have no such argument, and need none
            network = timm.create_model(name, **options)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise HumandataError(f"timm cannot build {name!r}: {error}") from error
        raise HumandataError(
            f"the ImageNet weights of {name!r} could not be loaded: {_first_line(error)}. They are "
            "downloaded from huggingface.co on first use; without a network, train from scratch "
            "with --init none or give a file with --init weights.safetensors"
        ) from error
    if variant is not None and variant.adapt is not None:
        variant.adapt(network)
    return network


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
