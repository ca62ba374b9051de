"""Milliseconds of a sample in a whole batch, annotations included, against the floor of its pixels.

The floor is that of decode_region.py: code that knows picture, tiles, scale and matrix beforehand,
joins the bytes of the tiles (or reads the file), decodes the region and warps once, into the slots
of a batch. Ours is `Mix.batch`: it draws the persons, places the crops, cuts them from the store,
gathers 54 joints in 2D and 3D, a body and the camera of each, and carries them into the crop,
mirrored ones too. Random
scale and turns are off, so that both sides decode the same regions. Whom the batches hold is drawn
for 4,096 persons at once; a person's share of that time is measured apart and added.

One thread, warm cache; of every batch the best of the repetitions counts.

python benchmarks/batches.py [--repeat N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from decode_region import CASES, SIZE, Sample, folder_floor, photo, place, tile_floor

import humandata
from humandata import geometry, jpeg, turbojpeg
from humandata.store import Store
from humandata.training.assembly import Augmentation
from humandata.training.batches import Mix
from humandata.training.sampling import Sampler


def write_store(
    path: Path, pictures: list[bytes], samples: list[Sample], box: int, stored: bool
) -> Store:
    """A store whose persons have the boxes of the samples, and everything a batch may hold."""
    count = len(samples)
    rng = np.random.default_rng(0)
    frames = [jpeg.read_frame(data) for data in pictures]
    middle = np.full((count, 1, 2), (SIZE - 1) / 2)
    affine = np.array([geometry.invert_affine(sample.affine) for sample in samples])
    centre = geometry.apply_affine(affine, middle)[:, 0]
    boxes = np.c_[centre - box / 2, np.full((count, 2), box), np.ones(count)].astype(np.float32)
    joints = centre[:, None] + rng.uniform(-box / 2, box / 2, (count, 54, 2))
    camera = np.array([[1500, 0, 960], [0, 1500, 540], [0, 0, 1]], np.float32)
    attributes = {} if stored else {"picture_root": str(path.parent)}
    with humandata.create(path, dataset="batches", attributes=attributes, tiled=True) as writer:
        writer.append(
            images={
                "id": np.arange(1, len(pictures) + 1, dtype=np.uint64),
                "path": [f"{number}.jpg" for number in range(len(pictures))],
                "height": np.array([frame.height for frame in frames], np.int32),
                "width": np.array([frame.width for frame in frames], np.int32),
                "intrinsics": np.tile(camera, (len(pictures), 1, 1)),
                "intrinsics_source": np.ones(len(pictures), np.uint8),
            },
            instances={
                "id": np.arange(1, count + 1, dtype=np.uint64),
                "image": np.array([sample.row for sample in samples], np.int32),
                "bbox_xywh": boxes,
                "keypoints2d": np.dstack([joints, np.ones((count, 54))]).astype(np.float32),
                "keypoints3d": rng.uniform(0.5, 1, (count, 54, 4)).astype(np.float32),
                "smpl/global_orient": rng.normal(size=(count, 3)).astype(np.float32),
                "smpl/body_pose": rng.normal(size=(count, 23, 3)).astype(np.float32),
                "smpl/betas": rng.normal(size=(count, 10)).astype(np.float32),
                "smpl/valid": np.ones(count, bool),
                "gender": np.ones(count, np.uint8),
            },
            pictures=pictures if stored else None,
            field_attributes={
                "bbox_xywh": {"rule": "annotator", "factor": 1.0},
                "keypoints2d": {"convention": "smpl_54"},
                "keypoints3d": {"convention": "smpl_54", "root": "absolute"},
            },
        )
    return humandata.open(path)


def best(run: Callable[[], object], repeat: int) -> float:
    """Least seconds of a run."""
    run()
    found = np.inf
    for _ in range(repeat):
        started = time.perf_counter()
        run()
        found = min(found, time.perf_counter() - started)
    return float(found)


def compare(store: Store, floors: list[Callable[[], None]], repeat: int) -> tuple[float, float]:
    """Milliseconds of a sample: floor, and ours in a batch of all persons."""
    count = len(floors)
    mix = Mix([(store, 1.0)], count, SIZE, augmentation=Augmentation(scale=0, rotation=0))

    def floor() -> None:
        for one in floors:
            one()

    rounds = [(best(floor, 1), best(lambda: mix.batch(0, 0), 1)) for _ in range(repeat)]
    least = np.min(rounds, axis=0) * 1e3 / count
    return float(least[0]), float(least[1]) + drawing(count)


def drawing(count: int) -> float:
    """Milliseconds of drawing one person for batches of ``count``."""
    epochs = iter(range(10))

    def draw() -> None:
        # The first batch of an epoch is drawn together with those that follow.
        sampler.samples(next(epochs), 0)

    sampler = Sampler((1_000_000,), (1.0,), count)
    return best(draw, 9) * 1e3 / 4096


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--people", type=int, default=8, help="of each picture")
    parser.add_argument("--repeat", type=int, default=10)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    memory = np.empty(32 << 20, np.uint8)
    outs = np.zeros((options.pictures * options.people, SIZE, SIZE, 3), np.uint8)
    library = turbojpeg.find()
    columns = f"{'floor':>8}{'ours':>8}{'rate':>8}"
    print(f"{'':16}{'restart tiles':^26}   {'files in a folder':^26}")
    print(f"{'ms per sample':16}{columns}     {columns}")
    for title, width, height, box in CASES:
        pictures = [photo(width, height, seed) for seed in range(options.pictures)]
        samples = [
            place(jpeg.read_frame(data), row, box, 0.0, 1000 * row + person)
            for row, data in enumerate(pictures)
            for person in range(options.people)
        ]
        line = f"{title:16}"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for number, data in enumerate(pictures):
                (folder / f"{number}.jpg").write_bytes(data)
            tiled = write_store(folder / "tiled.zarr", pictures, samples, box, stored=True)
            floors = [
                tile_floor(tiled, s, memory, out) for s, out in zip(samples, outs, strict=True)
            ]
            found = [compare(tiled, floors, options.repeat)]
            if library is not None:
                paths = write_store(folder / "paths.zarr", pictures, samples, box, stored=False)
                files = [
                    folder_floor(folder, library.path, s, memory, out)
                    for s, out in zip(samples, outs, strict=True)
                ]
                found.append(compare(paths, files, options.repeat))
        for floor, ours in found:
            line += f"{floor:8.3f}{ours:8.3f}{floor / ours:8.2f}     "
        print(line.rstrip(), flush=True)
    print("rate: ours as a share of the floor's samples per second; bar: 0.8")


if __name__ == "__main__":
    main()
