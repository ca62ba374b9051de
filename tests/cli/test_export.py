"""``humandata export`` writes the file, lists what it leaves out, and says so as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import spin_release
from click.testing import CliRunner, Result

from humandata.cli.main import cli
from humandata.converters.converter import convert


@pytest.fixture
def store(tmp_path: Path) -> Path:
    file = spin_release.write(tmp_path / "coco_2014_train.npz", spin_release.coco_values())
    convert("spin", file, tmp_path / "s.zarr", workers=1, pictures="none")
    return tmp_path / "s.zarr"


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, words)])


@pytest.mark.parametrize(
    ("format_", "name"), [("humandata", "o.npz"), ("spin", "o.npz"), ("coco", "o.json")]
)
def test_each_format_is_written(store: Path, tmp_path: Path, format_: str, name: str) -> None:
    done = run(store, tmp_path / "out" / name, "--format", format_)
    assert done.exit_code == 0, done.output
    assert "4 people in 2 pictures" in done.output
    assert (tmp_path / "out" / name).stat().st_size > 500


def test_what_the_format_cannot_hold_is_listed(store: Path, tmp_path: Path) -> None:
    done = run(store, tmp_path / "o.json", "--format", "coco")
    assert "left out: instances/keypoints2d: joints without a place: " in done.output
    assert "neck_openpose" in done.output
    told = json.loads(run(store, tmp_path / "p.json", "--format", "coco", "--json").output)
    assert (told["persons"], told["format"]) == (4, "coco")
    assert "neck_openpose" in told["left_out"]["instances/keypoints2d"]


def test_a_file_that_is_there_needs_overwrite(store: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.ones(1))
    (tmp_path / "o.npy").rename(tmp_path / "o.npz")
    assert run(store, tmp_path / "o.npz", "--format", "spin").exit_code == 1
    assert run(store, tmp_path / "o.npz", "--format", "spin", "--overwrite").exit_code == 0
