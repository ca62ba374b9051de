"""Augmentation of whole batches against sample by sample in NumPy and OpenCV.

python benchmarks/augment.py [--batch 64] [--size 224] [--picture 640x480] [--repeats 5]

One thread on the CPU. The per-sample column does what the reference's pipeline does, on the picture
where the reference works on the picture, without the warp; the GPU column appears where there is
one. The first row is what every training does; the others come on top of it, and their last ratio
is that of both together.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from humandata import geometry
from humandata.training import occluders, recipes
from humandata.training.augment import MEAN, STD, Augmentations, prepare
from humandata.training.batches import Batch

Picture = NDArray[np.uint8]


def make_batch(count: int, size: int, width: int, height: int) -> tuple[Batch, list[Picture]]:
    rng = np.random.default_rng(0)
    pictures = [
        np.asarray(cv2.resize(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8), (width, height)))
        for _ in range(min(count, 8))
    ]
    pictures = [pictures[n % len(pictures)] for n in range(count)]
    side = rng.uniform(0.3, 0.9, count) * height
    centre = rng.uniform(0.3, 0.7, (count, 2)) * [width, height]
    turn = rng.normal(0, 30, count) * (rng.random(count) < 0.6)
    affine = geometry.crop_affine(centre, side, size, turn, rng.random(count) < 0.5)
    crops = [cv2.warpAffine(p, a, (size, size)) for p, a in zip(pictures, affine, strict=True)]
    joints = np.dstack([rng.uniform(0, size, (count, 54, 2)), np.ones((count, 54))])

    def single(values: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))

    batch = Batch(
        images=torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2),
        keypoints2d=single(joints),
        keypoints3d=torch.zeros(count, 54, 4),
        pose=torch.zeros(count, 24, 3),
        betas=torch.zeros(count, 10),
        has_smpl=torch.zeros(count, dtype=torch.bool),
        gender=torch.zeros(count, dtype=torch.uint8),
        centre=single(centre),
        side=single(side),
        affine=single(affine),
        picture_size=single(np.tile([width, height], (count, 1))),
        intrinsics=torch.zeros(count, 3, 3),
        crop_intrinsics=torch.zeros(count, 3, 3),
        channel_gain=single(rng.uniform(0.6, 1.4, (count, 3))),
        noise_seed=torch.from_numpy(rng.integers(0, 2**62, count)),
        store=torch.zeros(count, dtype=torch.int64),
        row=torch.arange(count),
    )
    return batch, pictures


# Sample by sample ------------------------------------------------------------------------------


class Single:
    """The reference's steps on one sample, written in NumPy and OpenCV."""

    def __init__(self, batch: Batch, pictures: list[Picture]) -> None:
        self.crops = [np.ascontiguousarray(c) for c in batch.images.permute(0, 2, 3, 1).numpy()]
        self.pictures = pictures
        self.centre, self.side = batch.centre.numpy(), batch.side.numpy()
        back = [cv2.invertAffineTransform(a) for a in batch.affine.double().numpy()]
        joints = batch.keypoints2d[..., :2].double().numpy()
        self.joints = [cv2.transform(j[None], b)[0] for j, b in zip(joints, back, strict=True)]
        self.gain = batch.channel_gain.numpy()
        self.objects = occluders.make()
        self.rng = np.random.default_rng(0)

    def plain(self, n: int) -> Any:
        noisy = np.clip(np.rint(self.pictures[n] * self.gain[n]), 0, 255).astype(np.uint8)
        crop = self.crops[n].astype(np.float32)
        normal = (crop - np.float32(MEAN)) / np.float32(STD)
        return noisy, np.ascontiguousarray(normal.transpose(2, 0, 1))

    def photometric_distortion(self, n: int) -> Picture:
        rng, picture = self.rng, self.pictures[n]

        def stored(values: Any, factor: float = 1.0, offset: float = 0.0) -> Picture:
            return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

        if rng.random() < 0.5:
            picture = stored(picture, offset=rng.uniform(-32, 32))
        if rng.random() < 0.5:
            picture = stored(picture, rng.uniform(0.5, 1.5))
        mode = rng.integers(4)
        if mode:
            hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
            if mode != 2:
                hsv[..., 1] = stored(hsv[..., 1], rng.uniform(0.5, 1.5))
            if mode != 1:
                hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-18, 18)) % 180
            picture = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
        return picture

    def hard_erasing(self, n: int) -> Picture:
        picture, rng = self.pictures[n].copy(), self.rng
        side, limit = float(self.side[n]), picture.shape[1::-1]
        area, ratio = rng.uniform(0, 0.7) * side**2, rng.uniform(0.3, 1 / 0.3)
        h, w = math.sqrt(area * ratio), math.sqrt(area / ratio)
        x = self.centre[n, 0] - side / 2 + rng.random() * (side - w - 1)
        y = self.centre[n, 1] - side / 2 + rng.random() * (side - h - 1)
        if x >= 0 and y >= 0 and x + w < limit[0] and y + h < limit[1]:
            x, y, w, h = int(x), int(y), int(w), int(h)
            picture[y : y + h, x : x + w] = (rng.random((h, w, 3)) * 255).astype(np.uint8)
        return picture

    def synthetic_occlusion(self, n: int) -> Picture:
        limit = self.pictures[n].shape[1::-1]
        return self._occluded(n, lambda: self.rng.uniform([0, 0], limit))

    def keypoint_occlusion(self, n: int) -> Picture:
        def near_joint() -> Any:
            joint = self.joints[n][self.rng.integers(54)]
            at = joint + self.rng.standard_normal(2) * 0.1 * self.side[n]
            return np.clip(at, 0, self.pictures[n].shape[1::-1])

        return self._occluded(n, near_joint)

    def _occluded(self, n: int, centre: Callable[[], Any]) -> Picture:
        picture = self.pictures[n].copy()
        height, width = picture.shape[:2]
        for _ in range(self.rng.integers(1, 8)):
            item = self.objects[self.rng.integers(len(self.objects))]
            factor = self.rng.uniform(0.2, 1) * min(width, height) / 256
            extent = [round(length * factor) for length in item.shape[1::-1]]
            how = cv2.INTER_AREA if factor <= 1 else cv2.INTER_LINEAR
            item = cv2.resize(item, extent, interpolation=how)
            x, y = (np.round(centre()).astype(int) - np.array(extent) // 2).tolist()
            x0, y0, x1, y1 = max(x, 0), max(y, 0), x + extent[0], y + extent[1]
            part = item[y0 - y : height - y, x0 - x : width - x]
            below = picture[y0 : max(y1, 0), x0 : max(x1, 0)]
            if below.size:
                opacity = part[..., 3:].astype(np.float32) / 255
                below[:] = opacity * part[..., :3] + (1 - opacity) * below
        return picture

    def _patch(self, own: bool, n: int) -> Picture:
        crop, rng, size = self.crops[n].copy(), self.rng, self.crops[n].shape[0]
        while True:
            area, ratio = rng.uniform(0.02, 0.4) * size**2, rng.uniform(0.3, 1 / 0.3)
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < size and w < size:
                break
        x, u = rng.integers(0, size - w + 1, 2)
        y, v = rng.integers(0, size - h + 1, 2)
        m = rng.uniform(0.1, 0.9)
        other = crop[v : v + h, u : u + w] if own else rng.random((h, w, 3)) * 255
        crop[y : y + h, x : x + w] = (1 - m) * crop[y : y + h, x : x + w] + m * other
        return crop

    def soft_erasing(self, n: int) -> Picture:
        return self._patch(False, n)

    def self_mix(self, n: int) -> Picture:
        return self._patch(True, n)

    def coarse_dropout(self, n: int) -> Picture:
        crop, rng, size = self.crops[n].copy(), self.rng, self.crops[n].shape[0]
        for _ in range(rng.integers(1, 9)):
            h, w = rng.integers(10, 41, 2)
            y, x = rng.integers(0, size - h + 1), rng.integers(0, size - w + 1)
            crop[y : y + h, x : x + w] = 0
        return crop

    def grid_dropout(self, n: int) -> Picture:
        crop, rng, size = self.crops[n].copy(), self.rng, self.crops[n].shape[0]
        unit = int(rng.integers(10, 41))
        hole = unit // 2
        shift = rng.integers(0, unit - hole + 1, 2)
        for y in range(int(shift[1]), size, unit):
            for x in range(int(shift[0]), size, unit):
                crop[y : y + hole, x : x + hole] = 0
        return crop


# Timing ----------------------------------------------------------------------------------------


def milliseconds(work: Callable[[], Any], repeats: int, gpu: bool = False) -> float:
    """Best of some repeats; of one thread's own time, which other programs disturb less."""
    clock = time.perf_counter if gpu else time.thread_time
    work()
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        if gpu:
            torch.cuda.synchronize()
        times.append(clock() - start)
    return 1e3 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--picture", default="640x480", help="width x height")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    width, height = map(int, given.picture.split("x"))
    batch, pictures = make_batch(given.batch, given.size, width, height)
    single = Single(batch, pictures)
    there = batch.to("cuda") if torch.cuda.is_available() else None
    print(
        f"batch of {given.batch}, crops of {given.size}, pictures of {width} x {height}; every "
        "augmentation on every sample; ms per batch, one CPU thread"
    )
    print(
        f"{'':24}{'sample by sample':>18}{'whole batch':>14}{'ratio':>8}{'together':>10}{'GPU':>8}"
    )
    base: list[float] = []
    for name in ("plain", *recipes.AUGMENTATIONS):
        options = None if name == "plain" else Augmentations.named([f"{name}=1"])
        step: Callable[[int], Any] = getattr(single, name)
        theirs = milliseconds(
            lambda step=step: [step(n) for n in range(given.batch)], given.repeats
        )
        whole = [milliseconds(lambda options=options: prepare(batch, options), given.repeats)]
        if there is not None:
            moved = None if options is None else options.to("cuda")
            work = lambda moved=moved: prepare(there, moved)  # noqa: E731
            whole.append(milliseconds(work, given.repeats, True))
        together = ""
        if name == "plain":
            base = [theirs, *whole]
        else:
            together = f"{(base[0] + theirs) / whole[0]:9.1f}x"
            whole = [max(ours - plain, 0.1) for ours, plain in zip(whole, base[1:], strict=True)]
        label = "noise, normalisation" if name == "plain" else name
        gpu = f"{whole[1]:8.2f}" if there is not None else f"{'none':>8}"
        ratio = f"{theirs / whole[0]:7.1f}x"
        print(f"{label:24}{theirs:18.1f}{whole[0]:14.1f}{ratio}{together:>10}{gpu}")


if __name__ == "__main__":
    main()
