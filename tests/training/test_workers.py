"""Threads that make batches ahead: order, errors in their place, and that they end."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from humandata.training.assembly import _Memory
from humandata.training.workers import in_order


class Squares:
    """A job whose parts take uneven time, and that notes what is done with it."""

    def __init__(self, number: int, count: int = 64, fails: str = "") -> None:
        self.number, self.count, self.fails = number, count, fails
        self.filled = np.zeros(count, int)
        self.planned = 0

    def plan(self) -> None:
        self.planned += 1
        self._fail("plan")

    def fill(self, start: int, stop: int) -> None:
        assert self.planned == 1
        time.sleep(0.001 * ((self.number + start) % 3))
        self.filled[start:stop] += 1
        self._fail("fill")

    def finish(self) -> int:
        self._fail("finish")
        assert (self.filled == 1).all(), "every slot is filled once before the end"
        return self.number**2

    def _fail(self, stage: str) -> None:
        if stage == self.fails:
            raise ValueError(f"{stage} of {self.number}")


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 3, 64, 300])
def test_results_come_in_order_whatever_the_workers(workers: int, count: int) -> None:
    jobs = [Squares(number, count) for number in range(9)]
    assert list(in_order(jobs, workers)) == [number**2 for number in range(9)]


@pytest.mark.parametrize("stage", ["plan", "fill", "finish"])
@pytest.mark.parametrize("workers", [0, 3])
def test_an_error_is_raised_in_its_place(stage: str, workers: int) -> None:
    jobs = (Squares(number, fails=stage if number == 4 else "") for number in range(9))
    seen = []
    with pytest.raises(ValueError, match=f"{stage} of 4"):
        for result in in_order(jobs, workers):
            seen.append(result)
    assert seen == [0, 1, 4, 9]


def test_only_a_few_batches_are_made_ahead() -> None:
    jobs = [Squares(number, 256) for number in range(60)]
    results = in_order(jobs, 4)
    next(results)
    time.sleep(0.2)
    assert sum(job.planned for job in jobs) <= 8
    results.close()


def test_leaving_early_ends_the_threads() -> None:
    def running() -> set[str]:
        return {t.name for t in threading.enumerate() if t.name.startswith("batch-")}

    assert not running()
    for result in in_order((Squares(number) for number in range(1000)), 3):
        assert running() == {"batch-0", "batch-1", "batch-2"}
        if result == 9:
            break
    assert not running()


def test_several_threads_fill_one_batch() -> None:
    class Together(Squares):
        def fill(self, start: int, stop: int) -> None:
            barrier.wait(timeout=10)  # passes only when both parts are under way at once
            super().fill(start, stop)

    barrier = threading.Barrier(2)
    assert list(in_order([Together(3, count=8)], 2)) == [9]


def test_memory_of_crops_is_used_again_only_when_nobody_holds_it() -> None:
    memory = _Memory()
    shape = (2, 4, 4, 3)
    held = torch.from_numpy(memory.take(shape)).permute(0, 3, 1, 2)
    held.fill_(7)
    place = held.data_ptr()
    others = [memory.take(shape) for _ in range(20)]
    for other in others:
        other[:] = 1
    assert (held == 7).all()
    assert len({id(other) for other in others}) == 20
    view = held[1]
    del held, others, other
    assert all(memory.take(shape).ctypes.data != place for _ in range(5))
    assert (view == 7).all()
    del view
    freed = {memory.take(shape).ctypes.data for _ in range(5)}
    assert len(freed) == 1, "what is given back at once is taken again"
