"""What ``humandata train --dry-run`` says: a recipe, what is published of it, what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from humandata.training.mixes import NamedMix, NamedRecipe, Published
    from humandata.training.recipes import Recipe


@dataclass(frozen=True)
class About:
    """A named recipe, a named mix, or both.

    Attributes
    ----------
    named : NamedRecipe or None
    mix : NamedMix
    published : tuple of (name of the recipe, Published)
        Of the recipe on the mix; of all recipes on it where none is named.
    needs : tuple of str
        Flags that have to be given, each with what they mean.
    settings : dict
        Of the recipe, as flags change it: those that are not the defaults, and those that everybody
        asks for. Empty where no recipe is named.
    """

    named: NamedRecipe | None
    mix: NamedMix
    published: tuple[tuple[str, Published], ...]
    needs: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def lacking(self) -> bool:
        """Whether training could not begin."""
        return bool(self.mix.missing or self.needs)

    def document(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        named = self.named
        return {
            "recipe": named.name if named else None,
            "title": named.title if named else None,
            "config": named.config if named else None,
            "settings": dict(self.settings),
            "prior": named.prior if named else False,
            "mix": self.mix.name,
            "published": [{"recipe": name, **asdict(row)} for name, row in self.published],
            "note": (named.note if named else "") or self.mix.note,
            "missing": {part.store: part.command for part in self.mix.missing},
            "needs": list(self.needs),
        }

    def published_lines(self) -> list[str]:
        lines = ["published on 3DPW test:"] if self.published else []
        for name, row in self.published:
            lines.append(f"  {row.in_print()}" if self.named else f"  {name}: {row.in_print()}")
        return lines

    def text(self) -> str:
        """All of it, to be read."""
        lines = [f"mix {self.mix.name}"]
        if self.named is not None:
            lines = [f"{self.named.title}, on {self.mix.name} (recipe {self.named.name})"]
            lines.append(f"  after {self.named.config or 'no published configuration'}")
            lines += [f"  {key} = {json.dumps(value)}" for key, value in self.settings.items()]
        lines += self.published_lines()
        note = (self.named.note if self.named else "") or self.mix.note
        if note:
            lines.append(f"note: {note}")
        if self.mix.missing:
            count = len(self.mix.missing)
            lines.append(f"lacks {count} store{'s' * (count > 1)}:")
            lines += [
                f"  {part.store}  {part.command or f'no converter for {part.title} yet'}"
                for part in self.mix.missing
            ]
        return "\n".join([*lines, *(f"and {need}" for need in self.needs)])


def about(
    mix: tuple[str, ...],
    stores: Path | None,
    recipe: str | None,
    flags: Mapping[str, Any],
    settings: tuple[str, ...] = (),
) -> About | None:
    """What is known of a named mix or recipe; None where neither is named."""
    from humandata.training import mixes

    named = mixes.named_recipe(recipe) if recipe else None
    name = mix[0] if mix else (named.mix if named else "")
    if not mixes.is_mix(name):
        return None
    rows = [(named, row) for row in named.published(name)] if named else mixes.published_on(name)
    needs = []
    if named and named.init and not flags.get("init"):
        needs.append(f"--init FILE: {named.init}")
    if named and named.prior and not flags.get("prior") and mixes.prior_file(stores) is None:
        needs.append(_NO_PRIOR)
    published = tuple((one.name, row) for one, row in rows)
    shown = _changed(named, flags, settings) if named else {}
    return About(named, mixes.find(name, stores), published, tuple(needs), shown)


_NO_PRIOR = (
    "--prior FILE|STORE: the real bodies of HMR's adversarial prior, cmu_mosh.npz of mmhuman3d "
    "(which is found if it lies beside the stores) or a store with SMPL bodies; --prior none "
    "trains without it"
)


def prior_of(named: NamedRecipe, stores: Path | None, flags: Mapping[str, Any]) -> str | None:
    """The file of real bodies for a recipe that has the prior; a flag goes before it.

    Raises
    ------
    click.UsageError
        When there is none and no flag says what to do.
    """
    from humandata.training import mixes

    if not named.prior or flags.get("prior"):
        return None
    found = mixes.prior_file(stores)
    if found is None:
        raise click.UsageError(f"--recipe {named.name} needs {_NO_PRIOR}")
    return str(found)


def plan_text(plan: dict[str, Any]) -> str:
    """What `humandata.training.engine.describe` found, to be read."""
    recipe = plan["recipe"]
    lines = [
        f"{recipe['algorithm']} on {recipe['backbone']} ({recipe['init']}), {plan['device']}",
        f"{plan['steps']:,} steps of {recipe['batch_size']} crops of {recipe['image_size']} px, "
        f"{plan['steps_per_epoch']:,} steps an epoch",
    ]
    lines += [
        f"  {store['share']:6.1%}  {store['path']} ({store['persons']:,} persons)"
        for store in plan["stores"]
    ]
    if plan["prior"]:
        lines.append(f"  against real bodies: {plan['prior']}")
    defaults = _defaults()
    changed = {k: v for k, v in recipe.items() if k != "mix" and v != defaults[k]}
    lines += [f"  {name} = {json.dumps(value)}" for name, value in changed.items()]
    return "\n".join([*lines, f"into {plan['out']}"])


def with_flags(recipe: Recipe, flags: Mapping[str, Any], settings: tuple[str, ...]) -> Recipe:
    """A recipe, changed by what was given on the command line; ``settings`` as NAME=VALUE."""
    from humandata.training import recipes

    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    if given.get("epochs") and "steps" not in given:
        given["steps"] = 0
    if given.get("prior") == "none":
        given["prior"] = None
    changed = recipes.from_dict({**recipes.to_dict(recipe), **given}, "humandata train")
    return recipes.with_settings(changed, settings)


def _changed(
    named: NamedRecipe, flags: Mapping[str, Any], settings: tuple[str, ...]
) -> dict[str, Any]:
    from humandata.training import recipes

    always = ("backbone", "loss", "batch_size", "epochs", "optimizer", "lr", "schedule")
    defaults = _defaults()
    values = recipes.to_dict(with_flags(named.recipe, flags, settings))
    if named.prior and not flags.get("prior"):
        values["prior"] = "cmu_mosh.npz"
    return {k: v for k, v in values.items() if k in always or v != defaults[k]}


def _defaults() -> dict[str, Any]:
    from humandata.training import recipes

    return recipes.to_dict(recipes.hmr())
