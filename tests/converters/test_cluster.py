"""A conversion on a Dask cluster gives what one machine gives, whoever is killed in between."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pw3d_release import write_pw3d

import humandata
from humandata import DataError, HumandataError, MissingExtra, cluster
from humandata.cluster import ClusterPool, _is_news, attempt
from humandata.columns import Columns, Part, write_part
from humandata.converters.converter import convert

pytest.importorskip("distributed")
SMALL = (108, 192)


def release(root: Path, sequences: int) -> Path:
    for i in range(sequences):
        write_pw3d(root, name=f"walk_{i:02d}", frames=4, size=SMALL, seed=i)
    return root


def same_files(a: Path, b: Path) -> bool:
    names = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def journal(store: Path) -> list[str]:
    file = store.with_name(store.name + ".partial") / "journal.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def client(*arguments: object, **settings: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "humandata.cli.main", "convert", *map(str, arguments), "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **pipes, **settings)


class Cluster:
    """A scheduler, and workers that are processes of their own with another working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        self.scheduler = self._start("dask_scheduler", "--port=0", f"--scheduler-file={file}")
        until(lambda: file.exists() and file.read_text().endswith("}"))
        self.address: str = json.loads(file.read_text())["address"]

    def _start(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", f"distributed.cli.{module}", "--host=127.0.0.1"]
        log = open(self.folder / f"log{len(self.processes)}", "wb")  # noqa: SIM115
        process = subprocess.Popen(
            [*words, "--no-dashboard", *options], stdout=log, stderr=log, cwd=self.folder
        )
        log.close()
        self.processes.append(process)
        return process

    def worker(self, *options: str) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", self.address, "--nthreads=2", "--no-nanny", *options)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    started.worker()
    yield started
    started.close()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = release(tmp_path_factory.mktemp("release") / "raw", sequences=8)
    # One picture of noise makes one pack larger than every other file that a worker writes.
    noise = np.random.default_rng(0).integers(0, 256, (*reversed(SMALL), 3), np.uint8)
    assert cv2.imwrite(str(root / "imageFiles/walk_05/image_00002.jpg"), noise)
    return root


@pytest.fixture(scope="module")
def local(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("local") / "local.zarr"
    convert("pw3d", raw, store, workers=1)
    return store


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_writes_the_files_of_one_machine(
    running: Cluster, raw: Path, local: Path, tmp_path: Path
) -> None:
    # Relative paths mean the folder of the command, not those of the workers.
    relative = os.path.relpath(raw, tmp_path)
    run = client("pw3d", relative, "s.zarr", "--scheduler", running.address, cwd=tmp_path)
    out, errors = run.communicate()
    assert run.returncode == 0, errors
    assert json.loads(out)["fingerprint"] == humandata.open(local).fingerprint
    assert same_files(tmp_path / "s.zarr", local)
    assert not (tmp_path / "s.zarr.partial").exists()


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("settings", [{"crop": 64}, {"limit": 9, "pictures": "original"}])
def test_crops_and_a_limit_are_the_same_too(
    running: Cluster, raw: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    a, b = tmp_path / "a.zarr", tmp_path / "b.zarr"
    convert("pw3d", raw, a, scheduler=running.address, **settings)
    convert("pw3d", raw, b, workers=1, **settings)
    assert same_files(a, b)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_worker_killed_in_the_middle_changes_nothing(
    running: Cluster, raw: Path, local: Path, tmp_path: Path
) -> None:
    victim = running.worker()
    log = Path(running.folder / f"log{len(running.processes) - 1}")
    until(lambda: b"Registered to" in log.read_bytes())
    store = tmp_path / "s.zarr"
    run = client("pw3d", raw, store, "--scheduler", running.address)
    until(lambda: len(journal(store)) > 2)
    victim.kill()
    _, errors = run.communicate()
    assert run.returncode == 0, errors
    assert same_files(store, local)


def dies_at(folder: Path, size: int) -> str:
    """The kernel kills such a worker at the moment when a file grows beyond this many bytes."""
    (folder / "doom.py").write_text(
        "import resource, signal\n"
        "def dask_setup(worker):\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        f"    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    )
    return f"--preload={folder / 'doom.py'}"


@pytest.mark.slow
@pytest.mark.cluster
def test_work_that_no_worker_survives_ends_in_a_message(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")  # by default 3
    started = Cluster(tmp_path)
    # Its own log is a file too, which has to be shorter than this.
    started.worker(dies_at(tmp_path, 5000))
    run = client("pw3d", raw, tmp_path / "s.zarr", "--scheduler", started.address)
    _, errors = run.communicate()
    started.close()
    assert run.returncode == 1
    assert "1 worker process died" in errors
    assert "most likely for want of memory" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.cluster
def test_what_a_worker_left_half_written_is_not_taken_up(
    raw: Path, local: Path, tmp_path: Path
) -> None:
    preload = dies_at(tmp_path, 12000)  # all fit into that but one pack
    started = Cluster(tmp_path)
    try:
        doomed = started.worker(preload)
        store = tmp_path / "s.zarr"
        run = client("pw3d", raw, store, "--scheduler", started.address)
        assert doomed.wait(60) == -signal.SIGXFSZ
        attempts = tmp_path / "s.zarr.partial" / "attempts"
        # Whole ones may lie there as well, of which nobody had told the client.
        (half,) = [file for file in attempts.rglob("c/0") if file.stat().st_size == 12000]
        whole = local / "images/packs" / half.parts[-3] / "c/0"
        assert half.stat().st_size < whole.stat().st_size
        # Neither a worker nor a client is left: the next client takes up units, not the pack.
        run.kill()
        run.communicate()
        units = len(journal(store))
        assert units > 1
        started.worker()
        report = convert("pw3d", raw, store, scheduler=started.address)
    finally:
        started.close()
    assert report.resumed
    assert same_files(store, local)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_client_that_was_killed_resumes_and_redoes_nothing(
    running: Cluster, raw: Path, local: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    run = client("pw3d", raw, store, "--scheduler", running.address)
    until(lambda: len(journal(store)) > 3)
    run.kill()
    run.communicate()
    done = {json.loads(line)["piece"] for line in journal(store)[1:]}
    parts = {n: tmp_path / f"s.zarr.partial/units/{n:05d}" for n in range(8)}
    before = {n: parts[n].stat().st_mtime_ns for n in parts if f"unit {n}" in done}
    seen: dict[int, int] = {}

    def note(stage: str, *_: int) -> None:
        if stage == "pictures":
            seen.update({n: parts[n].stat().st_mtime_ns for n in before})

    report = convert("pw3d", raw, store, scheduler=running.address, progress=note)
    assert report.resumed
    assert before
    assert seen == before
    assert same_files(store, local)


@pytest.mark.slow
@pytest.mark.cluster
def test_an_error_of_a_worker_arrives_as_on_one_machine(running: Cluster, tmp_path: Path) -> None:
    raw = release(tmp_path / "raw", sequences=2)
    bad = raw / "sequenceFiles/test/walk_01.pkl"
    bad.write_bytes(bad.read_bytes()[:90])
    with pytest.raises(DataError, match=r"walk_01\.pkl, byte 85: expected") as caught:
        convert("pw3d", raw, tmp_path / "s.zarr", scheduler=running.address)
    with pytest.raises(DataError) as here:
        convert("pw3d", raw, tmp_path / "t.zarr", workers=1)
    assert str(caught.value) == str(here.value)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_scheduler_without_workers_or_none_at_all_is_a_message(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Cluster(tmp_path)
    store = tmp_path / "s.zarr"
    try:
        monkeypatch.setattr(cluster, "PATIENCE", 0.5)
        job = (str(tmp_path), 1)
        with pytest.raises(HumandataError, match="has no workers"):
            list(ClusterPool(started.address, patience=0.5).map(os.path.join, [(0, job)]))
        # Now the scheduler goes in the middle of the work.
        started.worker()
        run = client("pw3d", raw, store, "--scheduler", started.address)
        until(lambda: len(journal(store)) > 2)
    finally:
        started.close()
    _, errors = run.communicate()
    assert run.returncode == 1
    assert "lost the scheduler" in errors
    assert "it resumes" in errors
    monkeypatch.setattr(cluster, "CONNECTING", 0.5)
    with pytest.raises(HumandataError, match="no Dask scheduler answers at"):
        convert("pw3d", raw, store, scheduler=started.address)
    assert convert("pw3d", raw, store, workers=1).resumed


@pytest.mark.slow
@pytest.mark.cluster
def test_slurm_jobs_are_asked_for_and_do_the_work(
    raw: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slurm itself is not here: this sbatch runs the job's script at once. All else is real.
    pytest.importorskip("dask_jobqueue")
    commands = {
        "sbatch": 'cp "$1" job.sh; setsid bash job.sh >log 2>&1 & echo "Submitted batch job $!"',
        "scancel": 'kill -- "-$1"',
    }
    for name, does in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\ncd {tmp_path}\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    interrupt = signal.getsignal(signal.SIGINT)
    convert("pw3d", raw, tmp_path / "s.zarr", scheduler="slurm", workers=1)
    assert signal.getsignal(signal.SIGINT) is interrupt
    assert same_files(tmp_path / "s.zarr", local)
    script = (tmp_path / "job.sh").read_text()
    assert "#SBATCH -n 1" in script
    assert "--nthreads 1" in script


def columns(instances: int) -> Columns:
    return Columns({}, {"id": np.arange(instances)}, records=instances)


def write_unit(partial: str, instances: int) -> int:
    write_part(Path(partial) / "units" / "00000", columns(instances))
    return instances


def expected(partial: Path) -> tuple[str, str, float]:
    return humandata.__version__, cluster._journal_digest(partial), 0.0


def test_only_the_attempt_that_counts_is_moved_into_place(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("{}\n")
    write_unit(str(tmp_path), 1)  # left by an earlier run, which nobody entered into the journal
    now = expected(tmp_path)
    first = attempt(str(tmp_path), now, [], write_unit, (3,))
    late = attempt(str(tmp_path), now, [], write_unit, (3,))  # of a worker thought dead
    assert first[0] != late[0]
    assert Part(tmp_path / "units/00000").records == 1
    cluster._publish(tmp_path, *first[:2])
    assert Part(tmp_path / "units/00000").records == first[2] == 3
    before = (tmp_path / "units/00000").stat()
    assert [p.name for p in (tmp_path / "attempts").iterdir()] == [late[0]]
    attempt(str(tmp_path), now, [], write_unit, (3,))  # even one that still writes
    assert (tmp_path / "units/00000").stat() == before


def test_a_worker_that_sees_other_files_or_is_another_version_stops(tmp_path: Path) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(b"12345")
    (tmp_path / "journal.jsonl").write_text("{}\n")
    version, digest, patience = expected(tmp_path)
    partial, job = str(tmp_path), (write_unit, (1,))
    attempt(partial, (version, digest, patience), [(str(file), 5)], *job)
    with pytest.raises(HumandataError, match="does not see the folder .* on a file system that"):
        attempt(str(tmp_path / "elsewhere"), (version, digest, patience), [], *job)
    assert not (tmp_path / "elsewhere").exists()
    for name, size, found in (("gone.jpg", 5, "No such file"), ("picture.jpg", 6, "there: 5 b")):
        with pytest.raises(HumandataError, match=f"does not see .*{name}.*{found}"):
            attempt(partial, (version, digest, patience), [(str(tmp_path / name), size)], *job)
    with pytest.raises(HumandataError, match="install the same on all machines"):
        attempt(partial, ("0.0.0", digest, patience), [], *job)


def test_a_failed_attempt_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("{}\n")

    def fails(partial: str) -> None:
        write_unit(partial, 2)
        raise DataError("file", expected="one thing", found="another")

    with pytest.raises(DataError):
        attempt(str(tmp_path), expected(tmp_path), [], fails, ())
    assert not list((tmp_path / "attempts").iterdir())


def test_threads_of_one_worker_take_turns(tmp_path: Path) -> None:
    # The video that was read last is kept open per process: two readers would swap their frames.
    (tmp_path / "journal.jsonl").write_text("{}\n")
    at_work: list[int] = []
    most: list[int] = []

    def job(_: str, number: int) -> None:
        at_work.append(number)
        time.sleep(0.02)
        most.append(len(at_work))
        at_work.remove(number)

    now = expected(tmp_path)
    threads = [
        threading.Thread(target=attempt, args=(str(tmp_path), now, [], job, (n,))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


@pytest.mark.parametrize(
    ("scheduler", "workers", "message"),
    [
        ("localhost:8786", None, "write tcp://host:port"),
        ("tcp://localhost:8786", 4, "--workers counts processes of this machine"),
        ("slurm", None, "say with --workers N"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    scheduler: str, workers: int | None, message: str, raw: Path, tmp_path: Path
) -> None:
    with pytest.raises(HumandataError, match=message):
        convert("pw3d", raw, tmp_path / "s.zarr", scheduler=scheduler, workers=workers)


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"humandata\[cluster\]"):
        ClusterPool("tcp://localhost:8786")


def test_what_dask_leaves_behind_is_no_news_and_everything_else_is() -> None:
    from distributed.client import AllExit

    def record(error: Exception | None) -> logging.LogRecord:
        told = None if error is None else (type(error), error, None)
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, "a task failed", (), told)

    assert not _is_news(record(AllExit()))
    assert _is_news(record(ValueError("lost")))
    assert _is_news(record(None))
