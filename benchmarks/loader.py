"""What the loader costs beside decoding: threads, Python, and memory.

Three questions, on a store made in a temporary folder:

  threads   samples/s of t threads against one (bar: 0.85 t at t = 2)
  python    time of a batch without its pictures: sampling, geometry, annotations (bar: 0.1 ms
            per sample)
  memory    private memory of a worker, beside one whose dataset is empty, and its growth
            over an epoch (bar: 10 MB, and none), for threads, and for DataLoader with
            PersonDataset by fork and by spawn; of crops of 64 pixels

    python benchmarks/loader.py
    python benchmarks/loader.py memory --instances 30000
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import humandata
from humandata.training import Batches, PersonDataset
from humandata.training import assembly as assembly_module
from humandata.training.batches import Mix


def write(path: Path, instances: int, size: tuple[int, int], pictures: int) -> Path:
    """``instances`` persons with all annotations that share ``pictures`` JPEG pictures."""
    rng = np.random.default_rng(0)
    width, height = size
    encoded = []
    for _ in range(pictures):
        coarse = rng.integers(0, 256, (height // 24, width // 24, 3)).astype(np.uint8)
        smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        noisy = smooth + rng.integers(-6, 7, smooth.shape)
        picture = np.clip(noisy, 0, 255).astype(np.uint8)
        encoded.append(bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]))
    with humandata.create(path, dataset="loader", tiled=True) as writer:
        for start in range(0, instances, 50_000):
            n = min(50_000, instances - start)
            side = rng.uniform(0.3, 0.6, (n, 2)) * height
            corner = rng.uniform(0, 1, (n, 2)) * (np.array(size) - side)
            first = start == 0
            count = pictures if first else 1
            images: dict[str, Any] = {
                "id": np.arange(count, dtype=np.uint64) + (1 if first else 1_000_000 + start),
                "path": [f"{start + i:06d}.jpg" for i in range(count)],
                "height": np.full(count, height, np.int32),
                "width": np.full(count, width, np.int32),
                "intrinsics": np.tile(np.diag([1000, 1000, 1]).astype(np.float32), (count, 1, 1)),
                "intrinsics_source": np.ones(count, np.uint8),
            }
            writer.append(
                images=images,
                instances={
                    "id": np.arange(start, start + n, dtype=np.uint64) + 1,
                    "image": rng.integers(0, count, n).astype(np.int32),
                    "bbox_xywh": np.hstack([corner, side, np.ones((n, 1))]).astype(np.float32),
                    "keypoints2d": rng.uniform(1, height, (n, 17, 3)).astype(np.float32),
                    "keypoints3d": rng.uniform(1, 5, (n, 17, 4)).astype(np.float32),
                    "smpl/global_orient": rng.normal(size=(n, 3)).astype(np.float32),
                    "smpl/body_pose": rng.normal(size=(n, 23, 3)).astype(np.float32),
                    "smpl/betas": rng.normal(size=(n, 10)).astype(np.float32),
                    "smpl/valid": np.ones(n, bool),
                    "gender": np.ones(n, np.uint8),
                },
                pictures=encoded[:count],
                field_attributes={
                    "keypoints2d": {"convention": "h36m"},
                    "keypoints3d": {"convention": "h36m", "root": "absolute"},
                    "bbox_xywh": {"rule": "mask", "factor": 0.9},
                },
            )
    return path


# Threads ---------------------------------------------------------------------------------------


def threads(store: humandata.Store, most: int, seconds: float) -> None:
    print("threads   samples/s   of one, times t")
    one = 0.0
    for count in range(1, most + 1):
        rates = []
        for _ in range(3):  # the best of three: what else the machine does only slows
            batches = Mix([(store, 1.0)], 64).batches(0, 1_000_000, count)
            next(batches)
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                next(batches)
                done += 64
            rates.append(done / (time.perf_counter() - start))
            batches.close()
        rate = max(rates)
        one = one or rate
        print(f"{count:>7} {rate:11,.0f} {rate / (one * count):17.2f}")
    print("bar: 0.85 at 2 threads\n")


# Python ----------------------------------------------------------------------------------------


def python(store: humandata.Store, stores: int) -> None:
    """Batches whose crops are not cut, part by part."""
    print("stores  batch   draw   plan   finish   together, microseconds per sample")
    real = assembly_module.begin, assembly_module.draw
    assembly_module.begin = assembly_module.draw = lambda *_: None
    try:
        for number in sorted({1, stores}):
            for size in (64, 256):
                mix = Mix([(store, 1.0)] * number, size)
                times = np.array([_parts(mix, step) for step in range(60)])[10:]
                draw, plan, finish = np.median(times, axis=0) / size * 1e6
                together = draw + plan + finish
                print(
                    f"{number:>6} {size:>6} {draw:6.1f} {plan:6.1f} {finish:8.1f} {together:10.1f}"
                )
    finally:
        assembly_module.begin, assembly_module.draw = real
    print("bar: 100\n")


def _parts(mix: Mix, step: int) -> tuple[float, float, float]:
    # Processor time: whatever else the machine does takes no part in it.
    start = time.thread_time()
    mix.draw(0, step)
    drawn = time.thread_time()
    job = mix.job(0, step)
    job.plan()
    job.fill(0, job.count)
    planned = time.thread_time()
    job.finish()
    done = time.thread_time()
    draw = drawn - start
    return draw, planned - drawn - draw, done - planned


# Memory ----------------------------------------------------------------------------------------


def private(process: int | str = "self") -> dict[str, float]:
    """MB of a process that no other shares: written by it, and read from files only by it."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split(":")[0]: float(line.split()[1]) / 1024 for line in lines}
    return {"written": values["Private_Dirty"], "files": values["Private_Clean"]}


class Empty(Dataset[dict[str, torch.Tensor]]):
    """What any worker costs: the same tensors, made of nothing."""

    def __init__(self, example: dict[str, torch.Tensor], length: int) -> None:
        self.example, self.length = example, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.example.items()}


def workers_memory(store: Path, size: int, start: str) -> None:
    dataset = PersonDataset(store, image_size=size)
    example = dataset[0]
    found: dict[str, list[float]] = {}
    for name, data in (("empty", Empty(example, len(dataset))), ("persons", dataset)):
        loader = DataLoader(data, 64, num_workers=2, multiprocessing_context=start)
        found[name] = list(_watched(iter(loader), len(data) // 64))
    # Before a collection of garbage writes to, and so copies, all that a forked process inherits;
    # PersonDataset keeps its workers from that.
    empty, persons = found["empty"][0], found["persons"]
    print(
        f"{start:<9} {max(persons) - empty:8.1f} {persons[-1] - persons[0]:+8.1f}   "
        f"({empty:.0f} with an empty dataset)"
    )


def _watched(loader: Any, batches: int) -> Iterator[float]:
    """Private memory of the workers, the most of them, ten times over an epoch."""
    pids = [worker.pid for worker in loader._workers]
    for number, _ in enumerate(loader, start=1):
        if number % max(batches // 10, 1) == 0:
            yield max(private(pid)["written"] for pid in pids)


def threads_memory(store: Path, size: int, count: int, samples: int) -> list[float]:
    """MB that ``count`` threads add to a process, ten times on the way.

    Measured in a process of its own, whose allocator has seen nothing else.
    """
    read, write_end = os.pipe()
    child = os.fork()
    if not child:
        batches = Batches(store, 64, image_size=size, workers=count, epoch_length=samples)
        before, seen = private()["written"], []
        for number, _ in enumerate(batches, start=1):
            if number % max(len(batches) // 10, 1) == 0:
                seen.append(private()["written"] - before)
        os.write(write_end, " ".join(map(str, seen)).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read) as answer:
        found = [float(value) for value in answer.read().split()]
    os.waitpid(child, 0)
    return found


def memory(store: Path, size: int, samples: int) -> None:
    print("private memory that is written, MB; growth after the first tenth of an epoch")
    print("workers   a worker   growth")
    one, four = (max(threads_memory(store, size, n, min(samples, 20_000))) for n in (1, 4))
    two = threads_memory(store, size, 2, samples)
    print(
        f"threads   {(four - one) / 3:8.1f} {two[-1] - two[0]:+8.1f}   "
        f"({one:.0f} with one thread, {four:.0f} with four, batches under way included)"
    )
    for start in ("fork", "spawn"):
        workers_memory(store, size, start)
    print("bar: 10, growth 0\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["threads", "python", "memory"])
    parser.add_argument("--instances", type=int, default=300_000, help="of the store for memory")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 16))
    parser.add_argument("--stores", type=int, default=6, help="of a mix, for python")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if "memory" in options.what:
            # First, and written elsewhere: a forked worker inherits what has filled this process.
            path = Path(folder) / "many.zarr"
            arguments = (path, options.instances, (320, 240), 32)
            writing = multiprocessing.get_context("spawn").Process(target=write, args=arguments)
            writing.start()
            writing.join()
            memory(path, 64, options.instances)
        if {"threads", "python"} & set(options.what):
            store = humandata.open(write(Path(folder) / "hd.zarr", 20_000, (1920, 1080), 24))
            if "threads" in options.what:
                threads(store, options.threads, options.seconds)
            if "python" in options.what:
                python(store, options.stores)


if __name__ == "__main__":
    main()
