"""Metrics of a test set of 3DPW's size: PA-MPJPE against per-sample loops, and a whole evaluation.

python benchmarks/metrics.py [--samples 35515] [--rounds 7] [--meshes]

One core. PA-MPJPE is timed against the loop that mmhuman3d runs (one decomposition per sample, here
from its formula) and a batched decomposition, which take turns within a round; medians. Exactness
is the largest difference to scipy's orthogonal_procrustes.

The evaluation runs in a process of its own: it opens a store with SMPL parameters, reads predicted
ones, reads the bodies of both genders and the neutral one, poses both sides, regresses the 17
joints of J_regressor_h36m from them, and makes MPJPE, PA-MPJPE and their intervals, overall and of
37 sequences. Time is that of the call, the reading of the body files included the first time; what
it had of the core is told as well, because other programs may have it meanwhile.
Memory is the largest resident size of the whole process (VmHWM): interpreter, NumPy and all other
imports, arrays, and the mapped parts of files while they are resident. Torch is not imported by
this way of evaluating; what its import alone takes is printed beside. Bodies: the stand-in, and
files in the layout of SMPL's official pickles (Python 2, chumpy, sparse J_regressor; 6,890
vertices, pose correctives of random numbers) with 10 directions of shape (37 MB each, version
1.0.0) and with 300 (84 MB, version 1.1.0). With --meshes also PVE, for which 2 x 35,515 meshes are
posed: about a minute.
"""

from __future__ import annotations

import os

# Read by the linear algebra library when it is loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

import humandata
from humandata import bodymodel
from humandata.schema import row_ids
from humandata.training import metrics

Array = NDArray[Any]

SEQUENCES = 37
BARS = "bars: 40 ms, 35 x the loop, 1e-9 mm; evaluation 1 s, 200 MB"

EVALUATION = """
import json, sys, time
from humandata.training import evaluate

def peak():
    # Not getrusage, whose peak a process inherits from the one that started it.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))

store, predictions, folder = sys.argv[1:4]
imported = peak()
runs, used, peaks = [], [], []
for _ in range(int(sys.argv[4])):
    start, own = time.perf_counter(), time.process_time()
    result = evaluate(store, predictions=predictions, metrics=sys.argv[5].split(","),
                      body_models=folder or None, any_store=True, workers=1)
    runs.append(time.perf_counter() - start)
    used.append(time.process_time() - own)
    peaks.append(peak())
assert "torch" not in sys.modules
print(json.dumps([runs, used, imported, peaks[0], peaks[-1], result.overall.rows]))
"""

PEAK_OF_TORCH = """
import numpy
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
before = peak()
import torch
print(peak() - before)
"""


def poses(samples: int) -> tuple[Array, Array]:
    """Joints of bodies in millimetres, some turned and mirrored, and ground truth."""
    random = np.random.default_rng(0)
    rest = 300 * random.normal(size=(14, 3)) * [0.6, 1.6, 0.4]
    gt = rest + 80 * random.normal(size=(samples, 14, 3))
    pred = gt + 60 * random.normal(size=gt.shape)
    pred[::101] *= [-1, 1, 1]
    return pred, gt


def loop(pred: Array, gt: Array) -> float:
    """Sample by sample, as in mmhuman3d's evaluation."""
    aligned = []
    for source, target in zip(pred, gt, strict=True):
        a, b = source.T, target.T
        mean1, mean2 = a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
        x, y = a - mean1, b - mean2
        variance = np.sum(x**2)
        covariance = x.dot(y.T)
        u, _, vt = np.linalg.svd(covariance)
        z = np.eye(3)
        z[-1, -1] *= np.sign(np.linalg.det(u.dot(vt)))
        rotation = vt.T.dot(z.dot(u.T))
        scale = np.trace(rotation.dot(covariance)) / variance
        aligned.append((scale * rotation.dot(a) + mean2 - scale * rotation.dot(mean1)).T)
    return float(np.linalg.norm(np.stack(aligned) - gt, axis=-1).mean())


def batched(pred: Array, gt: Array) -> float:
    """All samples at once, by NumPy's batched decomposition."""
    mean = gt.mean(axis=1, keepdims=True)
    x, y = pred - pred.mean(axis=1, keepdims=True), gt - mean
    covariance = np.swapaxes(x, 1, 2) @ y
    u, s, vt = np.linalg.svd(covariance)
    sign = np.sign(np.linalg.det(u @ vt))
    u[..., 2] *= sign[:, None]
    scale = (s[:, 0] + s[:, 1] + sign * s[:, 2]) / (x * x).sum(axis=(1, 2))
    return float(np.linalg.norm(x @ (scale[:, None, None] * (u @ vt)) - y, axis=-1).mean())


def largest_difference(pred: Array, gt: Array) -> float:
    """To scipy, millimetres; samples whose best orthogonal map is a reflection have no peer."""
    errors = metrics.similarity_errors(pred, gt)
    largest = 0.0
    for source, target, ours in zip(pred, gt, errors, strict=True):
        a, b = source - source.mean(axis=0), target - target.mean(axis=0)
        rotation, trace = orthogonal_procrustes(a, b)
        if np.linalg.det(rotation) > 0:
            theirs = np.linalg.norm(trace / (a**2).sum() * (a @ rotation) - b, axis=1)
            largest = max(largest, float(np.abs(theirs - ours).max()))
    return largest


def time_alignment(samples: int, rounds: int) -> None:
    pred, gt = poses(samples)
    programs: dict[str, Callable[[Array, Array], float]] = {
        "humandata": metrics.pa_mpjpe,
        "batched SVD": batched,
        "mmhuman3d's loop": loop,
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    figures = {}
    for turn in range(rounds):
        for name, program in programs.items():
            if program is loop and turn >= 3:
                continue
            start = time.perf_counter()
            figures[name] = program(pred, gt)
            seconds[name].append(time.perf_counter() - start)
    ours = statistics.median(seconds["humandata"])
    print(f"PA-MPJPE of {samples:,} x 14 joints")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"  {name:18}{median * 1e3:9.1f} ms{median / ours:7.1f} x{figures[name]:12.6f} mm")
    print(f"  largest difference to scipy: {largest_difference(pred, gt):.1e} mm")


def write_inputs(folder: Path, samples: int) -> None:
    """A store of ground truth, predicted parameters, and body files with correctives."""
    random = np.random.default_rng(0)
    pose = random.normal(0, 0.3, (samples, 24, 3)).astype(np.float32)
    pose[:, 0] += [np.pi, 0, 0]
    betas = random.normal(0, 1, (samples, 10)).astype(np.float32)
    rows = np.arange(samples)
    sequence = np.sort(rows % SEQUENCES).astype(np.int32)
    box = np.tile(np.array([100, 100, 200, 400, 1], np.float32), (samples, 1))
    with humandata.create(folder / "truth.zarr", dataset="pw3d", split="test") as writer:
        writer.append(
            sequences={"name": [f"sequence_{i:02}" for i in range(SEQUENCES)]},
            images={
                "id": row_ids("image", rows),
                "path": [f"{i:06}.jpg" for i in rows],
                "height": np.full(samples, 1080, np.int32),
                "width": np.full(samples, 1920, np.int32),
                "sequence": sequence,
                "frame": (rows - np.searchsorted(sequence, sequence)).astype(np.int32),
            },
            instances={
                "id": row_ids("instance", rows),
                "image": rows.astype(np.int32),
                "person": np.zeros(samples, np.int32),
                "bbox_xywh": box,
                "smpl/global_orient": pose[:, 0],
                "smpl/body_pose": pose[:, 1:],
                "smpl/betas": betas,
                "smpl/valid": np.ones(samples, bool),
                "gender": (2 + rows % 2).astype(np.uint8),
            },
            field_attributes={"bbox_xywh": {"rule": "joints", "factor": 1.2}},
        )
    pose += random.normal(0, 0.1, pose.shape).astype(np.float32)
    np.savez(
        folder / "predictions.npz",
        id=row_ids("instance", rows),
        global_orient=pose[:, 0],
        body_pose=pose[:, 1:],
        betas=np.zeros_like(betas),
    )
    for directions in (10, 300):
        write_bodies(folder / f"bodies{directions}", directions, random)


def write_bodies(folder: Path, directions: int, random: np.random.Generator) -> None:
    """Three files in the official layout, and J_regressor_h36m beside them."""
    folder.mkdir()
    for gender in bodymodel.GENDERS:
        model = bodymodel.body_model(gender)
        correctives = 0.002 * random.standard_normal(model.posedirs.shape)
        further = 0.002 * random.standard_normal((6890, 3, directions - 10))
        shapes = np.concatenate([model.shapedirs, further], axis=-1)
        made = replace(model, name="smpl", posedirs=correctives, shapedirs=shapes)
        bodymodel.write_pkl(made, folder / f"SMPL_{gender.upper()}.pkl")
        np.save(folder / "J_regressor_h36m.npy", model.regressors["h36m"])


def time_evaluation(samples: int, rounds: int, meshes: bool = False) -> None:
    print(f"Evaluation of {samples:,} persons without the network, one core")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, samples)
        kinds = {
            "stand-in body": "",
            "SMPL-like files, 10 directions": str(folder / "bodies10"),
            "SMPL-like files, 300 directions": str(folder / "bodies300"),
        }
        joints = "mpjpe,pa_mpjpe"
        for title, bodies in kinds.items():
            evaluate_once(folder, title, bodies, rounds, joints, samples)
        if meshes:
            bodies = kinds["SMPL-like files, 10 directions"]
            evaluate_once(folder, "the same with PVE", bodies, 1, f"{joints},pve", samples)
    torch = python(PEAK_OF_TORCH)
    print(f"  not counted, because it is not imported: torch, {float(torch):.0f} MB")


def evaluate_once(
    folder: Path, title: str, bodies: str, rounds: int, metrics: str, samples: int
) -> None:
    """Evaluate in a process of its own, and print its time and memory."""
    inputs = str(folder / "truth.zarr"), str(folder / "predictions.npz")
    runs, used, imported, first, peak, rows = json.loads(
        python(EVALUATION, *inputs, bodies, str(rounds), metrics)
    )
    again = f", {statistics.median(runs[1:]):.2f} s with bodies in memory" if runs[1:] else ""
    print(
        f"  {title:32}{runs[0]:6.2f} s the first time ({used[0]:.2f} of the core){again}; "
        f"whole process {first:.0f} MB (after {rounds} runs {peak:.0f}), {imported:.0f} MB of it "
        "imports"
    )
    assert rows == samples


def python(program: str, *arguments: str) -> str:
    """What a program prints, run in a process of its own."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=35_515)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--meshes", action="store_true", help="evaluate PVE as well, once")
    options = parser.parse_args()
    time_alignment(options.samples, options.rounds)
    time_evaluation(options.samples, max(2, options.rounds), options.meshes)
    print(BARS)


if __name__ == "__main__":
    main()
