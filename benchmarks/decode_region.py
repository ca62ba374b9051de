"""Milliseconds from a store to a crop, against the floor: code written for this one purpose.

Restart tiles: the floor knows picture, tiles, scale and matrix beforehand. It joins the bytes of
the tiles, decodes them with simplejpeg into memory it has, and warps once. Beside it,
`humandata.training.crops.cut` from a store. Untouched JPEG files in a folder: the floor reads the
file, lets libturbojpeg decode the region (with the picture's height patched, so that it stops
below), and warps once; beside it the same `cut` from a store that keeps paths.

One thread, warm cache, crops of 224 pixels around squares of 1.2 times the box. Floor and ours take
turns, sample by sample; of every sample the best of the repetitions counts, and the table gives the
mean over samples. Without libturbojpeg the second half is left out.

python benchmarks/decode_region.py [--pictures FOLDER] [--rotation DEGREES] [--repeat N]
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

import humandata
from humandata import geometry, jpeg, regions, turbojpeg
from humandata.store import Store
from humandata.training.crops import cut

SIZE, ENLARGEMENT = 224, 1.2
CASES = [
    ("1080p, 150 px", 1920, 1080, 150),
    ("1080p, 300 px", 1920, 1080, 300),
    ("1080p, 700 px", 1920, 1080, 700),
    ("H36M, 400 px", 1000, 1000, 400),
    ("COCO, 200 px", 640, 480, 200),
]


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG of quality 92 with the bytes of a photograph: noise of every size, shapes, edges."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 110, np.float32)
    for octave in range(9):
        cells = 2 ** (octave + 2)
        noise = rng.normal(size=(cells * height // width + 1, cells, 3)).astype(np.float32)
        noise = 0.75 * noise.mean(axis=2, keepdims=True) + 0.25 * noise
        scaled = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        picture += 60 * 0.62**octave * scaled
    for _ in range(25):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        axes = (int(rng.uniform(5, width / 12)), int(rng.uniform(5, height / 6)))
        colour = rng.uniform(0, 255, 3).tolist()
        drawn = picture.copy()
        cv2.ellipse(drawn, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, colour, -1)
        picture = 0.4 * picture + 0.6 * drawn
    pixels = np.clip(picture + rng.normal(0, 1.2, picture.shape), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])[1])


@dataclass(frozen=True)
class Sample:
    """A person to crop: row of instances, what to decode, and where it goes."""

    row: int
    affine: np.ndarray[Any, Any]
    box: tuple[int, int, int, int]
    shrink: int


def write_stores(folder: Path, pictures: list[bytes]) -> tuple[Store, Store]:
    """The pictures in a tiled store, and in a folder with a store of their paths."""
    count = len(pictures)
    frames = [jpeg.read_frame(data) for data in pictures]
    ids = np.arange(1, count + 1, dtype=np.uint64)
    for number, data in enumerate(pictures):
        (folder / f"{number}.jpg").write_bytes(data)
    for name, stored in (("tiled", pictures), ("paths", None)):
        attributes = {"picture_root": str(folder)} if stored is None else {}
        made = humandata.create(
            folder / f"{name}.zarr", dataset="benchmark", attributes=attributes, tiled=True
        )
        with made as writer:
            writer.append(
                images={
                    "id": ids,
                    "path": [f"{number}.jpg" for number in range(count)],
                    "height": np.array([frame.height for frame in frames], np.int32),
                    "width": np.array([frame.width for frame in frames], np.int32),
                },
                instances={
                    "id": ids,
                    "image": np.arange(count, dtype=np.int32),
                    "bbox_xywh": np.tile(np.float32([0, 0, 9, 9, 1]), (count, 1)),
                },
                pictures=stored,
                field_attributes={"bbox_xywh": {"rule": "annotator", "factor": 1.0}},
            )
    return humandata.open(folder / "tiled.zarr"), humandata.open(folder / "paths.zarr")


def place(frame: jpeg.Frame, row: int, box: int, rotation: float, seed: int) -> Sample:
    """A person at random, whole in the picture where it fits."""
    rng = np.random.default_rng(seed)
    size = np.array([frame.width, frame.height])
    side = box * ENLARGEMENT
    low = np.minimum(side / 2, size / 2)
    affine = geometry.crop_affine(rng.uniform(low, size - low), side, SIZE, rotation)
    ends = np.array([[0, 0], [SIZE - 1, 0], [0, SIZE - 1], [SIZE - 1, SIZE - 1]], np.float64)
    corners = geometry.apply_affine(geometry.invert_affine(affine), ends)
    shrink = next((s for s in (8, 4, 2) if side / SIZE >= s), 1)
    low, high = np.floor(corners.min(axis=0)) - shrink, np.ceil(corners.max(axis=0)) + shrink + 1
    x0, y0 = (np.clip(low, 0, size - 1).astype(int) // shrink * shrink).tolist()
    x1, y1 = np.clip(high, 1, size).astype(int).tolist()
    return Sample(row, affine, (x0, y0, x1, y1), shrink)


def matrix(sample: Sample, left: int, top: int) -> Any:
    """Crop to decoded pixels."""
    found = geometry.invert_affine(sample.affine)
    found[:, 2] -= np.array([left, top]) + (sample.shrink - 1) / 2
    return found / sample.shrink


def tile_floor(store: Store, sample: Sample, memory: Any, out: Any) -> Callable[[], None]:
    """Join the tiles under the box, decode, warp; everything that can be known is known."""
    data, lengths = store.encoded(sample.row)
    if lengths is None:
        raise SystemExit("a picture could not be tiled; nothing to measure")
    frame = jpeg.read_frame(data)
    across, step = frame.mcus_per_row // frame.restart_interval, frame.restart_interval
    tile_width, tile_height = step * frame.mcu_width, frame.mcu_height
    x0, y0, x1, y1 = sample.box
    first, last = x0 // tile_width, min(-(-x1 // tile_width), across)
    start, stop = y0 // tile_height, min(-(-y1 // tile_height), frame.mcu_rows)
    left, top = first * tile_width, start * tile_height
    width = min(last * tile_width, frame.width) - left
    height = min(stop * tile_height, frame.height) - top
    begin = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) + frame.scan
    header = bytearray(data[: frame.scan])
    header[frame.size_at : frame.size_at + 4] = (height << 16 | width).to_bytes(4, "big")
    rows = [
        (int(begin[row * across + first]), int(begin[row * across + last]))
        for row in range(start, stop)
    ]
    taken = lengths.reshape(-1, across)[start:stop, first:last].astype(np.int64)
    at = np.cumsum(taken) + len(header) - 1
    kinds = (0xD0 + np.arange(len(at)) % 8).astype(np.uint8)
    kinds[-1] = 0xD9
    small_width, small_height = -(-width // sample.shrink), -(-height // sample.shrink)
    inverse = matrix(sample, left, top)
    warped = np.empty((SIZE, SIZE, 4), np.uint8)

    def run() -> None:
        joined = bytearray().join([header, *[data[a:b] for a, b in rows]])
        np.frombuffer(joined, np.uint8)[at] = kinds
        # Four channels are warped in half of the time of three.
        pixels = simplejpeg.decode_jpeg(
            joined, "RGBX", min_height=small_height, min_width=small_width, buffer=memory
        )
        cv2.warpAffine(pixels, inverse, (SIZE, SIZE), dst=warped, flags=17)
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)

    return run


def folder_floor(
    folder: Path, path: str, sample: Sample, memory: Any, out: Any
) -> Callable[[], None]:
    """Read, decode the region, warp, with libturbojpeg called by ctypes."""

    class Four(ctypes.Structure):
        _fields_ = [(name, ctypes.c_int) for name in "xywh"]

    class Two(ctypes.Structure):
        _fields_ = [(name, ctypes.c_int) for name in "nd"]

    library = ctypes.CDLL(path)
    library.tj3Init.restype = ctypes.c_void_p
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.tj3DecompressHeader.argtypes = [pointer, pointer, size]
    library.tj3SetScalingFactor.argtypes = [pointer, Two]
    library.tj3SetCroppingRegion.argtypes = [pointer, Four]
    library.tj3Decompress8.argtypes = [pointer, pointer, size, pointer, *[ctypes.c_int] * 2]
    handle = ctypes.c_void_p(library.tj3Init(1))
    file = folder / f"{sample.row}.jpg"
    frame = jpeg.read_frame(file.read_bytes())
    shrink = sample.shrink
    x0, y0, x1, y1 = (edge // shrink for edge in sample.box)
    x0 -= x0 % (frame.mcu_width // shrink)
    height = min(-(-(y1 + 1) * shrink // frame.mcu_height) * frame.mcu_height, frame.height)
    region, factor = Four(x0, y0, x1 - x0, y1 - y0), Two(1, shrink)
    pixels = memory[: (x1 - x0) * (y1 - y0) * 4].reshape(y1 - y0, x1 - x0, 4)
    warped = np.empty((SIZE, SIZE, 4), np.uint8)
    target, at = memory.ctypes.data, frame.size_at
    patch = height.to_bytes(2, "big")
    inverse = matrix(sample, x0 * shrink, y0 * shrink)

    def run() -> None:
        with open(file, "rb", buffering=0) as opened:
            data = bytearray(opened.read())
        data[at : at + 2] = patch
        source = (ctypes.c_char * len(data)).from_buffer(data)
        library.tj3DecompressHeader(handle, source, len(data))
        library.tj3SetScalingFactor(handle, factor)
        library.tj3SetCroppingRegion(handle, region)
        library.tj3Decompress8(handle, source, len(data), target, 0, 2)
        cv2.warpAffine(pixels, inverse, (SIZE, SIZE), dst=warped, flags=17)
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)

    return run


def compare(
    runs: list[tuple[Callable[[], None], Callable[[], None]]], outs: Any, repeat: int
) -> tuple[float, float]:
    """Milliseconds of floor and ours: of every sample the best of ``repeat``, and their mean."""
    best = np.full((len(runs), 2), np.inf)
    for pair in runs:
        for run in pair:
            run()
        off = np.abs(outs[0].astype(int) - outs[1])
        # The floor takes no margin: chroma at the edge of its tiles is not interpolated.
        if off.mean() > 0.2:
            raise SystemExit(f"floor and ours differ by {off.mean():.2f} levels")
    for _ in range(repeat):
        for number, pair in enumerate(runs):
            for which, run in enumerate(pair):
                start = time.perf_counter()
                run()
                spent = time.perf_counter() - start
                best[number, which] = min(best[number, which], spent)
    floor, ours = best.mean(axis=0).tolist()
    return floor * 1e3, ours * 1e3


def measure(
    pictures: list[bytes], box: int, people: int, rotation: float, repeat: int
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Floor and ours from tiles, then from files; the latter None without libturbojpeg."""
    memory = np.empty(32 << 20, np.uint8)
    outs = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    library = turbojpeg.find()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiled, paths = write_stores(folder, pictures)
        samples = [
            place(jpeg.read_frame(data), row, box, rotation, 1000 * row + person)
            for row, data in enumerate(pictures)
            for person in range(people)
        ]

        def ours(store: Store, sample: Sample) -> Callable[[], None]:
            return lambda: cut(store, sample.row, sample.affine, outs[1])

        tiles = [(tile_floor(tiled, s, memory, outs[0]), ours(tiled, s)) for s in samples]
        found = compare(tiles, outs, repeat)
        if library is None:
            return found, None
        files = [
            (folder_floor(folder, library.path, s, memory, outs[0]), ours(paths, s))
            for s in samples
        ]
        return found, compare(files, outs, repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="a folder of JPEG files, instead of our own")
    parser.add_argument(
        "--box", type=int, nargs="+", default=[150, 300, 700], help="with --pictures"
    )
    parser.add_argument("--rotation", type=float, default=0.0, help="of every crop, degrees")
    parser.add_argument("--count", type=int, default=8, help="pictures")
    parser.add_argument("--people", type=int, default=6, help="crops of each picture")
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    for use, what in regions.decoders().items():
        print(f"{use}: {what}")
    print(f"\n{'':16}{'KB':>6}   {'restart tiles':^26}   {'files in a folder':^26}")
    columns = f"{'floor':>8}{'ours':>8}{'rate':>8}"
    print(f"{'ms per sample':16}{'':6}   {columns}     {columns}")
    cases = CASES
    given: list[bytes] = []
    if options.pictures:
        files = sorted(options.pictures.rglob("*.jpg"))[: options.count]
        given = [file.read_bytes() for file in files]
        cases = [(f"given, {box} px", 0, 0, box) for box in options.box]
    for title, width, height, box in cases:
        pictures = given or [photo(width, height, seed) for seed in range(options.count)]
        rates = measure(pictures, box, options.people, options.rotation, options.repeat)
        size = statistics.mean(map(len, pictures)) / 1e3
        line = f"{title:16}{size:6.0f}   "
        for found in rates:
            if found is not None:
                floor, ours = found
                line += f"{floor:8.3f}{ours:8.3f}{floor / ours:8.2f}     "
        print(line.rstrip(), flush=True)
    print("rate: ours as a share of the floor's samples per second; bar: 0.8")


if __name__ == "__main__":
    main()
