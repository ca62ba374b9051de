"""Stores for training loops of one's own: whole batches, or a map-style dataset.

`Batches` yields what our own trainer learns from: batches of a store or a mix, made ahead by
threads. `PersonDataset` is a plain `torch.utils.data.Dataset` of the same persons for those who
keep their ``DataLoader``. docs/loading.md shows both.
"""

from __future__ import annotations

import gc
from collections.abc import Generator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from humandata import store as stores_
from humandata.errors import HumandataError
from humandata.store import Store
from humandata.training.assembly import (
    UNCHANGED,
    Assembly,
    Augmentation,
    Batch,
    at_once,
    draw_changes,
)
from humandata.training.batches import DAMAGED_RATE, Mix, Persons
from humandata.training.crops import Annotations
from humandata.training.workers import Processes, one_opencv_thread

Source = Store | str | PathLike[str]
Sources = Source | Mapping[str, float] | Sequence[Source] | Sequence[tuple[Source, float]]


def opened(sources: Sources) -> list[tuple[Store, float]]:
    """Stores and weights from whatever names them.

    Parameters
    ----------
    sources : Store, path, sequence of either, sequence of (either, weight), or {path: weight}
        Weight 1 where none is given.
    """
    if isinstance(sources, Store | str | PathLike):
        sources = [sources]
    if isinstance(sources, Mapping):
        sources = list(sources.items())
    pairs = [source if isinstance(source, tuple) else (source, 1.0) for source in sources]
    return [
        (source if isinstance(source, Store) else stores_.open(source), float(weight))
        for source, weight in pairs
    ]


class Batches:
    """Batches of a store, or of several by weight, for a training loop of one's own.

    Iterating gives the batches of one epoch, made ahead by threads; the next iteration gives those
    of the next. What a batch holds depends on nothing but the arguments and its place.

    Parameters
    ----------
    stores : Store, path, sequence of either, sequence of (either, weight), or {path: weight}
    batch_size : int
        Of this process.
    image_size : int
        Side of the crops in pixels.
    seed : int
    augmentation : Augmentation, optional
        HMR's by default; None for crops as they are.
    workers : int
        Threads that make batches ahead; 0 makes each when it is asked for.
    processes : bool
        Processes in place of threads; the batches are the same.
    rank, world_size : int, optional
        Which of how many processes that train together this one is; by default what
        ``torch.distributed`` says, where it is initialised.
    epoch_length : int, optional
        Samples of an epoch over all ranks, rounded up to whole batches; by default as many as the
        largest store has persons.
    damaged_rate : float
        Share of damaged pictures among those drawn above which iterating fails.
    verify : bool
        Hold every picture against its checksum when it is first drawn.
    approximate : bool
        Let a joint stand in for a near one of another definition.

    Attributes
    ----------
    epoch, step : int
        The batch that comes next.
    mix : Mix
        With ``mix.damaged``, the damaged pictures met so far.

    Raises
    ------
    HumandataError
        When a store is not there, has nobody to crop, or gets no sample by its weight.
    """

    def __init__(
        self,
        stores: Sources,
        batch_size: int,
        *,
        image_size: int = 224,
        seed: int = 0,
        augmentation: Augmentation | None = Augmentation(),  # noqa: B008 - it is frozen
        workers: int = 2,
        processes: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        epoch_length: int | None = None,
        damaged_rate: float = DAMAGED_RATE,
        verify: bool = False,
        approximate: bool = False,
    ) -> None:
        if workers < 0:
            raise HumandataError(f"the number of workers is 0 or more, found {workers}")
        own_rank, own_world = _distributed()
        self.mix = Mix(
            opened(stores),
            batch_size,
            image_size,
            seed,
            UNCHANGED if augmentation is None else augmentation,
            approximate,
            rank=own_rank if rank is None else rank,
            world_size=own_world if world_size is None else world_size,
            epoch_length=epoch_length,
            damaged_rate=damaged_rate,
            verify=verify,
        )
        self.workers = workers
        self.processes = processes
        self.epoch = 0
        self.step = 0
        self._crew: Processes[Any] | None = None

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.mix.steps_per_epoch

    def __iter__(self) -> Generator[Batch]:
        """The rest of the epoch: all of it, unless it was left or resumed in the middle."""
        first = self.epoch * len(self) + self.step
        last = (self.epoch + 1) * len(self)
        if self.processes and self.workers > 0:
            self._crew = self._crew or self.mix.processes(self.workers)
            batches = self.mix.from_processes(self._crew, first, last)
        else:
            batches = self.mix.batches(first, last, self.workers)
        try:
            for number, batch in enumerate(batches, start=first + 1):
                # Whoever asks for the state while they hold this batch has had it.
                self.epoch, self.step = divmod(number, len(self))
                yield batch
        finally:
            batches.close()

    def set_epoch(self, epoch: int, step: int | None = None) -> None:
        """Go to the start of an epoch, or to a step of it; nothing happens in that epoch already.

        Thus a loop that names each of its epochs goes on in the middle of the one it resumed.
        """
        if step is None and epoch == self.epoch:
            return
        self.epoch, self.step = epoch, step or 0

    def state_dict(self) -> dict[str, Any]:
        """The place in the run, and what it is a place in; plain values."""
        return {"epoch": self.epoch, "step": self.step, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken: the next batch is the one that came next then.

        Raises
        ------
        HumandataError
            When the state is of other stores, weights, batches or ranks, so that its place would be
            another one here.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise HumandataError(
                    f"the state was taken with {name} {state.get(name)!r}, this loader has "
                    f"{value!r}; its place in the epoch would be another one. Make the loader as "
                    "it was, or use set_epoch"
                )
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def _identity(self) -> dict[str, Any]:
        sampler = self.mix.sampler
        return {
            "seed": sampler.seed,
            "batch_size": sampler.batch_size,
            "steps_per_epoch": sampler.steps,
            "world_size": sampler.world_size,
            "stores": [annotations.store.fingerprint for annotations in self.mix.annotations],
            "samples": list(sampler.counts),
        }


def _distributed() -> tuple[int, int]:
    found = torch.distributed
    if found.is_available() and found.is_initialized():
        return found.get_rank(), found.get_world_size()
    return 0, 1


class PersonDataset(Dataset[dict[str, Tensor]]):
    """The persons of a store, or of several one after the other, as a map-style dataset.

    ``dataset[i]`` is a dict of tensors: the fields of `humandata.training.Batch` without their
    first axis, the crop under ``image``. It holds memory maps only, is pickled as paths, and may go
    to workers by fork or by spawn.

    Parameters
    ----------
    stores : Store, path, or sequence of either
    image_size : int
        Side of the crops in pixels.
    augmentation : Augmentation, optional
        Drawn from torch's generator, which ``DataLoader`` seeds anew for every worker and epoch;
        none by default.
    normalise : bool
        Give pictures as float32, ``(x - mean) / std`` of ImageNet, in place of uint8.
    transform : callable, optional
        Takes the dict of a person and gives what the dataset gives.
    replace_damaged : bool
        Draw another person of the store where a picture is damaged, instead of raising.
    approximate : bool
        Let a joint stand in for a near one of another definition.

    Raises
    ------
    HumandataError
        When a store is not there, or has nobody to crop.
    """

    def __init__(
        self,
        stores: Sources,
        image_size: int = 224,
        augmentation: Augmentation | None = None,
        *,
        normalise: bool = False,
        transform: Any = None,
        replace_damaged: bool = False,
        approximate: bool = False,
    ) -> None:
        self.image_size = image_size
        self.augmentation = augmentation or UNCHANGED
        self.normalise = normalise
        self.transform = transform
        self.replace_damaged = replace_damaged
        self.annotations = [Annotations(store, approximate) for store, _ in opened(stores)]
        self.persons = [Persons(annotations) for annotations in self.annotations]
        self._settled = False
        self._ends = np.cumsum([len(persons) for persons in self.persons])

    def __len__(self) -> int:
        """Persons that can be cropped."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        """One person.

        Raises
        ------
        DataError
            When the picture is damaged (unless ``replace_damaged``), or the store is.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several persons at once, which costs less; ``DataLoader`` asks this way."""
        place = np.asarray(indices, np.int64)
        if len(place) and not (-len(self) <= place.min() and place.max() < len(self)):
            raise IndexError(f"person {place.max()} of {len(self):,}")
        place = np.where(place < 0, place + len(self), place)
        store = np.searchsorted(self._ends, place, side="right")
        row = np.empty_like(place)
        for number, persons in enumerate(self.persons):
            at = store == number
            row[at] = persons.rows(place[at] - (self._ends[number] - len(persons)))
        if not self._settled and get_worker_info() is not None:
            self._settle()
        rng = np.random.Generator(np.random.PCG64(int(torch.randint(2**63 - 1, ()))))
        draw = draw_changes(rng, self.augmentation, store, row, np.zeros_like(row))

        def redraw(slot: int, attempt: int, store: int) -> int:
            position = rng.integers(0, len(self.persons[store]), 1)
            return int(self.persons[store].rows(position)[0])

        count, replace = len(row), redraw if self.replace_damaged else None
        job = Assembly(self.annotations, lambda: draw, count, self.image_size, replace)
        batch = at_once(job).batch
        return self._split(batch)

    def _settle(self) -> None:
        one_opencv_thread()  # the workers share the cores already
        # A collector that visits what a forked worker inherited writes to all of it, and thereby
        # copies it: some 40 MB for a process that has imported torch.
        gc.freeze()
        self._settled = True

    def _split(self, batch: Batch) -> list[Any]:
        from humandata.training.augment import prepare

        images = batch.images
        if self.normalise:
            images = prepare(batch).images
        elif self.augmentation.channel_noise:
            gain = batch.channel_gain[:, :, None, None]
            images = (images * gain).round_().clamp_(0, 255).to(torch.uint8)
        columns = {"image": images}
        columns |= {name: getattr(batch, name) for name in _FIELDS}
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*(column.unbind() for column in columns.values()), strict=True)
        ]
        return rows if self.transform is None else [self.transform(row) for row in rows]


#: Of `Batch`; the others speak of what happens to whole batches on the device.
_FIELDS = (
    "keypoints2d", "keypoints3d", "pose", "betas", "has_smpl", "gender", "centre", "side", "affine",
    "picture_size", "intrinsics", "crop_intrinsics", "store", "row",
)  # fmt: skip
