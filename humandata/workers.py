"""Processes that work through a list of jobs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from humandata.errors import HumandataError

Jobs = Sequence[tuple[int, tuple[Any, ...]]]
"""Numbered arguments. The first argument is the folder that a job writes to."""

Reads = Mapping[int, Sequence[Path]]
"""By number of the job, some of the files that it reads: do its workers see them?"""


class Workers(Protocol):
    """Processes of this machine (:class:`Pool`), or of many (:mod:`humandata.cluster`)."""

    def __enter__(self) -> Workers: ...

    def __exit__(self, *_: object) -> None: ...

    def map(
        self, function: Callable[..., Any], jobs: Jobs, reads: Reads | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield ``(number, function(*arguments))`` as the jobs finish, in any order.

        What a job wrote is whole and in its place when its result is yielded.
        """
        ...


def open_pool(workers: int | None, jobs: int, scheduler: str | None = None) -> Workers:
    """Processes for about ``jobs`` jobs; on a cluster where a scheduler is named."""
    if scheduler is None:
        return Pool(workers, jobs)
    from humandata.cluster import ClusterPool

    return ClusterPool(scheduler, workers)


class Pool:
    """Runs jobs in this process, or in spawned ones when there is more than one to run.

    When one of these dies, all are ended, so that nobody writes behind our back, and what was not
    finished is done anew by half as many: most likely memory was short.
    """

    DEATHS = 3
    """Deaths with nothing finished in between, after which the work ends."""

    def __init__(self, workers: int | None, jobs: int) -> None:
        self.workers = workers if workers is not None else (os.cpu_count() or 1)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def map(
        self, function: Callable[..., Any], jobs: Jobs, reads: Reads | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield ``(number, function(*arguments))`` as the jobs finish.

        Raises
        ------
        HumandataError
            If worker processes keep dying.
        """
        if self.workers <= 1 or len(jobs) <= 1:
            for number, arguments in jobs:
                yield number, function(*arguments)
            return
        left = dict(jobs)
        deaths = 0
        while left:
            for future, number in self._submit(function, left):
                try:
                    result = future.result()
                except BrokenProcessPool:
                    continue
                del left[number]
                deaths = 0
                yield number, result
            if left:
                self._end()
                deaths += 1
                if deaths == self.DEATHS:
                    raise HumandataError(
                        "worker processes die, most likely for want of memory. Run the same "
                        "command again with fewer --workers; it resumes"
                    )
                self.workers = max(1, self.workers // 2)

    def _submit(
        self, function: Callable[..., Any], jobs: Mapping[int, tuple[Any, ...]]
    ) -> Iterator[tuple[Future[Any], int]]:
        """Futures as they are done, each with the number of its job."""
        if self._executor is None:
            # Spawn: a forked child may inherit locks held by threads of OpenCV or a caller.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context)
        futures: dict[Future[Any], int] = {}
        with contextlib.suppress(BrokenProcessPool):  # died already; the rest is done anew
            for number, arguments in jobs.items():
                futures[self._executor.submit(function, *arguments)] = number
        for future in as_completed(futures):
            yield future, futures[future]

    def _end(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None
