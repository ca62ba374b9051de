"""``humandata mix``: the mixes of datasets, and what they need."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from humandata.training.mixes import NamedMix, NamedRecipe

SHARES_WIDTH = 60  # columns; the table then fits into some hundred


@click.command(epilog="Example: humandata mix mix2 --stores /data/stores")
@click.argument("name", required=False)
@click.option(
    "--stores",
    type=click.Path(path_type=Path),
    help="Folder of your stores (default: $HUMANDATA_STORES, else the current folder).",
)
@click.option("--recipes", is_flag=True, help="List the recipes, and what is published of each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def mix(name: str | None, stores: Path | None, recipes: bool, as_json: bool) -> None:
    """Show the mixes of hmr-benchmarks, SPIN and CLIFF, and which stores are missing.

    A store is looked for under the name hmr-benchmarks gives its file, such as
    h36m_mosh_train.zarr. Train from a mix with: humandata train --mix mix2 --out RUN
    """
    from humandata.cli.console import print_json
    from humandata.training import mixes

    if recipes:
        _print_recipes(name, as_json)
        return
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
    return {
        "name": mix.name,
        "parts": parts,
        "published": dict(mix.published),
        "results": _results(mix.name),
        "note": mix.note,
    }


def _results(mix: str) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from humandata.training import mixes

    return [{"recipe": one.name, **asdict(row)} for one, row in mixes.published_on(mix)]


def _print_recipes(mix: str | None, as_json: bool) -> None:
    """All recipes; those of one mix, or published on it, where it is named."""
    from humandata.cli.console import print_json, table
    from humandata.training import mixes

    if mix is not None:
        mixes.find(mix)  # which refuses what is no mix
    every = [mixes.named_recipe(one) for one in mixes.recipe_names()]
    wanted = [one for one in every if mix in (None, one.mix) or one.published(mix)]
    if as_json:
        fields = ("name", "title", "mix", "config", "init", "prior", "note")
        print_json(
            [
                {field: getattr(one, field) for field in fields}
                | {"settings": mixes.settings(one.name)}
                | {"results": _results_of(one, mix)}
                for one in wanted
            ]
        )
        return
    rows = [
        (
            one.name,
            one.recipe.backbone,
            mix or one.mix,
            "prior" if one.prior else "",
            _best(one, mix),
        )
        for one in wanted
    ]
    click.echo(table(rows, ("recipe", "backbone", "mix", "", "published mm")))
    click.echo("\npublished: PA-MPJPE on 3DPW test, with ? where doubtful; more by")
    click.echo("humandata train --recipe NAME --dry-run")


def _results_of(named: NamedRecipe, mix: str | None) -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [asdict(row) for row in (named.published(mix) if mix else named.results)]


def _best(named: NamedRecipe, mix: str | None) -> str:
    rows = named.published(mix)
    return " / ".join(f"{row.pa_mpjpe:.2f}{'?' if row.suspect else ''}" for row in rows)


def _print_all(found: list[NamedMix]) -> None:
    from humandata.cli.console import table

    rows = []
    for one in found:
        here = f"{len(one.parts) - len(one.missing)} of {len(one.parts)}"
        shares = ", ".join(f"{part.title} {part.weight:g}" for part in one.parts)
        first, *others = textwrap.wrap(shares, SHARES_WIDTH)
        rows.append((one.name, here, _published(one), first))
        rows += [("", "", "", line) for line in others]
    click.echo(table(rows, ("mix", "stores here", "published mm", "shares")))
    click.echo("\npublished: PA-MPJPE on 3DPW test of HMR on ResNet-50, base / L1 losses")
    click.echo("humandata mix --recipes lists every published configuration")


def _published(mix: NamedMix) -> str:
    return " / ".join(f"{mix.published[key]:.2f}" for key in ("base", "l1") if key in mix.published)


def _print_one(mix: NamedMix) -> None:
    from humandata.cli.console import table
    from humandata.training import mixes

    rows = [
        (part.store, f"{part.weight:g}", part.title, str(part.path or "missing"))
        for part in mix.parts
    ]
    click.echo(table(rows, ("store", "share", "dataset", "where")))
    click.echo()
    results = mixes.published_on(mix.name)
    if results:
        click.echo("published on 3DPW test, by recipe:")
    for named, row in results:
        click.echo(f"  {named.name}: {row.in_print()}")
    if mix.note:
        click.echo(mix.note)
    if mix.missing:
        click.echo("\nto make what is missing:")
    for part in mix.missing:
        click.echo(f"  {part.command or f'{part.title}: no converter yet'}")
