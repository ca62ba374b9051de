"""Every command and every snippet of the README and the docs runs."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def marked_command(marker: str) -> str:
    found = re.search(rf"<!-- {marker} command -->\n```\n(.*)\n```", README)
    assert found is not None
    return found[1]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def humandata(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "humandata"
    done = subprocess.run(
        [sys.executable, "-m", "humandata.cli.main", *words[1:]],
        cwd=folder, capture_output=True, text=True, check=False,
        env={k: v for k, v in os.environ.items() if k != "HUMANDATA_BODY_MODELS"},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_first_hour_runs_as_written(tmp_path: Path) -> None:
    (session,) = [b for b in blocks(README, "") if b.startswith("humandata synthesize")]
    for command in session.splitlines():
        humandata(command, tmp_path)
    for name in ("inspection.html", "evaluation.html"):
        assert (tmp_path / name).stat().st_size > 20_000
    (snippet,) = blocks(README, "python")
    with inside(tmp_path):
        exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.slow
def test_the_snippets_of_the_docs_run(tmp_path: Path) -> None:
    humandata("humandata synthesize pw3d raw --train 0 --test 1 --frames 4", tmp_path)
    humandata("humandata convert pw3d raw pw3d_test.zarr", tmp_path)
    with inside(tmp_path):
        for page in sorted((ROOT / "docs").glob("*.md")):
            for snippet in blocks(page.read_text(encoding="utf-8"), "python"):
                exec(compile(snippet, page.name, "exec"), {})


@pytest.mark.slow
def test_the_demo_runs_end_to_end_and_can_be_repeated(tmp_path: Path) -> None:
    """The README's demo, at a small fraction of its size."""
    command = marked_command("demo")
    assert command.endswith(".venv/bin/humandata demo")
    first = humandata("humandata demo --scale 0.02 --out one", tmp_path)
    again = humandata("humandata demo --scale 0.02 --out two", tmp_path)
    shown = [line for line in first.splitlines() if line.startswith("$ humandata ")]
    verbs = [line.split()[2] for line in shown]
    assert verbs == ["synthesize"] * 2 + ["convert"] * 3 + ["inspect", "train", "eval"]
    for name in ("index.html", "inspection.html", "evaluation.html"):
        assert (tmp_path / "one" / name).is_file()
    import humandata as package

    for store in ("coco_train.zarr", "pw3d_train.zarr", "pw3d_test.zarr"):
        one, two = (package.open(tmp_path / out / store) for out in ("one", "two"))
        assert one.fingerprint == two.fingerprint
    rows = [
        [line for line in text.splitlines() if line.startswith("all ")] for text in (first, again)
    ]
    assert rows[0] == rows[1] != []


def shown_commands() -> list[str]:
    """Every ``humandata ...`` line of the README and the docs, run by a test above or not."""
    pages = [README, *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))]
    lines = [line.split("#")[0].strip() for page in pages for line in page.splitlines()]
    return [line for line in lines if re.match(r"humandata [a-z]+ ", line)]


@pytest.mark.parametrize("command", shown_commands())
def test_every_command_shown_is_one_the_program_takes(command: str) -> None:
    from humandata.cli.main import cli

    _, verb, *arguments = shlex.split(command)
    subcommand = cli.get_command(click.Context(cli), verb)
    assert subcommand is not None, verb
    subcommand.make_context(verb, arguments)  # raises on an option or a value it does not know


def test_the_commands_of_the_readme_name_what_exists() -> None:
    assert marked_command("test").endswith(".venv/bin/python -m pytest")
    extras = (ROOT / "setup.cfg").read_text().split("[options.extras_require]")[1]
    for extra in ("train", "test"):
        assert f"\n{extra} =" in extras
    for page in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / page).exists(), page
