"""The configuration of a training run as plain data.

A run is described by one frozen `Recipe`. ``humandata train`` builds it from flags, ``--config``
reads one from JSON, ``--set field=value`` reaches every field, and the run folder keeps the one
used. A variant in Python is ``dataclasses.replace(hmr(), lr=1e-4)``.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from humandata.errors import DataError, HumandataError

_Weight = Annotated[float, Meta(ge=0)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=0)]
_AtLeastOne = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class Source:
    """One store of a mix."""

    store: str
    """Path of the store."""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    """Share of the samples that come from it, relative to the other weights."""


AUGMENTATIONS = {
    "photometric_distortion": 1.0,
    "hard_erasing": 0.5,
    "synthetic_occlusion": 1.0,
    "keypoint_occlusion": 1.0,
    "soft_erasing": 0.5,
    "self_mix": 0.5,
    "coarse_dropout": 0.5,
    "grid_dropout": 0.5,
}
"""What `Recipe.augment` may name, and the share of samples that hmr-benchmarks applies it to."""


@dataclass(frozen=True)
class Augmentation:
    """One entry of `Recipe.augment`."""

    name: str
    """One of `AUGMENTATIONS`."""
    probability: float
    """Share of samples it is applied to."""
    datasets: tuple[str, ...] = ()
    """The datasets it is applied to; all of the mix where none is named."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained.

    The defaults are HMR with hmr-benchmarks' "base" losses and rates, but without its adversarial
    prior, in batches of 64 and from timm's own weights; its configurations to the letter are named
    (`humandata.training.mixes.named_recipe`). Each field is described in ``schemas/run.json``.
    """

    mix: tuple[Source, ...] = ()
    algorithm: str = "hmr"
    backbone: str = "resnet50"
    init: str = "imagenet"
    image_size: Annotated[int, Meta(ge=16, le=2048)] = 224
    approximate_joints: bool = False
    body_models: str | None = None

    loss: Literal["smooth_l1", "l1", "mse"] = "smooth_l1"
    keypoints3d_weight: _Weight = 100.0
    keypoints2d_weight: _Weight = 10.0
    vertices_weight: _Weight = 2.0
    pose_weight: _Weight = 3.0
    betas_weight: _Weight = 0.02
    prior: str | None = None
    prior_weight: _Weight = 1.0
    prior_lr: Annotated[float, Meta(gt=0)] = 1e-4

    flip: _Fraction = 0.5
    scale: _Weight = 0.25
    rotation: _Weight = 30.0
    rotation_probability: _Fraction = 0.6
    channel_noise: Annotated[float, Meta(ge=0, lt=1)] = 0.4
    random_crop: _Fraction = 0.0
    random_crop_factor: Annotated[float, Meta(ge=0, lt=1)] = 0.4
    augment: tuple[str, ...] = ()
    occluders: str | None = None

    batch_size: _AtLeastOne = 64
    steps: _Count = 0
    epochs: _Count = 100
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    head_optimizer: Literal["adam", "adamw", "sgd"] | None = None
    lr: Annotated[float, Meta(gt=0)] = 2.5e-4
    head_lr: Annotated[float, Meta(gt=0)] | None = None
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    weight_decay: _Weight = 0.0
    head_weight_decay: _Weight | None = None
    decay_all: bool = False
    schedule: Literal["constant", "cosine", "step"] = "constant"
    warmup_steps: _Count = 0
    decay_at: tuple[_Fraction, ...] = (0.8,)
    decay_epochs: tuple[_AtLeastOne, ...] = ()
    decay_factor: Annotated[float, Meta(gt=0, le=1)] = 0.1
    clip_gradient: _Weight = 0.0
    sync_norm: bool = False
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5

    seed: _Count = 0
    epoch_length: _AtLeastOne | None = None
    workers: _Count = 2
    processes: bool = False
    damaged_rate: _Fraction = 0.02
    verify: bool = False
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    log_every: _AtLeastOne = 10
    checkpoint_every: _Count = 1000
    keep_checkpoints: _Count = 3

    def total_steps(self, steps_per_epoch: int) -> int:
        """Length of the run: ``steps`` where given, else ``epochs`` times the steps of an epoch."""
        return self.steps or self.epochs * steps_per_epoch


def hmr() -> Recipe:
    """HMR on ResNet-50 from ImageNet, without its adversarial prior: what the defaults are."""
    return Recipe()


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-ready values, every field present."""
    # By way of asdict: msgspec writes only what was given where it made a dataclass itself.
    return dict(msgspec.to_builtins(dataclasses.asdict(recipe)))


def from_dict(values: Mapping[str, Any], source: str | Path = "recipe") -> Recipe:
    """A recipe from JSON values; fields that are absent keep their defaults.

    Raises
    ------
    DataError
        Naming the field, when one is unknown, of the wrong type or out of range.
    """
    for name in values:
        if name not in _FIELDS:
            raise DataError(
                source,
                name,
                expected=f"a field of a recipe{_near(name)}",
                found="an unknown name",
                hint="schemas/run.json describes every field.",
            )
    try:
        recipe = msgspec.convert(dict(values), Recipe)
    except msgspec.ValidationError as error:
        # msgspec ends its message with the path of the value: "... - at `$.lr`"
        reason, _, where = str(error).partition(" - at `$.")
        field = where.rstrip("`")
        choices = get_args(get_type_hints(Recipe).get(field))
        expected = f"one of {', '.join(map(str, choices))}" if choices else "a valid recipe"
        raise DataError(source, field or None, expected=expected, found=reason) from error
    try:
        _check_augmentations(recipe)
    except HumandataError as error:
        raise DataError(
            source, "augment", expected="NAME[=PROBABILITY][@DATASET,...]", found=str(error)
        ) from error
    return recipe


def read(path: Path) -> Recipe:
    """Read a recipe from a JSON file, such as the ``recipe.json`` of a run."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(path, expected="a recipe in JSON", found="no such file") from error
    except (ValueError, OSError) as error:
        raise DataError(path, expected="a recipe in JSON", found=str(error)) from error
    if not isinstance(values, dict):
        raise DataError(path, expected="a JSON object", found=type(values).__name__)
    return from_dict(values, path)


def write(recipe: Recipe, path: Path) -> None:
    """Write a recipe as indented JSON."""
    path.write_text(json.dumps(to_dict(recipe), indent=2) + "\n", encoding="utf-8")


def with_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Change fields by ``field=value`` texts, as ``--set`` takes them.

    The value is read as JSON where it is JSON (numbers, ``true``, ``null``, lists), and as text
    where it is not.

    >>> with_settings(Recipe(), ["lr=0.001", "loss=l1"]).lr
    0.001
    """
    values = to_dict(recipe)
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            raise HumandataError(f"--set {setting}: expected field=value")
        value: Any = text
        if name in _FIELDS and not isinstance(_FIELDS[name].default, str):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
        values[name] = value
    return from_dict(values, "--set")


def parse_source(text: str) -> Source:
    """A store and its weight from ``PATH`` or ``PATH=WEIGHT``."""
    path, equals, weight = text.rpartition("=")
    if not equals:
        return Source(text)
    try:
        value = float(weight)
    except ValueError:
        return Source(text)  # a path may contain "="
    if not 0 < value < float("inf"):
        raise HumandataError(f"--mix {text}: the weight must be a number above zero")
    return Source(path, value)


def parse_augmentation(text: str) -> Augmentation:
    """An augmentation from ``NAME[=PROBABILITY][@DATASET[,DATASET...]]``.

    >>> parse_augmentation("self_mix@h36m")
    Augmentation(name='self_mix', probability=0.5, datasets=('h36m',))

    Raises
    ------
    HumandataError
        When the name is none of `AUGMENTATIONS`, the probability none, or a dataset is left empty.
    """
    head, at, datasets = text.partition("@")
    name, equals, share = head.partition("=")
    name = name.strip()
    if name not in AUGMENTATIONS:
        near = _near(name, AUGMENTATIONS) or f"; there are {', '.join(AUGMENTATIONS)}"
        raise HumandataError(f"{text!r} names no augmentation{near}")
    probability = AUGMENTATIONS[name]
    if equals:
        try:
            probability = float(share)
        except ValueError:
            probability = -1.0
        if not 0 <= probability <= 1:
            raise HumandataError(f"{text!r}: {share!r} is not a probability from 0 to 1")
    restricted = tuple(part.strip() for part in datasets.split(",")) if at else ()
    if at and not all(restricted):
        raise HumandataError(f"{text!r}: name a dataset after each '@' and ','")
    return Augmentation(name, probability, restricted)


def _check_augmentations(recipe: Recipe) -> None:
    names = [parse_augmentation(text).name for text in recipe.augment]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HumandataError(f"{twice[0]!r} is named twice")


_FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}


def _near(name: str, names: Iterable[str] = _FIELDS) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f" (near names: {', '.join(near)})" if near else ""
