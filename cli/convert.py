"""``humandata convert``: raw annotations in, one store out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from humandata.converters.converter import Report


@click.command(epilog="Example: humandata convert coco coco2017 coco_val.zarr --split val2017")
@click.argument("dataset", required=False)
@click.argument("raw", required=False, type=click.Path(path_type=Path))
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option(
    "--list",
    "show_list",
    is_flag=True,
    help="Every dataset (or DATASET alone): what it expects on the disk, what it yields, its "
    "licence and its options.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Only say what of the release is there, what is missing, and whether the disk has room; "
    "STORE may be left out. Exit status 0 if the conversion could start, else 1.",
)
@click.option("--split", help="Split to convert; may be left out if only one is on the disk.")
@click.option(
    "--pictures",
    type=click.Choice(["tiled", "original", "none"]),
    help="tiled (the default): store JPEG files with restart markers, pixels unchanged and most "
    "often not larger, so that training decodes only the part of a picture it needs; other files "
    "as they are. original: store every file byte for byte. none: keep the paths only; the raw "
    "folder has to stay where it is.",
)
@click.option(
    "--crop",
    type=click.IntRange(16),
    metavar="PIXELS",
    help="Instead of pictures, store one small JPEG per person, scaled down (lossy!) so that the "
    "square a training crop shows is this wide, with a margin for random scale and turns. For 4K "
    "pictures and video; 256 suits networks of 224 and 256 pixels.",
)
@click.option(
    "--crop-quality",
    type=click.IntRange(1, 100),
    help="JPEG quality of the crops; default: 92.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one per core.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Work on a Dask cluster: tcp://host:port of its scheduler, or slurm with --workers N. RAW "
    "and STORE must lie where all its machines see them.",
)
@click.option("--limit", type=click.IntRange(1), help="Stop after this many persons.")
@click.option("--strict", is_flag=True, help="Fail on the first record that cannot be used.")
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the converter."
)
@click.option("--filter", "filter_", metavar="PEER", help="Short for --option filter=PEER.")
@click.option("--restart", is_flag=True, help="Throw away what an interrupted run left.")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there already.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON; no progress.")
def convert(
    dataset: str | None,
    raw: Path | None,
    store: Path | None,
    show_list: bool,
    check: bool,
    split: str | None,
    options: tuple[str, ...],
    filter_: str | None,
    as_json: bool,
    pictures: str | None,
    crop: int | None,
    crop_quality: int | None,
    **settings: Any,
) -> None:
    """Convert the raw release RAW of DATASET into the new store STORE.

    Interrupted at any moment, the same command continues where it stopped and gives the same
    result. Records that cannot be used are counted by reason and listed in STORE.rejects.jsonl.
    The exit status is 0 if the store was written, missing or damaged pictures and records or not,
    and 1 if it was not, or if a whole annotation file is lost.
    """
    from humandata.cli.console import Bars, print_json
    from humandata.errors import HumandataError

    if show_list:
        _print_datasets(dataset, as_json)
        return
    if dataset is None or raw is None or (store is None and not check):
        raise click.UsageError("DATASET, RAW and STORE are needed (or --list, or --check).")
    if crop is not None and pictures not in (None, "none"):
        raise click.UsageError(
            f"A store of crops holds no whole pictures: leave out --crop or --pictures {pictures}."
        )
    if crop_quality is not None:
        if crop is None:
            raise click.UsageError("--crop-quality goes with --crop.")
        settings["crop_quality"] = crop_quality
    settings |= {"pictures": pictures, "crop": crop}
    chosen = _parse(options)
    if filter_ is not None:
        chosen["filter"] = filter_
    if check or store is None:
        kept = ("pictures", "crop", "strict", "overwrite", "restart")
        said = {name: settings[name] for name in kept}
        _check(dataset, raw, store, as_json, split=split, options=chosen, **said)
        return
    from humandata.converters import converter

    bars = Bars(quiet=as_json)
    try:
        report = converter.convert(
            dataset, raw, store, split=split, options=chosen, progress=bars, **settings
        )
    finally:
        bars.close()
    if as_json:
        print_json(report.as_dict())
    else:
        _print_report(report)
    if report.lost_files:
        files = "1 file" if report.lost_files == 1 else f"{report.lost_files} files"
        raise HumandataError(
            f"{files} of annotations cannot be used: {report.rejects_file} says which and why. "
            f"{report.store} holds the rest; put that right and convert again with --overwrite"
        )


def _check(dataset: str, raw: Path, store: Path | None, as_json: bool, **settings: Any) -> None:
    from humandata.cli.console import print_json
    from humandata.release_check import check_release, describe

    said = check_release(dataset, raw, store, **settings)
    if as_json:
        print_json(said.as_dict())
    else:
        click.echo("\n".join(describe(said)))
    if not said.could_start:
        raise SystemExit(1)


def _parse(options: tuple[str, ...]) -> dict[str, str]:
    parsed = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise click.UsageError(f"--option {option}: write NAME=VALUE")
        parsed[name] = value
    return parsed


def _print_report(report: Report) -> None:
    from humandata.cli.console import table

    rows: list[tuple[str, str]] = [("records read", f"{report.records:,}")]
    rows += [(f"  filtered: {rule}", f"{n:,}") for rule, n in report.filtered.items()]
    rows += [(f"  rejected: {reason}", f"{n:,}") for reason, n in report.rejected.items()]
    rows += [("persons written", f"{report.instances:,}"), ("pictures", f"{report.images:,}")]
    if report.tiled or report.kept_untiled:
        rows.append(("  tiled", f"{report.tiled:,}"))
        rows += [(f"  kept as is: {why}", f"{n:,}") for why, n in report.kept_untiled.items()]
    if report.crops or report.without_crop:
        rows += [("crops", f"{report.crops:,}"), ("  no box to crop", f"{report.without_crop:,}")]
    click.echo(table(rows))
    if report.records and not report.instances:
        click.echo(
            f"nobody was written: 'humandata convert {report.dataset} --check RAW' says what is "
            "missing"
        )
    if report.rejects_file is not None:
        click.echo(f"rejected records are listed in {report.rejects_file}")
    for note in report.notes:
        click.echo(f"note: {note}")
    resumed = " (resumed)" if report.resumed else ""
    click.echo(
        f"{report.store}: {report.dataset} {report.split} in {report.seconds:.1f} s{resumed}, "
        f"fingerprint {report.fingerprint[:16]}"
    )


def _print_datasets(dataset: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from humandata.cli.console import print_json
    from humandata.converters import converter

    modules = [converter.find(dataset)] if dataset else converter.datasets().values()
    infos = [module.INFO for module in modules]
    if as_json:
        print_json([asdict(info) for info in infos])
        return
    for info in infos:
        click.secho(info.name, bold=True, nl=False)
        click.echo(f"  {info.title}")
        said = (("see", info.url), ("splits", ", ".join(info.splits)), ("expects", info.expects),
                ("yields", info.yields), ("licence", info.licence))  # fmt: skip
        for word, text in said:
            _print_under(f"  {word:<9}", text)
        for option in info.options:
            values = "|".join(option.choices) or (option.default or "...")
            default = f" (default: {option.default})" if option.choices and option.default else ""
            _print_under("  --option ", f"{option.name}={values}  {option.help}{default}")
        click.echo()


def _print_under(head: str, text: str) -> None:
    """Lines of the terminal's width, the further ones below the first one's text."""
    import shutil

    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    indent = " " * len(head)
    click.echo(click.wrap_text(text, width, initial_indent=head, subsequent_indent=indent))
