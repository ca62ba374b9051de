"""``humandata inspect``: what is in a store, and whether it is sound."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from humandata.checks import Check
    from humandata.store import Store


@click.command(
    epilog="""
    \b
    Examples:
      humandata inspect coco_val.zarr --verify --html report.html
      humandata inspect coco_val.zarr --augment hard_erasing --html erasing.html
    """
)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Check that it is sound; exit status 1 if it is not.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT",
    help="Write a report with pictures, joints, meshes and histograms; it is one file.",
)
@click.option(
    "--augment",
    multiple=True,
    metavar="NAME",
    help="Show what an augmentation of training does to some people, in a file of its own (--html, "
    "else STORE_augment.html): a name that train --augment takes, channel_noise, random_crop, "
    "flip_scale_rotation, or all. Repeat for more. Needs humandata[train].",
)
@click.option(
    "--occluders",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Objects for --augment synthetic_occlusion and keypoint_occlusion (pascal_occluders.npy).",
)
@click.option(
    "--people",
    type=click.IntRange(0),
    show_default="12, or 4 with --augment",
    help="Shown in the report.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which people are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; no progress.")
def inspect(
    store: Path,
    verify: bool,
    html: Path | None,
    augment: tuple[str, ...],
    occluders: Path | None,
    people: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Show what the store STORE holds: rows, fields, joints, cameras, bodies, where it comes from.

    With --verify, every chunk and picture is held against its checksum, every field against the
    schema, and the people against what is possible: 3D joints and bodies that fall on 2D joints,
    bodies that stand on 3D joints, bones that keep their length, left that is left, boxes that hold
    their joints, nobody twice. What is merely odd is a warning and leaves the exit status 0.
    """
    import humandata
    from humandata import inspection
    from humandata.cli.console import Bars, print_json

    if augment and verify:
        raise click.UsageError("--augment draws pictures and --verify checks; call them apart")
    if occluders and not augment:
        raise click.UsageError("--occluders goes with --augment")
    opened = humandata.open(store)
    if augment:
        _augment(opened, augment, html, occluders, 4 if people is None else people, seed, as_json)
        return
    people = 12 if people is None else people
    checks: list[Check] | None = None
    if verify or html is not None:
        bars = Bars(quiet=as_json)
        try:
            checks = inspection.verify(opened, bars)
        finally:
            bars.close()
    summary = _summary(opened, checks)
    if html is not None:
        from humandata.report import write_report

        write_report(opened, html, people, seed, checks)
    sound = checks is None or inspection.is_sound(checks)
    if as_json:
        document: dict[str, Any] = dict(summary)
        if checks is not None:
            document |= {"sound": sound, "checks": [check.as_dict() for check in checks]}
        if html is not None:
            document["html"] = str(html)
        print_json(document)
    else:
        _print_summary(summary)
        if checks is not None:
            _print_checks(checks, every=verify)
        if html is not None:
            click.echo(f"report: {html}")
    if verify and not sound:
        sys.exit(1)


def _augment(
    store: Store,
    names: tuple[str, ...],
    html: Path | None,
    occluders: Path | None,
    people: int,
    seed: int,
    as_json: bool,
) -> None:
    from importlib.util import find_spec

    from humandata.cli.console import print_json
    from humandata.errors import MissingExtra

    if find_spec("torch") is None:
        raise MissingExtra("torch", "train")
    from humandata.training.augmentation_sheet import write_sheet

    out = html or Path(f"{store.path.stem}_augment.html")
    write_sheet(store, names, out, people, seed, str(occluders) if occluders else None)
    if as_json:
        print_json({"html": str(out)})
    else:
        click.echo(f"augmentations: {out}")


def _summary(store: Store, checks: Sequence[Check] | None) -> Mapping[str, Any]:
    """The summary; of a store too damaged to be read, what can be said of it."""
    from humandata import inspection
    from humandata.errors import HumandataError

    try:
        return inspection.summarise(store)
    except HumandataError as error:
        if checks is None:
            raise
        return {"path": str(store.path), "dataset": store.dataset, "error": str(error)}


def _print_summary(summary: Mapping[str, Any]) -> None:
    from humandata.cli.console import table
    from humandata.report import field_in_words, size_in_words

    if "error" in summary:
        click.echo(f"{summary['path']}: {summary['error']}")
        return
    name = " ".join(filter(None, [summary["dataset"], summary["split"]]))
    click.secho(name, bold=True, nl=False)
    click.echo(f"  {summary['title'] or ''}")
    facts = [
        ("store", f"{summary['path']}, {size_in_words(summary['bytes'])}"),
        ("rows", ", ".join(f"{n:,} {table}" for table, n in summary["rows"].items())),
        ("records", _counts(summary["counts"])),
        ("pictures", _pictures(summary)),
        ("crops", _crops(summary["crops"])),
        ("cameras", _cameras(summary["cameras"])),
        ("bodies", ", ".join(f"{name} {_percent(n)}" for name, n in summary["bodies"].items())),
        ("fits by", _words(summary["sources"])),
        ("residuals", _residuals(summary["residuals"])),
        ("genders", _words(summary["genders"])),
        ("visibility", _words(summary["visibility"])),
        ("licence", summary["licence"] or "not said"),
        ("made by", summary["provenance"].get("converter", "")),
        ("fingerprint", str(summary["fingerprint"])),
        *(("note", note) for note in summary["notes"]),
    ]
    click.echo(table([(key, text) for key, text in facts if text]))
    rows = [
        (
            f"{field['table']}/{field['name']}",
            field["dtype"],
            " x ".join(map(str, field["shape"])),
            f"{field['chunks']} x {field['chunk_rows']}",
            _percent(field["present"]),
            field_in_words(field),
        )
        for field in summary["fields"]
    ]
    click.echo()
    click.echo(table(rows, ("field", "type", "shape", "chunks x rows", "present", "says")))
    for name, shares in summary["joints"].items():
        lines = [f"{joint} {_percent(share)}" for joint, share in shares.items()]
        click.echo(f"\n{name}, share of people who have the joint")
        click.echo(table(_columns(lines, 4)))


def _columns(cells: Sequence[str], count: int) -> list[list[str]]:
    """Cells in columns, read downwards."""
    height = -(-len(cells) // count)
    padded = [*cells, *[""] * (height * count - len(cells))]
    return [padded[row::height] for row in range(height)]


def _counts(counts: Mapping[str, Any]) -> str:
    words = [f"{counts.get('records', 0):,} read", f"{counts.get('written', 0):,} written"]
    for kind in ("filtered", "rejected"):
        words += [f"{n:,} {kind} ({rule})" for rule, n in counts.get(kind, {}).items()]
    return ", ".join(words)


def _pictures(summary: Mapping[str, Any]) -> str:
    from humandata.report import size_in_words

    pictures, persons = summary["pictures"], summary["persons_per_picture"]
    words = [f"{pictures['stored']:,} stored ({size_in_words(pictures['bytes'])})"]
    if pictures["tiled"] or pictures["kept_untiled"]:
        words[0] += f", {pictures['tiled']:,} of them tiled"
        words += [f"{n:,} kept as is: {why}" for why, n in pictures["kept_untiled"].items()]
    if pictures["width"]:
        sizes = zip(pictures["width"].values(), pictures["height"].values(), strict=True)
        words.append("sizes " + ", ".join(f"{w:.0f} x {h:.0f}" for w, h in sizes))
    if persons:
        words.append("persons in one " + ", ".join(f"{n:g}" for n in persons.values()))
    return "; ".join(words) + (" (least, median, most)" if len(words) > 1 else "")


def _crops(crops: Mapping[str, Any] | None) -> str:
    from humandata.report import size_in_words

    if crops is None:
        return ""
    made = crops["made"] if isinstance(crops["made"], list) else [crops["made"]]
    kinds = {f"box {m['size']} px wide, quality {m['quality']}" for m in made if m}
    stored = f"{crops['stored']:,} stored ({size_in_words(crops['bytes'])}), lossy"
    return "; ".join([stored, *sorted(kinds)])


def _cameras(cameras: Mapping[str, Any]) -> str:
    if not cameras:
        return ""
    text = f"intrinsics {_percent(cameras['known'])}, extrinsics {_percent(cameras['extrinsics'])}"
    focal = cameras["focal_px"]
    return f"{text}, focal {focal['min']:.0f} to {focal['max']:.0f} px" if focal else text


def _residuals(residuals: Mapping[str, Mapping[str, float]]) -> str:
    return "; ".join(
        f"{name} median {r['median']:.1f} px, 95 % below {r['95%']:.1f} px ({r['people']:,} people)"
        for name, r in residuals.items()
    )


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{word} {count:,}" for word, count in counts.items())


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


MARKS = {"passed": "green", "warning": "yellow", "failed": "red", "not applicable": None}


def _print_checks(checks: Iterable[Check], every: bool) -> None:
    """All checks with what they found; or only the sentence that sums them up."""
    from humandata.report import verdict_in_words

    listed = list(checks)
    text, _ = verdict_in_words(listed)
    click.echo()
    for check in listed if every else ():
        mark = "-" if check.passed is None else check.verdict
        click.secho(f"{mark:8}", fg=MARKS[check.verdict], nl=False)
        click.echo(f" {check.name:18} {check.summary}")
        for where, what in check.details:
            click.echo(f"{'':9}  {where}: {what}")
    click.echo(text)
