"""``humandata eval``: a checkpoint or stored predictions in, errors in millimetres out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from humandata.training.results import Result, Row

STORES_VARIABLE = "HUMANDATA_STORES"
COLUMNS = 4  # metrics beside one another: what a terminal of some 130 columns holds


@click.command(
    epilog="""
    \b
    Examples:
      humandata eval pw3d --store pw3d_test.zarr --checkpoint runs/hmr --html report.html
      humandata eval pw3d_test.zarr --predictions mine.npz --json
      humandata eval pw3d_test.zarr --predictions mine.npz --compare pw3d-test pw3d-test-mmhuman3d
    """
)
@click.argument("benchmark", metavar="BENCHMARK|STORE")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help=f"Store of the benchmark; default: its usual name in ${STORES_VARIABLE}.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="A run or one checkpoint.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="A .npz of predictions, in place of a checkpoint; needs no torch.",
)
@click.option("--protocol", help="Name of a protocol; default: the one of the benchmark or store.")
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Score the same predictions by two protocols and show what the choice is worth.",
)
@click.option(
    "--body-models",
    type=click.Path(path_type=Path),
    help="Folder of your SMPL files; default: $HUMANDATA_BODY_MODELS, else the stand-in body.",
)
@click.option(
    "--metrics",
    help="Default: mpjpe,pa_mpjpe,pve. Besides: n_mpjpe, pa_pve, pck3d, pa_pck3d, auc, pa_auc, "
    "acceleration.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Threads.")
@click.option("--limit", type=click.IntRange(1), help="So many rows only, evenly spread.")
@click.option("--partial", is_flag=True, help="Leave out rows that have no prediction.")
@click.option("--any-store", is_flag=True, help="Accept a store the protocol is not made for.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the predictions in this .npz.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a report with pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; no progress.")
def eval(
    benchmark: str,
    store: Path | None,
    checkpoint: Path | None,
    predictions: Path | None,
    protocol: str | None,
    compare: tuple[str, str] | None,
    body_models: Path | None,
    metrics: str | None,
    out: Path | None,
    html: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Evaluate a checkpoint, or predictions, on a benchmark or any store with SMPL bodies.

    Benchmarks: pw3d, h36m (protocol 2), mpi-inf-3dhp, eft-coco, eft-lspet, eft-ochuman.

    The protocol is printed with the figures: MPJPE, PA-MPJPE and PVE in millimetres with 95 %
    bootstrap intervals, for every sequence, and for the mean pose as a baseline.
    """
    if (checkpoint is None) == (predictions is None):
        raise click.UsageError("give either --checkpoint or --predictions")
    if compare is not None and (protocol is not None or html is not None):
        raise click.UsageError("--compare names both protocols; leave out --protocol and --html")
    path, named = _find(benchmark, store)
    if compare is not None:
        named = compare[0]
    from humandata.cli.console import Bars, print_json
    from humandata.store import open as open_store
    from humandata.training.evaluation import evaluate

    opened = open_store(path)
    bars = Bars(quiet=as_json)
    try:
        result = evaluate(
            opened,
            checkpoint=checkpoint,
            predictions=predictions,
            protocol=protocol or named,
            body_models=body_models,
            metrics=None if metrics is None else [m.strip() for m in metrics.split(",")],
            progress=bars,
            **settings,
        )
        if compare is not None:
            settings |= {"checkpoint": None, "protocol": compare[1], "body_models": body_models}
            shared = list(result.metrics)
            other = evaluate(
                opened, predictions=result.predictions, metrics=shared, progress=bars, **settings
            )
    finally:
        bars.close()
    written = []
    if out is not None:
        from humandata.training.predictions import save_predictions

        written.append(save_predictions(result.predictions, out))
    if html is not None:
        from humandata.training.evaluation_report import write_report

        written.append(write_report(result, opened, html, body_models))
    if compare is not None:
        if as_json:
            print_json({"protocols": [result.as_dict(), other.as_dict()]})
        else:
            _print_comparison(result, other)
        return
    if as_json:
        print_json(result.as_dict())
        return
    _print(result)
    for file in written:
        click.echo(f"written: {file}")


def _find(benchmark: str, store: Path | None) -> tuple[Path, str | None]:
    """The store to evaluate on, and the protocol that a benchmark brings along."""
    from humandata.errors import HumandataError
    from humandata.training.protocols import BENCHMARKS

    if benchmark not in BENCHMARKS:
        path = Path(benchmark)
        if store is not None:
            raise click.UsageError("--store goes with a benchmark; STORE was given already")
        if not path.exists():
            raise HumandataError(
                f"{benchmark} is neither a benchmark ({', '.join(BENCHMARKS)}) nor a store on disk"
            )
        return path, None
    known = BENCHMARKS[benchmark]
    if store is not None:
        return store, known.protocol
    folder = os.environ.get(STORES_VARIABLE)
    path = Path(folder or ".") / known.store
    if folder is None or not path.exists():
        looked = f"{path} is not there" if folder else f"${STORES_VARIABLE} is not set"
        raise HumandataError(
            f"no store for {benchmark}: {looked}. Name one by --store; make it by: {known.made_by}"
        )
    return path, known.protocol


def _print(result: Result) -> None:
    from humandata.cli.console import table
    from humandata.training.results import UNITS, heading

    click.echo(f"{result.source} on {result.store['path']}")
    click.echo()
    click.echo(table([(f"  {topic}", words) for topic, words in result.protocol.in_words()]))
    click.echo()
    # One sequence is all there is: its line would say the same again.
    sequences = result.sequences if len(result.sequences) > 1 else ()
    for first in range(0, len(result.metrics), COLUMNS):
        shown = result.metrics[first : first + COLUMNS]
        lines = [_line("all", result.overall, shown)]
        lines += [_line(f"  {row.name}", row, shown) for row in sequences]
        lines.append(_line("mean pose for everybody", result.baseline, shown))
        unit = "mm, " if any(UNITS[metric] == "mm" for metric in shown) else ""
        click.echo(table(lines, [f"{unit}95 % interval", "persons", *map(heading, shown)]))
        click.echo()
    for note in result.notes:
        click.secho("Note: ", fg="yellow", nl=False)
        click.echo(note)


def _print_comparison(first: Result, second: Result) -> None:
    """The figures of two protocols, what differs between them, and the difference in mm."""
    from humandata.cli.console import table
    from humandata.training.results import heading

    click.echo(f"{first.source} on {first.store['path']}")
    names = [first.protocol.name, second.protocol.name]
    topics = zip(first.protocol.in_words(), second.protocol.in_words(), strict=True)
    click.echo("\nwhat differs")
    for (topic, *a), (_, *b) in topics:
        if a != b and topic != "protocol":
            lines = [(f"    {name}", words) for name, (words,) in zip(names, (a, b), strict=True)]
            click.echo(f"  {topic}\n{table(lines)}")
    rows = []
    for metric in first.metrics:
        figures = [result.overall.figures[metric].mean for result in (first, second)]
        change = figures[1] - figures[0]
        rows.append((heading(metric), *(f"{value:.2f}" for value in figures), f"{change:+.2f}"))
    click.echo()
    click.echo(table(rows, ("mm", *names, "difference")))
    if first.overall.rows != second.overall.rows:
        click.echo(
            f"They count {first.overall.rows:,} and {second.overall.rows:,} persons: part of the "
            "difference is that."
        )
    for note in dict.fromkeys([*first.notes, *second.notes]):
        click.secho("Note: ", fg="yellow", nl=False)
        click.echo(note)


def _line(name: str, row: Row, metrics: Sequence[str]) -> list[str]:
    from humandata.training.results import in_print

    return [name, f"{row.rows:,}", *(in_print(row.figures[metric]) for metric in metrics)]
