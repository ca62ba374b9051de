"""``humandata train`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_store import write_tiny_store

from humandata.cli.main import cli
from humandata.cli.train import train
from humandata.errors import HumandataError, MissingExtra

SMALL = ["--backbone", "test_resnet", "--init", "none", "--image-size", "32"]
SMALL += ["--batch-size", "2", "--steps", "2", "--set", "vertices_weight=0"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("stores") / "tiny", count=4)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(train, [str(a) for a in arguments], catch_exceptions=True)


def test_help_shows_examples_and_every_flag_of_the_plan() -> None:
    text = CliRunner().invoke(cli, ["train", "--help"]).output
    assert "humandata train --mix" in text
    for flag in ("--mix", "--algorithm", "--backbone", "--init", "--loss", "--config", "--out"):
        assert flag in text


def test_a_run_is_trained_and_resumed(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run("--mix", f"{store}=0.5", *SMALL, "--lr", "1e-3", "--json", "--out", out)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    assert answer["checkpoint"].endswith("00000002")
    assert answer["last"]["step"] == 2
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["mix"] == [{"store": str(store), "weight": 0.5}]
    assert (recipe["lr"], recipe["vertices_weight"]) == (1e-3, 0)

    resumed = run("--out", out, "--resume", "--steps", "3", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout.strip().splitlines()[-1])["last"]["step"] == 3
    assert json.loads((out / "recipe.json").read_text())["backbone"] == "test_resnet"


def test_a_dry_run_tells_and_writes_nothing(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run("--mix", store, "--epochs", "3", *SMALL[:6], "--dry-run", "--out", out)
    assert result.exit_code == 0, result.output
    assert "hmr on test_resnet (none)" in result.output
    assert "100.0%" in result.output
    assert not out.exists()
    as_json = run("--mix", store, "--epochs", "3", *SMALL[:6], "--dry-run", "--json", "--out", out)
    assert json.loads(as_json.output)["steps"] == 3


def test_flags_go_before_the_config_file_and_set_before_both(store: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"lr": 0.5, "seed": 3, "mix": [{"store": str(store)}]}))
    arguments: list[Any] = ["--config", config, "--lr", "0.25", "--set", "loss=mse", "--loss", "l1"]
    result = run(*arguments, "--dry-run", "--json", "--device", "cpu", "--out", tmp_path / "run")
    recipe = json.loads(result.output)["recipe"]
    assert (recipe["lr"], recipe["seed"], recipe["loss"]) == (0.25, 3, "mse")


def test_wrong_use_is_told_from_failed_work(store: Path, tmp_path: Path) -> None:
    assert run("--out", tmp_path / "run").exit_code == 2
    assert run("--mix", store).exit_code == 2
    failed = run("--mix", tmp_path / "gone", *SMALL, "--out", tmp_path / "run")
    assert failed.exit_code == 1
    assert isinstance(failed.exception, HumandataError)
    assert "humandata mix lists them" in str(failed.exception)
    unknown = run("--mix", store, "--loss", "l3", "--out", tmp_path / "run")
    assert "one of smooth_l1, l1, mse" in str(unknown.exception)


def test_without_torch_the_extra_is_named(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("--mix", store, "--out", tmp_path / "run")
    assert isinstance(result.exception, MissingExtra)
    assert "humandata[train]" in str(result.exception)
