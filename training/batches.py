"""Batches: stores mixed by weight, drawn reproducibly, cropped ahead of the device.

What a batch holds is a pure function of (seed, epoch, step, rank, number of ranks): the order of
samples, their augmentation and hence the pictures do not depend on the number of threads or
processes, and a run may go on from any step. `humandata.training.sampling` says who is drawn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from humandata.errors import DataError, HumandataError
from humandata.store import Store
from humandata.training.assembly import (
    Assembly,
    Augmentation,
    Batch,
    Damaged,
    Draw,
    Made,
    at_once,
    draw_changes,
    pinned,
    unchanged,
)
from humandata.training.crops import Annotations, check_pictures
from humandata.training.sampling import Sampler
from humandata.training.workers import Processes, in_order

__all__ = ["Augmentation", "Batch", "Mix", "evaluation_batches"]

logger = logging.getLogger("humandata")

#: Damaged pictures are replaced by other samples as long as they are few; beyond this share of
#: what was drawn (and this number) training stops instead of quietly learning from the rest.
DAMAGED_RATE = 0.02
DAMAGED_COUNT = 20


class Persons:
    """The rows of a store that can be cropped, by position.

    Nothing is kept where they are all its rows; else one number each, in memory that worker
    processes share.
    """

    def __init__(self, annotations: Annotations) -> None:
        check_pictures(annotations.store)
        rows = annotations.usable_rows()
        self._count = len(rows)
        self._rows: Tensor | None = None
        if len(rows) < len(annotations.store):
            self._rows = torch.from_numpy(rows.astype(np.int32))
            self._rows.share_memory_()  # type: ignore[no-untyped-call]
        if not self._count:
            raise DataError(
                annotations.store.path,
                expected="persons with a box to crop",
                found=f"none among {len(annotations.store):,} instances",
            )

    def __len__(self) -> int:
        return self._count

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (n,) of instances of the persons at given positions (n,)."""
        if self._rows is None:
            return positions
        return self._rows.numpy()[positions].astype(np.int64)


class Mix:
    """Stores mixed by weight: every batch of every epoch.

    Parameters
    ----------
    stores : sequence of (Store, weight)
        Weights need not sum to one.
    batch_size, image_size : int
    seed : int
    augmentation : Augmentation
    approximate : bool
        Also map joints onto near ones of another definition.
    rank, world_size : int
        Which of how many processes that share every epoch this one is.
    epoch_length : int, optional
        Samples of an epoch over all ranks; by default as many as the largest store has persons.
    damaged_rate : float
        Share of damaged pictures among those drawn above which a run fails; 0 fails at the first.
    verify : bool
        Hold every picture against its checksum when it is first drawn. A picture of 260 KB takes
        0.14 ms, and is read whole where some of its tiles would do.

    Attributes
    ----------
    steps_per_epoch : int
    undecodable : int
        Samples of the batches handed out so far whose picture was damaged, and that were redrawn.
    damaged : dict
        The pictures it was, by name, and how often each was drawn.
    """

    def __init__(
        self,
        stores: Sequence[tuple[Store, float]],
        batch_size: int,
        image_size: int = 224,
        seed: int = 0,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - it is frozen
        approximate: bool = False,
        *,
        rank: int = 0,
        world_size: int = 1,
        epoch_length: int | None = None,
        damaged_rate: float = DAMAGED_RATE,
        verify: bool = False,
    ) -> None:
        if not 0 <= damaged_rate <= 1:
            raise HumandataError(f"a share of damaged pictures is 0 to 1, found {damaged_rate}")
        self.batch_size = batch_size
        self.image_size = image_size
        self.augmentation = augmentation
        self.damaged_rate = damaged_rate
        self.annotations = [Annotations(store, approximate, verify) for store, _ in stores]
        self.persons = [Persons(annotations) for annotations in self.annotations]
        self.sampler = Sampler(
            tuple(map(len, self.persons)),
            tuple(weight for _, weight in stores),
            batch_size,
            seed,
            epoch_length,
            rank,
            world_size,
        )
        self.steps_per_epoch = self.sampler.steps
        self.undecodable = 0
        self.damaged: dict[str, int] = {}
        self._drawn = 0

    def draw(self, epoch: int, step: int) -> Draw:
        """What batch ``step`` of an epoch holds."""
        store, position = self.sampler.samples(epoch, step)
        row = np.empty_like(position)
        for number, persons in enumerate(self.persons):
            at = store == number
            row[at] = persons.rows(position[at])
        rng = self.sampler.generator(epoch, step)
        seeds = self.sampler.noise_seeds(epoch, step)
        return draw_changes(rng, self.augmentation, store, row, seeds)

    def job(self, epoch: int, step: int) -> Assembly:
        """Batch ``step`` of an epoch, still to be made; damaged pictures are drawn again."""

        def redraw(slot: int, attempt: int, store: int) -> int:
            position = self.sampler.redraw(epoch, step, slot, attempt, store)
            return int(self.persons[store].rows(np.array([position]))[0])

        return Assembly(self.annotations, lambda: self.draw(epoch, step), self.batch_size,
                        self.image_size, redraw)  # fmt: skip

    def make(self, step: int) -> Made:
        """Batch ``step``, counted from the start of the run, made at once and not counted."""
        return at_once(self.job(*divmod(step, self.steps_per_epoch)))

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch ``step`` of an epoch.

        Raises
        ------
        DataError
            When more pictures than a few cannot be decoded, or a store is damaged.
        """
        return self._counted(at_once(self.job(epoch, step)))

    def batches(
        self, first: int, last: int, workers: int = 2, processes: bool = False
    ) -> Generator[Batch]:
        """Batches ``first`` to ``last - 1`` counted from the start of the run.

        Parameters
        ----------
        first, last : int
            Numbers of steps from the start of training, over all epochs.
        workers : int
            Threads that make batches ahead; 0 makes each when it is asked for.
        processes : bool
            Processes in place of threads. The batches are the same.
        """
        if processes and workers > 0:
            return self.from_processes(Processes(_Maker(self), workers), first, last)
        return self._from_threads(first, last, workers)

    def _from_threads(self, first: int, last: int, workers: int) -> Generator[Batch]:
        jobs = (self.job(*divmod(step, self.steps_per_epoch)) for step in range(first, last))
        with contextlib.closing(in_order(jobs, workers)) as made:
            for one in made:
                yield self._counted(one)

    def processes(self, workers: int) -> Processes[Any]:
        """Processes that make batches of this mix, for `from_processes`."""
        return Processes(_Maker(self), workers)

    def from_processes(self, crew: Processes[Any], first: int, last: int) -> Generator[Batch]:
        """Batches as `batches` gives them, from processes that stay for the next call."""
        with contextlib.closing(crew.run(range(first, last))) as made:
            for images, arrays, damaged in made:
                rest = {name: torch.from_numpy(array) for name, array in arrays.items()}
                batch = Batch(images=images, **rest)
                yield self._counted(Made(batch.pin_memory() if pinned() else batch, damaged))

    def _counted(self, made: Made) -> Batch:
        # Counted as batches are handed out, in order: a run fails at the same step with any number
        # of workers.
        self._drawn += len(made.batch)
        for found in made.damaged:
            self._count(found)
        return made.batch

    def _count(self, found: Damaged) -> None:
        store, error = self.annotations[found.store].store, found.error
        path = store.images["path"][store.instances["image"].item(found.row)]
        name = f"{store.path}, picture {path}"
        if name not in self.damaged:
            logger.warning("damaged picture, another sample takes its place: %s", error)
        self.damaged[name] = self.damaged.get(name, 0) + 1
        self.undecodable += 1
        few = DAMAGED_COUNT if self.damaged_rate else 0
        if self.undecodable > max(few, self.damaged_rate * self._drawn):
            raise DataError(
                store.path,
                error.record,
                expected=f"at most {100 * self.damaged_rate:g} % of the pictures damaged",
                found=f"{self.undecodable} damaged of {self._drawn} drawn; this one: {error.found}",
                hint="humandata inspect --verify lists them.",
            ) from error


class _Maker:
    """What a worker process runs: `Mix.make`, the batch taken apart for the way home."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix

    def __call__(self, step: int) -> tuple[Tensor, dict[str, NDArray[Any]], list[Damaged]]:
        made = self._mix.make(step)
        # Each tensor would cost a file descriptor while it is under way: only the pictures are
        # worth sharing, the rest is copied.
        fields = {f.name: getattr(made.batch, f.name) for f in dataclasses.fields(Batch)}
        images = fields.pop("images")
        return images, {name: tensor.numpy() for name, tensor in fields.items()}, made.damaged


def evaluation_batches(
    store: Store,
    rows: NDArray[Any] | None = None,
    batch_size: int = 64,
    image_size: int = 224,
    workers: int = 2,
    boxes: NDArray[Any] | None = None,
    approximate: bool = False,
) -> Generator[Batch]:
    """Persons of one store in order, not augmented, the last batch as short as it comes.

    Parameters
    ----------
    store : Store
    rows : (n,) int, optional
        Rows of instances; all that can be cropped by default.
    boxes : (n, 4) float, optional
        x, y, width, height to crop by instead of the store's; taken as they are, made square by the
        longer side.
    batch_size, image_size, workers : int
    approximate : bool
        Also map joints onto near ones of another definition.

    Raises
    ------
    DataError
        When a picture is missing or damaged: no evaluation skips a sample.
    """
    annotations = Annotations(store, approximate)
    check_pictures(store)
    chosen = annotations.usable_rows() if rows is None else np.asarray(rows, np.int64)

    def job(start: int) -> Assembly:
        part = chosen[start : start + batch_size]
        own = None if boxes is None else np.asarray(boxes)[start : start + len(part)]
        draw = unchanged(np.zeros(len(part), np.int64), part)
        return Assembly([annotations], lambda: draw, len(part), image_size, None, own)

    jobs = (job(start) for start in range(0, len(chosen), batch_size))
    with contextlib.closing(in_order(jobs, workers)) as made:
        for one in made:
            yield one.batch
