"""Metrics of a test set of 3DPW's size: PA-MPJPE against per-sample loops, and a whole evaluation.

python benchmarks/metrics.py [--samples 35515] [--rounds 7]

One core. PA-MPJPE is timed against the loop that mmhuman3d runs (one decomposition per sample, here
from its formula) and a batched decomposition, which take turns within a round; medians. Exactness
is the largest difference to scipy's orthogonal_procrustes. The evaluation opens a store, reads
predicted parameters, poses both sides and writes intervals, in a process of its own, for which the
time and the peak of its memory are those of everything after the imports; once with the stand-in
body and once with SMPL-like files that have pose correctives, of three genders.
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
runs, peaks = [], []
for _ in range(int(sys.argv[4])):
    start = time.perf_counter()
    result = evaluate(store, predictions=predictions, metrics=["mpjpe", "pa_mpjpe"],
                      body_models=folder or None, any_store=True, workers=1)
    runs.append(time.perf_counter() - start)
    peaks.append(peak())
figure = result.overall.figures["pa_mpjpe"]
print(json.dumps([runs, imported, peaks[0], result.overall.rows, figure.mean]))
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
    (folder / "bodies").mkdir()
    for gender in ("neutral", "male", "female"):
        model = bodymodel.body_model(gender)
        correctives = random.normal(0, 0.002, model.posedirs.shape)
        made = replace(model, posedirs=correctives)
        name = folder / "bodies" / f"SMPL_{gender.upper()}.pkl"
        bodymodel.write_pkl(made, name, chumpy=False)
        np.save(folder / "bodies" / "J_regressor_h36m.npy", model.regressors["h36m"])


def time_evaluation(samples: int, rounds: int) -> None:
    print(f"Evaluation of {samples:,} persons without the network: MPJPE, PA-MPJPE, intervals")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, samples)
        for title, bodies in (("stand-in body", ""), ("SMPL-like files", str(folder / "bodies"))):
            arguments = [folder / "truth.zarr", folder / "predictions.npz", bodies, rounds]
            answer = subprocess.run(
                [sys.executable, "-c", EVALUATION, *map(str, arguments)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            runs, imported, peak, rows, _ = json.loads(answer)
            print(
                f"  {title:18}{runs[0]:6.2f} s the first time, {statistics.median(runs[1:]):.2f} s "
                f"with bodies in memory; peak {peak:.0f} MB, {imported:.0f} MB of it imports"
            )
            assert rows == samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=35_515)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    time_alignment(options.samples, options.rounds)
    time_evaluation(options.samples, max(2, options.rounds))
    print(BARS)


if __name__ == "__main__":
    main()
