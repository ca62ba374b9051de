"""Bytes of one picture of 200 kB at a random index: a store, a copy in memory, and zarr-python.

python benchmarks/read_picture.py [--pictures 1000] [--rounds 5]

The floor is a copy of as many bytes from a random place of one block of memory that holds all
pictures, in the same order. All read the page cache; bytes are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import zarr

import humandata
from humandata.schema import row_ids

DIFFERENT = 8


def picture(seed: int) -> bytes:
    """A 1080p JPEG of some 200 kB."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (270, 480, 3), np.uint8)
    pixels = cv2.GaussianBlur(
        cv2.resize(coarse, (1920, 1080), interpolation=cv2.INTER_CUBIC), (0, 0), 7
    )
    for quality in range(98, 5, -1):
        data = bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])
        if len(data) < 200_000:
            break
    return data


def write(path: Path, pictures: list[bytes], tiled: bool = False) -> humandata.Store:
    numbers = np.arange(len(pictures))
    with humandata.create(path, dataset="benchmark", tiled=tiled) as writer:
        writer.append(
            images={
                "id": row_ids("image", numbers),
                "path": [f"{number:06d}.jpg" for number in numbers],
                "height": np.full(len(pictures), 1080),
                "width": np.full(len(pictures), 1920),
            },
            instances={
                "id": row_ids("person", numbers),
                "image": numbers,
                "bbox_xywh": np.tile([600.0, 300, 200, 400, 1], (len(pictures), 1)),
            },
            pictures=pictures,
            field_attributes={"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
        )
    return humandata.open(path)


def per_call(read: Callable[[int], object], rows: list[int], rounds: int) -> float:
    """Seconds per call, the best of some rounds over all rows."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for row in rows:
            read(row)
        best = min(best, (time.perf_counter() - start) / len(rows))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few = write(Path(folder) / "few.zarr", [picture(i) for i in range(DIFFERENT)], tiled=True)
        tiled = [few.encoded(row % DIFFERENT) for row in range(options.pictures)]
        store = write(Path(folder) / "s.zarr", tiled)
        measure(store, options.rounds)


def measure(store: humandata.Store, rounds: int) -> None:
    group = zarr.open_group(store.path, mode="r")["images"]
    pack, offset, length = (group[name][...].tolist() for name in ("pack", "offset", "length"))
    packs = {number: group[f"packs/{number:05d}"] for number in set(pack)}
    rows = np.random.default_rng(0).permutation(store.images.rows).tolist()
    starts = np.concatenate([[0], np.cumsum(length)]).tolist()
    memory = memoryview(b"".join(store.picture(row) for row in range(store.images.rows)))
    out = np.empty(max(length), np.uint8)

    def copy(row: int) -> bytes:
        return bytes(memory[starts[row] : starts[row + 1]])

    def through_zarr(row: int) -> bytes:
        return packs[pack[row]][offset[row] : offset[row] + length[row]].tobytes()

    def into(row: int) -> None:
        data = store.encoded(row).data
        out[: len(data)] = np.frombuffer(data, np.uint8)

    for row in rows[:50]:
        assert (
            through_zarr(row) == store.picture(row) == bytes(store.encoded(row).data) == copy(row)
        )
    print(f"{len(rows):,} pictures of {np.mean(length) / 1e3:.0f} kB, tiled, in {len(packs)} packs")
    floor = per_call(copy, rows, rounds)
    for name, read, some in (
        ("bytes(memory[a:b])", copy, rows),
        ("store.picture(row)", store.picture, rows),
        ("store.encoded(row)", store.encoded, rows),
        ("store.encoded, copied to a buffer", into, rows),
        ("zarr-python, array[a:b]", through_zarr, rows[:40]),
    ):
        took = per_call(read, some, rounds)
        print(f"{name:34} {took * 1e6:10.1f} µs {took / floor:8.2f} x a copy in memory")
    print("bar: a picture at a random index within 2 x a copy in memory")


if __name__ == "__main__":
    main()
