"""Imported networks predict, and train, as the published code does.

The layouts (keys and shapes of every published file) are in ``references``, and so is what the
published code makes of weights of noise in these layouts: see the README there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from published_weights import KNOWN_TO_RUN, REFERENCES, draw, look, state_of
from timm.layers import DropPath
from torch import Tensor

from humandata.training import checkpoints, recipes
from humandata.training.algorithms import hmr
from humandata.training.backbone_weights import to_timm
from humandata.training.smpl import rotation6d_to_matrix
from humandata.training.weights import recognise, write

COMPARED = sorted(
    {key.split("/")[0] for key in np.load(REFERENCES / "networks.npz").files},
    key=lambda name: (name != "spin_hmr", name),
)
TRAINED = np.load(REFERENCES / "networks_training.npz")


def assert_near(found: Tensor, wanted: np.ndarray, name: str) -> None:
    """Within 1e-4 of the value and of the largest."""
    atol = 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    "model", [m if m == "spin_hmr" else pytest.param(m, marks=pytest.mark.slow) for m in COMPARED]
)
def test_an_imported_network_predicts_what_the_published_code_predicts(
    tmp_path: Path, model: str
) -> None:
    torch.save({"meta": {"epoch": 1}, "state_dict": state_of(model)}, tmp_path / "a.pth")
    write(recognise(tmp_path / "a.pth"), tmp_path / "a.safetensors")
    (tmp_path / "a.pth").unlink()
    network, recipe = checkpoints.load_network(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").unlink()
    assert (recipe.algorithm, recipe.backbone) == KNOWN_TO_RUN[model]
    box = torch.tensor([[0.31, -0.42, 1.7]])
    height, width = (256, 192) if recipe.algorithm.startswith("cliff") else (224, 224)
    pixels = draw("picture", 3 * height * width).reshape(1, 3, height, width)
    with torch.no_grad():
        features = network.backbone(torch.from_numpy(pixels))
        told = (features, box) if recipe.algorithm.startswith("cliff") else (features,)
        pose, betas, camera = network.head(*told)
    expected = np.load(REFERENCES / "networks.npz")
    found = {
        "pose": rotation6d_to_matrix(pose.view(-1, 24, 6))[0],
        "shape": betas[0],
        "cam": camera[0],
    }
    for name, value in found.items():
        assert_near(value, expected[f"{model}/{name}"], name)


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted({key.split("/")[0] for key in TRAINED.files}))
def test_a_step_of_training_is_the_published_codes(model: str) -> None:
    """Statistics, frozen parts and gradients of the backbone, for two pictures.

    Dropout and drop-path are at 0 on both sides. ``norms`` has a number for each tensor of the
    backbone, in the order of the layout: of running statistics their norm after the pass, of
    weights the norm of their gradient, and -1 where there is neither.
    """
    state = state_of(model)
    found = look(state)
    recipe = dataclasses.replace(
        recipes.hmr(), backbone=found.backbone, image_size=224, init="none", dropout=0.0
    )
    network = hmr.build(recipe, pretrained=False)
    network.load_state_dict(found.tensors, strict=False)
    for module in network.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    network.train()
    picture = torch.from_numpy(draw("picture", 3 * 224 * 224).reshape(1, 3, 224, 224))
    pictures = torch.cat([picture, picture.flip(3) * 0.7 + 0.1])
    pose6d, betas, camera = network.head(network.backbone(pictures))
    pose = rotation6d_to_matrix(pose6d.view(-1, 24, 6)).view(2, 24, 3, 3)
    loss = (pose**2 * torch.linspace(0, 1, 9).view(3, 3)).sum()
    (loss + (betas**2).mean() + (camera**2).mean() * 1e-3).backward()
    for name, value in (("pose", pose), ("shape", betas), ("cam", camera)):
        assert_near(value.detach(), TRAINED[f"{model}/{name}"], name)

    names = [key.removeprefix("backbone.") for key in state if key.startswith("backbone.")]
    _, origin = to_timm({name: torch.zeros(4, 4) for name in names})
    ours = {
        origin[name]: value for name, value in norms(network.backbone.network) if name in origin
    }
    expected = dict(zip(names, TRAINED[f"{model}/norms"], strict=True))
    assert {name for name in names if expected[name] >= 0} == set(ours)
    wanted = np.array([expected[name] for name in ours])
    # What a batch norm takes away again has a gradient of rounding alone.
    np.testing.assert_allclose([*ours.values()], wanted, rtol=1e-3, atol=1e-6 * wanted.max())


def norms(network: torch.nn.Module) -> Iterator[tuple[str, float]]:
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            yield name, float(parameter.grad.double().norm())
    for name, buffer in network.named_buffers():
        if "running" in name:
            yield name, float(buffer.double().norm())
