"""``humandata mix``: the mixes of datasets, and what they need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from humandata.training.mixes import NamedMix


@click.command(epilog="Example: humandata mix mix2 --stores /data/stores")
@click.argument("name", required=False)
@click.option(
    "--stores",
    type=click.Path(path_type=Path),
    help="Folder of your stores (default: $HUMANDATA_STORES, else the current folder).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def mix(name: str | None, stores: Path | None, as_json: bool) -> None:
    """Show the mixes 1 to 11 of hmr-benchmarks and those of CLIFF, and which stores are missing.

    A store is looked for under the name hmr-benchmarks gives its file, such as
    h36m_mosh_train.zarr. Train from a mix with: humandata train --mix mix2 --out RUN
    """
    from humandata.cli.console import print_json
    from humandata.training import mixes

    found = [mixes.find(one, stores) for one in ([name] if name else mixes.names())]
    if as_json:
        print_json([_document(one) for one in found])
    elif name:
        _print_one(found[0])
    else:
        _print_all(found)


def _document(mix: NamedMix) -> dict[str, Any]:
    from dataclasses import asdict

    parts = [
        asdict(part) | {"path": None if part.path is None else str(part.path)} for part in mix.parts
    ]
    return {"name": mix.name, "parts": parts, "published": dict(mix.published), "note": mix.note}


def _print_all(found: list[NamedMix]) -> None:
    from humandata.cli.console import table

    rows = [
        (
            one.name,
            f"{len(one.parts) - len(one.missing)} of {len(one.parts)}",
            _published(one),
            ", ".join(f"{part.title} {part.weight:g}" for part in one.parts),
        )
        for one in found
    ]
    click.echo(table(rows, ("mix", "stores here", "published mm", "shares")))
    click.echo("\npublished: PA-MPJPE on 3DPW test of HMR on ResNet-50, base / L1 losses")


def _published(mix: NamedMix) -> str:
    return " / ".join(f"{mix.published[key]:.2f}" for key in ("base", "l1") if key in mix.published)


def _print_one(mix: NamedMix) -> None:
    from humandata.cli.console import table

    rows = [
        (part.store, f"{part.weight:g}", part.title, str(part.path or "missing"))
        for part in mix.parts
    ]
    click.echo(table(rows, ("store", "share", "dataset", "where")))
    click.echo()
    if mix.published:
        click.echo(f"published for HMR on ResNet-50 (3DPW test, PA-MPJPE): {_published(mix)} mm")
    if mix.note:
        click.echo(mix.note)
    if mix.missing:
        click.echo("\nto make what is missing:")
    for part in mix.missing:
        click.echo(f"  {part.command or f'{part.title}: no converter yet'}")
