"""The adversarial prior in training: real bodies, their draws, and steps that can be checked."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from tiny_store import write_tiny_store

import humandata
from humandata.errors import DataError, HumandataError
from humandata.training import engine, recipes
from humandata.training.prior import AdversarialPrior, Bodies, read_bodies
from humandata.training.recipes import Recipe, Source


def write_mosh(path: Path, count: int = 50, **changes: Any) -> Path:
    """A file like cmu_mosh.npz: one pickled dictionary of poses and shapes."""
    rng = np.random.default_rng(3)
    smpl = {
        "global_orient": rng.normal(0, 1, (count, 3)),
        "body_pose": rng.normal(0, 0.2, (count, 23, 3)),
        "betas": rng.normal(0, 1, (count, 10)),
    }
    smpl = {key: value for key, value in (smpl | changes).items() if value is not None}
    np.savez(path, smpl=np.array(smpl, dtype=object), __key_strict__=np.array(False))
    return path


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Bodies:
    return read_bodies(write_mosh(tmp_path_factory.mktemp("prior") / "cmu_mosh.npz"))


def predicted(count: int = 4, spread: float = 1.5, seed: int = 0) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 24, 3, generator=generator) * spread
    matrices = Rotation.from_rotvec(vectors.view(-1, 3).numpy()).as_matrix()
    pose = torch.from_numpy(matrices).float().view(count, 24, 3, 3).requires_grad_()
    return SimpleNamespace(pose=pose, betas=torch.randn(count, 10, generator=generator) * 3)


def test_bodies_come_from_the_file_of_mmhuman3d(tmp_path: Path, bodies: Bodies) -> None:
    assert len(bodies) == 50
    pose, betas = bodies.draw(seed=1, step=2, first=0, count=500)
    assert pose.shape == (500, 23, 3)
    with np.load(write_mosh(tmp_path / "same.npz"), allow_pickle=True) as file:
        smpl = file["smpl"].item()
    rows = np.abs(pose.numpy()[:, None] - smpl["body_pose"][None]).sum((2, 3)).argmin(1)
    np.testing.assert_allclose(betas.numpy(), smpl["betas"][rows], rtol=1e-6)
    assert len(set(rows)) == 50, "all of 50 are among 500 drawn evenly"
    flat = write_mosh(tmp_path / "flat.npz", body_pose=smpl["body_pose"].reshape(50, 69))
    assert torch.equal(read_bodies(flat).draw(1, 2, 0, 500)[0], pose)


def test_bodies_come_from_the_valid_rows_of_a_store(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "tiny", count=6)
    found = read_bodies(store)
    instances = humandata.open(store).instances
    pose, _ = found.draw(0, 0, 0, 100)
    known = {np.asarray(instances["smpl/body_pose"][row]).tobytes() for row in range(6)}
    assert {one.numpy().tobytes() for one in pose} == known
    without = write_tiny_store(tmp_path / "without", count=2, without=("smpl",))
    with pytest.raises(DataError, match="without SMPL bodies"):
        read_bodies(without)


def test_a_draw_depends_on_seed_step_and_place_alone(bodies: Bodies) -> None:
    whole = bodies.draw(5, 7, 0, 12)[0]
    parts = [bodies.draw(5, 7, first, 6)[0] for first in (0, 6)]
    assert torch.equal(whole, torch.cat(parts)), "two processes draw what one would"
    assert not torch.equal(whole, bodies.draw(5, 8, 0, 12)[0])
    assert not torch.equal(whole, bodies.draw(6, 7, 0, 12)[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"body_pose": None}, "smpl/body_pose.*cmu_mosh.npz of mmhuman3d.*global_orient, betas"),
        ({"body_pose": np.zeros((50, 21, 3))}, r"\(n, 23, 3\).*\(50, 21, 3\)"),
        ({"betas": np.zeros((49, 10))}, "found 49 and 50"),
        ({"betas": np.full((50, 10), np.nan)}, "50 of 50 bodies that are not"),
        ({"betas": "ten"}, "smpl/betas.*numbers"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_is_expected(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=reason):
        read_bodies(write_mosh(tmp_path / "odd.npz", **changes))


def test_what_is_no_file_of_bodies_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing there.*--prior none"):
        read_bodies(tmp_path / "cmu_mosh.npz")
    np.savez(tmp_path / "amass.npz", poses=np.zeros((3, 156)), betas=np.zeros(16))
    with pytest.raises(DataError, match="'smpl'.*found the keys poses, betas"):
        read_bodies(tmp_path / "amass.npz")


def test_a_step_is_adam_on_the_losses_of_the_published_code(bodies: Bodies) -> None:
    """Losses written out from LSGAN; the first step of Adam is lr g / (|g| + eps)."""
    made = AdversarialPrior(bodies, weight=0.1, lr=1e-3, seed=9)
    before = {name: values.clone() for name, values in made.network.state_dict().items()}
    prediction = predicted()
    pose, betas = bodies.draw(9, 3, 0, 4)
    vectors = np.concatenate([np.zeros((4, 1, 3)), pose.numpy()], axis=1).reshape(-1, 3)
    real = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()).float().view(4, 24, 3, 3)
    fake_scores = made.network(prediction.pose.detach(), prediction.betas)
    real_scores = made.network(real, betas)
    expected = ((real_scores - 1) ** 2).sum() / 100 + (fake_scores**2).sum() / 100
    gradients = torch.autograd.grad(expected, list(made.network.parameters()))

    term, loss = made.step(prediction, 3)

    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, after), gradient in zip(made.network.named_parameters(), gradients, strict=True):
        step = 1e-3 * gradient / (gradient.abs() + 1e-8)
        clear = gradient.abs() > 1e-6  # where rounding cannot decide the sign
        torch.testing.assert_close(after[clear], (before[name] - step)[clear], rtol=1e-4, atol=1e-6)
        assert after.requires_grad
    scores = made.network(prediction.pose, prediction.betas)  # after its step
    assert term.item() == pytest.approx(0.1 * ((scores - 1) ** 2).mean().item(), rel=1e-6)
    term.backward()
    assert prediction.pose.grad is not None
    (wanted,) = torch.autograd.grad(0.1 * ((scores - 1) ** 2).mean(), prediction.pose)
    torch.testing.assert_close(prediction.pose.grad, wanted)


def test_the_discriminator_learns_to_tell_real_bodies_from_wild_ones(bodies: Bodies) -> None:
    made = AdversarialPrior(bodies, lr=3e-3)
    losses = [made.step(predicted(8, seed=step), step)[1] for step in range(20)]
    assert losses[0] == pytest.approx(1, abs=0.3), "it starts near 0 for all"
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        pose, betas = bodies.draw(1, 0, 0, 50)
        vectors = torch.nn.functional.pad(pose, (0, 0, 1, 0)).view(-1, 3).numpy()
        matrices = Rotation.from_rotvec(vectors).as_matrix()
        real = made.network(torch.from_numpy(matrices).float().view(50, 24, 3, 3), betas)
        wild = predicted(50, seed=999)
        fake = made.network(wild.pose, wild.betas)
    assert real[:, 23].mean() > fake[:, 23].mean() + 0.5, "the score of the whole pose"


def test_a_discriminator_that_is_no_number_is_said_and_left_as_it_was(bodies: Bodies) -> None:
    made = AdversarialPrior(bodies)
    prediction = predicted()
    prediction.betas[0, 0] = torch.nan
    before = made.network.shape_discriminator.fc_blocks[0].get_parameter("weight").clone()
    with pytest.raises(HumandataError, match="discriminator in step 1 .*--prior none"):
        made.step(prediction, 0)
    assert torch.equal(
        before, made.network.shape_discriminator.fc_blocks[0].get_parameter("weight")
    )


def test_making_a_prior_leaves_the_random_state_alone(bodies: Bodies) -> None:
    state = torch.get_rng_state()
    one, two, other = (AdversarialPrior(bodies, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    first, second, third = (
        made.network.full_pose_discriminator.fc_blocks[0].get_parameter("weight")
        for made in (one, two, other)
    )
    assert torch.equal(first, second), "all processes start from the same"
    assert not torch.equal(first, third)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("stores")
    store = write_tiny_store(folder / "tiny")
    return dataclasses.replace(
        recipes.hmr(), mix=(Source(str(store)),), backbone="test_resnet", init="none",
        image_size=32, batch_size=4, steps=4, vertices_weight=0.0, log_every=1,
        checkpoint_every=2, prior=str(write_mosh(folder / "cmu_mosh.npz")), device="cpu",
        schedule="step", decay_at=(0.5,), workers=0, prior_lr=3e-4,
    )  # fmt: skip


def test_a_resumed_run_with_a_prior_equals_an_uninterrupted_one(
    recipe: Recipe,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = []
    real = AdversarialPrior.step

    def watched(self: AdversarialPrior, *arguments: Any, **more: Any) -> Any:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return real(self, *arguments, **more)

    monkeypatch.setattr(AdversarialPrior, "step", watched)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    engine.train(recipe, whole, quiet=True)
    assert rates == pytest.approx([3e-4, 3e-4, 3e-5, 3e-5]), "they follow the schedule"
    entries = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    for entry in entries:
        named = ("keypoints3d", "keypoints2d", "pose", "betas", "adversarial")
        assert entry["loss"] == pytest.approx(sum(entry[name] for name in named), rel=1e-5)
        assert entry["discriminator"] > 0
    assert json.loads((whole / "provenance.json").read_text())["prior"] == "cmu_mosh.npz"

    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints/00000004")
    engine.train(recipe, resumed, resume=True, quiet=True)
    for name in ("weights", "training"):
        ours, theirs = (
            load_file(run / f"checkpoints/00000004/{name}.safetensors") for run in (resumed, whole)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert any(key.startswith("prior/network/pose_discriminator") for key in theirs)
    assert not any(
        "prior" in key for key in load_file(whole / "checkpoints/00000004/weights.safetensors")
    )

    # Without the prior the run is another one, and it may be taken up or left out later.
    without = dataclasses.replace(recipe, prior=None, steps=2)
    engine.train(without, tmp_path / "without", quiet=True)
    first = json.loads((tmp_path / "without/log.jsonl").read_text().splitlines()[0])
    assert first["keypoints3d"] == entries[0]["keypoints3d"], "the same network to begin with"
    assert "adversarial" not in first
    engine.train(recipe, tmp_path / "without", resume=True, quiet=True)
    assert "its discriminator starts anew" in caplog.text


def test_a_prior_that_is_not_there_is_said_before_anything_is_written(
    recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="cmu_mosh"):
        engine.train(
            dataclasses.replace(recipe, prior=str(tmp_path / "cmu_mosh.npz")), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()
