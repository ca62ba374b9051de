"""``humandata eval`` as one types it: output, JSON, report, exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pw3d_store import SEQUENCES, write_pw3d_store

import humandata
from humandata.cli.main import cli
from humandata.errors import HumandataError
from humandata.training.predictions import Predictions, load_predictions, save_predictions
from humandata.training.results import METRICS, heading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pw3d_test.zarr`` with pictures, and ``p.npz`` with predictions that are a little off."""
    place = tmp_path_factory.mktemp("stores")
    store = humandata.open(write_pw3d_store(place / "pw3d_test.zarr", pictures=True))
    count = len(store)
    pose = np.array(store.instances["smpl/body_pose"])
    pose += np.random.default_rng(0).normal(0, 0.1, pose.shape).astype(np.float32)
    predictions = Predictions(
        np.asarray(store.instances["id"]),
        np.array(store.instances["smpl/global_orient"]),
        pose,
        np.array(store.instances["smpl/betas"]),
        camera=np.tile(np.array([0.9, 0, 0], np.float32), (count, 1)),
        source="a little off",
    )
    save_predictions(predictions, place / "p.npz")
    return place


def run(*arguments: object, environment: dict[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(
        cli, ["eval", *map(str, arguments)], env=environment, catch_exceptions=True
    )


def document(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_the_benchmark_prints_protocol_figures_sequences_baseline_and_notes(folder: Path) -> None:
    result = run("pw3d", "--store", folder / "pw3d_test.zarr", "--predictions", folder / "p.npz")
    assert result.exit_code == 0, result.output
    text = result.output
    assert "pw3d-test (version 1)" in text
    assert "rows 6,5,4,1,2,3,16,15,14,11,12,13,8,10" in text
    assert "MPJPE" in text
    assert re.search(r"all +110 +\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)", text)
    for name, count in SEQUENCES.items():
        assert re.search(rf"{name} +{count} ", text)
    assert "mean pose for everybody" in text
    assert "Note: stand-in, not SMPL: numbers cannot be compared with published ones" in text


def test_json_is_one_document_with_the_figures(folder: Path) -> None:
    found = document(folder / "pw3d_test.zarr", "--predictions", folder / "p.npz")
    assert found["protocol"]["name"] == "pw3d-test"
    figures = found["overall"]["metrics"]
    assert set(figures) == {"mpjpe", "pa_mpjpe", "pve"}
    assert figures["pa_mpjpe"]["mean"] < figures["mpjpe"]["mean"]
    assert found["baseline"]["metrics"]["pa_mpjpe"]["mean"] > figures["pa_mpjpe"]["mean"]
    assert [row["name"] for row in found["sequences"]] == list(SEQUENCES)


def test_metrics_protocol_and_limit_are_passed_on(folder: Path) -> None:
    store = folder / "pw3d_test.zarr"
    chosen = ["--metrics", "pve, mpjpe", "--protocol", "pw3d-test-mmhuman3d", "--limit", 7]
    found = document(store, "--predictions", folder / "p.npz", *chosen)
    assert list(found["overall"]["metrics"]) == ["mpjpe", "pve"]
    assert found["protocol"]["pve_root"] == "none"
    assert found["overall"]["rows"] == 7


def test_metrics_that_are_no_millimetres_bring_their_unit(folder: Path, tmp_path: Path) -> None:
    chosen = ["--metrics", "mpjpe,pck3d,acceleration", "--html", tmp_path / "report.html"]
    store = folder / "pw3d_test.zarr"
    result = run(store, "--predictions", folder / "p.npz", "--limit", 7, *chosen)
    assert result.exit_code == 0, result.output
    assert re.search(r"MPJPE +3DPCK \(%\) +acceleration \(mm/frame²\)", result.output)
    report = (tmp_path / "report.html").read_text()
    assert "3DPCK (%)" in report
    assert "right_wrist" in report


def test_every_figure_stands_under_the_name_of_its_metric(folder: Path) -> None:
    """However many metrics there are, and in whatever order they were asked for."""
    given = folder / "pw3d_test.zarr", "--predictions", folder / "p.npz"
    chosen = "--metrics", ",".join(reversed(METRICS))
    printed = run(*given, *chosen).output.splitlines()
    figures = document(*given, *chosen)["overall"]["metrics"]
    heads = [re.split(r"  +", line)[2:] for line in printed if "95 % interval  " in line]
    means = [re.findall(r"(\S+) \(", line) for line in printed if line.startswith("all ")]
    assert [len(head) for head in heads] == [4, 4, 2]
    found = dict(zip(chain(*heads), chain(*means), strict=True))
    assert found == {heading(name): f"{figures[name]['mean']:.2f}" for name in METRICS}


def test_kept_predictions_give_the_same_figures_again(folder: Path, tmp_path: Path) -> None:
    store = folder / "pw3d_test.zarr"
    first = document(store, "--predictions", folder / "p.npz", "--out", tmp_path / "kept.npz")
    again = document(store, "--predictions", tmp_path / "kept.npz")
    assert again == first
    assert load_predictions(tmp_path / "kept.npz").source == "a little off"


def test_the_report_is_one_file_with_bodies_over_pictures(folder: Path, tmp_path: Path) -> None:
    store, out = folder / "pw3d_test.zarr", tmp_path / "report" / "index.html"
    result = run(store, "--predictions", folder / "p.npz", "--html", out)
    assert result.exit_code == 0, result.output
    assert f"written: {out}" in result.output
    html = out.read_text("utf-8")
    for title in ("Best predictions", "Median predictions", "Worst predictions", "Protocol"):
        assert title in html
    # Three views of each of twelve persons.
    assert html.count("data:image/jpeg;base64,") == 36
    assert "The predicted body over the picture" in html
    assert html.count("<svg") == 6
    assert "stand-in, not SMPL" in html
    assert not re.search(r"(src|href)=\"http", html)


def test_the_usual_store_is_found_in_the_folder_of_stores(folder: Path) -> None:
    found = run(
        "pw3d", "--predictions", folder / "p.npz", environment={"HUMANDATA_STORES": str(folder)}
    )
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize("stores", [None, "nowhere"])
def test_a_benchmark_without_its_store_says_how_to_make_it(
    folder: Path, stores: str | None
) -> None:
    result = run(
        "pw3d", "--predictions", folder / "p.npz", environment={"HUMANDATA_STORES": stores}
    )
    assert isinstance(result.exception, HumandataError)
    assert "humandata convert pw3d RAW pw3d_test.zarr --split test" in str(result.exception)


def test_neither_benchmark_nor_store_is_said(folder: Path) -> None:
    result = run("3dpw", "--predictions", folder / "p.npz")
    assert isinstance(result.exception, HumandataError)
    assert "3dpw is neither a benchmark (pw3d, h36m, mpi-inf-3dhp," in str(result.exception)


def test_a_store_of_another_split_needs_to_be_asked_for(folder: Path, tmp_path: Path) -> None:
    path = write_pw3d_store(tmp_path / "train.zarr", split="train")
    command = ["pw3d", "--store", path, "--predictions", folder / "p.npz"]
    result = run(*command)
    assert isinstance(result.exception, HumandataError)
    assert "--any-store" in str(result.exception)
    assert run(*command, "--any-store").exit_code == 0


def test_wrong_use_exits_with_2(folder: Path) -> None:
    store = folder / "pw3d_test.zarr"
    assert run(store).exit_code == 2
    assert run(store, "--predictions", "p.npz", "--checkpoint", "run").exit_code == 2
    assert run(store, "--store", store, "--predictions", "p.npz").exit_code == 2


def test_failure_exits_with_1_and_the_reason_and_never_imports_torch(folder: Path) -> None:
    code = (
        "import sys; from humandata.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('torch' in sys.modules)"
    )
    command = ["eval", str(folder / "pw3d_test.zarr"), "--predictions", str(folder / "no.npz")]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split() == ["False"]


def test_help_shows_an_example() -> None:
    text = run("--help").output
    assert "humandata eval pw3d --store pw3d_test.zarr --checkpoint runs/hmr" in text


def test_two_protocols_are_compared_on_the_same_predictions(folder: Path) -> None:
    """MPJPE is the same by both; PVE is what they differ in."""
    both = ("pw3d-test", "pw3d-test-mmhuman3d")
    source = ["--store", folder / "pw3d_test.zarr", "--predictions", folder / "p.npz"]
    text = run("pw3d", *source, "--compare", *both).output
    assert re.search(r"MPJPE +\d+\.\d\d +\d+\.\d\d +\+0\.00", text), text
    assert "what differs" in text
    found = document("pw3d", *source, "--compare", *both)["protocols"]
    alone = [document("pw3d", *source, "--protocol", name) for name in both]
    for one, other in zip(found, alone, strict=True):
        assert one["protocol"]["name"] == other["protocol"]["name"]
        assert one["overall"] == other["overall"]


def test_a_comparison_names_its_protocols_itself(folder: Path) -> None:
    source = ["--store", folder / "pw3d_test.zarr", "--predictions", folder / "p.npz"]
    both = ("pw3d-test", "pw3d-test-mmhuman3d")
    result = run("pw3d", *source, "--compare", *both, "--protocol", "smpl-gendered")
    assert result.exit_code == 2
    assert "--protocol" in result.output
