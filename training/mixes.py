"""The mixes and recipes that the field trains from, and which of their stores are at hand.

Shares and settings are data, in ``schemas/mixes.json``. A mix is found in a folder of stores that
carry the names hmr-benchmarks gives its files, such as ``h36m_mosh_train.zarr``.
"""

from __future__ import annotations

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
class NamedRecipe:
    """A published configuration.

    Attributes
    ----------
    recipe : Recipe
        Without its stores.
    mix : str
        The mix it is published with.
    init : str
        Weights that have to be named with ``--init``, in words; empty where ImageNet's are meant.
    """

    name: str
    title: str
    recipe: Recipe
    mix: str
    init: str
    note: str

    def published(self, mix: str) -> float | None:
        """PA-MPJPE in mm on 3DPW test that hmr-benchmarks publishes for it on a mix."""
        facts = _tables()["recipes"][self.name]
        if "losses" in facts:
            value = _tables()["mixes"][mix]["published"].get(facts["losses"])
        else:
            value = facts["published"].get(mix)
        return None if value is None else float(value)


def recipe_names() -> list[str]:
    """Names that `named_recipe` knows."""
    return list(_tables()["recipes"])


def named_recipe(name: str) -> NamedRecipe:
    """A published configuration by name.

    Raises
    ------
    HumandataError
        When there is none of that name.
    """
    known = _tables()["recipes"]
    if name not in known:
        raise HumandataError(f"no recipe {name!r}; there are {', '.join(known)}")
    facts = known[name]
    recipe = recipes.from_dict(facts["settings"], f"recipe {name}")
    note = facts.get("note", "")
    return NamedRecipe(name, facts["title"], recipe, facts["mix"], facts.get("init", ""), note)


@cache
def _tables() -> dict[str, Any]:
    file = importlib.resources.files("humandata.schemas") / "mixes.json"
    return dict(json.loads(file.read_text(encoding="utf-8")))


def names() -> list[str]:
    """Names of all mixes, ``mix1`` to ``mix11`` first."""
    return list(_tables()["mixes"])


def stores_folder(folder: Path | None = None) -> Path:
    """The folder of stores: the given one, ``$HUMANDATA_STORES``, or the current folder."""
    return folder or Path(os.environ.get(STORES) or ".")


def find(name: str, folder: Path | None = None) -> NamedMix:
    """A mix, its stores looked for in a folder.

    Parameters
    ----------
    name : str
        ``mix1`` ... ``mix11``, ``cliff-stage1``, ``cliff-stage2``.
    folder : Path, optional
        See `stores_folder`.

    Raises
    ------
    HumandataError
        When there is no mix of that name.
    """
    tables = _tables()
    if name not in tables["mixes"]:
        raise HumandataError(f"no mix {name!r}; there are {', '.join(names())}")
    mix, place = tables["mixes"][name], stores_folder(folder)
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
