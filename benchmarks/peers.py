"""Milliseconds from picture to training crop: humandata beside the loaders of its peers.

Each peer's own code is run, from a checkout that you make, on the same pictures and boxes, with
the augmentation its training uses, and gives what its network takes (a normalised float32 crop).
humandata is timed twice: to whole batches of uint8 crops and targets from `Mix.batch`, which is
what its CPU threads do, and with `augment.prepare` (colour noise, normalisation), which is the
GPU's work, done on this CPU instead. One thread, warm cache, median.

    git clone https://github.com/open-mmlab/mmhuman3d
    git clone https://github.com/smplbody/hmr-benchmarks
    git clone https://github.com/nkolot/SPIN
    git clone https://github.com/shubham-goel/4D-Humans
    pip install mmcv==1.7.2 addict yapf yacs scikit-image
    python benchmarks/peers.py --checkouts .

A peer whose checkout or package is missing is left out, and said so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PEERS = ("mmhuman3d", "hmr-benchmarks", "SPIN", "4D-Humans")
SIZES = (150, 300, 700)
ENLARGEMENT = 1.2
TILED, FOLDER = "tiled store", "folder of JPEGs"

Sample = dict[str, Any]
Process = Callable[[Sample], Any]


def openmmlab(root: Path) -> Process:
    """The training pipeline of mmhuman3d and of its fork hmr-benchmarks (configs/hmr)."""
    # The packages' __init__ files import pytorch3d and everything else; the pipeline does not.
    for name in ("", ".core", ".data", ".data.data_structures", ".data.datasets"):
        package = types.ModuleType(f"mmhuman3d{name}")
        package.__path__ = [str(root / "mmhuman3d" / Path(*name.strip(".").split(".")))]
        sys.modules[package.__name__] = package
    sys.modules["mmhuman3d.data"].data_structures = None  # type: ignore[attr-defined]
    reader = types.ModuleType("mmhuman3d.data.data_structures.smc_reader")
    reader.SMCReader = None  # type: ignore[attr-defined]
    sys.modules[reader.__name__] = reader
    builder = types.ModuleType("mmhuman3d.data.datasets.builder")
    builder.PIPELINES = importlib.import_module("mmcv.utils").Registry("pipeline")  # type: ignore[attr-defined]
    sys.modules[builder.__name__] = builder
    folder = root / "mmhuman3d" / "data" / "datasets" / "pipelines"
    package = types.ModuleType("mmhuman3d.data.datasets.pipelines")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    for name in ("compose", "loading", "transforms", "formatting"):
        importlib.import_module(f"mmhuman3d.data.datasets.pipelines.{name}")
    compose = sys.modules["mmhuman3d.data.datasets.pipelines.compose"].Compose
    keys = ["smpl_body_pose", "smpl_global_orient", "smpl_betas", "keypoints2d", "keypoints3d"]
    pipeline = compose(
        [
            {"type": "LoadImageFromFile"},
            {"type": "RandomChannelNoise", "noise_factor": 0.4},
            {"type": "RandomHorizontalFlip", "flip_prob": 0.5, "convention": "smpl_54"},
            {"type": "GetRandomScaleRotation", "rot_factor": 30, "scale_factor": 0.25},
            {"type": "MeshAffine", "img_res": 224},
            {
                "type": "Normalize",
                "mean": [123.675, 116.28, 103.53],
                "std": [58.395, 57.12, 57.375],
                "to_rgb": True,
            },
            {"type": "ImageToTensor", "keys": ["img"]},
            {"type": "ToTensor", "keys": keys},
            {"type": "Collect", "keys": ["img", *keys], "meta_keys": ["image_path", "center"]},
        ]
    )

    def process(sample: Sample) -> Any:
        return pipeline(
            {
                "img_prefix": None,
                "image_path": sample["file"],
                "center": np.array(sample["centre"], np.float32),
                "scale": np.array([sample["side"]] * 2, np.float32),
                "rotation": 0,
                "keypoints2d": np.array(sample["keypoints2d"]),
                "keypoints3d": np.array(sample["keypoints3d"]),
                "smpl_body_pose": np.zeros((23, 3), np.float32),
                "smpl_global_orient": np.zeros(3, np.float32),
                "smpl_betas": np.zeros(10, np.float32),
            }
        )

    return process


def spin(root: Path) -> Process:
    """`BaseDataset.__getitem__` of SPIN's ``datasets/base_dataset.py``."""
    from PIL import Image

    # scipy.misc lost its picture functions in SciPy 1.3; these are what they did.
    def as_bytes(picture: Any) -> Any:
        low, high = picture.min(), picture.max()
        return ((picture - low) * (255.0 / max(high - low, 1)) + 0.5).clip(0, 255).astype(np.uint8)

    misc = types.ModuleType("scipy.misc")
    misc.imresize = lambda picture, size: np.array(  # type: ignore[attr-defined]
        Image.fromarray(as_bytes(picture)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    )
    misc.imrotate = lambda picture, angle: np.array(  # type: ignore[attr-defined]
        Image.fromarray(as_bytes(picture)).rotate(angle, Image.Resampling.BILINEAR)
    )
    import scipy

    scipy.misc = misc
    sys.modules["scipy.misc"] = misc
    np.float = float  # type: ignore[attr-defined]  # noqa: NPY001
    sys.path.insert(0, str(root))
    module = importlib.import_module("datasets.base_dataset")
    constants = importlib.import_module("constants")
    from torchvision.transforms import Normalize

    dataset = object.__new__(module.BaseDataset)
    dataset.is_train = dataset.use_augmentation = True
    dataset.options = types.SimpleNamespace(noise_factor=0.4, rot_factor=30, scale_factor=0.25)
    dataset.normalize_img = Normalize(constants.IMG_NORM_MEAN, constants.IMG_NORM_STD)
    dataset.dataset, dataset.img_dir = "pictures", ""
    dataset.has_smpl, dataset.has_pose_3d = np.ones(1), 1
    dataset.pose, dataset.betas = np.zeros((1, 72)), np.zeros((1, 10))
    dataset.gender = np.zeros(1, np.int32)

    def process(sample: Sample) -> Any:
        dataset.imgname = [sample["file"]]
        dataset.scale = np.array([sample["side"] / 200])
        dataset.center = np.array([sample["centre"]])
        dataset.pose_3d = np.array([sample["keypoints3d"][:24]], np.float64)
        dataset.keypoints = np.array([sample["keypoints2d"][:49]], np.float64)
        return dataset[0]

    return process


def four_d_humans(root: Path) -> Process:
    """`get_example` of 4D-Humans' ``hmr2/datasets/utils.py`` with its default augmentation."""
    from yacs.config import CfgNode

    file = root / "hmr2" / "datasets" / "utils.py"
    spec = importlib.util.spec_from_file_location("hmr2_utils", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = CfgNode(
        {
            "SCALE_FACTOR": 0.3,
            "ROT_FACTOR": 30,
            "TRANS_FACTOR": 0.02,
            "COLOR_SCALE": 0.2,
            "ROT_AUG_RATE": 0.6,
            "TRANS_AUG_RATE": 0.5,
            "DO_FLIP": True,
            "FLIP_AUG_RATE": 0.5,
            "EXTREME_CROP_AUG_RATE": 0.0,
            "EXTREME_CROP_AUG_LEVEL": 1,
        }
    )
    mean = 255 * np.array([0.485, 0.456, 0.406])
    std = 255 * np.array([0.229, 0.224, 0.225])

    def process(sample: Sample) -> Any:
        bodies = {
            "global_orient": np.zeros(3, np.float32),
            "body_pose": np.zeros(69, np.float32),
            "betas": np.zeros(10, np.float32),
        }
        return module.get_example(
            sample["file"],
            *sample["centre"],
            sample["side"],
            sample["side"],
            np.array(sample["keypoints2d"][:44], np.float32),
            np.array(sample["keypoints3d"][:44], np.float32),
            bodies,
            {name: np.ones(1) for name in bodies},
            list(range(44)),
            256,
            256,
            mean,
            std,
            True,
            options,
        )

    return process


MAKERS: dict[str, Callable[[Path], Process]] = {
    "mmhuman3d": openmmlab,
    "hmr-benchmarks": openmmlab,
    "SPIN": spin,
    "4D-Humans": four_d_humans,
}


def pictures(folder: Path, count: int) -> list[Path]:
    """1920x1080 JPEGs of 200-300 KB: shapes and noise of several sizes, like photographs."""
    import cv2

    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        picture = np.full((1080, 1920, 3), 110, np.float32)
        for octave in range(7):
            small = rng.normal(0, 26 / (1 + octave) ** 0.5, (9 << octave, 16 << octave, 3))
            picture += cv2.resize(
                small.astype(np.float32), (1920, 1080), interpolation=cv2.INTER_CUBIC
            )
        for _ in range(60):
            corner, size = rng.integers(0, (1700, 900)), rng.integers(20, 260, 2)
            colour = tuple(float(value) for value in rng.integers(0, 255, 3))
            cv2.ellipse(picture, corner.tolist(), size.tolist(), 30, 0, 360, colour, -1)
        file = folder / f"{number:03d}.jpg"
        cv2.imwrite(
            str(file), picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 88]
        )
        files.append(file)
    return files


def samples(files: list[Path], size: int) -> list[Sample]:
    """One person of the given box side in each picture."""
    rng = np.random.default_rng(size)
    result = []
    for file in files:
        left, top = rng.integers(0, 1920 - size), rng.integers(0, 1080 - size)
        joints = rng.uniform((left, top), (left + size, top + size), (54, 2))
        result.append(
            {
                "file": str(file),
                "box": [int(left), int(top), size, size],
                "centre": [float(left + size / 2), float(top + size / 2)],
                "side": ENLARGEMENT * size,
                "keypoints2d": np.c_[joints, np.ones(54)].astype(np.float32).tolist(),
                "keypoints3d": np.ones((54, 4), np.float32).tolist(),
            }
        )
    return result


def milliseconds(process: Process, people: list[Sample], rounds: int) -> float:
    times = []
    for turn in range(rounds + 1):
        for sample in people:
            started = time.perf_counter()
            process(sample)
            if turn:  # the first round warms up
                times.append(time.perf_counter() - started)
    return float(np.median(times) * 1e3)


def measure_peer(name: str, root: Path, plan: Path, rounds: int) -> dict[int, float]:
    """Time one peer in this process, which is its own: the peers' packages share names."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    people = json.loads(plan.read_text())
    process = MAKERS[name](root)
    return {int(size): milliseconds(process, people[size], rounds) for size in people}


def measure_humandata(
    files: list[Path], people: list[Sample], folder: Path, tiled: bool, rounds: int
) -> tuple[float, float]:
    """Batches of all persons, from a store with tiled pictures or from the folder of JPEGs.

    Milliseconds of a sample to the uint8 crop, and to the normalised one.
    """
    import cv2
    import torch

    import humandata
    from humandata.training.augment import prepare
    from humandata.training.batches import Mix

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    count = len(files)
    ids = np.arange(1, count + 1, dtype=np.uint64)
    joints2d = np.array([sample["keypoints2d"] for sample in people], np.float32)
    joints3d = np.array([sample["keypoints3d"] for sample in people], np.float32)
    boxes = np.c_[np.array([sample["box"] for sample in people], np.float32), np.ones(count)]
    attributes = {} if tiled else {"picture_root": str(files[0].parent)}
    path = folder / f"{people[0]['box'][2]}_{tiled}.zarr"
    with humandata.create(path, dataset="pictures", attributes=attributes, tiled=tiled) as writer:
        writer.append(
            images={
                "id": ids,
                "path": [file.name for file in files],
                "height": np.full(count, 1080, np.int32),
                "width": np.full(count, 1920, np.int32),
            },
            instances={
                "id": ids,
                "image": np.arange(count, dtype=np.int32),
                "bbox_xywh": boxes.astype(np.float32),
                "keypoints2d": joints2d,
                "keypoints3d": joints3d,
                "smpl/global_orient": np.zeros((count, 3), np.float32),
                "smpl/body_pose": np.zeros((count, 23, 3), np.float32),
                "smpl/betas": np.zeros((count, 10), np.float32),
                "smpl/valid": np.ones(count, bool),
            },
            pictures=[file.read_bytes() for file in files] if tiled else None,
            field_attributes={
                "bbox_xywh": {"rule": "annotator", "factor": 1.0},
                "keypoints2d": {"convention": "smpl_54"},
                "keypoints3d": {"convention": "smpl_54", "root": "pelvis"},
            },
        )
    mix = Mix([(humandata.open(path), 1.0)], batch_size=32)
    times = []
    for step in range(rounds + 1):
        started = time.perf_counter()
        batch = mix.batch(*divmod(step, mix.steps_per_epoch))
        made = time.perf_counter()
        prepare(batch)
        times.append((made - started, time.perf_counter() - started))
    cut, whole = np.median(times[1:], axis=0) * 1e3 / 32
    return float(cut), float(whole)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkouts", type=Path, default=Path(), help="folder of the checkouts")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, root, plan = options.one
        print(json.dumps(measure_peer(name, Path(root), Path(plan), options.rounds)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = pictures(folder, options.pictures)
        size = np.mean([file.stat().st_size for file in files]) / 1e3
        print(f"{len(files)} pictures of 1920x1080, {size:.0f} KB on average; one thread\n")
        people = {side: samples(files, side) for side in SIZES}
        plan = folder / "plan.json"
        plan.write_text(json.dumps(people))
        rows: dict[str, dict[int, float]] = {}
        for tiled, name in ((True, TILED), (False, FOLDER)):
            both = {
                side: measure_humandata(files, people[side], folder, tiled, 4 * options.rounds)
                for side in SIZES
            }
            rows[name] = {side: found[0] for side, found in both.items()}
            rows[f"{name}, normalised"] = {side: found[1] for side, found in both.items()}
        for name in PEERS:
            command = [sys.executable, __file__, "--rounds", str(options.rounds), "--one", name]
            command += [str((options.checkouts / name).resolve()), str(plan)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                print(f"{name}: left out ({reason})")
                continue
            found = json.loads(done.stdout.strip().splitlines()[-1])
            rows[name] = {int(side): value for side, value in found.items()}
    header = "".join(f"{f'{side} px':>22}" for side in SIZES)
    print(f"{'ms per sample':28}{header}")
    for name, times in rows.items():
        cells = ""
        for side in SIZES:
            ratio = f" ({times[side] / rows[TILED][side]:.0f}x, "
            ratio += f"{times[side] / rows[FOLDER][side]:.0f}x)"
            cells += f"{times[side]:>8.2f}{ratio if name in PEERS else '':>14}"
        print(f"{name:28}{cells}")
    print("\nThe first four rows are ours. In brackets: times slower than our uint8 crops.")


if __name__ == "__main__":
    main()
