"""One batch: persons drawn, their crops placed, cut and handed out with what is known of them."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from humandata.errors import DamagedPictureError, DataError
from humandata.training.crops import (
    Annotations,
    Begun,
    Geometry,
    begin,
    crop_intrinsics,
    draw,
    geometry_of,
    transform,
)

_REDRAWS = 20
_GROUP = 16


@dataclass(frozen=True)
class Batch:
    """B persons, cropped. S is the side of a crop in pixels; joints are smpl_54.

    Attributes
    ----------
    images : (B, 3, S, S) uint8 RGB; float32 after `humandata.training.augment.prepare`.
    keypoints2d : (B, 54, 3) float32
        x, y in pixels of the crop, confidence; zero where not annotated.
    keypoints3d : (B, 54, 4) float32
        x, y, z in metres in the (turned, flipped) axes of the camera, confidence.
    pose : (B, 24, 3) float32
        Axis-angle, radians; joint 0 is the orientation in the axes of the camera.
    betas : (B, 10) float32
    has_smpl : (B,) bool
        Whether ``pose`` and ``betas`` are annotated.
    gender : (B,) uint8
        Code of the body model the annotation belongs to: unknown, neutral, male, female.
    centre : (B, 2) float32
        Centre of the crop, pixels of the picture.
    side : (B,) float32
        Side of the crop, pixels of the picture, random scale included.
    affine : (B, 2, 3) float32
        Pixels of the picture to pixels of the crop.
    picture_size : (B, 2) float32
        Width, height of the picture.
    intrinsics : (B, 3, 3) float32
        Camera of the picture; zero where unknown.
    crop_intrinsics : (B, 3, 3) float32
        Camera of the crop: it projects ``keypoints3d`` (as turned and flipped) onto the crop. Zero
        where unknown.
    channel_gain : (B, 3) float32
        Factor of each colour (RGB) that `augment.prepare` applies; 1 for none.
    noise_seed : (B,) int64
        A number per sample from which everything else that is random on the device is drawn.
    store : (B,) int64
        Number of the store in the mix.
    row : (B,) int64
        Row of that store's instances.
    """

    images: Tensor
    keypoints2d: Tensor
    keypoints3d: Tensor
    pose: Tensor
    betas: Tensor
    has_smpl: Tensor
    gender: Tensor
    centre: Tensor
    side: Tensor
    affine: Tensor
    picture_size: Tensor
    intrinsics: Tensor
    crop_intrinsics: Tensor
    channel_gain: Tensor
    noise_seed: Tensor
    store: Tensor
    row: Tensor

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def size(self) -> int:
        """Side of the crops in pixels."""
        return int(self.images.shape[-1])

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device, copied without waiting where memory is pinned."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in dataclasses.fields(self)
        }
        return Batch(**moved)

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, from which copies to a GPU need no waiting."""
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Batch(**{name: tensor.pin_memory() for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training crop; the defaults are HMR's (``hmr-benchmarks`` base pipeline).

    Attributes
    ----------
    flip : float
        Probability of a mirrored picture.
    scale : float
        Standard deviation of the relative side of the crop, clipped at one deviation.
    rotation : float
        Standard deviation of the turn in degrees, clipped at two deviations.
    rotation_probability : float
        Share of crops that are turned at all.
    channel_noise : float
        Largest relative change of each colour.
    random_crop : float
        Probability of a truncated person (hmr-benchmarks' ``RandomCrop``; 0.8 there): the box
        shrinks about its middle in x and to a random height in y, before all else. Joints outside
        of it keep their confidence.
    random_crop_factor : float
        By how much of its side it shrinks.
    """

    flip: float = 0.5
    scale: float = 0.25
    rotation: float = 30.0
    rotation_probability: float = 0.6
    channel_noise: float = 0.4
    random_crop: float = 0.0
    random_crop_factor: float = 0.4


UNCHANGED = Augmentation(flip=0, scale=0, rotation=0, rotation_probability=0, channel_noise=0)
"""No augmentation."""


@dataclass(frozen=True)
class Draw:
    """What chance decided for one batch: samples (B,) and how each is changed.

    ``truncation`` is where a truncated box lies between the top (0) and the bottom (1) of the whole
    one, and -1 where it is whole; ``shrink`` is by how much it is smaller.
    """

    store: NDArray[np.int64]
    row: NDArray[np.int64]
    truncation: NDArray[np.float64]
    scale: NDArray[np.float32]
    rotation: NDArray[np.float32]
    flip: NDArray[np.bool_]
    channel_gain: NDArray[np.float32]
    noise_seed: NDArray[np.int64]
    shrink: float = 0.0


def draw_changes(
    rng: np.random.Generator,
    options: Augmentation,
    store: NDArray[np.int64],
    row: NDArray[np.int64],
    noise_seed: NDArray[np.int64],
) -> Draw:
    """Draw how each of the given samples (B,) is changed."""
    count = len(row)
    scale = 1 + np.clip(rng.standard_normal(count), -1, 1) * options.scale
    rotation = np.clip(rng.standard_normal(count), -2, 2) * options.rotation
    rotation[rng.random(count) >= options.rotation_probability] = 0
    flip = rng.random(count) < options.flip
    gain = 1 + rng.uniform(-1, 1, (count, 3)) * options.channel_noise
    truncation = rng.random(count)
    truncation[rng.random(count) >= options.random_crop] = -1
    return Draw(
        store,
        row,
        truncation,
        scale.astype(np.float32),
        rotation.astype(np.float32),
        flip,
        gain.astype(np.float32),
        noise_seed,
        options.random_crop_factor,
    )


def unchanged(store: NDArray[np.int64], row: NDArray[np.int64]) -> Draw:
    """The given samples (B,) as they are."""
    return draw_changes(
        np.random.default_rng(0), UNCHANGED, store, row, np.zeros(len(row), np.int64)
    )


def truncate(
    centre: NDArray[np.float32],
    side: NDArray[np.float32],
    place: NDArray[np.float64],
    shrink: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shrink squares as hmr-benchmarks' ``RandomCrop(axis="y")`` does, with its whole pixels.

    Parameters
    ----------
    centre, side : (B, 2), (B,)
        Pixels of the picture.
    place : (B,)
        From 0, at the top of the square, to 1, at its bottom; negative leaves a square as it is, as
        it is where nothing would be left.
    shrink : float
        Share of the side that goes.
    """
    whole = np.trunc(side.astype(np.float64))
    small = np.trunc(whole * (1 - shrink))
    corner = np.trunc(centre.astype(np.float64) - whole[:, None] / 2)
    offset = np.trunc((whole - small)[:, None] * np.stack([np.full_like(place, 0.5), place], 1))
    shrunk = (place >= 0) & (small >= 1)
    moved = np.where(shrunk[:, None], corner + offset + small[:, None] / 2, centre)
    return moved.astype(np.float32), np.where(shrunk, small, side).astype(np.float32)


@dataclass(frozen=True)
class Damaged:
    """A picture that could not be decoded, and was drawn."""

    store: int
    row: int
    error: DamagedPictureError


@dataclass(frozen=True)
class Made:
    """A batch, and what had to be replaced in it."""

    batch: Batch
    damaged: list[Damaged]


def _references(arrays: list[NDArray[np.uint8]], number: int) -> int:
    return sys.getrefcount(arrays[number])


#: References to an array that nobody holds but its list; a matter of the Python version.
_ALONE = _references([np.empty(1, np.uint8)], 0)


class _Memory:
    """Memory of crops that is used again once nobody holds it, so that no batch is overwritten.

    Fresh memory costs a page fault for every 4 KB: as long as a tenth of decoding a small person.
    A tensor made of an array, and whatever is a view of that tensor, holds on to the array, so
    counting references tells.
    """

    #: Arrays that are kept; as many batches are seldom under way at once.
    LIMIT = 8

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array of this shape and of any content, which nobody else holds."""
        with self._lock:
            for number in range(len(self._kept)):
                if self._kept[number].shape == shape and _references(self._kept, number) == _ALONE:
                    return self._kept[number]
            fresh = np.empty(shape, np.uint8)
            self._kept = [array for array in self._kept if array.shape == shape][-self.LIMIT + 1 :]
            self._kept.append(fresh)
            return fresh


_memory = _Memory()


class Assembly:
    """One batch in the making: planned, filled with crops by any number of threads, finished.

    Parameters
    ----------
    annotations : sequence of Annotations
        By number of the store.
    draw : callable
        Gives the draw; called once, by whoever plans.
    count, size : int
        Samples, and side of a crop in pixels.
    redraw : callable, optional
        ``redraw(slot, attempt, store)`` names another row of the same store for a damaged picture;
        without it a damaged picture is an error.
    boxes : (count, 4), optional
        Boxes to crop by instead of the store's.
    """

    def __init__(
        self,
        annotations: Sequence[Annotations],
        draw: Callable[[], Draw],
        count: int,
        size: int,
        redraw: Callable[[int, int, int], int] | None,
        boxes: NDArray[Any] | None = None,
    ) -> None:
        self.count = count
        self._annotations = annotations
        self._draw_it = draw
        self._size = size
        self._redraw = redraw
        self._boxes = boxes
        self._damaged: list[Damaged] = []

    def plan(self) -> None:
        """Draw the batch and place its crops."""
        self._draw = draw = self._draw_it()
        self._row = draw.row.copy()
        centre, side = _by_store(draw.store, self._row, self._squares)
        self._crop = self._geometry(centre, side, slice(None))
        shape = (self.count, self._size, self._size, 3)
        if pinned():  # torch reuses pinned memory by itself
            self._images = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            self._images = torch.from_numpy(_memory.take(shape))
        self._pixels = self._images.numpy()

    def _squares(
        self, store: int, rows: NDArray[Any], at: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self._boxes is None:
            return self._annotations[store].squares(rows)
        x, y, width, height = np.moveaxis(self._boxes[at].astype(np.float32), -1, 0)
        return np.stack([x + width / 2, y + height / 2], axis=-1), np.maximum(width, height)

    def _geometry(
        self, centre: NDArray[np.float32], side: NDArray[np.float32], at: slice
    ) -> Geometry:
        draw = self._draw
        if (draw.truncation[at] >= 0).any():
            centre, side = truncate(centre, side, draw.truncation[at], draw.shrink)
        return geometry_of(
            centre, side * draw.scale[at], self._size, draw.rotation[at], draw.flip[at]
        )

    def fill(self, start: int, stop: int) -> None:
        """Cut the crops of some slots.

        Raises
        ------
        DataError
            When a store is damaged or was replaced, or too many pictures in a row are damaged.
        """
        # In groups, bytes before pixels (`crops.begin` says why); few enough for the caches.
        for first in range(start, stop, _GROUP):
            slots = range(first, min(first + _GROUP, stop))
            begun = [self._begin(slot) for slot in slots]
            for slot, crop in zip(slots, begun, strict=True):
                attempt = 0
                while True:
                    try:
                        if isinstance(crop, DamagedPictureError):
                            raise crop
                        draw(crop, self._pixels[slot])
                        break
                    except DamagedPictureError as error:
                        attempt += 1
                        self._replace(slot, attempt, error)
                        crop = self._begin(slot)

    def _begin(self, slot: int) -> Begun | DamagedPictureError:
        annotations, row = self._annotations[self._draw.store[slot]], int(self._row[slot])
        annotations.check(row)
        try:
            affine = self._crop.affine[slot].tolist()
            return begin(annotations.store, row, affine, self._size)
        except DamagedPictureError as error:
            return error

    def _replace(self, slot: int, attempt: int, error: DamagedPictureError) -> None:
        if self._redraw is None:
            raise error
        store = int(self._draw.store[slot])
        self._damaged.append(Damaged(store, int(self._row[slot]), error))
        if attempt >= _REDRAWS:
            raise DataError(
                error.file,
                error.record,
                expected="pictures that can be decoded",
                found=f"{attempt} damaged of {attempt} drawn for one sample; this one: "
                f"{error.found}",
                hint="humandata inspect --verify lists them.",
            ) from error
        self._row[slot] = self._redraw(slot, attempt, store)
        one = slice(slot, slot + 1)
        fresh = self._geometry(*self._annotations[store].squares(self._row[one]), one)
        for name in ("centre", "side", "affine"):
            getattr(self._crop, name)[one] = getattr(fresh, name)

    def finish(self) -> Made:
        """Gather the annotations of what was cut, carry them into the crops, and hand all out."""
        targets = _by_store(
            self._draw.store, self._row, lambda s, rows, at: self._annotations[s].gather(rows)
        )
        targets = transform(targets, self._crop)
        self._damaged.sort(key=lambda found: (found.store, found.row))
        return Made(self._batch(targets), self._damaged)

    def _batch(self, targets: dict[str, NDArray[Any]]) -> Batch:
        def single(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, np.float32))

        crop, draw = self._crop, self._draw
        return Batch(
            images=self._images.permute(0, 3, 1, 2),
            keypoints2d=single(targets["keypoints2d"]),
            keypoints3d=single(targets["keypoints3d"]),
            pose=single(targets["pose"]),
            betas=single(targets["betas"]),
            has_smpl=torch.from_numpy(np.array(targets["has_smpl"], bool)),
            gender=torch.from_numpy(np.array(targets["gender"], np.uint8)),
            centre=single(crop.centre),
            side=single(crop.side),
            affine=single(crop.affine),
            picture_size=single(targets["picture_size"]),
            intrinsics=single(targets["intrinsics"]),
            crop_intrinsics=single(crop_intrinsics(targets["intrinsics"], crop)),
            channel_gain=single(draw.channel_gain),
            noise_seed=torch.from_numpy(draw.noise_seed),
            store=torch.from_numpy(draw.store),
            row=torch.from_numpy(self._row),
        )


def at_once(job: Assembly) -> Made:
    """Make a batch in this thread."""
    job.plan()
    job.fill(0, job.count)
    return job.finish()


def _by_store(store: NDArray[Any], row: NDArray[Any], read: Callable[..., Any]) -> Any:
    """Read each store's part of a batch at once and put the parts back in the order of the batch.

    ``read(store, rows, positions)`` gives a tuple or a dict of arrays.
    """
    result: Any = None
    for number in np.unique(store):
        at = np.flatnonzero(store == number)
        part = read(int(number), row[at], at)
        if len(at) == len(store):
            return part
        items = part.items() if isinstance(part, dict) else enumerate(part)
        if result is None:
            result = {
                key: np.zeros((len(store), *value.shape[1:]), value.dtype)
                for key, value in (part.items() if isinstance(part, dict) else enumerate(part))
            }
        for key, value in items:
            result[key][at] = value
    return result if isinstance(part, dict) else tuple(result.values())


def pinned() -> bool:
    """Whether crops are made in pinned memory: where a GPU waits for them, in its own process."""
    return get_worker_info() is None and torch.cuda.is_available()
