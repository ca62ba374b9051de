"""``humandata flops``: parameters and operations of a network."""

from __future__ import annotations

import click


@click.command(
    epilog="""
    \b
    Examples:
      humandata flops --backbone resnet50 --backbone hrnet_w32_hmrbench
      humandata flops --algorithm hmr --algorithm cliff --backbone resnet50 --json
    """
)
@click.option(
    "--algorithm", multiple=True, default=("hmr",), show_default=True,
    help="As for humandata train; may be repeated.",
)  # fmt: skip
@click.option(
    "--backbone", multiple=True, default=("resnet50",), show_default=True,
    help="timm's name; may be repeated.",
)  # fmt: skip
@click.option(
    "--image-size", type=click.IntRange(16, 2048),
    help="Side of the crop in pixels; by default 256 for CLIFF, 224 for the others.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def flops(
    algorithm: tuple[str, ...],
    backbone: tuple[str, ...],
    image_size: int | None,
    as_json: bool,
) -> None:
    """Count what a network computes for one crop, with torch's own counter.

    GMACs are thousand million multiply-accumulates; papers of this field often call them GFLOPs.
    Convolutions, matrix products and attention are counted, normalisation and activation are not.
    """
    from humandata.cli.console import need_torch, print_json, table

    need_torch()
    from humandata.training.complexity import complexity

    found = [complexity(one, name, image_size) for one in algorithm for name in backbone]
    if as_json:
        print_json([one.as_dict() for one in found])
        return
    rows: list[tuple[object, ...]] = [
        (
            one.algorithm,
            one.backbone,
            one.image_size,
            f"{one.gmacs:.3f}",
            f"{one.parameters / 1e6:.3f}",
            ", ".join(
                f"{part} {numbers['flops'] / 2e9:.3f}" for part, numbers in one.parts.items()
            ),
        )
        for one in found
    ]
    titles = ("algorithm", "backbone", "crop", "GMACs", "M parameters", "GMACs of each part")
    click.echo(table(rows, titles))
