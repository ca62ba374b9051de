"""SMPL-H and SMPL-X files in their official layout: every key and shape, made-up numbers.

All values are float32 numbers, because smplx rounds what it reads to float32 whatever precision it
is asked for; a comparison in float64 would see that rounding and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from humandata import keypoints, pickle2
from humandata.bodymodel import body_model

Array = np.ndarray[Any, Any]

# SMPL-H: the 22 joints of the body, then the fingers as in SMPL-X, which has the face in between.
SMPLX_PARENTS = np.array(keypoints.kinematic_tree("smplx")[1])
SMPLH_PARENTS = np.concatenate([SMPLX_PARENTS[:22], SMPLX_PARENTS[25:]])
SMPLH_PARENTS[22:] -= np.where(SMPLH_PARENTS[22:] >= 25, 3, 0)

UNUSED = {"bs_style": "lbs", "bs_type": "lrotmin"}


def smplh(seed: int = 0, betas: int = 16, hands: bool = True) -> dict[str, Any]:
    """The arrays of an SMPL-H file: on the stand-in's mesh, fingers where they may be."""
    rng = np.random.default_rng(seed)
    standin = body_model("male")
    content = _body(rng, standin.v_template, SMPLH_PARENTS)
    content["f"] = standin.faces.astype(np.uint32)
    content["shapedirs"] = _normal(rng, 0.01, 6890, 3, betas)
    return content | (_hands(rng) if hands else {})


def smplx(seed: int = 0, directions: int = 400) -> dict[str, Any]:
    """The arrays of an SMPL-X file: 300 directions of shape and 100 of expression, or 10 and 10."""
    rng = np.random.default_rng(seed)
    content = _body(rng, rng.uniform(-0.5, 0.5, (10475, 3)), SMPLX_PARENTS)
    content["f"] = rng.integers(0, 10475, (20908, 3)).astype(np.uint32)
    content["shapedirs"] = _normal(rng, 0.01, 10475, 3, directions)
    for name, shape in {"lmk": (51,), "dynamic_lmk": (79, 17)}.items():
        content[f"{name}_faces_idx"] = rng.integers(0, 20908, shape)
        content[f"{name}_bary_coords"] = _single(rng.dirichlet(np.ones(3), shape))
    # Two members of the official file are dictionaries; nobody needs them.
    content["joint2num"] = np.array({"Pelvis": 0}, dtype=object)
    content["part2num"] = np.array({"Global": 0}, dtype=object)
    return content | _hands(rng)


def write_npz(content: dict[str, Any], path: Path) -> Path:
    """As SMPL-X and AMASS's SMPL-H are released."""
    np.savez(path, **content)
    return path


def write_pkl(content: dict[str, Any], path: Path, official: bool = True) -> Path:
    """As MANO's SMPL-H is released: Python 2, chumpy, a sparse regressor.

    Without ``official`` for readers that have today's NumPy and SciPy, and no chumpy.
    """
    module = "scipy.sparse.csc" if official else "scipy.sparse._csc"
    content = content | {"J_regressor": pickle2.csc_matrix(content["J_regressor"], module)}
    if official:
        content["shapedirs"] = pickle2.chumpy_array(content["shapedirs"])
    path.write_bytes(pickle2.dumps(content))
    return path


def _body(rng: np.random.Generator, template: Array, parents: Array) -> dict[str, Any]:
    vertices, joints = len(template), len(parents)
    regressor = np.zeros((joints, vertices))
    for row in regressor:
        row[rng.choice(vertices, 8, replace=False)] = rng.dirichlet(np.ones(8))
    weights = np.zeros((vertices, joints))
    bones = np.argpartition(rng.random((vertices, joints)), 4, axis=1)[:, :4]
    np.put_along_axis(weights, bones, rng.dirichlet(np.ones(4), vertices), axis=1)
    above = parents.astype(np.uint32)  # the root's -1 becomes 4294967295
    return UNUSED | {
        "v_template": _single(template),
        "posedirs": _normal(rng, 0.001, vertices, 3, 9 * (joints - 1)),
        "J_regressor": _single(regressor),
        "weights": _single(weights),
        "kintree_table": np.stack([above, np.arange(joints, dtype=np.uint32)]),
    }


def _hands(rng: np.random.Generator) -> dict[str, Array]:
    hands = {}
    for side in "lr":
        hands[f"hands_mean{side}"] = _normal(rng, 0.3, 45)
        hands[f"hands_components{side}"] = _normal(rng, 0.3, 45, 45)
        hands[f"hands_coeffs{side}"] = _normal(rng, 1, 20, 45)
    return hands


def _normal(rng: np.random.Generator, size: float, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(size)


def _single(values: Array) -> Array:
    return values.astype(np.float32)
