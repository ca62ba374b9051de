"""Tiling pictures without loss: pictures per second and core, beside the plain copy of libjpeg.

python benchmarks/transcode.py [FOLDER] [--pictures 20]

FOLDER holds JPEG pictures; without one, 1920×1080 pictures with the detail of photographs are made
up, at qualities 75, 90 and 95. The floor is what libjpeg itself takes to read a picture's
coefficients and to write them again with optimised tables and without restart markers, which is
``jpegtran -copy none -optimize``: what is measured beyond it is checking, markers and index. The
cost of cutting a region of 320×320 pixels out of the result is beside it, with the bytes it holds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from humandata import jpeg, libjpeg
from humandata.transcode import Kept, Tiled, tile


def photograph(seed: int, quality: int) -> bytes:
    """1920×1080 pixels of noise whose power falls with frequency, as in photographs."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((1080, 1920, 3), np.float32)
    for step in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        shape = 1080 // step + 2, 1920 // step + 2
        light = rng.normal(0, 2.2 * step**0.55, (*shape, 1))
        colour = rng.normal(0, 0.5 * step**0.55, (*shape, 3))
        grown = cv2.resize((light + colour).astype(np.float32), (1920, 1080))
        # Parts of a picture are out of focus, and have little detail.
        weight = cv2.resize(rng.uniform(0, 1, (5, 8)).astype(np.float32) ** 2, (1920, 1080))
        picture += grown * (weight[..., None] if step < 16 else 1)
    pixels = (picture + 120).clip(0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def plain_copy(data: bytes) -> bytes:
    """The floor: the same calls of the library, without markers and without checks."""
    library = libjpeg.library()
    assert not isinstance(library, str), library
    transform = libjpeg.transform(library)
    transform.read(data)
    written = transform.write(0)
    transform.close()
    return written


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median of some runs."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(name: str, pictures: list[bytes]) -> None:
    """One line of the table; pictures that cannot be tiled are counted beneath it."""
    rows, kept = [], []
    for data in pictures:
        result = tile(data)
        if isinstance(result, Kept):
            kept.append(result.reason)
            continue
        plain = plain_copy(data)  # and the buffers are warm
        # One after the other, so that both see the same machine.
        times = [
            (seconds(lambda d=data: plain_copy(d), 1), seconds(lambda d=data: tile(d), 1))  # type: ignore[misc]
            for _ in range(7)
        ]
        floor, ours = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append(
            (
                floor,
                ours,
                len(data),
                len(result.data) + result.lengths.nbytes,
                len(plain),
                *cutting(result),
            )
        )
    if rows:
        floor, ours, before, after, plain_size, cut, part = (
            statistics.fmean(column) for column in zip(*rows, strict=True)
        )
        print(
            f"{name:24} {1 / floor:8.0f} {1 / ours:8.0f} {floor / ours:8.2f} "
            f"{before / 1e3:8.0f} KB {plain_size / before - 1:+8.1%} {after / before - 1:+8.1%} "
            f"{cut * 1e6:8.0f} µs {before / part:6.1f} x"
        )
    for reason in sorted(set(kept)):
        print(f"{name:24} kept {kept.count(reason)}: {reason}")


def cutting(result: Tiled) -> tuple[float, int]:
    """Seconds of a cut in the middle, and its bytes."""
    frame = jpeg.read_frame(result.data)
    x, y = max(frame.width // 2 - 160, 0), max(frame.height // 2 - 160, 0)
    box = x, y, x + 320, y + 320
    part = jpeg.cut(result.data, result.lengths, box)
    return seconds(lambda: jpeg.cut(result.data, result.lengths, box), 101), len(part.data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--pictures", type=int, default=20, help="at most so many of a kind")
    options = parser.parse_args()
    print(
        f"{'':24} {'floor/s':>8} {'tiled/s':>8} {'ratio':>8} {'original':>11} "
        f"{'plain':>8} {'tiled':>8} {'one cut':>11} {'fewer B':>8}"
    )
    if options.folder is None:
        for quality in (75, 90, 95):
            pictures = [photograph(i, quality) for i in range(min(options.pictures, 5))]
            measure(f"1920x1080, quality {quality}", pictures)
    else:
        kinds: dict[str, list[bytes]] = {}
        for file in sorted(options.folder.rglob("*.jpg")):
            data = file.read_bytes()
            frame = jpeg.read_frame(data)
            name = f"{frame.width}x{frame.height}" + (" progressive" if frame.progressive else "")
            kinds.setdefault(name, []).append(data)
        for name, found in sorted(kinds.items()):
            measure(name, found[: options.pictures])
    print("bars: 100 tiled pictures of 1920x1080 per second and core, at most 5 % larger")


if __name__ == "__main__":
    main()
