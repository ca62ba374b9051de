"""``humandata weights``: published checkpoints as this package's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from humandata.training.weights import Recognised

READERS = {
    "weights_only": "torch.load, weights only",
    "restricted": "the reader that makes tensors and plain containers only",
}


@click.group()
def weights() -> None:
    """Bring weights along: checkpoints of other projects, and pretrained backbones."""


@weights.command(
    "import",
    epilog="""
    \b
    Examples:
      humandata weights import resnet50_hmr_pw3d.pth --out hmr.safetensors
      humandata eval pw3d_test.zarr --checkpoint hmr.safetensors
      humandata weights import hrnet_w32_coco.pth --out coco.safetensors
      humandata train --mix coco.zarr --backbone hrnet_w32_hmrbench --init coco.safetensors ...
      humandata weights import pare.ckpt --as hrnet_w32_hmrbench --out trunk.safetensors
    """,
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write it here (.safetensors, and a .json)."
)
@click.option(
    "--as",
    "model",
    metavar="MODEL",
    help="Read it as ALGORITHM:BACKBONE (spin:resnet50), or only its BACKBONE, "
    "in place of telling by names and shapes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def import_(file: Path, out: Path | None, model: str | None, as_json: bool) -> None:
    """Recognise a checkpoint by its names and shapes, and write it for eval and train --init.

    Known are HMR, SPIN and CLIFF as mmhuman3d, hmr-benchmarks, SPIN and CLIFF publish them, and
    backbones of torchvision, timm, mmcls, mmpose and HRNet. Without --out the file is only looked
    at. No code inside of the file is run. Exit status 1 when it is not, or not all of,
    a network that is known; the table says what differs.
    """
    from humandata.cli.console import need_torch, print_json

    need_torch()
    from humandata.training.weights import recognise, write

    found = recognise(file, model)
    written = write(found, out) if out is not None and found.complete else None
    if as_json:
        print_json({**found.as_dict(), "written": None if written is None else str(out)})
    else:
        _print(found)
        if written is not None:
            click.echo(f"written: {out}, {written}")
    if not found.complete:
        raise click.exceptions.Exit(1)


def _print(found: Recognised) -> None:
    from humandata.cli.console import table
    from humandata.training.weights import ALGORITHMS

    reader = READERS.get(found.reader, found.reader)
    read = f"read by {reader}" + (f", inside of {found.wrapper}" if found.wrapper else "")
    click.echo(f"{found.file.name}: {found.description} ({read})")
    click.echo()
    rows: list[tuple[object, ...]] = []
    for row in found.rows:
        rows.append((row.status, row.part, row.count, row.why))
        if row.wrong and not found.other:
            rows += [("", f"  {name}", "", "") for name in row.names[:3]]
            if row.count > 3:
                rows.append(("", f"  and {row.count - 3} more", "", ""))
    click.echo(table(rows, ("", "part", "tensors", "")))
    click.echo()
    if not found.complete:
        click.secho("not imported: ", fg="red", nl=False)
        alone = f"; --as {found.trunk} takes the backbone alone" if found.trunk else ""
        if found.other:
            why = f": {found.other.why}" if found.other.why else ""
            listed = ", ".join(ALGORITHMS)
            click.echo(f"{found.other.name} is not among the algorithms here, {listed}{why}{alone}")
        elif found.backbone is None:
            click.echo(
                "no network that is known here; --as MODEL, such as hmr:resnet50, compares with one"
            )
        else:
            click.echo(f"a network needs all its tensors{alone}")
    elif found.algorithm is None:
        click.echo(f"for: humandata train --backbone {found.backbone} --init FILE.safetensors")
    else:
        click.echo("for: humandata eval --checkpoint FILE.safetensors, or train --init")
