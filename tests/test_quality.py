"""Lint, formatting and types, checked the way a contributor would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, **settings: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, **settings
    )  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", str(ROOT))
    run("ruff", "format", "--check", str(ROOT))


@pytest.mark.slow
def test_the_installed_package_is_typed(tmp_path: Path) -> None:
    # mypy cannot follow an editable install of several folders, so it sees an ordinary one.
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "tests", "build", "demo"))
    target = tmp_path / "site"
    pip = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    run(*pip, str(target), str(source))
    settings = ["--config-file", str(ROOT / "pyproject.toml")]
    environment = os.environ | {"MYPYPATH": str(target)}
    run("mypy", *settings, "-p", "humandata", cwd=tmp_path, env=environment)
