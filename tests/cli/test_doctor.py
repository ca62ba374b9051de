"""``humandata doctor``: what is installed, and what a store costs to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pw3d_store import write_pw3d_store

import humandata
from humandata.cli.main import cli
from humandata.errors import HumandataError
from humandata.training import doctor


def run(*arguments: object, environment: dict[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(cli, ["doctor", *map(str, arguments)], env=environment)


def document(*arguments: object, **options: Any) -> dict[str, Any]:
    result = run(*arguments, "--json", **options)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pw3d_store(tmp_path_factory.mktemp("stores") / "pw3d.zarr", pictures=True)


def test_the_environment_names_versions_cores_and_decoders() -> None:
    found = document()["environment"]
    assert found["packages"]["numpy"] == np.__version__
    assert found["humandata"] == humandata.__version__
    assert found["cores"] >= 1
    assert "simplejpeg" in found["jpeg"]["decoders"]["restart-tiled"]
    text = run().output
    assert "numpy" in text
    assert "decodes JPEG" in text


def test_the_folder_of_body_models_is_searched(tmp_path: Path) -> None:
    (tmp_path / "SMPL_MALE.pkl").write_bytes(b"")
    environment: dict[str, str | None] = {"HUMANDATA_BODY_MODELS": str(tmp_path)}
    assert document(environment=environment)["environment"]["body_models"] == {
        "folder": str(tmp_path),
        "files": ["SMPL_MALE.pkl"],
    }


def test_a_store_is_timed_step_by_step_and_set_against_the_need_of_a_gpu(store: Path) -> None:
    # More than the 110 persons of the store: it is gone through again.
    speed = document(store, "--samples", 160, "--image-size", 64, "--need", 1e6)["speed"]
    assert [stage["name"] for stage in speed["stages"]] == [
        "bytes",
        "decode",
        "warp",
        "batch",
        "augment",
    ]
    assert all(stage["milliseconds"] > 0 for stage in speed["stages"])
    assert speed["need"] == 1e6
    text = run(store, "--samples", 16, "--image-size", 64, "--need", 1e6).output
    assert "the GPU takes 1,000,000 samples/s" in text


def test_threads_needed_are_rounded_up() -> None:
    speed = doctor.Speed((doctor.Stage("decode", 1.0),), total=1000.0, threads={}, need=None)
    assert [speed.threads_needed(rate) for rate in (1, 1000, 1001, 2500)] == [1, 1, 2, 3]


def test_a_store_without_pictures_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write_pw3d_store(tmp_path / "bare.zarr", pictures=False)
    with pytest.raises(HumandataError, match="--pictures"):
        doctor.measure(humandata.open(path))


def test_without_a_gpu_its_need_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(HumandataError, match="--need"):
        doctor.need_of_gpu()
