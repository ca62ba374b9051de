"""Batches: stores mixed by weight, drawn reproducibly, cropped ahead of the device by threads.

What a batch holds is a pure function of (seed, epoch, step): the order of samples, their
augmentation and hence the pictures do not depend on the number of threads, and a run may go on
from any step.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from humandata.errors import DataError, HumandataError
from humandata.geometry import crop_intrinsics
from humandata.store import Store
from humandata.training.crops import (
    Annotations,
    Geometry,
    check_pictures,
    cut,
    geometry_of,
    transform,
)

#: Damaged pictures are replaced by other samples as long as they are few; beyond this share of
#: what was drawn (and this number) training stops instead of quietly learning from the rest.
UNDECODABLE_FRACTION = 0.02
UNDECODABLE_COUNT = 20
_REDRAWS = 20


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
        Camera of the crop, its turn and mirror included: it projects the stored 3D points onto the
        crop. Zero where unknown.
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
    """

    flip: float = 0.5
    scale: float = 0.25
    rotation: float = 30.0
    rotation_probability: float = 0.6
    channel_noise: float = 0.4


@dataclass(frozen=True)
class Draw:
    """What chance decided for one batch: samples (B,) and how each is changed."""

    store: NDArray[np.int64]
    row: NDArray[np.int64]
    scale: NDArray[np.float32]
    rotation: NDArray[np.float32]
    flip: NDArray[np.bool_]
    channel_gain: NDArray[np.float32]
    noise_seed: NDArray[np.int64]


class Mix:
    """Stores sampled by weight, with replacement.

    Every sample of the mix first draws a store by weight, then one of its usable persons evenly. An
    epoch is as long as the largest store (hmr-benchmarks' ``MixedDataset``).

    Parameters
    ----------
    stores : sequence of (Store, weight)
        Weights need not sum to one.
    batch_size, image_size : int
    seed : int
    augmentation : Augmentation
    approximate : bool
        Also map joints onto near ones of another definition.
    """

    def __init__(
        self,
        stores: Sequence[tuple[Store, float]],
        batch_size: int,
        image_size: int = 224,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        approximate: bool = False,
    ) -> None:
        if not stores:
            raise HumandataError("a mix needs at least one store")
        self.batch_size = batch_size
        self.image_size = image_size
        self.seed = seed
        self.augmentation = augmentation or Augmentation()
        self.annotations = [Annotations(store, approximate) for store, _ in stores]
        self.rows = [annotations.usable_rows() for annotations in self.annotations]
        for (store, _), rows in zip(stores, self.rows, strict=True):
            check_pictures(store)
            if not len(rows):
                raise HumandataError(f"{store.path} has no person with a box to crop")
        weights = np.array([weight for _, weight in stores], np.float64)
        self.probabilities = weights / weights.sum()
        self.steps_per_epoch = -(-max(map(len, self.rows)) // batch_size)
        self.undecodable = 0
        self._drawn = 0
        self._lock = threading.Lock()

    def draw(self, epoch: int, step: int) -> Draw:
        """What batch ``step`` of an epoch holds; depends on nothing but the seed and the two."""
        rng = np.random.default_rng([self.seed, epoch, step])
        count, options = self.batch_size, self.augmentation
        store, row = self._draw_samples(rng, count)
        scale = 1 + np.clip(rng.standard_normal(count), -1, 1) * options.scale
        rotation = np.clip(rng.standard_normal(count), -2, 2) * options.rotation
        rotation[rng.random(count) >= options.rotation_probability] = 0
        flip = rng.random(count) < options.flip
        gain = 1 + rng.uniform(-1, 1, (count, 3)) * options.channel_noise
        return Draw(
            store,
            row,
            scale.astype(np.float32),
            rotation.astype(np.float32),
            flip,
            gain.astype(np.float32),
            rng.integers(0, 2**63 - 1, count),
        )

    def _draw_samples(
        self, rng: np.random.Generator, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        store = rng.choice(len(self.rows), size=count, p=self.probabilities)
        position = rng.random(count)
        row = np.array(
            [
                self.rows[s][int(p * len(self.rows[s]))]
                for s, p in zip(store, position, strict=True)
            ],
            np.int64,
        )
        return store.astype(np.int64), row

    def batch(self, epoch: int, step: int) -> Batch:
        """Make batch ``step`` of an epoch.

        Raises
        ------
        DataError
            When more pictures than a few cannot be decoded.
        """
        draw = self.draw(epoch, step)

        def replacement(slot: int, attempt: int, error: DataError) -> tuple[int, int]:
            self._count_undecodable(error, attempt)
            rng = np.random.default_rng([self.seed, epoch, step, slot, attempt])
            store, row = self._draw_samples(rng, 1)
            return int(store[0]), int(row[0])

        with self._lock:
            self._drawn += self.batch_size
        return _assemble(self.annotations, draw, self.image_size, replacement)

    def _count_undecodable(self, error: DataError, attempt: int) -> None:
        with self._lock:
            self.undecodable += 1
            many = self.undecodable > max(UNDECODABLE_COUNT, UNDECODABLE_FRACTION * self._drawn)
            count, drawn = self.undecodable, self._drawn
        if many or attempt >= _REDRAWS:
            raise DataError(
                error.file,
                error.record,
                expected="pictures that can be decoded",
                found=f"{count} damaged of {drawn} drawn; this one: {error.found}",
                hint="humandata inspect --verify lists them.",
            ) from error

    def batches(self, first: int, last: int, workers: int = 2) -> Generator[Batch]:
        """Batches ``first`` to ``last - 1`` counted from the start of the run.

        Parameters
        ----------
        first, last : int
            Numbers of steps from the start of training, over all epochs.
        workers : int
            Threads that make batches ahead; 0 makes each when it is asked for.
        """
        steps = (divmod(step, self.steps_per_epoch) for step in range(first, last))
        return ahead((lambda e=e, s=s: self.batch(e, s) for e, s in steps), workers)  # type: ignore[misc]


def evaluation_batches(
    store: Store,
    rows: NDArray[Any] | None = None,
    batch_size: int = 64,
    image_size: int = 224,
    workers: int = 2,
    boxes: NDArray[Any] | None = None,
    approximate: bool = False,
) -> Generator[Batch]:
    """Persons of one store in order, not augmented, the last batch as short as it comes.

    Parameters
    ----------
    store : Store
    rows : (n,) int, optional
        Rows of instances; all that can be cropped by default.
    boxes : (n, 4) float, optional
        x, y, width, height to crop by instead of the store's; taken as they are, made square by the
        longer side.
    batch_size, image_size, workers : int
    approximate : bool
        Also map joints onto near ones of another definition.

    Raises
    ------
    DataError
        When a picture is missing or damaged: no evaluation skips a sample.
    """
    annotations = Annotations(store, approximate)
    check_pictures(store)
    chosen = annotations.usable_rows() if rows is None else np.asarray(rows, np.int64)

    def make(start: int) -> Batch:
        part = chosen[start : start + batch_size]
        count = len(part)
        draw = Draw(
            store=np.zeros(count, np.int64),
            row=part,
            scale=np.ones(count, np.float32),
            rotation=np.zeros(count, np.float32),
            flip=np.zeros(count, bool),
            channel_gain=np.ones((count, 3), np.float32),
            noise_seed=np.zeros(count, np.int64),
        )
        own = None if boxes is None else np.asarray(boxes)[start : start + count]
        return _assemble([annotations], draw, image_size, _refuse, own)

    starts = range(0, len(chosen), batch_size)
    return ahead((lambda start=start: make(start) for start in starts), workers)  # type: ignore[misc]


def _refuse(slot: int, attempt: int, error: DataError) -> tuple[int, int]:
    raise error


def _assemble(
    annotations: Sequence[Annotations],
    draw: Draw,
    size: int,
    replacement: Callable[[int, int, DataError], tuple[int, int]],
    boxes: NDArray[Any] | None = None,
) -> Batch:
    """Cut the crops of a draw and carry its targets along.

    ``replacement(slot, attempt, error)`` names another (store, row) for a picture that cannot be
    read.
    """
    count = len(draw.row)
    store, row = draw.store.copy(), draw.row.copy()
    centre, side = _by_store(
        store, row, lambda s, rows, at: _squares(annotations[s], rows, at, boxes)
    )
    crop = geometry_of(centre, side * draw.scale, size, draw.rotation, draw.flip)
    images = torch.empty((count, size, size, 3), dtype=torch.uint8, pin_memory=_pin())
    pixels = images.numpy()
    for slot in range(count):
        attempt = 0
        while True:
            source = annotations[store[slot]].store
            try:
                cut(source, int(row[slot]), crop.affine[slot], pixels[slot])
                break
            except DataError as error:
                attempt += 1
                store[slot], row[slot] = replacement(slot, attempt, error)
                one = slice(slot, slot + 1)
                centre[one], side[one] = annotations[store[slot]].squares(row[one])
                crop = geometry_of(centre, side * draw.scale, size, draw.rotation, draw.flip)
    gathered = _by_store(store, row, lambda s, rows, at: annotations[s].gather(rows))
    return _to_batch(images, transform(gathered, crop), crop, draw, store, row)


def _squares(
    annotations: Annotations, rows: NDArray[Any], at: NDArray[Any], boxes: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if boxes is None:
        return annotations.squares(rows)
    x, y, width, height = np.moveaxis(boxes[at].astype(np.float32), -1, 0)
    return np.stack([x + width / 2, y + height / 2], axis=-1), np.maximum(width, height)


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


def _to_batch(
    images: Tensor,
    targets: dict[str, NDArray[Any]],
    crop: Geometry,
    draw: Draw,
    store: NDArray[Any],
    row: NDArray[Any],
) -> Batch:
    def single(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))

    return Batch(
        images=images.permute(0, 3, 1, 2),
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
        crop_intrinsics=single(crop_intrinsics(crop.affine, targets["intrinsics"])),
        channel_gain=single(draw.channel_gain),
        noise_seed=torch.from_numpy(draw.noise_seed),
        store=torch.from_numpy(store),
        row=torch.from_numpy(row),
    )


def _pin() -> bool:
    return torch.cuda.is_available()


def ahead(jobs: Iterable[Callable[[], Batch]], workers: int) -> Generator[Batch]:
    """Run jobs in threads, a few ahead of the reader, and give their results in order.

    An error in a thread is raised here, in its place in the order. Leaving the loop early stops the
    threads.
    """
    import cv2

    if workers <= 0:
        yield from (job() for job in jobs)
        return
    # One picture is too little work to share; OpenCV's own threads would fight ours for the cores.
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batch")
    waiting: deque[Future[Batch]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
