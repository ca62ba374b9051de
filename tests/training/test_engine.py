"""The training loop: resume, checkpoints, logs, schedules, and how it fails."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_store import write_tiny_store

from humandata.errors import DataError, HumandataError
from humandata.training import checkpoints, engine, recipes
from humandata.training.algorithms import hmr
from humandata.training.augment import prepare
from humandata.training.batches import Mix
from humandata.training.recipes import Recipe, Source


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run of a few seconds: tiny network, tiny crops, dropout and every augmentation on."""
    store = write_tiny_store(tmp_path_factory.mktemp("stores") / "tiny")
    return dataclasses.replace(
        recipes.hmr(),
        mix=(Source(str(store)),),
        backbone="test_resnet",
        init="none",
        image_size=32,
        batch_size=4,
        steps=6,
        vertices_weight=0.0,
        log_every=1,
        checkpoint_every=3,
        schedule="cosine",
        warmup_steps=2,
    )


TIMED = ("images_per_second", "data_wait")


def log(run: Path) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMED}
        for line in lines
    ]


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    engine.train(recipe, run, quiet=True)
    return run


def test_a_run_folder_holds_recipe_provenance_log_and_checkpoints(
    recipe: Recipe, whole: Path
) -> None:
    assert recipes.read(whole / "recipe.json") == recipe
    provenance = json.loads((whole / "provenance.json").read_text())
    assert len(provenance["stores"][0]["fingerprint"]) == 64
    assert "stand-in" in provenance["body_model"]
    assert [c.step for c in checkpoints.checkpoints(whole)] == [3, 6]
    assert list((whole / "tensorboard").iterdir())
    entries = log(whole)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    terms = ("keypoints3d", "keypoints2d", "pose", "betas")
    assert entries[0]["loss"] == pytest.approx(sum(entries[0][term] for term in terms), rel=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "resumed"
    real = engine.train_step

    def killed(*arguments: Any, **more: Any) -> dict[str, float]:
        if arguments[-1] == 4:
            raise MemoryError("the power went")
        return real(*arguments, **more)

    monkeypatch.setattr(engine, "train_step", killed)
    with pytest.raises(MemoryError):
        engine.train(recipe, run, quiet=True)
    assert [entry["step"] for entry in log(run)] == [1, 2, 3, 4]
    monkeypatch.setattr(engine, "train_step", real)
    engine.train(dataclasses.replace(recipe, workers=0), run, resume=True, quiet=True)

    assert log(run) == log(whole)
    ours = load_file(run / "checkpoints/00000006/weights.safetensors")
    theirs = load_file(whole / "checkpoints/00000006/weights.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_finished_run_can_go_on_for_longer_but_not_as_another_network(
    recipe: Recipe, whole: Path
) -> None:
    with pytest.raises(HumandataError, match="already holds a run"):
        engine.train(recipe, whole, quiet=True)
    with pytest.raises(HumandataError, match="backbone='test_resnet', not 'resnet18'"):
        other = dataclasses.replace(recipe, backbone="resnet18")
        engine.train(other, whole, resume=True, quiet=True)
    again = engine.train(recipe, whole, resume=True, quiet=True)
    assert again.name == "00000006"


def test_ctrl_c_finishes_the_step_and_saves(
    recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "interrupted"
    real = engine.train_step

    def interrupted(*arguments: Any, **more: Any) -> dict[str, float]:
        if arguments[-1] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **more)

    monkeypatch.setattr(engine, "train_step", interrupted)
    with pytest.raises(HumandataError, match=r"after step 2 of 6.*--resume"):
        engine.train(recipe, run, quiet=True)
    assert [c.step for c in checkpoints.checkpoints(run)] == [2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(engine, "train_step", real)
    engine.train(recipe, run, resume=True, quiet=True)
    assert log(run) == log(whole)


def test_a_loss_that_is_no_number_names_the_step_and_the_term(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hmr.loss

    def broken(*arguments: Any) -> dict[str, torch.Tensor]:
        return {**real(*arguments), "betas": torch.tensor(math.nan)}

    monkeypatch.setattr(hmr, "loss", broken)
    with pytest.raises(HumandataError, match=r"loss of step 1 .*betas nan"):
        engine.train(recipe, tmp_path / "run", quiet=True)


def test_the_trained_network_comes_back_from_run_checkpoint_and_file(
    recipe: Recipe, whole: Path
) -> None:
    places = [
        whole,
        whole / "checkpoints/00000006",
        whole / "checkpoints/00000006/weights.safetensors",
    ]
    images = torch.randn(2, 3, 32, 32)
    predictions = []
    for place in places:
        network, found = checkpoints.load_network(place)
        assert found == recipe
        assert not network.training
        with torch.no_grad():
            predictions.append(network.predict(images).pose)
    assert torch.equal(predictions[0], predictions[1])
    assert torch.equal(predictions[0], predictions[2])
    early, _ = checkpoints.load_network(whole / "checkpoints/00000003")
    with torch.no_grad():
        assert not torch.equal(early.predict(images).pose, predictions[0])


def test_no_file_of_a_checkpoint_holds_body_model_data(whole: Path) -> None:
    weights = load_file(whole / "checkpoints/00000006/weights.safetensors")
    assert {name.split(".")[0] for name in weights} == {"backbone", "head"}


def test_a_damaged_checkpoint_is_named(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a run with a checkpoint"):
        checkpoints.load_network(tmp_path)
    source = whole / "checkpoints/00000006/weights.safetensors"
    (tmp_path / "cut.safetensors").write_bytes(source.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cut\.safetensors"):
        checkpoints.load_network(tmp_path / "cut.safetensors")


def test_only_the_latest_checkpoints_are_kept_and_none_is_half_written(
    recipe: Recipe, tmp_path: Path
) -> None:
    network = hmr.build(recipe)
    optimizer = engine.make_optimizer(network, recipe, torch.device("cpu"))
    half = tmp_path / "checkpoints" / "00000009.partial"
    half.mkdir(parents=True)
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, step, network, optimizer, recipe, keep=2)
    assert [c.step for c in checkpoints.checkpoints(tmp_path)] == [3, 4]


def test_the_rate_warms_up_and_follows_its_schedule() -> None:
    cosine = Recipe(schedule="cosine", warmup_steps=10)
    factors = [engine.rate_factor(cosine, step, 110) for step in range(110)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[60] == pytest.approx(0.5)
    assert factors[-1] < 0.001
    steps = Recipe(schedule="step", decay_at=(0.5, 0.9), decay_factor=0.1)
    assert [engine.rate_factor(steps, step, 100) for step in (0, 49, 50, 89, 90)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    assert engine.rate_factor(Recipe(), 99, 100) == 1


def test_head_and_backbone_may_have_rates_of_their_own_and_biases_never_decay(
    recipe: Recipe,
) -> None:
    changed = dataclasses.replace(recipe, lr=1e-4, head_lr=1e-3, weight_decay=0.1)
    network = hmr.build(changed)
    optimizer = engine.make_optimizer(network, changed, torch.device("cpu"))
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert settings[id(network.head.fc1.weight)] == (1e-3, 0.1)
    assert settings[id(network.head.fc1.bias)] == (1e-3, 0)
    stem = next(network.backbone.parameters())
    assert settings[id(stem)] == (1e-4, 0.1)
    assert len(settings) == len(list(network.parameters()))


def test_a_network_learns_a_single_batch_by_heart(recipe: Recipe) -> None:
    easy = dataclasses.replace(
        recipe, dropout=0.0, flip=0.0, scale=0.0, rotation=0.0, channel_noise=0.0, lr=1e-3
    )
    torch.manual_seed(0)
    network = hmr.build(easy).train()
    optimizer = engine.make_optimizer(network, easy, torch.device("cpu"))
    body = engine.training_body(easy)
    stores = [(engine.humandata.open(easy.mix[0].store), 1.0)]
    batch = prepare(engine.make_mix(easy, stores).batch(0, 0))
    losses = [
        engine.train_step(hmr, network, body, optimizer, batch, easy, step)["loss"]
        for step in range(35)
    ]
    assert losses[-1] < 0.25 * losses[0]


def test_clipping_bounds_the_step_of_a_gradient(recipe: Recipe) -> None:
    clipped = dataclasses.replace(recipe, clip_gradient=1e-3)
    torch.manual_seed(0)
    network = hmr.build(clipped)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    stores = [(engine.humandata.open(clipped.mix[0].store), 1.0)]
    batch = prepare(engine.make_mix(clipped, stores).batch(0, 0))
    body = engine.training_body(clipped)
    engine.train_step(hmr, network, body, optimizer, batch, clipped, 0)
    norms = [p.grad.norm() for p in network.parameters() if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_what_is_not_there_is_said_before_anything_is_written(
    recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(HumandataError, match="no algorithm 'spin9'"):
        engine.train(dataclasses.replace(recipe, algorithm="spin9"), run, quiet=True)
    with pytest.raises(DataError, match="nothing there"):
        gone = dataclasses.replace(recipe, mix=(Source(str(tmp_path / "gone")),))
        engine.train(gone, run, quiet=True)
    with pytest.raises(HumandataError, match="cannot be used"):
        engine.train(dataclasses.replace(recipe, device="cuda:77"), run, quiet=True)
    with pytest.raises(HumandataError, match="nothing to train"):
        engine.train(dataclasses.replace(recipe, steps=0, epochs=0), run, quiet=True)
    assert not run.exists()


def test_a_mix_of_a_recipe_takes_its_augmentation(recipe: Recipe) -> None:
    stores = [(engine.humandata.open(recipe.mix[0].store), 1.0)]
    mix: Mix = engine.make_mix(dataclasses.replace(recipe, flip=1.0, rotation=0.0), stores)
    draw = mix.draw(0, 0)
    assert draw.flip.all()
    assert not draw.rotation.any()
