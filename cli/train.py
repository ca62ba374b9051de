"""``humandata train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from humandata.cli import train_plan

if TYPE_CHECKING:
    from humandata.training.recipes import Source


@click.command(
    epilog="""
    \b
    Examples:
      humandata train --mix coco.zarr=0.6 --mix pw3d.zarr=0.4 --out runs/hmr
      humandata train --mix coco.zarr --backbone resnet18 --init none --image-size 128 \\
          --steps 2000 --lr 1e-3 --set schedule=cosine --out runs/small
      humandata train --mix h36m.zarr=0.5 --mix coco.zarr=0.5 --augment self_mix@h36m \\
          --set channel_noise=0.2 --loss l1 --out runs/hmr_plus
      humandata train --recipe hmr-l1 --mix mix2 --stores stores --dry-run
      humandata train --recipe hmr-twins-svt --stores stores --prior cmu_mosh.npz --out runs/svt
      humandata train --out runs/hmr --resume
    """
)
@click.option(
    "--mix",
    multiple=True,
    metavar="STORE[=WEIGHT]|MIX",
    help="A store to train from and its share of the samples (default 1); repeat for more. Or one "
    "of the mixes that humandata mix lists: mix1 to mix11, or a store of theirs by its name.",
)
@click.option(
    "--stores",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the stores of a named mix lie (default: $HUMANDATA_STORES, else here).",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="Start from a published configuration, such as hmr, hmr-l1-coco-aug, hmr-hrnet, spin or "
    "cliff; humandata mix --recipes lists all. It names its mix; other flags change it.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run folder.")
@click.option("--resume", is_flag=True, help="Go on from the latest checkpoint in --out.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="A recipe in JSON, such as the recipe.json of another run; flags go before it.",
)
@click.option("--algorithm", help="hmr (default), spin, cliff or cliff_original.")
@click.option(
    "--backbone",
    help="Any timm network by name (default resnet50), or one as hmr-benchmarks has it, such as "
    "hrnet_w32_hmrbench.",
)
@click.option(
    "--init",
    metavar="imagenet|none|FILE",
    help="What the network starts from (default imagenet: the backbone, downloaded once by timm). "
    "A file of a whole network fills the regressor too.",
)
@click.option("--loss", help="smooth_l1 (default), l1 or mse.")
@click.option("--image-size", type=int, help="Side of a crop in pixels (default 224).")
@click.option("--batch-size", type=int, help="Samples of a step (default 64).")
@click.option("--steps", type=int, help="Length of the run in steps.")
@click.option(
    "--epochs",
    type=int,
    help="Length in epochs of the largest store (default 100), unless --steps.",
)
@click.option("--lr", type=float, help="Peak learning rate (default 2.5e-4).")
@click.option("--optimizer", help="adam (default), adamw or sgd.")
@click.option(
    "--prior",
    metavar="FILE|STORE|none",
    help="Train with HMR's adversarial prior, against the real bodies of cmu_mosh.npz or of a "
    "store (default none; a recipe that has it takes cmu_mosh.npz from the folder of stores).",
)
@click.option("--seed", type=int, help="Seed of everything random (default 0).")
@click.option("--workers", type=int, help="Threads that prepare batches (default 2).")
@click.option("--device", help="auto (default), cpu, cuda, cuda:1 ...")
@click.option(
    "--augment",
    multiple=True,
    metavar="NAME",
    help="Also change pixels at random, on the device: photometric_distortion, hard_erasing, "
    "synthetic_occlusion, keypoint_occlusion, soft_erasing, self_mix, coarse_dropout or "
    "grid_dropout. NAME=0.3 for a share of the samples, NAME@h36m for one dataset of the mix. "
    "Repeat for more; humandata inspect STORE --augment NAME shows it.",
)
@click.option(
    "--occluders",
    metavar="FILE",
    help="Objects that occlude people (pascal_occluders.npy); made-up shapes without it.",
)
@click.option(
    "--random-crop",
    type=float,
    metavar="P",
    help="Cut off a part of the person with this probability (default 0; hmr-benchmarks: 0.8).",
)
@click.option(
    "--body-models",
    help="Folder of your SMPL files (default: $HUMANDATA_BODY_MODELS, else the stand-in body).",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any other field of the recipe; schemas/run.json lists them. Repeat for more.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, no progress bar.")
def train(
    mix: tuple[str, ...],
    stores: Path | None,
    recipe: str | None,
    out: Path | None,
    resume: bool,
    config: Path | None,
    settings: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a network from stores, into a run folder.

    The run folder keeps the recipe, where the data came from, a log (JSON lines and TensorBoard)
    and checkpoints. Ctrl-C saves a checkpoint first.
    """
    if recipe is not None and (config is not None or resume):
        raise click.UsageError("--recipe begins a run: leave out --config and --resume")
    about = train_plan.about(mix, stores, recipe, flags, settings) if dry_run else None
    if about is not None and (about.lacking or out is None):
        click.echo(json.dumps(about.document(), indent=2) if as_json else about.text())
        return
    if out is None:
        raise click.UsageError("name the run folder: --out RUN")
    from humandata.cli.console import need_torch

    need_torch()
    from humandata.training import engine

    made = _recipe(mix, stores, recipe, out, resume, config, settings, flags)
    if dry_run:
        plan = engine.describe(made, out)
        if about is not None:
            plan |= {"published": about.document()["published"]}
        text = train_plan.plan_text(plan)
        if about is not None and about.published:
            text += "\n" + "\n".join(about.published_lines())
        click.echo(json.dumps(plan, indent=2) if as_json else text)
        return
    checkpoint = engine.train(made, out, resume=resume, quiet=as_json)
    if as_json:
        entries = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(entries[-1]) if entries else {}
        click.echo(json.dumps({"run": str(out), "checkpoint": str(checkpoint), "last": last}))
    else:
        click.echo(f"trained: {checkpoint}")
    _leave()


def _leave() -> None:
    """End one of several processes at once, when its work is done and written.

    Threads of gloo may still run when the interpreter takes itself apart, and C++ then aborts
    (exit status -6) a process that has done all it should.
    """
    import os
    import sys

    from humandata.training.distributed import ranks

    if ranks().world_size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _recipe(
    mix: tuple[str, ...],
    stores: Path | None,
    name: str | None,
    out: Path,
    resume: bool,
    config: Path | None,
    settings: tuple[str, ...],
    flags: dict[str, Any],
) -> Any:
    """The recipe: defaults, under the run's own (``--resume``) or ``--config``, under the flags."""
    import dataclasses

    from humandata.training import mixes, recipes

    recipe = recipes.hmr()
    if name is not None:
        named = mixes.named_recipe(name)
        if named.init and not flags.get("init"):
            raise click.UsageError(f"--recipe {name} needs --init FILE: {named.init}")
        recipe = dataclasses.replace(named.recipe, prior=train_plan.prior_of(named, stores, flags))
        if not mix:
            mix = (named.mix,)
    if config is not None:
        recipe = recipes.read(config)
    elif resume and (out / "recipe.json").is_file():
        recipe = recipes.read(out / "recipe.json")
    if mix:
        sources = [
            source
            for text in mix
            for source in (mixes.sources(text, stores) if mixes.is_mix(text) else [_store(text)])
        ]
        recipe = dataclasses.replace(recipe, mix=tuple(sources))
    recipe = train_plan.with_flags(recipe, flags, settings)
    if not recipe.mix:
        raise click.UsageError(
            "name what to train from: --mix STORE or MIX (or --recipe, --config, --resume)"
        )
    return recipe


def _store(text: str) -> Source:
    """The store of ``--mix STORE[=WEIGHT]``, which has to be there."""
    from humandata.errors import HumandataError
    from humandata.training import recipes

    source = recipes.parse_source(text)
    if not Path(source.store).exists():
        raise HumandataError(
            f"--mix {text}: no store is there, and no mix has that name (humandata mix lists "
            "them). A share is a number: --mix coco.zarr=0.3"
        )
    return source
