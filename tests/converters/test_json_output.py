"""What ``convert`` prints with ``--json`` is one strict JSON document, whatever RAW is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cliff_release
import eft_release
import fourdhumans_release
import humandata_release
import lsp_release
import lspet_release
import mpii_release
import muco_release
import pytest
import spin_release
import vibe_release
from agora_release import CAMERAS, write_agora
from click.testing import CliRunner
from coco_release import write_coco
from h36m_release import DIRECTIONS, write_h36m
from mpi_inf_3dhp_release import write_test
from pw3d_release import write_pw3d

from humandata.cli.convert import convert as command
from humandata.converters import converter

RELEASES: dict[str, Callable[[Path], Any]] = {
    "agora": lambda raw: write_agora(raw, names=list(CAMERAS)[:1], fits=False),
    "cliff": lambda raw: cliff_release.write(raw / "train.npz", cliff_release.make().values),
    "coco": write_coco,
    "eft": eft_release.write_coco,
    "fourdhumans": lambda raw: fourdhumans_release.write_tar(
        raw / "0.tar", fourdhumans_release.shard()
    ),
    "h36m": lambda raw: write_h36m(raw, {"S1": DIRECTIONS}),
    "humandata": lambda raw: humandata_release.write_npz(
        raw / "mine_train.npz", humandata_release.values()
    ),
    "lsp": lambda raw: lsp_release.write_joints(
        raw / "joints.mat", lsp_release.people(2000), extended=False
    ),
    "lspet": lambda raw: lspet_release.write_original(raw, lspet_release.original()),
    "mpi_inf_3dhp": write_test,
    "mpii": lambda raw: mpii_release.write_mat(raw, mpii_release.release()),
    "muco": muco_release.write_json,
    "pw3d": lambda raw: write_pw3d(raw, name="walk", frames=4, size=(108, 192), seed=0),
    "spin": lambda raw: spin_release.write(raw / "coco_2014_train.npz", spin_release.coco_values()),
    "vibe": lambda raw: vibe_release.dump(raw / "3dpw_test_db.pt", vibe_release.pw3d()),
}


def no_json(word: str) -> Any:
    raise AssertionError(f"{word} is no JSON")


def printed(*words: object) -> Any:
    """The document on standard output, by a reader that takes no NaN and no Infinity."""
    result = CliRunner().invoke(command, [*map(str, words), "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return json.loads(result.stdout, parse_constant=no_json)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_folder_whose_name_is_no_utf8_is_printed_with_escapes(
    tmp_path: Path, form: list[str]
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    words = ["-m", "humandata.cli.main", "convert", "spin", "--check", odd, *form]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    run = subprocess.run([sys.executable, *words], capture_output=True, env=environment)
    assert (run.returncode, run.stderr) == (1, b"")
    assert b"caf\\udce9" in run.stdout


def test_the_list_is_json() -> None:
    assert [info["name"] for info in printed("--list")] == list(converter.datasets())


@pytest.mark.parametrize("name", RELEASES)
def test_the_check_of_a_release_is_json(name: str, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    RELEASES[name](tmp_path / "raw")
    said = printed(name, "--check", tmp_path / "raw", "--pictures", "none")
    assert (said["dataset"], said["problems"]) == (name, [])
    split = next(split for split in said["splits"] if not split["problems"])
    assert split["records"] >= split["instances"] > 0


@pytest.mark.parametrize("name", sorted(converter.datasets()))
def test_the_check_of_what_is_no_release_is_json(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.npz").write_bytes(b"\x00 no release \xff")
    # A name that is no UTF-8, as old archives have them.
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    for raw in (tmp_path, tmp_path / "file.npz", tmp_path / "nowhere", odd):
        said = printed(name, "--check", raw)
        assert said["could_start"] is False
        assert said["problems"] or said["splits"][0]["problems"]
