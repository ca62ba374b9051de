"""``humandata inspect`` as one calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from people_store import make_people_store

from humandata import DataError
from humandata.cli.main import cli


@pytest.fixture
def run() -> Callable[..., Result]:
    def call(*arguments: object) -> Result:
        return CliRunner().invoke(cli, ["inspect", *map(str, arguments)])

    return call


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_people_store(tmp_path_factory.mktemp("cli") / "people.zarr").path


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_people_store(tmp_path_factory.mktemp("cli") / "damaged.zarr").path
    file = path / "instances" / "smpl" / "betas" / "c" / "0" / "0"
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    return path


def test_the_table_names_rows_fields_conventions_and_origin(
    run: Callable[..., Result], store: Path
) -> None:
    result = run(store)
    assert result.exit_code == 0
    for words in (
        "people test",
        "12 images, 24 instances, 1 sequences",
        "instances/keypoints3d",
        "24 x 45 x 4",
        "convention: smpl_45",
        "female 24",
        "left_shoulder 100.0%",
        "fingerprint",
    ):
        assert words in result.output
    assert "checksums" not in result.output


def test_verify_lists_every_check_and_sums_them_up(run: Callable[..., Result], store: Path) -> None:
    result = run(store, "--verify")
    assert result.exit_code == 0
    assert "passed   body_reprojection" in result.output
    assert result.output.endswith("Sound. 17 of 17 checks passed.\n")


def test_json_is_one_document_with_summary_and_checks(
    run: Callable[..., Result], store: Path
) -> None:
    document = json.loads(run(store, "--json", "--verify").output)
    assert document["rows"]["instances"] == 24
    assert document["sound"] is True
    assert {check["verdict"] for check in document["checks"]} == {"passed"}
    assert "checks" not in json.loads(run(store, "--json").output)


def test_a_damaged_store_exits_with_1_and_names_the_chunk(
    run: Callable[..., Result], damaged: Path
) -> None:
    result = run(damaged, "--verify")
    assert result.exit_code == 1
    assert "instances/smpl/betas/c/0/0" in result.output
    assert "Not sound: checksums, fingerprint failed." in result.output
    as_json = run(damaged, "--verify", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.output)["sound"] is False


def test_a_chunk_that_cannot_be_read_is_reported_too(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    path = make_people_store(tmp_path / "s.zarr").path
    (path / "instances" / "image" / "c" / "0").write_bytes(b"")
    result = run(path, "--verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["checks"][0]["verdict"] == "failed"


def test_html_writes_a_report_and_says_where(
    run: Callable[..., Result], store: Path, tmp_path: Path
) -> None:
    result = run(store, "--html", tmp_path / "r.html", "--people", 1)
    assert result.exit_code == 0
    assert f"report: {tmp_path / 'r.html'}" in result.output
    assert (tmp_path / "r.html").read_text().count("<img") == 3


def test_a_partial_store_or_none_gives_the_reason(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "s.zarr.partial").mkdir()
    for path, words in (("s.zarr", "has not finished"), ("nothing.zarr", "nothing there")):
        result = run(tmp_path / path)
        assert result.exit_code == 1
        assert isinstance(result.exception, DataError)
        assert words in str(result.exception)


def test_help_has_an_example(run: Callable[..., Result]) -> None:
    assert "humandata inspect coco_val.zarr --verify" in run("--help").output
