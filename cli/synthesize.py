"""``humandata synthesize``: raw releases of synthetic people in the true formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


@click.command(
    epilog="Example: humandata synthesize pw3d raw/pw3d --train 24 --test 6, "
    "then humandata convert pw3d raw/pw3d pw3d_test.zarr --split test"
)
@click.argument("release", type=click.Choice(["coco", "pw3d"]))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--people",
    type=click.IntRange(0),
    default=600,
    show_default=True,
    help="coco: training pictures.",
)
@click.option(
    "--val", type=click.IntRange(0), default=0, show_default=True, help="coco: validation pictures."
)
@click.option(
    "--train",
    type=click.IntRange(0),
    default=24,
    show_default=True,
    help="pw3d: training sequences.",
)
@click.option("--validation", type=click.IntRange(0), default=0, help="pw3d: validation sequences.")
@click.option(
    "--test", type=click.IntRange(0), default=6, show_default=True, help="pw3d: test sequences."
)
@click.option(
    "--frames", type=click.IntRange(1), default=48, show_default=True, help="pw3d: frames each."
)
@click.option(
    "--width", type=click.IntRange(1), default=320, show_default=True, help="Of the pictures."
)
@click.option(
    "--height", type=click.IntRange(1), default=240, show_default=True, help="Of the pictures."
)
@click.option(
    "--yaw",
    type=click.FloatRange(0),
    metavar="DEGREES",
    help="How far people turn away from the camera (standard deviation); default: any direction.",
)
@click.option("--seed", default=0, show_default=True, help="Everything random follows from it.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one per core.")
@click.option(
    "--body-models",
    type=click.Path(path_type=Path),
    help="Folder of your SMPL files; without it the stand-in body is used.",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="Folder for <split>.npz: exact bodies, joints and cameras, which a release does not hold.",
)
def synthesize(
    release: str,
    out: Path,
    people: int,
    val: int,
    train: int,
    validation: int,
    test: int,
    frames: int,
    width: int,
    height: int,
    yaw: float | None,
    seed: int,
    workers: int | None,
    body_models: Path | None,
    truth: Path | None,
) -> None:
    """Write the raw release RELEASE of synthetic people into the new folder OUT.

    Annotation files and pictures have the true format of the dataset, so the ordinary converter
    reads them; the ground truth is exact.
    """
    from humandata import synthetic_releases
    from humandata.bodymodel import body_model
    from humandata.cli.console import Bars
    from humandata.errors import HumandataError

    if out.exists() and any(out.iterdir()):
        raise HumandataError(f"{out} is not empty: choose another folder")
    bars = Bars()
    workers = workers or os.cpu_count() or 1
    size = (width, height)

    def show(done: int, total: int) -> None:
        bars("pictures", done, total)

    settings: dict[str, Any] = {
        "seed": seed, "size": size, "workers": workers, "body_models": body_models,
        "yaw": yaw, "truth": truth, "progress": show,
    }  # fmt: skip
    try:
        if release == "coco":
            counts = {"train2017": people, "val2017": val}
            synthetic_releases.write_coco(
                out, {split: n for split, n in counts.items() if n}, **settings
            )
        else:
            counts = {"train": train, "validation": validation, "test": test}
            synthetic_releases.write_pw3d(
                out, {split: n for split, n in counts.items() if n}, frames=frames, **settings
            )
    finally:
        bars.close()
    files = sum(1 for file in out.rglob("*.jpg"))
    body = body_model("neutral", body_models).title
    click.echo(f"{out}: a {release} release of {files:,} pictures, {body}")
