"""How large a network is and how much it computes for one picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from humandata.training.batches import Batch
from humandata.training.engine import load_algorithm
from humandata.training.recipes import Recipe


@dataclass(frozen=True)
class Complexity:
    """Size and work of a network for one crop.

    Attributes
    ----------
    algorithm, backbone : str
    image_size : int
        Side of the crop in pixels.
    flops : int
        Floating-point operations of one forward pass; a multiplication with its addition is two.
        Convolutions, matrix products and attention are counted, as PyTorch's
        ``torch.utils.flop_counter`` does; normalisation and activation are not.
    parameters, trainable : int
        Numbers in all parameters, and in those that training changes.
    parts : mapping
        The same ``flops`` and ``parameters`` by child of the network (``backbone``, ``head``).
    """

    algorithm: str
    backbone: str
    image_size: int
    flops: int
    parameters: int
    trainable: int
    parts: Mapping[str, Mapping[str, int]]

    @property
    def gmacs(self) -> float:
        """Thousand million multiply-accumulates, which much of the literature calls FLOPs."""
        return self.flops / 2e9

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"gmacs": self.gmacs}


def complexity(
    algorithm: str = "hmr", backbone: str = "resnet50", size: int | None = None
) -> Complexity:
    """Count parameters and operations of an algorithm on a backbone, with random weights.

    Parameters
    ----------
    algorithm, backbone : str
        As in a recipe.
    size : int, optional
        Side of the crop in pixels, by default that of the published networks: 256 for CLIFF, which
        sees three quarters of it, and 224 for the others.

    Raises
    ------
    HumandataError
        When there is no such algorithm or backbone.
    """
    from torch.utils.flop_counter import FlopCounterMode

    module = load_algorithm(algorithm)
    size = getattr(module, "IMAGE_SIZE", 224) if size is None else size
    recipe = dataclasses.replace(
        Recipe(), algorithm=algorithm, backbone=backbone, image_size=size, init="none"
    )
    network = module.build(recipe, pretrained=False).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(_blank(size))
    by_module = counter.get_flop_counts()
    name = type(network).__name__
    parts = {
        child: {
            "flops": sum(by_module.get(f"{name}.{child}", {}).values()),
            "parameters": sum(p.numel() for p in module.parameters()),
        }
        for child, module in network.named_children()
    }
    return Complexity(
        algorithm,
        backbone,
        size,
        counter.get_total_flops(),
        sum(p.numel() for p in network.parameters()),
        sum(p.numel() for p in network.parameters() if p.requires_grad),
        parts,
    )


def _blank(size: int) -> Batch:
    """One black crop without annotations, as the whole picture of its camera."""
    shapes = {
        "images": (3, size, size),
        "keypoints2d": (54, 3),
        "keypoints3d": (54, 4),
        "pose": (24, 3),
        "betas": (10,),
        "centre": (2,),
        "affine": (2, 3),
        "picture_size": (2,),
        "intrinsics": (3, 3),
        "crop_intrinsics": (3, 3),
        "channel_gain": (3,),
    }
    names = [field.name for field in dataclasses.fields(Batch)]
    blank = {name: torch.zeros(1, *shapes.get(name, ())) for name in names}
    blank["side"] += size
    blank["centre"] += size / 2
    blank["picture_size"] += size
    return Batch(**blank)
