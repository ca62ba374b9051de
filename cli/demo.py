"""``humandata demo``: the whole line on synthetic people, each step shown as one would type it."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import click

# Chosen so that two processor cores need less than five minutes and the network visibly learns.
# Many short sequences teach more than few long ones: what counts is how many poses there are.
PEOPLE = 300
SEQUENCES = {"train": 180, "test": 25}
FRAMES = 8
YAW = 25
STEPS = 1200
TRAINING = (
    "--backbone test_resnet --init none --image-size 64 --batch-size 32 --optimizer adamw "
    "--lr 3e-3 --loss l1"
)
SETTINGS = (
    "head_lr=3e-4 schedule=cosine warmup_steps=50 clip_gradient=1 dropout=0 weight_decay=0.01 "
    "pose_weight=30 keypoints3d_weight=5 keypoints2d_weight=5 vertices_weight=0 "
    "rotation_probability=0 scale=0.1 channel_noise=0.1"
)
"""A tiny network from scratch; the recipe of the field is the default of ``humandata train``."""


@click.command(epilog="Example: humandata demo --out demo && xdg-open demo/index.html")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for everything the demo makes; must not exist yet.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed, other people.")
@click.option(
    "--scale",
    type=click.FloatRange(0.01, 10),
    default=1.0,
    show_default=True,
    help="Size of the demo: fewer people and training steps below 1.",
)
@click.option(
    "--body-models",
    type=click.Path(path_type=Path),
    help="Folder of your SMPL files; without it the stand-in body is used.",
)
def demo(out: Path, seed: int, scale: float, body_models: Path | None) -> None:
    """Raw releases to numbers, end to end, with nothing downloaded.

    Makes a COCO and a 3DPW release of synthetic people in the true raw formats, converts both into
    stores, inspects them, trains a small HMR, evaluates it on people it has not seen, and writes
    HTML reports. Less than five minutes on two processor cores.
    """
    from humandata.errors import HumandataError

    if out.exists() and any(out.iterdir()):
        raise HumandataError(f"{out} is there already: choose another --out, or remove it")
    try:
        import torch  # noqa: F401  (before minutes of work, not after)
    except ImportError:
        from humandata.errors import MissingExtra

        raise MissingExtra("torch", "train") from None
    started = time.monotonic()
    for command in commands(out, seed, scale, body_models):
        _run(command)
    _write_index(out)
    click.echo()
    minutes = (time.monotonic() - started) / 60
    click.secho(f"Done in {minutes:.1f} minutes. Look at {out / 'index.html'}", bold=True)


def commands(out: Path, seed: int, scale: float, body_models: Path | None) -> list[list[str]]:
    """The demo as command lines, without the leading ``humandata``."""
    body = ["--body-models", str(body_models)] if body_models else []
    coco, pw3d = str(out / "raw" / "coco"), str(out / "raw" / "pw3d")
    count = {split: str(max(2, round(n * scale))) for split, n in SEQUENCES.items()}
    people = str(max(8, round(PEOPLE * scale)))
    common = ["--yaw", str(YAW), "--seed", str(seed), *body]
    settings = [word for setting in SETTINGS.split() for word in ("--set", setting)]
    lines = [
        ["synthesize", "coco", coco, "--people", people, *common],
        [
            *["synthesize", "pw3d", pw3d, "--train", count["train"], "--test", count["test"]],
            *["--frames", str(FRAMES), *common],
        ],
        ["convert", "coco", coco, str(out / "coco_train.zarr"), "--split", "train2017"],
    ]
    for split in ("train", "test"):
        lines.append(["convert", "pw3d", pw3d, str(out / f"pw3d_{split}.zarr"), "--split", split])
    test, run = str(out / "pw3d_test.zarr"), str(out / "run")
    lines += [
        [*["inspect", test, "--verify"], *["--html", str(out / "inspection.html")]],
        [
            *["train", "--mix", f"{out / 'pw3d_train.zarr'}=0.8"],
            *["--mix", f"{out / 'coco_train.zarr'}=0.2", "--algorithm", "hmr"],
            *[*TRAINING.split(), "--steps", str(max(4, round(STEPS * scale))), *settings],
            *["--seed", str(seed), "--out", run, *body],
        ],
        [
            *["eval", "pw3d", "--store", test, "--checkpoint", run],
            *["--html", str(out / "evaluation.html"), *body],
        ],
    ]
    return lines


def _run(arguments: list[str]) -> None:
    from humandata.cli.main import cli

    click.echo()
    click.secho("$ " + shlex.join(["humandata", *arguments]), fg="green", bold=True)
    started = time.monotonic()
    cli.main(args=arguments, prog_name="humandata", standalone_mode=False)
    click.secho(f"  ({time.monotonic() - started:.0f} s)", dim=True)


def _write_index(out: Path) -> None:
    pages = [
        ("evaluation.html", "Evaluation: predicted bodies over pictures, errors in millimetres"),
        ("inspection.html", "Inspection: what the test store holds, and whether it is sound"),
    ]
    items = "".join(f'<li><a href="{name}">{text}</a></li>' for name, text in pages)
    text: Any = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>humandata demo</title>'
        "<style>body{font:17px/1.6 system-ui,sans-serif;max-width:42rem;margin:4rem auto;"
        "padding:0 1rem}</style><h1>humandata demo</h1><p>Synthetic people, from raw annotation "
        f"files to a number. The body is a stand-in, not SMPL.</p><ul>{items}</ul></html>"
    )
    (out / "index.html").write_text(text, encoding="utf-8")
