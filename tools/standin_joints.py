"""Joint regressors of the stand-in body: sparse, non-negative rows that sum to one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.optimize import nnls

Array = np.ndarray

VERTICES = 6890

# Joints of H36M (17, left leg first) and of the nine extra rows, as mixtures of the kinematic
# joints (0-23), the tip of the nose (24) and the top of the head (25).
H36M = (
    {1: 0.5, 2: 0.5}, {1: 1}, {4: 1}, {7: 1}, {2: 1}, {5: 1}, {8: 1}, {3: 0.5, 6: 0.5}, {12: 1},
    {15: 0.5, 24: 0.5}, {15: 0.1, 25: 0.9}, {16: 1}, {18: 1}, {20: 1}, {17: 1}, {19: 1}, {21: 1},
)  # fmt: skip
EXTRA = (
    {2: 1.12, 1: -0.12}, {1: 1.12, 2: -0.12}, {12: 0.6, 16: 0.2, 17: 0.2}, {25: 1}, H36M[0],
    {12: 0.3, 16: 0.35, 17: 0.35}, H36M[7], H36M[9], H36M[10],
)  # fmt: skip
H36M_PAIRS = np.array([0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13])
EXTRA_PAIRS = np.array([1, 0, 2, 3, 4, 5, 6, 7, 8])


def fit_rows(points: Array, targets: Array, mirror: Array, pairs: Array, near: int) -> Array:
    """Sparse non-negative rows with sum one that give ``targets`` from ``points``.

    Parameters
    ----------
    points : (N, V, 3)
        Bodies.
    targets : (N, K, 3)
        The joints wanted.
    mirror : (V,)
        Vertex symmetry.
    pairs : (K,)
        The mirrored joint of each; of a pair the left is fitted and the right copied.
    near : int
        How many of the closest vertices may take part.
    """
    rows = np.zeros((targets.shape[1], points.shape[1]))
    for k in range(len(rows)):
        if pairs[k] < k:
            continue
        # Joints of the trunk need a ring of vertices, front and back, not the nearest patch.
        stretch = np.array([1.0, 3.0 if pairs[k] == k else 1.0, 1.0])
        offset = (points - targets[:, k, None]) * stretch
        distance = np.linalg.norm(offset, axis=2).mean(axis=0)
        chosen = np.argsort(distance, kind="stable")[:near]
        if pairs[k] == k:
            chosen = np.union1d(chosen, mirror[chosen])
        a = (points[:, chosen] - targets[:, k, None]).transpose(0, 2, 1).reshape(-1, len(chosen))
        a = np.vstack([a, np.full((1, len(chosen)), 100.0), 0.02 * np.eye(len(chosen))])
        b = np.zeros(len(a))
        b[-len(chosen) - 1] = 100.0
        weight, _ = nnls(a, b, maxiter=50 * len(chosen))
        weight[weight < 1e-4] = 0
        rows[k, chosen] = weight / weight.sum()
        if pairs[k] == k:
            rows[k] = (rows[k] + rows[k, mirror]) / 2
        rows[pairs[k], mirror] = rows[k]
    return rows


def mixtures(definitions: tuple[dict[int, float], ...], points: Array) -> Array:
    return np.stack([sum(w * points[:, k] for k, w in d.items()) for d in definitions], axis=1)


def posed_bodies(path: Path, count: int) -> tuple[Array, Array]:
    """Random neutral bodies in moderate poses: vertices, and 24 joints + nose + head top."""
    from humandata import bodymodel

    model = bodymodel.standin("neutral", path)
    rng = np.random.default_rng(7)
    pose = rng.normal(0, 0.3, (count, 23, 3)).clip(-0.8, 0.8)
    betas = rng.normal(0, 1, (count, model.shapedirs.shape[-1]))
    vertices, joints = bodymodel.forward(model, np.zeros((count, 3)), pose, betas)
    top = np.argsort(-model.v_template[:, 1])[:12]
    nose, crown = vertices[:, 332:333], vertices[:, top].mean(axis=1, keepdims=True)
    return vertices, np.concatenate([joints, nose, crown], axis=1)


def pack_rows(name: str, rows: Array) -> dict[str, Array]:
    row, vertex = np.nonzero(rows)
    return {
        f"{name}/start": np.searchsorted(row, np.arange(len(rows) + 1)).astype(np.int32),
        f"{name}/vertex": vertex.astype(np.uint16),
        f"{name}/value": rows[row, vertex].astype(np.float32),
    }
