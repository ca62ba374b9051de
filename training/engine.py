"""The training loop: device, precision, optimiser, schedule, checkpoints and logs of one run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import humandata
from humandata.bodymodel import body_model
from humandata.errors import HumandataError
from humandata.store import Store
from humandata.training import checkpoints, distributed, recipes
from humandata.training.augment import Augmentations, prepare
from humandata.training.batches import Augmentation, Batch, Mix
from humandata.training.distributed import Ranks
from humandata.training.optimizers import (
    Stepper,
    make_optimizer,
    rate_factor,
    set_learning_rate,
)
from humandata.training.prior import AdversarialPrior, read_bodies
from humandata.training.recipes import Recipe
from humandata.training.smpl import SMPL

__all__ = [
    "choose_device", "describe", "load_algorithm", "make_mix", "make_optimizer", "make_prior",
    "precision", "rate_factor", "set_learning_rate", "train", "train_step", "training_body",
]  # fmt: skip

logger = logging.getLogger("humandata")

MOST_NAMED = 100
"""Damaged pictures that the log of a run names; all of them are in the warnings."""


def train(recipe: Recipe, out: Path, resume: bool = False, quiet: bool = False) -> Path:
    """Train a network and keep it in a run folder.

    Started by ``torchrun``, the processes train it together (`humandata.training.distributed`).

    Parameters
    ----------
    recipe : Recipe
    out : Path
        The run folder; made where it does not exist.
    resume : bool
        Go on from the latest checkpoint of the folder, if there is one. On a CPU the result equals
        that of a run that was never interrupted, bit for bit.
    quiet : bool
        No progress bar.

    Returns
    -------
    Path
        The last checkpoint.

    Raises
    ------
    HumandataError
        When a store, backbone or device is not there, when the folder holds another run, when the
        loss is no longer a number (naming the step), or when the run was interrupted (after
        saving).
    """
    here = distributed.ranks()
    device = choose_device(recipe.device, here.local)
    with distributed.group(here, device):
        return _train(recipe, out, resume, quiet or not here.first, device, here)


def _train(
    recipe: Recipe, out: Path, resume: bool, quiet: bool, device: torch.device, here: Ranks
) -> Path:
    stores = [(humandata.open(source.store), source.weight) for source in recipe.mix]
    mix = make_mix(recipe, stores, here)
    last = recipe.total_steps(mix.steps_per_epoch)
    if last < 1:
        raise HumandataError("nothing to train: give --steps or --epochs")
    past = checkpoints.checkpoints(out)
    _check_folder(out, recipe, resume, bool(past))
    options = Augmentations.named(
        recipe.augment, [store.dataset for store, _ in stores], recipe.occluders
    ).to(device)

    prior = make_prior(recipe, device)
    checkpoints.seed_everything(recipe.seed)
    algorithm = load_algorithm(recipe.algorithm)
    network = algorithm.build(recipe, pretrained=not past).to(device)
    if device.type == "cuda":
        network = network.to(memory_format=torch.channels_last)
    body = training_body(recipe).to(device)
    optimizer = make_optimizer(network, recipe, device)
    steppers = [optimizer] if prior is None else [optimizer, prior.optimizer]
    groups = [
        {key: group[key] for key in ("peak_lr", "weight_decay")}
        for stepper in steppers
        for group in stepper.param_groups
    ]
    first = 0
    if past:
        checkpoints.restore(past[-1], network, optimizer, prior)
        first = past[-1].step
        restored = [group for stepper in steppers for group in stepper.param_groups]
        for group, fresh in zip(restored, groups, strict=True):
            group.update(fresh)  # rates and decay are the recipe's, also where it changed
    if here.first:
        _write_run(out, recipe, stores, body, device, here, prior)

    network.train()
    if recipe.sync_norm and here.world_size > 1 and device.type == "cuda":
        network = distributed.synchronised(network)
    trained = here.together(network)
    saved = first
    with (
        _Log(out, first, last, recipe, quiet, here) as log,
        _polite_interrupt() as interrupted,
        contextlib.closing(mix.batches(first, last, recipe.workers, recipe.processes)) as batches,
    ):
        for step in range(first, last):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            for stepper in steppers:
                set_learning_rate(stepper, recipe, step, last, mix.steps_per_epoch)
            here.seed(recipe.seed, step)
            batch = prepare(batch.to(device), options)
            term_of = functools.partial(prior.step, step=step, here=here) if prior else None
            terms = train_step(
                algorithm, trained, body, optimizer, batch, recipe, step, adversary=term_of
            )
            done = step + 1
            log.add(
                done, terms, optimizer.param_groups[0]["lr"], done / mix.steps_per_epoch, waited
            )
            # One process looks at every step; several have to agree, which takes time.
            stop = interrupted.is_set()
            if here.world_size > 1:
                stop = done % recipe.log_every == 0 and here.any(stop)
            due = recipe.checkpoint_every and done % recipe.checkpoint_every == 0
            if due or done == last or stop:
                if here.first:
                    keep = recipe.keep_checkpoints
                    checkpoints.save(out, done, network, optimizer, recipe, keep, prior)
                saved = done
            if stop and done < last:
                raise HumandataError(
                    f"interrupted after step {done:,} of {last:,}, which is saved; "
                    f"go on with: humandata train --out {out} --resume"
                )
        log.close(mix)
    return out / "checkpoints" / f"{saved:08d}"


def train_step(
    algorithm: ModuleType,
    network: nn.Module,
    body: SMPL,
    optimizer: Stepper,
    batch: Batch,
    recipe: Recipe,
    step: int,
    adversary: Callable[[Any], tuple[Tensor, float]] | None = None,
) -> dict[str, float]:
    """One update of the network from one batch, prepared and on its device.

    Parameters
    ----------
    adversary : callable, optional
        From the prediction to one more term of the loss, ``adversarial``, and the loss of the
        discriminator, which is only reported: `AdversarialPrior.step`. It is not asked before the
        other terms are known to be finite.

    Returns
    -------
    dict
        The terms of the loss and their sum, ``loss``, as numbers.

    Raises
    ------
    HumandataError
        When the loss is not a finite number; the network is left as it was.
    """
    with precision(batch.images.device, recipe.precision):
        prediction = network(batch)
    terms: dict[str, Tensor] = algorithm.loss(batch, prediction, body, recipe)
    total, values = _sum(terms, step)
    if adversary is not None:
        terms["adversarial"], discriminator = adversary(prediction)
        total, values = _sum(terms, step)
        values["discriminator"] = discriminator
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    if recipe.clip_gradient:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_gradient)
    optimizer.step()
    return values


def _sum(terms: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
    total = torch.stack(list(terms.values())).sum()
    values = {name: float(value.detach()) for name, value in terms.items()}
    values["loss"] = float(total.detach())
    if not math.isfinite(values["loss"]):
        listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise HumandataError(
            f"the loss of step {step + 1:,} is not a finite number ({listed}). Resume from the "
            "last checkpoint with a lower --lr, or with --set clip_gradient=1"
        )
    return total, values


def make_prior(recipe: Recipe, device: torch.device) -> AdversarialPrior | None:
    """The adversarial prior of a recipe, or None where it has none."""
    if recipe.prior is None:
        return None
    bodies = read_bodies(Path(recipe.prior))
    return AdversarialPrior(bodies, recipe.prior_weight, recipe.prior_lr, recipe.seed, device)


def make_mix(recipe: Recipe, stores: list[tuple[Store, float]], here: Ranks = Ranks()) -> Mix:  # noqa: B008
    """The batches of a recipe, for one of the processes that train together."""
    names = [field.name for field in dataclasses.fields(Augmentation)]
    mix = Mix(
        stores,
        recipe.batch_size,
        recipe.image_size,
        recipe.seed,
        Augmentation(**{name: getattr(recipe, name) for name in names}),
        recipe.approximate_joints,
        rank=here.rank,
        world_size=here.world_size,
        epoch_length=recipe.epoch_length,
        damaged_rate=recipe.damaged_rate,
        verify=recipe.verify,
    )
    # CLIFF looks at a part of the square, so its squares are larger than the boxes of a store.
    factor = getattr(load_algorithm(recipe.algorithm), "CROP_FACTOR", 1.0)
    for store in mix.annotations:
        store.enlargement *= factor
    return mix


def load_algorithm(name: str) -> ModuleType:
    """The module of an algorithm.

    It has ``build(recipe, pretrained) -> network`` and ``loss(batch, prediction, body, recipe) ->
    terms``; the network takes a batch and gives a prediction. It may have ``CROP_FACTOR``, by which
    the squares that are cut in training are larger than the boxes of the stores.
    """
    import pkgutil

    from humandata.training import algorithms

    names = [module.name for module in pkgutil.iter_modules(algorithms.__path__)]
    if name not in names:
        raise HumandataError(f"no algorithm {name!r}; there are {', '.join(names)}")
    return importlib.import_module(f"humandata.training.algorithms.{name}")


def training_body(recipe: Recipe) -> SMPL:
    """The neutral body that predictions are posed with; no more of it than the losses look at."""
    folder = Path(recipe.body_models) if recipe.body_models else None
    body = SMPL(body_model("neutral", folder))
    return body if recipe.vertices_weight else body.without_mesh()


def choose_device(name: str = "auto", number: int = 0) -> torch.device:
    """A device by torch's name; ``auto`` is the GPU where there is one, the first unless told."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and number:
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise HumandataError(f"the device {name!r} cannot be used: {error}") from error
    return device


def precision(device: torch.device, name: str = "auto") -> contextlib.AbstractContextManager[Any]:
    """Autocast to bfloat16 where asked for, by default on GPUs that have it."""
    automatic = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = name == "bfloat16" or (name == "auto" and automatic)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _check_folder(out: Path, recipe: Recipe, resume: bool, has_checkpoint: bool) -> None:
    if not has_checkpoint:
        return
    if not resume:
        raise HumandataError(
            f"{out} already holds a run; go on with it by --resume, or choose another --out"
        )
    before = recipes.to_dict(recipes.read(out / "recipe.json"))
    now = recipes.to_dict(recipe)
    changed = [name for name in _FIXED if before[name] != now[name]]
    if changed:
        name = changed[0]
        raise HumandataError(
            f"{out} was trained with {name}={before[name]!r}, not {now[name]!r}; a run can be "
            "resumed with more steps or another device, but not as another network"
        )


#: Fields of a recipe that a resumed run may not change.
_FIXED = (
    *("algorithm", "backbone", "image_size", "optimizer", "head_optimizer", "seed", "body_models"),
)


def _write_run(
    out: Path,
    recipe: Recipe,
    stores: list[tuple[Store, float]],
    body: SMPL,
    device: torch.device,
    here: Ranks,
    prior: AdversarialPrior | None,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    recipes.write(recipe, out / "recipe.json")
    provenance = {
        "humandata": humandata.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": here.world_size,
        "body_model": body.title,
        "prior": prior.bodies.title if prior else None,
        "stores": [
            {
                "path": str(store.path),
                "dataset": store.dataset,
                "split": store.split,
                "fingerprint": store.fingerprint,
                "instances": len(store),
                "weight": weight,
            }
            for store, weight in stores
        ],
    }
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _polite_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that is looked at between steps; the second acts at once.

    An exception in the middle of a step would leave weights and optimiser half updated.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)


class _Log:
    """Progress bar, ``log.jsonl`` and TensorBoard; values are means since the last entry."""

    def __init__(
        self, out: Path, first: int, last: int, recipe: Recipe, quiet: bool, here: Ranks
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self._last, self._recipe, self._here = last, recipe, here
        self._bar = tqdm(
            total=last, initial=first, disable=True if quiet else None, unit="step", desc="train"
        )
        self._open = contextlib.ExitStack()
        self._open.callback(self._bar.close)
        if here.first:
            path = out / "log.jsonl"
            path.write_text("".join(_lines_until(path, first)), encoding="utf-8")
            self._file = self._open.enter_context(path.open("a", encoding="utf-8"))
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=first + 1)
            self._open.callback(self._board.close)
        self._sums: dict[str, float] = {}
        self._count = 0
        self._waited = 0.0
        self._since = time.perf_counter()

    def add(
        self, done: int, terms: dict[str, float], lr: float, epoch: float, waited: float
    ) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._waited += waited
        self._bar.update()
        if done % self._recipe.log_every and done != self._last:
            return
        passed = time.perf_counter() - self._since
        means = {name: value / self._count for name, value in self._sums.items()}
        speed = self._count * self._recipe.batch_size * self._here.world_size / passed
        means = self._here.mean({**means, "data_wait": self._waited / passed})
        entry = {"step": done, "epoch": epoch, **means, "lr": lr, "images_per_second": speed}
        self._write(entry)
        shown = {"loss": f"{means['loss']:.3f}", "waiting": f"{means['data_wait']:.0%}"}
        self._bar.set_postfix(shown, refresh=False)
        self._sums, self._count, self._waited = {}, 0, 0.0
        self._since = time.perf_counter()

    def close(self, mix: Mix) -> None:
        """Say what had to be replaced."""
        if not mix.damaged:
            return
        pictures = sorted(mix.damaged)
        logger.warning(
            "%d samples were drawn again, for %d damaged pictures; humandata inspect --verify "
            "lists them",
            mix.undecodable,
            len(pictures),
        )
        self._write(
            {
                "step": self._last,
                "undecodable_pictures": mix.undecodable,
                "damaged": pictures[:MOST_NAMED],
            }
        )

    def _write(self, entry: dict[str, Any]) -> None:
        if not self._here.first:
            return
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        for name, value in entry.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(f"train/{name}", value, entry["step"])

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """Entries of a log up to a step: what a run wrote after its last checkpoint is done again."""
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break  # the process was killed while it wrote this line
        if entry["step"] <= step:
            kept.append(line)
    return kept


def describe(recipe: Recipe, out: Path) -> dict[str, Any]:
    """What a run would do, without doing it: for ``--dry-run``.

    Opens the stores and reads their boxes, so that it fails where training would fail at the start.
    """
    stores = [(humandata.open(source.store), source.weight) for source in recipe.mix]
    mix = make_mix(recipe, stores)
    bodies = read_bodies(Path(recipe.prior)) if recipe.prior else None
    shares = zip(stores, mix.persons, mix.sampler.counts, strict=True)
    return {
        "recipe": recipes.to_dict(recipe),
        "out": str(out),
        "device": str(choose_device(recipe.device)),
        "steps": recipe.total_steps(mix.steps_per_epoch),
        "steps_per_epoch": mix.steps_per_epoch,
        "prior": f"{bodies.title} ({len(bodies):,})" if bodies else None,
        "stores": [
            {"path": str(s.path), "persons": len(rows), "share": count / mix.sampler.length}
            for (s, _), rows, count in shares
        ],
    }
