"""Image encoders: any timm network by its name, giving one feature vector per picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from humandata.errors import DataError, HumandataError

#: Prefixes under which published files keep the trunk of a larger model; the first that occurs is
#: stripped.
PREFIXES = ("backbone.network.", "backbone.", "module.backbone.", "module.")


class Backbone(nn.Module):
    """A timm network without its classifier, its last feature map averaged over all positions.

    For the ResNets of HMR this is the pooling of the original head (mean over width, then height);
    for networks whose last stage gives tokens it is the mean of the patch tokens.

    Parameters
    ----------
    name : str
        timm's name, with or without a tag of weights: ``resnet50``, ``hrnet_w32``,
        ``resnet50.tv_in1k``.
    pretrained : bool
        Load timm's weights of that name (downloaded on first use, then cached).
    image_size : int
        Side of the square crops. Convolutional networks take any; vision transformers are built
        for it.

    Attributes
    ----------
    channels : int
        Length of the feature vector.
    """

    def __init__(self, name: str, pretrained: bool = False, image_size: int = 224) -> None:
        super().__init__()
        self.name = name
        self.network = _create(name, pretrained, image_size)
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            # Measured, not read from num_features: MobileNet-like networks announce the width of a
            # head that forward_features does not run.
            self.channels = int(self(torch.zeros(1, 3, image_size, image_size)).shape[1])
        self.network.train(training)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, channels) of normalised pictures (B, 3, S, S)."""
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


def _create(name: str, pretrained: bool, image_size: int) -> nn.Module:
    try:
        import timm
    except RuntimeError as error:
        # torchvision, which timm imports, registers its operators with the torch it was built for.
        raise HumandataError(
            f"timm cannot be imported ({error}). Most often torchvision was built for another "
            "torch than the one installed: pip install --upgrade torch torchvision"
        ) from error

    if name.split(".")[0] not in set(timm.list_models()):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:6]
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise HumandataError(f"timm {timm.__version__} has no backbone named {name!r}{hint}")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
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
    return network


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def load_backbone_weights(backbone: Backbone, path: Path) -> int:
    """Fill a backbone from a file of weights; every tensor of the backbone must be found.

    Parameters
    ----------
    backbone : Backbone
    path : Path
        ``.safetensors``, or a PyTorch file that ``torch.load(weights_only=True)`` accepts. Tensors
        may lie under ``state_dict`` and carry a prefix such as ``backbone.``; classifier tensors
        are ignored.

    Returns
    -------
    int
        The number of tensors that were taken.

    Raises
    ------
    DataError
        When the file is not one of these or lacks a tensor of the backbone.
    """
    tensors = _strip_prefix(_read_tensors(path))
    wanted = backbone.network.state_dict()
    # Files of old PyTorch versions do not count batches; the count only matters to cumulative
    # averages.
    missing = [
        key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")
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
            hint="Is --backbone the network this file was made with?",
        )
    taken = {key: tensors[key] for key in wanted if key in tensors}
    backbone.network.load_state_dict(taken, strict=False)
    return len(taken)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(path, expected="a file of weights", found="no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own family of errors for a damaged file
        raise DataError(
            path,
            expected=".safetensors, or a PyTorch file of plain tensors",
            found=_first_line(error),
        ) from error
    content = content.get("state_dict", content.get("model", content))
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _strip_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in tensors):
            length = len(prefix)
            return {key[length:]: t for key, t in tensors.items() if key.startswith(prefix)}
    return tensors
