"""The mixes and recipes that the field trains from, and which of their stores are at hand.

Shares are data, in ``schemas/mixes.json``, and so are the recipes with the results that are
published of them, in ``schemas/recipes.json``. A mix is found in a folder of stores that carry the
names hmr-benchmarks gives its files, such as ``h36m_mosh_train.zarr``; one store of those names is
a mix by itself.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from humandata.errors import HumandataError
from humandata.training import recipes
from humandata.training.recipes import Recipe, Source

STORES = "HUMANDATA_STORES"
"""Environment variable that names the folder of stores."""

PRIOR = "cmu_mosh.npz"
"""The real bodies of the adversarial prior, beside the stores."""


@dataclass(frozen=True)
class Part:
    """One dataset of a mix.

    Attributes
    ----------
    store : str
        Name of its store, without ``.zarr``.
    weight : float
        Its share of the samples, relative to the other parts.
    dataset, split : str
        What it is converted from.
    title : str
    command : str
        How to make it, with ``RAW`` for the folder of the release; empty where no converter of
        that name is installed.
    path : Path or None
        Where it is, if it is there.
    """

    store: str
    weight: float
    dataset: str
    split: str
    title: str
    command: str
    path: Path | None


@dataclass(frozen=True)
class NamedMix:
    """A mix by name.

    Attributes
    ----------
    published : mapping
        PA-MPJPE in mm on 3DPW test that hmr-benchmarks publishes for HMR on ResNet-50 from
        ImageNet weights: ``base`` losses, ``l1`` losses. What you may expect, not what this
        package was measured to reach.
    note : str
        What is known to be doubtful about those figures.
    """

    name: str
    parts: tuple[Part, ...]
    published: Mapping[str, float]
    note: str

    @property
    def missing(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.path is None)


@dataclass(frozen=True)
class Published:
    """What is published of a recipe on a mix: millimetres on 3DPW test.

    Attributes
    ----------
    mix : str
    pa_mpjpe, mpjpe : float or None
    source : str
        The READMEs that say so.
    suspect : bool
        There is reason to doubt that the figures are of this configuration; the recipe's note says
        which.
    """

    mix: str
    source: str
    pa_mpjpe: float | None = None
    mpjpe: float | None = None
    suspect: bool = False

    def in_print(self) -> str:
        """For example ``PA-MPJPE 64.55 mm, MPJPE 112.46 mm (hmr-benchmarks configs/backbones)``."""
        figures = {"PA-MPJPE": self.pa_mpjpe, "MPJPE": self.mpjpe}
        words = ", ".join(f"{name} {value:.2f} mm" for name, value in figures.items() if value)
        return f"{words} ({self.source}){'; doubtful' if self.suspect else ''}"


@dataclass(frozen=True)
class NamedRecipe:
    """A published configuration.

    Attributes
    ----------
    recipe : Recipe
        Without its stores, and without the file of its prior.
    mix : str
        The mix it is published with.
    config : str
        The file of hmr-benchmarks or mmhuman3d it follows; empty where none is published.
    init : str
        Weights that have to be named with ``--init``, in words; empty where ImageNet's are meant.
    prior : bool
        Whether it is trained with HMR's adversarial prior.
    note : str
        What is known to be doubtful, or different.
    results : tuple of Published
    """

    name: str
    title: str
    recipe: Recipe
    mix: str
    config: str
    init: str
    prior: bool
    note: str
    results: tuple[Published, ...]

    def published(self, mix: str | None = None) -> tuple[Published, ...]:
        """What is published of it on a mix, by default its own."""
        return tuple(row for row in self.results if row.mix == (mix or self.mix))


def recipe_names() -> list[str]:
    """Names that `named_recipe` knows."""
    return list(_recipes())


def named_recipe(name: str) -> NamedRecipe:
    """A published configuration by name.

    Raises
    ------
    HumandataError
        When there is none of that name.
    """
    known = _recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=4) or list(known)[:4]
        raise HumandataError(
            f"no recipe {name!r}; near names are {', '.join(near)} (humandata mix --recipes lists "
            f"all {len(known)})"
        )
    facts = known[name]
    return NamedRecipe(
        name,
        facts["title"],
        recipes.from_dict(facts["settings"], f"recipe {name}"),
        facts["mix"],
        facts["config"],
        facts.get("init", ""),
        facts["prior"],
        facts.get("note", ""),
        tuple(Published(**row) for row in facts["published"]),
    )


def settings(name: str) -> dict[str, Any]:
    """What a recipe changes of the defaults, as its data say."""
    return dict(_recipes()[name]["settings"])


def published_on(mix: str) -> list[tuple[NamedRecipe, Published]]:
    """Every result that is published on a mix, with the recipe it is of."""
    every = [named_recipe(name) for name in recipe_names()]
    return [(one, row) for one in every for row in one.published(mix)]


def prior_file(folder: Path | None = None) -> Path | None:
    """``cmu_mosh.npz`` in the folder of stores, if it is there."""
    path = stores_folder(folder) / PRIOR
    return path if path.is_file() else None


def _recipes() -> dict[str, Any]:
    return dict(_data("recipes.json")["recipes"])


def _tables() -> dict[str, Any]:
    return _data("mixes.json")


@cache
def _data(name: str) -> dict[str, Any]:
    file = importlib.resources.files("humandata.schemas") / name
    return dict(json.loads(file.read_text(encoding="utf-8")))


def names() -> list[str]:
    """Names of all mixes, ``mix1`` to ``mix11`` first."""
    return list(_tables()["mixes"])


def store_names() -> list[str]:
    """Names of all stores that mixes and recipes are made of; each is a mix by itself."""
    return list(_tables()["stores"])


def is_mix(name: str) -> bool:
    """Whether `find` knows it: one of `names`, or one store of theirs by its name alone."""
    return name in _tables()["mixes"] or name in _tables()["stores"]


def stores_folder(folder: Path | None = None) -> Path:
    """The folder of stores: the given one, ``$HUMANDATA_STORES``, or the current folder."""
    return folder or Path(os.environ.get(STORES) or ".")


def find(name: str, folder: Path | None = None) -> NamedMix:
    """A mix, its stores looked for in a folder.

    Parameters
    ----------
    name : str
        One of `names`, or of the stores: ``mix1``, ``cliff-stage1``, ``eft_coco_train``.
    folder : Path, optional
        See `stores_folder`.

    Raises
    ------
    HumandataError
        When there is no mix of that name.
    """
    tables = _tables()
    if not is_mix(name):
        raise HumandataError(
            f"no mix {name!r}; there are {', '.join(names())}, and single stores such as "
            "eft_coco_train"
        )
    alone = {"shares": {name: 1.0}, "published": {}}
    mix, place = tables["mixes"].get(name, alone), stores_folder(folder)
    parts = tuple(_part(store, weight, place) for store, weight in mix["shares"].items())
    return NamedMix(name, parts, mix["published"], mix.get("note", ""))


def _part(store: str, weight: float, folder: Path) -> Part:
    facts = _tables()["stores"][store]
    dataset, split = facts["dataset"], facts["split"]
    path = folder / f"{store}.zarr"
    words = ["humandata convert", dataset, "RAW", str(path), "--split", split]
    if "options" in facts:
        words.append(facts["options"])
    return Part(
        store,
        weight,
        dataset,
        split,
        facts["title"],
        " ".join(words) if _has_converter(dataset) else "",
        path if path.exists() else None,
    )


def _has_converter(dataset: str) -> bool:
    return (importlib.resources.files("humandata.converters") / f"{dataset}.py").is_file()


def sources(name: str, folder: Path | None = None) -> tuple[Source, ...]:
    """The stores of a mix with their weights, for `Recipe.mix`.

    Raises
    ------
    HumandataError
        When a store is missing, naming each and the command that makes it.
    """
    mix = find(name, folder)
    if mix.missing:
        lines = [
            f"  {part.store}: {part.command or f'no converter for {part.title} yet'}"
            for part in mix.missing
        ]
        raise HumandataError(
            f"{name} lacks {len(mix.missing)} of {len(mix.parts)} stores in "
            f"{stores_folder(folder)} (--stores or ${STORES} names another folder). Make them:\n"
            + "\n".join(lines)
        )
    return tuple(Source(str(part.path), part.weight) for part in mix.parts)
