"""Checkpoints of a run: weights, and everything needed to go on as if nothing had happened.

    RUN/recipe.json                            the recipe used
    RUN/provenance.json                        versions, stores and their fingerprints, body model
    RUN/log.jsonl, RUN/tensorboard/            the losses
    RUN/checkpoints/00001000/weights.safetensors   network, with recipe and step in its metadata
    RUN/checkpoints/00001000/training.safetensors  optimiser, random state, adversarial prior

No file is a pickle. A checkpoint is written beside its place and renamed, so that one that exists
is whole.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from humandata.errors import DataError, HumandataError
from humandata.training import recipes
from humandata.training.optimizers import Stepper
from humandata.training.prior import AdversarialPrior
from humandata.training.recipes import Recipe

logger = logging.getLogger("humandata")

WEIGHTS = "weights.safetensors"
TRAINING = "training.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: its folder and the number of steps that lie behind it."""

    path: Path
    step: int


def checkpoints(run: Path) -> list[Checkpoint]:
    """All whole checkpoints of a run, oldest first."""
    found = [
        Checkpoint(folder, int(folder.name))
        for folder in (run / "checkpoints").glob("*")
        if folder.name.isdigit() and (folder / WEIGHTS).is_file()
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def save(
    run: Path,
    step: int,
    network: nn.Module,
    optimizer: Stepper,
    recipe: Recipe,
    keep: int = 0,
    prior: AdversarialPrior | None = None,
) -> Path:
    """Write a checkpoint after ``step`` finished steps and remove the oldest beyond ``keep``.

    Parameters
    ----------
    run : Path
    step : int
    network, optimizer
    recipe : Recipe
    keep : int
        Number of checkpoints left in the run; 0 keeps all.
    prior : AdversarialPrior, optional
        Its discriminator is kept with what training needs, not with the weights.

    Returns
    -------
    Path
        The folder of the checkpoint.
    """
    from safetensors.torch import save_file

    place = run / "checkpoints" / f"{step:08d}"
    partial = place.with_name(place.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    metadata = {
        "format": "pt",
        "humandata": json.dumps({"step": step, "recipe": recipes.to_dict(recipe)}),
    }
    try:
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, partial / WEIGHTS, metadata)
        tensors, description = _training_state(optimizer, prior)
        save_file(tensors, partial / TRAINING, {"humandata": json.dumps(description)})
        for file in partial.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise HumandataError(f"{place}: the checkpoint could not be written: {error}") from error
    if keep:
        for old in checkpoints(run)[:-keep]:
            shutil.rmtree(old.path)
    return place


def restore(
    checkpoint: Checkpoint,
    network: nn.Module,
    optimizer: Stepper,
    prior: AdversarialPrior | None = None,
) -> None:
    """Put network, optimiser, prior and random generators into the state of a checkpoint.

    A prior that the checkpoint does not have starts anew, with a warning.

    Raises
    ------
    DataError
        When the files are damaged or belong to another network.
    """
    load_weights(checkpoint.path / WEIGHTS, network)
    tensors, description = _read(checkpoint.path / TRAINING)
    optimizer.load_state_dict(_state_of("optimizer", tensors, description["groups"]))
    if prior is not None and "prior_groups" in description:
        start = "prior/network/"
        weights = {
            name.removeprefix(start): tensor
            for name, tensor in tensors.items()
            if name.startswith(start)
        }
        prior.network.load_state_dict(weights)
        state = _state_of("prior/optimizer", tensors, description["prior_groups"])
        prior.optimizer.load_state_dict(state)
    elif prior is not None:
        logger.warning(
            "%s was trained without the adversarial prior; its discriminator starts anew",
            checkpoint.path,
        )
    torch.set_rng_state(tensors["random/torch"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])


def seed_everything(seed: int) -> None:
    """Seed every generator that a network or its initialisation may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code draws from the global generator
    torch.manual_seed(seed)


def load_weights(path: Path, network: nn.Module) -> None:
    """Fill a network from a file of weights; all tensors must match."""
    tensors, _ = _read(path)
    own = network.state_dict()
    different = sorted(own.keys() ^ tensors.keys()) or [
        key for key in own if own[key].shape != tensors[key].shape
    ]
    if different:
        key = different[0]
        raise DataError(
            path,
            key,
            expected=_shape(own.get(key)),
            found=f"{_shape(tensors.get(key))} ({len(different)} tensors differ)",
            hint="The recipe beside the weights names another network.",
        )
    network.load_state_dict(tensors)


def load_network(
    run_or_checkpoint: Path, device: torch.device | str = "cpu"
) -> tuple[nn.Module, Recipe]:
    """The trained network of a run, ready to predict.

    Parameters
    ----------
    run_or_checkpoint : Path
        A run folder (its latest checkpoint is taken), the folder of one checkpoint, or a weights
        file that `save` or ``humandata weights import`` wrote.
    device : torch.device or str

    Returns
    -------
    network : nn.Module
        Of the recipe's algorithm, in evaluation mode, on the device.
    recipe : Recipe
        The recipe it was trained by.

    Raises
    ------
    DataError
        When there is no checkpoint, or the file does not carry its recipe.
    """
    path = Path(run_or_checkpoint)
    if path.is_dir() and not (path / WEIGHTS).is_file():
        found = checkpoints(path)
        if not found:
            raise DataError(
                path,
                expected="a run with a checkpoint",
                found="none",
                hint="humandata train --out RUN makes one.",
            )
        path = found[-1].path
    file = path / WEIGHTS if path.is_dir() else path
    _, description = _read(file, header_only=True)
    if "recipe" not in description:
        raise DataError(
            file,
            expected="weights with their recipe, as humandata train writes them",
            found="a file without it",
        )
    recipe = recipes.from_dict(description["recipe"], file)
    from humandata.training.engine import load_algorithm  # which imports this module

    network: nn.Module = load_algorithm(recipe.algorithm).build(recipe, pretrained=False)
    load_weights(file, network)
    return network.to(device).eval(), recipe


def _training_state(
    optimizer: Stepper, prior: AdversarialPrior | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, groups = _tensors_of("optimizer", optimizer)
    description: dict[str, Any] = {"groups": groups}
    if prior is not None:
        more, description["prior_groups"] = _tensors_of("prior/optimizer", prior.optimizer)
        tensors |= more
        for name, tensor in prior.network.state_dict().items():
            tensors[f"prior/network/{name}"] = tensor.contiguous()
    tensors["random/torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors, description


def _tensors_of(name: str, optimizer: Stepper) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    content = optimizer.state_dict()
    tensors = {
        f"{name}/{number}/{key}": torch.as_tensor(value).contiguous()
        for number, values in content["state"].items()
        for key, value in values.items()
        if value is not None  # SGD's momentum, where there is none
    }
    return tensors, content["param_groups"]


def _state_of(
    name: str, tensors: dict[str, Tensor], groups: list[dict[str, Any]]
) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for place, tensor in tensors.items():
        if place.startswith(f"{name}/"):
            number, key = place.removeprefix(f"{name}/").split("/")
            state.setdefault(int(number), {})[key] = tensor
    return {"state": state, "param_groups": groups}


def _read(path: Path, header_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(path, expected="a .safetensors file", found="no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = [] if header_only else list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise DataError(path, expected="a .safetensors file", found=str(error)) from error
    description: dict[str, Any] = json.loads(metadata.get("humandata", "{}"))
    return tensors, description


def _shape(tensor: Tensor | None) -> str:
    return "no such tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
