"""Two processes that train one network: they average gradients, and one of them writes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_store import write_tiny_store

import humandata
from humandata.errors import HumandataError
from humandata.training import checkpoints, distributed, engine, recipes
from humandata.training.algorithms import hmr
from humandata.training.augment import prepare
from humandata.training.discriminator import discriminator_loss
from humandata.training.distributed import Ranks
from humandata.training.recipes import Recipe, Source
from humandata.training.rotations import axis_angle_to_matrix


def train_together(recipe: Recipe, run: Path, *more: str, processes: int = 2) -> None:
    """Run ``humandata train`` in two processes with the environment torchrun gives."""
    recipes.write(recipe, run.with_suffix(".json"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "humandata.cli.main", "train"]
    command += ["--config", str(run.with_suffix(".json")), "--out", str(run), "--json", *more]
    started = [
        subprocess.Popen(
            command,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in started:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output


@pytest.mark.slow
def test_two_processes_take_the_step_of_their_mean_gradient_and_resume_exactly(
    tmp_path: Path,
) -> None:
    store = write_tiny_store(tmp_path / "tiny")
    recipe = dataclasses.replace(
        recipes.hmr(), mix=(Source(str(store)),), backbone="test_resnet", init="none",
        image_size=32, batch_size=3, steps=3, vertices_weight=0.0, dropout=0.5, log_every=1,
        checkpoint_every=1, keep_checkpoints=0, device="cpu", workers=1, lr=1e-3,
    )  # fmt: skip
    whole = tmp_path / "whole"
    train_together(recipe, whole)
    entries = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3], "one process writes"
    assert entries[1]["epoch"] == 1, "two batches of 3 in two processes are the 12 persons"

    # The first step by hand: a backward pass for each process's batch, and one mean gradient.
    checkpoints.seed_everything(recipe.seed)
    network = hmr.build(recipe).train()
    optimizer = engine.make_optimizer(network, recipe, torch.device("cpu"))
    body = engine.training_body(recipe)
    losses = []
    for rank in range(2):
        here = Ranks(rank, 2)
        mix = engine.make_mix(recipe, [(humandata.open(store), 1.0)], here)
        batch = prepare(mix.batch(0, 0))
        here.seed(recipe.seed, 0)
        terms = hmr.loss(batch, network(batch), body, recipe)
        losses.append(torch.stack(list(terms.values())).sum())
        (losses[-1] / 2).backward()
    optimizer.step()
    assert entries[0]["loss"] == pytest.approx(float(sum(losses).detach()) / 2, rel=1e-4)
    first = load_file(whole / "checkpoints/00000001/weights.safetensors")
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(first[name], parameter.detach(), atol=2e-5, rtol=1e-3)

    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed)
    for step in (2, 3):
        shutil.rmtree(resumed / f"checkpoints/{step:08d}")
    train_together(recipe, resumed, "--resume")
    ours, theirs = (
        load_file(run / "checkpoints/00000003/weights.safetensors") for run in (resumed, whole)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_the_discriminator_takes_the_step_of_the_mean_gradient_of_two_processes(
    tmp_path: Path,
) -> None:
    store = write_tiny_store(tmp_path / "tiny")
    recipe = dataclasses.replace(
        recipes.hmr(), mix=(Source(str(store)),), backbone="test_resnet", init="none",
        image_size=32, batch_size=3, steps=1, vertices_weight=0.0, dropout=0.0, device="cpu",
        workers=0, prior=str(store),
    )  # fmt: skip
    train_together(recipe, tmp_path / "run")

    # By hand: a loss for each process's batch and its own real bodies, and one mean gradient.
    checkpoints.seed_everything(recipe.seed)
    network = hmr.build(recipe).train()
    prior = engine.make_prior(recipe, torch.device("cpu"))
    assert prior is not None
    for rank in range(2):
        mix = engine.make_mix(recipe, [(humandata.open(store), 1.0)], Ranks(rank, 2))
        fake = network(prepare(mix.batch(0, 0)))
        pose, betas = prior.bodies.draw(recipe.seed, 0, 3 * rank, 3)
        real = axis_angle_to_matrix(torch.nn.functional.pad(pose, (0, 0, 1, 0)))
        scores = [prior.network(fake.pose.detach(), fake.betas.detach())]
        scores.append(prior.network(real, betas))
        (discriminator_loss(*scores) / 2).backward()
    prior.optimizer.step()
    kept = load_file(tmp_path / "run/checkpoints/00000001/training.safetensors")
    for name, values in prior.network.named_parameters():
        assert values.grad is not None
        clear = values.grad.abs() > 1e-5  # Adam's first step is the sign of the gradient
        ours = kept[f"prior/network/{name}"]
        torch.testing.assert_close(ours[clear], values.detach()[clear], atol=1e-6, rtol=1e-4)


def test_batch_norm_is_synchronised_where_it_is_trained_and_nowhere_else() -> None:
    """Needs no GPU: which layers change, and that nothing else does."""
    from timm.layers import BatchNormAct2d

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, eps=1e-3, momentum=0.01),
        torch.nn.Sequential(BatchNormAct2d(4), torch.nn.BatchNorm2d(4)),
    )  # fmt: skip
    network.train()
    network[2][1].eval()  # as a backbone keeps it
    network[1].running_mean.normal_()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    parameters = list(network.parameters())
    pictures = torch.randn(2, 3, 8, 8)
    expected = network.eval()(pictures)
    network[:2].train(), network[2][0].train()

    changed = distributed.synchronised(network)

    assert isinstance(changed[1], torch.nn.SyncBatchNorm)
    assert (changed[1].eps, changed[1].momentum) == (1e-3, 0.01)
    assert isinstance(changed[2][0], torch.nn.SyncBatchNorm)
    assert type(changed[2][1]) is torch.nn.BatchNorm2d
    assert changed.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], values) for name, values in changed.state_dict().items())
    pairs = zip(parameters, changed.parameters(), strict=True)
    assert all(one is other for one, other in pairs), "the optimiser holds the same parameters"
    changed.eval()
    torch.testing.assert_close(changed(pictures), expected)


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.ranks() == Ranks(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "16")
    with pytest.raises(HumandataError, match=r"not which one this is \(WORLD_SIZE=16\)"):
        distributed.ranks()
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.ranks() == Ranks(9, 16, 1)
    assert not distributed.ranks().first
    monkeypatch.setenv("RANK", "16")
    with pytest.raises(HumandataError, match="RANK=16"):
        distributed.ranks()
