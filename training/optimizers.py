"""What updates a network: optimisers of backbone and head, and the course of their rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Protocol

import torch
from torch import nn

from humandata.training.recipes import Recipe


class Stepper(Protocol):
    """What the loop asks of an optimiser; torch's own have it, and `Together`."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def step(self) -> object: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Together:
    """Optimisers of the parts of one network that step together, as one.

    hmr-benchmarks trains EfficientNet by SGD under a head that is trained by Adam.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all parts; their rates may be set."""
        return list(chain.from_iterable(part.param_groups for part in self.parts))

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """As torch's, the parameters numbered through all parts."""
        state, groups, offset = {}, [], 0
        for part in self.parts:
            own = part.state_dict()
            state.update({number + offset: values for number, values in own["state"].items()})
            for group in own["param_groups"]:
                moved = [number + offset for number in group["params"]]
                groups.append({**group, "params": moved})
            offset += sum(len(group["params"]) for group in own["param_groups"])
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups, offset = list(state_dict["param_groups"]), 0
        for part in self.parts:
            mine = [groups.pop(0) for _ in part.param_groups]
            count = sum(len(group["params"]) for group in mine)
            state = {
                number - offset: values
                for number, values in state_dict["state"].items()
                if offset <= number < offset + count
            }
            for group in mine:
                group["params"] = [number - offset for number in group["params"]]
            part.load_state_dict({"state": state, "param_groups": mine})
            offset += count


def make_optimizer(network: nn.Module, recipe: Recipe, device: torch.device) -> Stepper:
    """The optimiser of a recipe over backbone and head, each with its own kind and rate.

    Weight decay acts on matrices and kernels only, as usual, norms and biases being left alone;
    with `Recipe.decay_all` it acts on all parameters, as in the references.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        key = (name.startswith("head."), recipe.decay_all or parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for (head, decays), parameters in groups.items():
        kind, lr, decay = recipe.optimizer, recipe.lr, recipe.weight_decay
        if head:
            kind = recipe.head_optimizer or kind
            lr = recipe.head_lr or lr
            decay = decay if recipe.head_weight_decay is None else recipe.head_weight_decay
        kinds.setdefault(kind, []).append(
            {
                "params": parameters,
                "lr": lr,
                "peak_lr": lr,
                "weight_decay": decay if decays else 0.0,
            }
        )
    parts = [
        _torch_optimizer(kind, listed, recipe.momentum, device) for kind, listed in kinds.items()
    ]
    return parts[0] if len(parts) == 1 else Together(parts)


def _torch_optimizer(
    kind: str, groups: list[dict[str, Any]], momentum: float, device: torch.device
) -> torch.optim.Optimizer:
    fused = device.type in ("cuda", "cpu")
    if kind == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, fused=fused)
    made = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
    return made(groups, fused=fused)


def rate_factor(recipe: Recipe, step: int, last: int, steps_per_epoch: int = 1) -> float:
    """Share of the peak learning rate at a step (counted from 0) of a run of ``last`` steps."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    if recipe.schedule == "cosine":
        done = (step - recipe.warmup_steps) / max(last - recipe.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if recipe.schedule == "step":
        # Rounded: 0.3 of 10 epochs is the end of the third, and not a step later.
        changes = [epoch * steps_per_epoch for epoch in recipe.decay_epochs] or [
            round(part * last) for part in recipe.decay_at
        ]
        return float(recipe.decay_factor ** sum(step >= change for change in changes))
    return 1.0


def set_learning_rate(
    optimizer: Stepper, recipe: Recipe, step: int, last: int, steps_per_epoch: int = 1
) -> None:
    """Set the rate of a step; a function of the step alone, so that nothing has to be restored."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * rate_factor(recipe, step, last, steps_per_epoch)
