"""``humandata flops``: parameters and operations of a network."""

from __future__ import annotations

import click


@click.command(epilog="Example: humandata flops --backbone resnet50 --backbone hrnet_w32")
@click.option("--algorithm", default="hmr", show_default=True, help="As for humandata train.")
@click.option(
    "--backbone", multiple=True, default=("resnet50",), show_default=True,
    help="timm's name; may be repeated.",
)  # fmt: skip
@click.option(
    "--image-size", type=click.IntRange(16, 2048), default=224, show_default=True,
    help="Side of the crop in pixels.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def flops(algorithm: str, backbone: tuple[str, ...], image_size: int, as_json: bool) -> None:
    """Count what a network computes for one crop, with torch's own counter.

    GMACs are thousand million multiply-accumulates; papers of this field often call them GFLOPs.
    Convolutions, matrix products and attention are counted, normalisation and activation are not.
    """
    from humandata.cli.console import need_torch, print_json, table

    need_torch()
    from humandata.training.complexity import complexity

    found = [complexity(algorithm, name, image_size) for name in backbone]
    if as_json:
        print_json([one.as_dict() for one in found])
        return
    rows = [
        (
            one.backbone,
            f"{one.gmacs:.3f}",
            f"{one.parameters / 1e6:.3f}",
            ", ".join(
                f"{part} {numbers['flops'] / 2e9:.3f}" for part, numbers in one.parts.items()
            ),
        )
        for one in found
    ]
    click.echo(table(rows, ("backbone", "GMACs", "M parameters", "GMACs of each part")))
