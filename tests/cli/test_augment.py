"""Augmentations from the command line: ``inspect --augment`` draws them, ``train`` takes them."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny_store import damage, write_tiny_store

from humandata.cli.main import cli
from humandata.errors import DataError, HumandataError, MissingExtra
from humandata.training import augmentation_sheet, recipes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("stores") / "tiny", count=4)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def crops_of(html: str) -> list[np.ndarray]:
    encoded = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    buffers = [np.frombuffer(base64.b64decode(data), np.uint8) for data in encoded]
    return [cv2.imdecode(buffer, cv2.IMREAD_COLOR) for buffer in buffers]


# inspect ---------------------------------------------------------------------------------------


def test_every_augmentation_of_training_can_be_looked_at() -> None:
    assert set(recipes.AUGMENTATIONS) < set(augmentation_sheet.NAMES)
    help_text = run("inspect", "--help").output
    assert "--augment hard_erasing" in help_text


def test_the_sheet_shows_crops_without_and_with_the_augmentation(
    store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "sheet.html"
    result = run("inspect", store, "--augment", "grid_dropout", "--people", 2, "--html", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.output
    html = out.read_text(encoding="utf-8")
    assert "<h2>grid_dropout</h2>" in html
    assert "<script" not in html
    crops = crops_of(html)
    assert len(crops) == 2 * 5
    assert {crop.shape for crop in crops} == {(224, 224, 3)}
    for person in (crops[:5], crops[5:]):
        black = [(crop.max(axis=2) < 24).mean() for crop in person]
        assert min(black[1:3]) > black[0] + 0.1, "a quarter of each draw is black"
        away = [np.abs(crop.astype(int) - person[1]).mean() for crop in person[2:]]
        assert min(away) > 5, "each draw is another"


def test_the_sheet_depends_on_the_seed_only(store: Path, tmp_path: Path) -> None:
    names = ("--augment", "self_mix", "--augment", "random_crop", "--people", 1)
    texts = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(texts)}.html"
        assert run("inspect", store, *names, "--seed", seed, "--html", out).exit_code == 0
        texts.append(out.read_text(encoding="utf-8"))
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].index("<h2>self_mix") < texts[0].index("<h2>random_crop")


def test_a_truncated_person_is_larger_and_a_turned_one_turned(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.html"
    result = run("inspect", store, "--augment", "all", "--people", 1, "--html", out, "--json")
    assert json.loads(result.output) == {"html": str(out)}
    html = out.read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(\w+)</h2>", html)
    assert headings == list(augmentation_sheet.NAMES)
    crops = crops_of(html)
    for number, name in enumerate(headings):
        plain, *draws = crops[5 * number : 5 * number + 5]
        assert np.array_equal(plain, crops[0])
        changed = [np.abs(draw.astype(int) - plain).mean() > 0.3 for draw in draws]
        assert sum(changed) >= (1 if name == "hard_erasing" else 2), name


def test_without_a_name_the_file_is_called_after_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("inspect", store, "--augment", "channel_noise", "--people", 1)
    assert result.output == "augmentations: tiny_augment.html\n"
    assert Path("tiny_augment.html").stat().st_size > 10_000


def test_a_damaged_picture_is_named_in_the_sheet(tmp_path: Path) -> None:
    path = damage(write_tiny_store(tmp_path / "damaged", count=3), 1)
    out = tmp_path / "sheet.html"
    result = run("inspect", path, "--augment", "self_mix", "--people", 3, "--html", out)
    assert result.exit_code == 0, result.output
    html = out.read_text(encoding="utf-8")
    assert len(crops_of(html)) == 10
    assert re.search(r"001\.jpg.*row 1: .*expected", html)


def test_what_cannot_be_shown_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = run("inspect", store, "--augment", "mixup")
    assert isinstance(wrong.exception, HumandataError)
    assert "there are all, channel_noise" in str(wrong.exception)
    assert run("inspect", store, "--augment", "all", "--verify").exit_code == 2
    assert run("inspect", store, "--occluders", "x.npy").exit_code == 2
    lost = run("inspect", store, "--augment", "synthetic_occlusion", "--occluders", tmp_path / "x")
    assert isinstance(lost.exception, DataError)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    missing = run("inspect", store, "--augment", "self_mix")
    assert isinstance(missing.exception, MissingExtra)
    assert "humandata[train]" in str(missing.exception)


# train -----------------------------------------------------------------------------------------

SMALL = ["--backbone", "test_resnet", "--init", "none", "--image-size", "32"]
SMALL += ["--batch-size", "2", "--steps", "1", "--set", "vertices_weight=0"]


def test_flags_of_train_become_the_recipe(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(
        "train", "--mix", store, *SMALL, "--augment", "self_mix@tiny",
        "--augment", "hard_erasing=0.9", "--random-crop", "0.8", "--occluders", "o.npy",
        "--dry-run", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert 'augment = ["self_mix@tiny", "hard_erasing=0.9"]' in result.output
    assert "random_crop = 0.8" in result.output
    assert 'occluders = "o.npy"' in result.output


@pytest.mark.slow
def test_a_network_is_trained_with_every_augmentation(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    names = [word for name in recipes.AUGMENTATIONS for word in ("--augment", name)]
    result = run(
        "train", "--mix", store, *SMALL, *names, "--random-crop", "0.5", "--json", "--out", out
    )
    assert result.exit_code == 0, result.output
    recipe = recipes.read(out / "recipe.json")
    assert recipe.augment == tuple(recipes.AUGMENTATIONS)
    assert recipe.random_crop == 0.5


def test_wrong_augmentations_of_train_are_refused(store: Path, tmp_path: Path) -> None:
    for name, reason in (("self_mixx", "near names: self_mix"), ("self_mix@h36m", "holds tiny")):
        result = run("train", "--mix", store, *SMALL, "--augment", name, "--out", tmp_path / "run")
        assert isinstance(result.exception, HumandataError)
        assert reason in str(result.exception)
    assert "inspect STORE --augment" in " ".join(run("train", "--help").output.split())
