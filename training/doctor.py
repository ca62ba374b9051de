"""What this machine can do for training: what is installed, and how fast a store becomes batches.

Imports torch only where something needs it, so that the environment can be looked at without.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import humandata
from humandata.errors import HumandataError
from humandata.store import Store

#: Distributions whose versions matter, with what each is for.
PACKAGES = {
    "numpy": "arrays",
    "zarr": "compressed stores",
    "h5py": "MATLAB 7.3 files",
    "scipy": "MATLAB files, sparse matrices",
    "opencv-python-headless": "warping, pictures that are not JPEG",
    "simplejpeg": "decoding JPEG",
    "pillow": "its libjpeg tiles JPEG without loss",
    "turbojpeg": "its libturbojpeg decodes regions of untouched JPEG",
    "torch": "training",
    "torchvision": "needed by timm",
    "timm": "backbones",
    "safetensors": "checkpoints",
    "tensorboard": "curves of a run",
    "smplx": "compares our bodies with theirs",
}

MODEL_FILES = ("SMPL_NEUTRAL", "SMPL_MALE", "SMPL_FEMALE")


def environment() -> dict[str, Any]:
    """Versions, devices and libraries of this machine.

    Returns
    -------
    dict
        ``humandata``, ``python``, ``platform``, ``cores`` (that this process may use); ``packages``
        (name: version or None); ``gpus`` (list of name, memory in GiB, bfloat16), ``cuda``;
        ``jpeg`` (what decodes, what tiles); ``body_models`` (folder, files found).
    """
    return {
        "humandata": humandata.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "packages": {name: _version(name) for name in PACKAGES},
        **_gpus(),
        "jpeg": _jpeg(),
        "body_models": _body_models(),
    }


def cores() -> int:
    """Cores this process may run on, which a batch system may have limited."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _version(name: str) -> str | None:
    names = [name]
    if name == "opencv-python-headless":
        names += ["opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"]
    for candidate in names:
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def has_torch() -> bool:
    """Whether torch is installed; does not import it."""
    return importlib.util.find_spec("torch") is not None


def _gpus() -> dict[str, Any]:
    if not has_torch():
        return {"cuda": None, "gpus": []}
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / 2**30, 1),
                "bfloat16": properties.major >= 8,
            }
        )
    return {"cuda": torch.version.cuda, "gpus": found}


def _jpeg() -> dict[str, Any]:
    from humandata import libjpeg, regions

    library = libjpeg.library()
    tiling = library if isinstance(library, str) else str(library._name)
    return {"decoders": regions.decoders(), "tiling": tiling}


def _body_models() -> dict[str, Any]:
    folder = os.environ.get("HUMANDATA_BODY_MODELS")
    files = []
    if folder:
        names = (f"{name}.{ending}" for name in MODEL_FILES for ending in ("pkl", "npz"))
        files = [name for name in names if (Path(folder) / name).is_file()]
    return {"folder": folder, "files": files}


@dataclass(frozen=True)
class Stage:
    """One step of the way from a store to a batch, on one thread.

    Attributes
    ----------
    name : str
    milliseconds : float
        Mean over samples.
    """

    name: str
    milliseconds: float

    @property
    def samples_per_second(self) -> float:
        return 1000 / self.milliseconds if self.milliseconds else float("inf")


@dataclass(frozen=True)
class Speed:
    """How fast a store becomes batches on this machine.

    Attributes
    ----------
    stages : tuple of Stage
        ``bytes`` (copy the encoded picture), ``decode`` (the region under the crop), ``warp`` (to
        the crop) and, where torch is installed, ``batch`` (all of the former, targets and their
        geometry) and ``augment`` (colour noise and normalisation of the whole batch).
    total : float
        Samples per second of one thread, from store to augmented batch; of decode and warp where
        torch is missing.
    threads : dict
        Number of threads: samples per second of all together. Empty without torch.
    need : float or None
        Samples per second that the GPU takes, measured with `need_of_gpu` or told.
    """

    stages: tuple[Stage, ...]
    total: float
    threads: Mapping[int, float]
    need: float | None

    def threads_needed(self, rate: float) -> int:
        """Threads that feed ``rate`` samples per second, by the rate of one."""
        return max(1, int(np.ceil(rate / self.total)))

    def as_dict(self) -> dict[str, Any]:
        stages = [asdict(stage) | {"per_second": stage.samples_per_second} for stage in self.stages]
        return asdict(self) | {"stages": stages}


def measure(
    store: Store,
    samples: int = 256,
    image_size: int = 224,
    batch_size: int = 32,
    need: float | None = None,
    seed: int = 0,
) -> Speed:
    """Time the way from a store to batches, as training goes it.

    Pictures are read twice, so that what is timed is the machine and not a cold disk.

    Parameters
    ----------
    store : Store
    samples : int
        Persons that are cropped, drawn as in training.
    image_size, batch_size, seed : int
    need : float, optional
        Samples per second that a GPU takes.

    Raises
    ------
    HumandataError
        If the store has no pictures or nobody in it can be cropped.
    DataError
        If a picture cannot be decoded.
    """
    from humandata.training.crops import Annotations, check_pictures, geometry_of

    check_pictures(store)
    annotations = Annotations(store)
    usable = annotations.usable_rows()
    if not len(usable):
        raise HumandataError(f"{store.path} has no person with a box to crop")
    rng = np.random.default_rng(seed)
    rows = rng.choice(usable, samples)
    centre, side = annotations.squares(rows)
    turn = rng.normal(0, 18, samples).astype(np.float32)
    affines = geometry_of(centre, side, image_size, turn, rng.random(samples) < 0.5).affine
    stages = _stages_of_pictures(store, rows, affines, image_size)
    if not has_torch():
        total = 1000 / sum(stage.milliseconds for stage in stages if stage.name != "bytes")
        return Speed(tuple(stages), total, {}, need)
    more, total, threads = _stages_of_batches(store, samples, image_size, batch_size, seed)
    return Speed((*stages, *more), total, threads, need)


def _stages_of_pictures(store: Store, rows: Any, affines: Any, image_size: int) -> list[Stage]:
    import cv2

    from humandata.training.crops import cut

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    images = np.asarray(store.instances["image"])[rows]
    out = np.empty((image_size, image_size, 3), np.uint8)
    # Four channels, which is what regions are decoded to: OpenCV warps them faster than three.
    flat = np.zeros((image_size + 32, image_size + 32, 4), np.uint8)
    warped = np.empty((image_size, image_size, 4), np.uint8)
    matrix = np.array([[0.9, 0.1, 3], [-0.1, 0.9, 20]])

    def read(number: int) -> None:
        if store.has_crops:
            crop = store.crop(int(rows[number]))
            _ = bytes(crop.data) if crop else b""
        else:
            store.picture(int(images[number]))

    def crop(number: int) -> None:
        cut(store, int(rows[number]), affines[number], out)

    def warp(number: int) -> None:
        cv2.warpAffine(flat, matrix, (image_size, image_size), dst=warped, flags=cv2.INTER_LINEAR)
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)

    try:
        bytes_ms, cut_ms, warp_ms = (_mean(step, len(rows)) for step in (read, crop, warp))
    finally:
        cv2.setNumThreads(before)
    return [
        Stage("bytes", bytes_ms),
        Stage("decode", max(cut_ms - warp_ms, 0.0)),
        Stage("warp", warp_ms),
    ]


def _stages_of_batches(
    store: Store, samples: int, image_size: int, batch_size: int, seed: int
) -> tuple[list[Stage], float, dict[int, float]]:
    import torch

    from humandata.training.augment import prepare
    from humandata.training.batches import Mix

    mix = Mix([(store, 1.0)], batch_size, image_size, seed)
    steps = max(4, samples // batch_size)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        per_epoch = mix.steps_per_epoch  # one batch at least; a small store is gone through again
        batch_ms = _mean(lambda step: mix.batch(*divmod(step, per_epoch)), steps) / batch_size
        batch = mix.batch(0, 0)
        augment_ms = _mean(lambda step: prepare(batch), steps) / batch_size
        rates = {}
        for count in sorted({1, 2, cores()}):
            if count <= cores():
                rates[count] = _rate(mix, steps * count, count)
    finally:
        torch.set_num_threads(before)
    stages = [Stage("batch", batch_ms), Stage("augment", augment_ms)]
    return stages, 1000 / (batch_ms + augment_ms), rates


def _rate(mix: Any, steps: int, workers: int) -> float:
    """Samples per second of ``workers`` threads that make batches, augmentation not counted."""
    started, count = time.perf_counter(), 0
    for batch in mix.batches(0, steps, workers):
        count += len(batch)
    return float(count / (time.perf_counter() - started))


def _mean(step: Callable[[int], Any], count: int) -> float:
    """Mean milliseconds of ``step(0) ... step(count - 1)``, each done once before to warm up."""
    for number in range(count):
        step(number)
    started = time.perf_counter()
    for number in range(count):
        step(number)
    return (time.perf_counter() - started) * 1e3 / count


def need_of_gpu(backbone: str = "resnet50", batch_size: int = 256, image_size: int = 224) -> float:
    """Samples per second that a training step of a backbone takes on the first GPU, in bfloat16.

    Forward, backward and Adam on random pictures that lie on the device already.

    Raises
    ------
    HumandataError
        If there is no GPU.
    """
    import timm
    import torch

    if not torch.cuda.is_available():
        raise HumandataError("no GPU that torch can use; tell what one needs with --need")
    network = timm.create_model(backbone, num_classes=157).cuda()
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    pictures = torch.randn(batch_size, 3, image_size, image_size, device="cuda")
    pictures = pictures.to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = network(pictures).float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(5):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        step()
    torch.cuda.synchronize()
    return 20 * batch_size / (time.perf_counter() - started)
