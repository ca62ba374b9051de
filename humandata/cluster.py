"""The runner's jobs on a Dask cluster (extra ``cluster``): ``convert --scheduler``.

Raw folder and store lie on a file system that all machines share. A scheduler hands a job to
another worker when the first one is gone, or seems to be: a worker that was merely out of reach
may still be writing. So no two attempts may ever write to one place:

* every attempt writes to a folder of its own, ``STORE.partial/attempts/<random>``;
* the scheduler gives the client the outcome of one attempt, and the client alone moves that one's
  pieces to where they belong, by renames, and then enters them into the journal;
* what attempts without an outcome have left is removed when the next run begins, or with
  ``STORE.partial`` at the commit.

A killed worker, a killed client and a worker that comes back too late therefore change nothing in
the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import queue
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import humandata
from humandata.errors import HumandataError, MissingExtra
from humandata.workers import Jobs, Reads

ATTEMPTS = "attempts"
PIECES = ("units/*", "pictures/*", "crops/*", "store/*/packs/*")
"""What a job writes, seen from ``STORE.partial``."""
PATIENCE = 120.0
"""Seconds without any worker, or until a shared file system shows a new file, before giving up."""
CONNECTING = 15.0
"""Seconds that a scheduler may take to answer."""
POLL = 2.0
"""Seconds between two looks at whether there is still a cluster."""
RESUMES = "What is finished is kept: run the same command again, and it resumes"

# Readers of videos and of HDF5 files keep a state per process; a worker may have many threads.
_one_at_a_time = threading.Lock()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of asyncio's log tells anything.

    Where futures end early, Dask's client leaves a task behind whose exception nobody asked for;
    asyncio would print its traceback beside the message that says what happened.
    """
    return record.exc_info is None or type(record.exc_info[1]).__name__ != "AllExit"


class ClusterPool:
    """Runs jobs on the workers of a Dask scheduler; used as :class:`humandata.workers.Pool` is.

    Parameters
    ----------
    scheduler : str
        ``tcp://host:port`` (or ``tls://``) of a scheduler that runs, or ``slurm``: start one here,
        and workers for it as Slurm jobs.
    workers : int, optional
        For ``slurm``: how many processes. A running cluster has the workers it has.
    patience : float
        Seconds, see :data:`PATIENCE`; jobs in the queue of Slurm are waited for without end.

    Raises
    ------
    HumandataError
        If ``scheduler`` is neither, or ``workers`` does not go with it.
    MissingExtra
        If Dask is not installed.
    """

    def __init__(
        self, scheduler: str, workers: int | None = None, patience: float = PATIENCE
    ) -> None:
        self.scheduler = scheduler
        self.workers = workers
        self.patience = patience
        self._client: Any = None
        self._cluster: Any = None
        if scheduler == "slurm":
            if workers is None:
                raise HumandataError(
                    "--scheduler slurm: say with --workers N how many processes to ask Slurm for"
                )
        elif "://" not in scheduler:
            raise HumandataError(
                f"--scheduler {scheduler}: write tcp://host:port, as 'dask scheduler' prints it, "
                "or slurm"
            )
        elif workers is not None:
            raise HumandataError(
                "--workers counts processes of this machine, or of Slurm; the cluster at "
                f"{scheduler} has the workers that were started for it"
            )
        self._dask = _import("distributed")

    def __enter__(self) -> ClusterPool:
        return self

    def __exit__(self, *_: object) -> None:
        # Jobs that nobody waits for are dropped by the scheduler when its client leaves.
        for opened in (self._client, self._cluster):
            if opened is not None:
                with contextlib.suppress(OSError, TimeoutError):
                    opened.close()

    def map(
        self, function: Callable[..., Any], jobs: Jobs, reads: Reads | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield ``(number, function(*arguments))`` as the jobs finish.

        Raises
        ------
        HumandataError
            If the scheduler or all workers are lost, a worker sees other files than this process
            or runs another version of this package, or a job has ended several workers.
        """
        if not jobs:
            return
        partial = Path(jobs[0][1][0]).absolute()
        if self._client is None:
            self._connect()
            shutil.rmtree(partial / ATTEMPTS, ignore_errors=True)
        expected = (humandata.__version__, _journal_digest(partial), self.patience)
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        numbers: dict[str, int] = {}
        held = []  # the scheduler forgets what nobody holds
        for number, (_, *rest) in jobs:
            seen = [(str(file), file.stat().st_size) for file in (reads or {}).get(number, ())
                    if file.exists()]  # fmt: skip
            key = f"humandata-{uuid.uuid4().hex}"
            future = self._client.submit(
                attempt, str(partial), expected, seen, function, tuple(rest), key=key, pure=False
            )
            numbers[key] = number
            held.append(future)
            future.add_done_callback(finished.put)
        for _ in jobs:
            future, (name, pieces, result) = self._next(finished)
            _publish(partial, name, pieces)
            yield numbers[future.key], result
            future.release()

    def _connect(self) -> None:
        logging.getLogger("asyncio").addFilter(_is_news)  # the same filter is added only once
        try:
            if self.scheduler == "slurm":
                self._cluster = start_slurm(self.workers or 1)
                self._client = self._dask.Client(self._cluster, set_as_default=False)
            else:
                self._client = self._dask.Client(
                    self.scheduler, timeout=CONNECTING, set_as_default=False
                )
                self._client.wait_for_workers(1, timeout=self.patience)
        except TimeoutError:
            raise HumandataError(
                f"the scheduler at {self.scheduler} has no workers, and got none in "
                f"{self.patience:.0f} s. Start some with: dask worker {self.scheduler} "
                "--nthreads 1 --nworkers N"
            ) from None
        except (OSError, ValueError) as error:
            raise HumandataError(
                f"no Dask scheduler answers at {self.scheduler}: {error}. Start one with: "
                "dask scheduler"
            ) from error

    def _next(self, finished: queue.SimpleQueue[Any]) -> Any:
        """The next job that is done; looks from time to time whether there is still a cluster.

        Returns
        -------
        future, (name, pieces, result)
            What :func:`attempt` returned.
        """
        since = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                future = finished.get(timeout=POLL)
                outcome = self._outcome(future)
                if outcome is not None:
                    return future, outcome
                future.add_done_callback(finished.put)  # once it is done anew
            if self._client.status == "closed":
                raise self._lost()
            with contextlib.suppress(OSError):  # no answer; Dask tries to connect anew
                # Slurm may let jobs wait for hours; others who lost their workers should know.
                if self._cluster is not None or self._client.scheduler_info()["workers"]:
                    since = time.monotonic()
            if time.monotonic() - since > self.patience:
                raise HumandataError(
                    f"the scheduler at {self.scheduler} has had no workers for "
                    f"{self.patience:.0f} s. {RESUMES}"
                )

    def _lost(self) -> HumandataError:
        return HumandataError(f"lost the scheduler at {self.scheduler}. {RESUMES}")

    def _outcome(self, future: Any) -> Any:
        """What a job returned; None where that was lost with its worker, and has to be redone."""
        try:
            return future.result(timeout=POLL)
        except TimeoutError:
            if future.status == "error":  # of the job's own: a file system did not answer
                raise
            return None
        except self._dask.KilledWorker as error:
            deaths = error.allowed_failures + 1
            who = f"{deaths} worker processes" if deaths > 1 else "1 worker process"
            raise HumandataError(
                f"{who} died on the same piece of work, most likely for want of memory: start "
                f"workers with more of it. {RESUMES}"
            ) from None
        except (CancelledError, self._dask.comm.CommClosedError):
            raise self._lost() from None
        except ModuleNotFoundError as error:
            raise HumandataError(
                f"a worker lacks the Python package {error.name!r}: install on all machines what "
                f"is installed here. {RESUMES}"
            ) from error


def start_slurm(workers: int) -> Any:
    """A scheduler in this process, and Slurm jobs with worker processes of one thread each.

    Queue, account, walltime, cores and memory of a job are those of dask-jobqueue's file
    ``jobqueue.yaml``; without it, a job has one core and 4 GB.

    Raises
    ------
    MissingExtra
        If dask-jobqueue is not installed.
    """
    with _keep_interrupt():
        jobqueue = _import("dask_jobqueue")
    given = _import("dask").config.get("jobqueue.slurm", {})
    cores = given.get("cores") or 1
    memory = given.get("memory") or f"{4 * cores}GB"
    cluster = jobqueue.SLURMCluster(cores=cores, processes=cores, memory=memory)
    cluster.scale(workers)
    return cluster


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package.replace("_", "-"), "cluster") from None


@contextlib.contextmanager
def _keep_interrupt() -> Iterator[None]:
    """Undo what importing dask-jobqueue does to Ctrl-C: it would exit with status 0."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)


def attempt(
    partial: str,
    expected: tuple[str, str, float],
    seen: list[tuple[str, int]],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> tuple[str, list[str], Any]:
    """Run a job in a folder of its own; runs in a worker process.

    Parameters
    ----------
    partial : str
        The ``STORE.partial`` folder.
    expected : tuple
        The client's version of this package; the digest of what the journal says is being made;
        seconds to wait for the journal to become visible.
    seen : list of (str, int)
        Some files that the job reads, and their sizes where the client is.
    function, arguments
        The job, without its first argument.

    Returns
    -------
    name : str
        Of the folder in ``STORE.partial/attempts``.
    pieces : list of str
        What was written there, as paths from ``STORE.partial``.
    result
        The function's.

    Raises
    ------
    HumandataError
        If this process does not see what the client sees.
    """
    _check_same_files(Path(partial), expected, seen)
    name = uuid.uuid4().hex
    folder = Path(partial) / ATTEMPTS / name
    with _one_at_a_time:
        folder.mkdir(parents=True)
        try:
            result = function(str(folder), *arguments)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    found = sorted(piece for pattern in PIECES for piece in folder.glob(pattern))
    return name, [piece.relative_to(folder).as_posix() for piece in found], result


def _check_same_files(
    partial: Path, expected: tuple[str, str, float], seen: list[tuple[str, int]]
) -> None:
    version, digest, patience = expected
    here = f"the worker on {socket.gethostname()}"
    if humandata.__version__ != version:
        raise HumandataError(
            f"{here} runs humandata {humandata.__version__}, this command humandata {version}: "
            "install the same on all machines"
        )
    # A worker that saw another disk would write where nobody looks, or miss every picture.
    end = time.monotonic() + patience
    while _journal_digest(partial) != digest:  # network file systems show new files late
        if time.monotonic() > end:
            raise HumandataError(
                f"{here} does not see the folder {partial} that this command writes: put the "
                "store on a file system that all machines share, under the same path"
            )
        time.sleep(0.5)
    for file, size in seen:
        try:
            found = f"{os.stat(file).st_size:,} bytes"
        except OSError as error:
            found = error.strerror or str(error)
        if found != f"{size:,} bytes":
            raise HumandataError(
                f"{here} does not see {file} as this command does ({size:,} bytes; there: "
                f"{found}): put the release on a file system that all machines share, under the "
                "same path"
            )


def _journal_digest(partial: Path) -> str:
    """Of the journal's first line, which says what is being made; empty where there is none."""
    try:
        with open(partial / "journal.jsonl", "rb") as stream:
            return hashlib.sha256(stream.readline()).hexdigest()
    except OSError:
        return ""


def _publish(partial: Path, name: str, pieces: list[str]) -> None:
    """Move the pieces of one attempt to where they belong, in place of what may lie there."""
    folder = partial / ATTEMPTS / name
    for piece in pieces:
        target = partial / piece
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / piece, target)
    shutil.rmtree(folder, ignore_errors=True)
