"""``humandata export``: a store as an annotation file of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from humandata.exporting import Exported


@click.command(epilog="Example: humandata export coco_val.zarr coco_val.npz --format humandata")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["humandata", "spin", "coco"]),
    required=True,
    help="humandata: npz of mmhuman3d. spin: npz of SPIN and its kin. coco: keypoint JSON.",
)
@click.option(
    "--approximate",
    is_flag=True,
    help="Let near joints stand in for those the store lacks, such as SMPL's hips for COCO's.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def export(
    store: Path, out: Path, format_: str, approximate: bool, overwrite: bool, as_json: bool
) -> None:
    """Write the store STORE as the annotation file OUT.

    The file holds the paths of the pictures, not the pictures. What the format cannot hold is
    listed.
    """
    import humandata
    from humandata import exporting
    from humandata.cli.console import print_json

    made = exporting.export(
        humandata.open(store), out, format_, approximate=approximate, overwrite=overwrite
    )
    if as_json:
        print_json(made.as_dict())
    else:
        _print(made)


def _print(made: Exported) -> None:
    click.echo(f"{made.out}: {made.persons:,} people in {made.pictures:,} pictures ({made.format})")
    for note in made.notes:
        click.echo(f"note: {note}")
    for name, why in made.left_out.items():
        click.echo(f"left out: {name}: {why}")
