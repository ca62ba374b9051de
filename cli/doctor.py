"""``humandata doctor``: is everything there, and how fast can this machine feed a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from humandata.training.doctor import Speed

RATES = (500, 1000, 2000, 4000)
"""Samples per second for which threads are counted when no GPU is at hand."""


@click.command(epilog="Example: humandata doctor coco_train.zarr --need 2500")
@click.argument("store", type=click.Path(path_type=Path), required=False)
@click.option(
    "--need",
    type=click.FloatRange(min=0, min_open=True),
    metavar="RATE",
    help="Samples per second that your GPU takes; measured where there is a GPU.",
)
@click.option(
    "--samples", type=click.IntRange(16), default=256, show_default=True, help="Persons to crop."
)
@click.option(
    "--image-size", type=click.IntRange(16, 2048), default=224, show_default=True,
    help="Side of the crops in pixels.",
)  # fmt: skip
@click.option(
    "--body",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare our body model with smplx on your own SMPL file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(
    store: Path | None,
    need: float | None,
    samples: int,
    image_size: int,
    body: Path | None,
    as_json: bool,
) -> None:
    """Say what is installed and, for STORE, how many samples per second a thread makes of it.

    Of each step from the store to an augmented batch (bytes, decode, warp, the whole batch,
    augment) the time of one sample on one thread is shown, then what several threads make
    together, and how many it takes to keep a GPU busy.
    """
    import humandata
    from humandata.cli.console import print_json
    from humandata.training import doctor as examination

    report: dict[str, Any] = {"environment": examination.environment()}
    if not as_json:
        _print_environment(report["environment"])
    if store is not None:
        opened = humandata.open(store)
        if need is None and report["environment"]["gpus"]:
            need = examination.need_of_gpu(image_size=image_size)
        speed = examination.measure(opened, samples, image_size, need=need)
        report["speed"] = speed.as_dict()
        if not as_json:
            click.echo(f"\n{opened!r}")
            _print_speed(speed)
    if body is not None:
        from humandata.training.body_check import compare

        difference = compare(body)
        report["body"] = difference.as_dict()
        if not as_json:
            click.echo(f"\n{difference}")
    if as_json:
        print_json(report)


def _print_environment(found: Mapping[str, Any]) -> None:
    from humandata.cli.console import table
    from humandata.training.doctor import PACKAGES

    rows = [
        ("humandata", found["humandata"], ""),
        ("python", found["python"], found["platform"]),
        ("cores", found["cores"], "that this process may use"),
    ]
    for gpu in found["gpus"]:
        words = f"{gpu['memory_gib']} GiB, CUDA {found['cuda']}"
        rows.append(("gpu", gpu["name"], words + ("" if gpu["bfloat16"] else ", no bfloat16")))
    if not found["gpus"]:
        rows.append(("gpu", "none", "training runs on the CPU, slowly"))
    for name, version in found["packages"].items():
        rows.append((name, version or "missing", PACKAGES[name]))
    click.echo(table(rows))
    click.echo()
    jpeg = [(f"decodes {use}", what) for use, what in found["jpeg"]["decoders"].items()]
    jpeg.append(("tiles JPEG", found["jpeg"]["tiling"]))
    bodies = found["body_models"]
    if not bodies["folder"]:
        words = "the stand-in; set HUMANDATA_BODY_MODELS to the folder of your SMPL files"
    else:
        words = f"{bodies['folder']}: {', '.join(bodies['files']) or 'no SMPL file found there'}"
    click.echo(table([*jpeg, ("body models", words)]))


def _print_speed(speed: Speed) -> None:
    from humandata.cli.console import table

    rows = [
        (stage.name, f"{stage.milliseconds:.3f}", f"{stage.samples_per_second:,.0f}")
        for stage in speed.stages
    ]
    click.echo(table(rows, ("step", "ms per sample", "samples/s, one thread")))
    click.echo(f"\none thread, from store to augmented batch: {speed.total:,.0f} samples/s")
    for count, rate in speed.threads.items():
        click.echo(f"{count} thread{'s' * (count > 1)} making batches: {rate:,.0f} samples/s")
    if speed.need is not None:
        count = speed.threads_needed(speed.need)
        feed = "1 thread feeds it" if count == 1 else f"{count:,} threads feed it"
        click.echo(f"the GPU takes {speed.need:,.0f} samples/s: {feed}")
    else:
        counts = ", ".join(f"{speed.threads_needed(rate)} for {rate:,}" for rate in RATES)
        click.echo(f"threads that feed a GPU, by the samples/s it takes: {counts}")
