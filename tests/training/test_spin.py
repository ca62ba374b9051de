"""SPIN's network and loss: HMR's, and a prior on the camera."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from humandata.bodymodel import body_model
from humandata.training import recipes
from humandata.training.algorithms import hmr, spin
from humandata.training.batches import Batch
from humandata.training.smpl import SMPL

SMALL = dataclasses.replace(
    recipes.hmr(), algorithm="spin", backbone="test_resnet", init="none", image_size=64
)


def batch_of_noise(count: int = 3) -> Batch:
    torch.manual_seed(3)
    shapes = {
        "keypoints2d": (54, 3),
        "keypoints3d": (54, 4),
        "pose": (24, 3),
        "betas": (10,),
        "images": (3, 64, 64),
    }
    fields = {field.name: torch.zeros(count) for field in dataclasses.fields(Batch)}
    fields |= {name: torch.rand(count, *shape) for name, shape in shapes.items()}
    fields["has_smpl"] = torch.ones(count, dtype=torch.bool)
    return Batch(**fields)


def test_the_camera_is_kept_positive_by_a_prior_of_weight_sixty() -> None:
    batch, body = batch_of_noise(), SMPL(body_model())
    network = spin.build(SMALL).eval()
    with torch.no_grad():
        predicted = network(batch)
        changed = dataclasses.replace(
            predicted, camera=torch.tensor([[0.05, 0, 0], [-0.1, 0.3, 0], [0.9, 1, 1]])
        )
        terms = spin.loss(batch, changed, body, SMALL)
        without = hmr.loss(batch, changed, body, SMALL)
    expected = 60 * np.mean(np.exp(-10 * np.array([0.05, -0.1, 0.9])) ** 2)
    assert terms.pop("camera").item() == pytest.approx(expected, rel=1e-5)
    assert terms == without


def test_it_starts_from_a_whole_hmr_where_it_is_given_one(tmp_path: Path) -> None:
    torch.manual_seed(4)
    whole = hmr.build(SMALL)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "hmr.pth")
    started = spin.build(dataclasses.replace(SMALL, init=str(tmp_path / "hmr.pth")))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(started.state_dict()[name], tensor), name
    # A backbone alone leaves the regressor as new.
    torch.save(whole.backbone.network.state_dict(), tmp_path / "trunk.pth")
    started = spin.build(dataclasses.replace(SMALL, init=str(tmp_path / "trunk.pth")))
    assert not torch.equal(started.head.fc1.weight, whole.head.fc1.weight)
    stem = next(iter(whole.backbone.state_dict()))
    assert torch.equal(started.backbone.state_dict()[stem], whole.backbone.state_dict()[stem])


def test_it_is_the_network_of_hmr() -> None:
    assert isinstance(spin.build(SMALL), hmr.HMR)
