"""Published checkpoints as state dicts: their names and shapes, and the noise to fill them with.

The layouts and the numbers that the published code makes of the noise are kept in
``tests/training/references``; see the README there.
"""

from __future__ import annotations

import csv
import functools
import lzma
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from humandata.training import weights
from humandata.training.weight_files import File

REFERENCES = Path(__file__).parents[1] / "training" / "references"
Layout = list[tuple[str, tuple[int, ...], str]]

KNOWN = {
    "hmrbench_resnet50": ("hmr", "resnet50"),
    "hmrbench_resnet101": ("hmr", "resnet101"),
    "hmrbench_resnet152": ("hmr", "resnet152"),
    "hmrbench_resnext101": ("hmr", "resnext101_32x8d_hmrbench"),
    "hmrbench_efficientnet": ("hmr", "tf_efficientnet_b5_hmrbench"),
    "hmrbench_hrnet": ("hmr", "hrnet_w32_hmrbench"),
    "hmrbench_vit": ("hmr", "vit_base_patch16_224_hmrbench"),
    "hmrbench_swin": ("hmr", "swin_tiny_patch4_window7_224_hmrbench"),
    "hmrbench_twins_pcpvt": ("hmr", "twins_pcpvt_base_hmrbench"),
    "hmrbench_twins_svt": ("hmr", "twins_svt_base_hmrbench"),
    "mmhuman3d_cliff_resnet50": ("cliff", "resnet50"),
    "noah_cliff_res50": ("cliff_original", "resnet50"),
    "noah_cliff_hr48": ("cliff_original", "hrnet_w48"),
    "spin_hmr": ("spin", "resnet50"),
}
# No published files, but the reference's CLIFF on other backbones: see `layout_of`.
KNOWN_TO_RUN = KNOWN | {
    f"mmhuman3d_cliff_{name}": ("cliff", KNOWN[f"hmrbench_{name}"][1])
    for name in ("resnet101", "resnet152", "resnext101", "efficientnet", "twins_pcpvt", "twins_svt")
}


@functools.cache
def read_layouts() -> dict[str, Layout]:
    """By model: key, shape and type of every tensor, in the order of the file."""
    found: dict[str, Layout] = {}
    with lzma.open(REFERENCES / "checkpoint_layouts.csv.xz", "rt", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            sides = "" if row["shape"] == "scalar" else row["shape"]
            shape = tuple(map(int, sides.split("x"))) if sides else ()
            found.setdefault(row["model"], []).append((row["key"], shape, row["dtype"]))
    return found


@functools.cache
def numbers() -> np.ndarray:
    """A million numbers, from which `draw` takes those of a tensor by its name."""
    return np.random.default_rng(20240501).standard_normal(1_000_003).astype(np.float32)


def draw(name: str, count: int) -> np.ndarray:
    noise = numbers()
    start = zlib.crc32(name.encode()) % len(noise)
    return np.take(noise, np.arange(start, start + count), mode="wrap")


def weight(key: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Weights that keep activations in bounds: 1 over the root of the fan, norms around 1."""
    if dtype != "float32":
        return torch.zeros(shape, dtype=torch.int64)
    values = draw(key, int(np.prod(shape, dtype=np.int64))).reshape(shape)
    if key.endswith("running_var"):
        values = 0.5 + np.abs(values)
    elif len(shape) == 1 and key.endswith("weight"):
        values = 1 + 0.1 * values
    elif len(shape) == 1 or key.endswith("bias"):
        values = 0.1 * values
    elif "init_" in key:
        values = values * 0.5
    else:
        values = values / np.float32(np.sqrt(np.prod(shape[1:], dtype=np.int64)))
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def layout_of(model: str) -> Layout:
    """A published layout, or hmr-benchmarks' with the three numbers of CLIFF's box."""
    layouts = read_layouts()
    if model in layouts:
        return layouts[model]
    return [
        (key, (shape[0], shape[1] + 3) if key == "head.fc1.weight" else shape, dtype)
        for key, shape, dtype in layouts[model.replace("mmhuman3d_cliff", "hmrbench")]
    ]


def state_of(model: str) -> dict[str, Tensor]:
    """The noise in the layout of a model."""
    state = {key: weight(key, shape, dtype) for key, shape, dtype in layout_of(model)}
    for key in state:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return state


def shapes_only(layout: Layout) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape, _ in layout}


def look(tensors: dict[str, Tensor], model: str | None = None) -> weights.Recognised:
    return weights.recognise_tensors(File(tensors, "test", "", {}), Path("a.pth"), model=model)


def empty(layout: Layout) -> dict[str, Tensor]:
    """Tensors of the right shape that take next to no room in a file."""
    return {key: torch.zeros(()).expand(shape) for key, shape, _ in layout}
