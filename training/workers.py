"""Batches made ahead of the reader, by threads or by processes, and given in order.

Threads are the default: decoding and warping leave the interpreter lock alone, and threads share
one store, one set of maps and one batch. Several of them fill each batch together, so that the
first one comes early and few are under way at a time, whatever the number of threads.
"""

from __future__ import annotations

import heapq
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset, Sampler

Made = TypeVar("Made", covariant=True)
T = TypeVar("T")


class Job(Protocol[Made]):
    """A batch in the making: planned once, filled in parts in any order, finished once."""

    @property
    def count(self) -> int:
        """Number of its slots."""

    def plan(self) -> None: ...

    def fill(self, start: int, stop: int) -> None: ...

    def finish(self) -> Made: ...


def in_order(jobs: Iterable[Job[T]], workers: int) -> Generator[T]:
    """Do jobs in threads, a few ahead of the reader, and give their results in order.

    An error in a thread is raised here, in its place in the order. Leaving the loop early stops the
    threads.

    Parameters
    ----------
    jobs : iterable of Job
        Taken one by one as they come into reach; all of about the same count.
    workers : int
        Number of threads; 0 does every job when its result is asked for.
    """
    if workers <= 0:
        for job in jobs:
            job.plan()
            job.fill(0, job.count)
            yield job.finish()
        return
    one_opencv_thread()
    crew: _Crew[T] = _Crew(workers)
    waiting: deque[_Progress[T]] = deque()
    try:
        for job in jobs:
            waiting.append(crew.add(job))
            if len(waiting) > crew.reach(job.count):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        crew.stop()


class _Progress(Generic[T]):
    """One job on its way, and what came of it."""

    def __init__(self, job: Job[T], parts: list[tuple[int, int]]) -> None:
        self.job = job
        self.parts = parts
        self._left = len(parts)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None

    def plan(self) -> bool:
        """Whether the job can go on."""
        return self._attempt(self.job.plan)

    def fill(self, start: int, stop: int) -> None:
        if self._error is None:
            self._attempt(lambda: self.job.fill(start, stop))
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last and self._error is None and self._attempt(self._finish):
            self._done.set()

    def _finish(self) -> None:
        self._result.append(self.job.finish())

    def _attempt(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except BaseException as error:  # whatever it is, the reader must not wait for ever
            self._error = self._error or error
            self._done.set()
            return False
        return True

    def result(self) -> T:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result.pop()


class _Crew(Generic[T]):
    """Threads that take the most urgent task there is: early batches before late ones."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._added = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._tasks: list[tuple[int, int, Callable[[], None]]] = []
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def _part(self, count: int) -> int:
        return min(max(count // self.workers, 4), 32)

    def reach(self, count: int) -> int:
        """How many batches of ``count`` slots are under way beside the one that is read."""
        return 2 + -(-2 * self.workers * self._part(count) // max(count, 1))

    def add(self, job: Job[T]) -> _Progress[T]:
        size = self._part(job.count)
        starts = range(0, max(job.count, 1), size)
        progress = _Progress(job, [(s, min(s + size, job.count)) for s in starts])
        number, self._added = self._added, self._added + 1

        def plan() -> None:
            if progress.plan():
                parts = [
                    (2 * number, start, lambda a=start, b=stop: progress.fill(a, b))
                    for start, stop in progress.parts
                ]
                self._put(parts)  # type: ignore[arg-type]

        # A plan is due before the parts of the batch before it, so that nobody waits for it.
        self._put([(2 * number - 3, 0, plan)])
        return progress

    def _put(self, tasks: list[tuple[int, int, Callable[[], None]]]) -> None:
        with self._changed:
            for task in tasks:
                heapq.heappush(self._tasks, task)
            self._changed.notify(len(tasks))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._tasks and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                _, _, task = heapq.heappop(self._tasks)
            task()
            del task  # a thread that waits holds on to no batch

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._tasks.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()


class Processes(Generic[T]):
    """Worker processes, started afresh (spawn), that make what ``make(step)`` gives.

    They start with the first `run` and stay for the next ones.

    Parameters
    ----------
    make : callable
        Goes to the processes by pickle; so do its results come back.
    workers : int
        Number of processes, at least 1.
    """

    def __init__(self, make: Callable[[int], T], workers: int) -> None:
        self._order = _Order()
        self._loader: DataLoader[Any] = DataLoader(
            _Steps(make),
            batch_size=None,
            sampler=self._order,
            num_workers=max(workers, 1),
            multiprocessing_context="spawn",
            persistent_workers=True,
            collate_fn=_unchanged,
        )

    def run(self, steps: range) -> Generator[T]:
        """The results for some steps, in order; an error is raised in its place."""
        self._order.steps = steps
        for made in self._loader:
            if isinstance(made, _Failure):
                raise made.error
            yield made


class _Steps(Dataset[Any]):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> Any:
        one_opencv_thread()
        try:
            return self._make(step)
        except Exception as error:
            # DataLoader would build the error anew from its message alone.
            return _Failure(error)


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error


class _Order(Sampler[int]):
    def __init__(self) -> None:
        self.steps = range(0)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _unchanged(made: T) -> T:
    return made


def one_opencv_thread() -> None:
    """Keep OpenCV from threads of its own, which would fight ours for the cores.

    One picture is too little work to share.
    """
    import cv2

    if cv2.getNumThreads() > 1:
        cv2.setNumThreads(1)


class _Fork:
    """Takes OpenCV's threads away for the moment of a fork.

    A child has none of its parent's threads, but OpenCV's account of them: it waits for them for
    ever as soon as their number is changed, or a picture is large enough to be shared.
    """

    def __init__(self) -> None:
        self._threads = 0

    def before(self) -> None:
        cv2 = sys.modules.get("cv2")
        self._threads = 0 if cv2 is None else cv2.getNumThreads()
        if self._threads > 1:
            cv2.setNumThreads(1)  # type: ignore[union-attr]

    def after(self) -> None:
        if self._threads > 1:
            sys.modules["cv2"].setNumThreads(self._threads)


if hasattr(os, "register_at_fork"):
    _fork = _Fork()
    os.register_at_fork(before=_fork.before, after_in_parent=_fork.after)
