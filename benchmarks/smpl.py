"""A training pass through the body model, forward and backward, against smplx on the same body.

python benchmarks/smpl.py [--batch 64] [--rounds 15] [--no-compile]

One core, float32. The body is the stand-in with made-up pose correctives, so that both pay for
them as they would with SMPL's; the regressed joints are those of J_regressor_extra, which users of
smplx apply to its vertices. Rotations enter as matrices, as a network predicts them. The programs
take turns within a round, and what is counted is the time that their process had the core, so that
whatever else the machine does hits them alike; medians.
"""

from __future__ import annotations

import os

# Read by the linear algebra library when it is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from humandata import bodymodel
from humandata.training.smpl import SMPL, axis_angle_to_matrix

BARS = {"joints": 25.0, "joints, compiled": 50.0, "vertices": 2.5}
METRES, MEGABYTES = 1e-6, 5.0

Pass = Callable[[Tensor, Tensor], Tensor]


def bodies() -> tuple[SMPL, torch.nn.Module, Pass, Pass]:
    """Our module, and smplx's vertices and 54 joints, from one file."""
    import smplx

    standin = bodymodel.body_model("neutral")
    correctives = np.random.default_rng(0).normal(0, 0.002, standin.posedirs.shape)
    model = replace(standin, posedirs=correctives)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bodymodel.write_pkl(model, Path(folder) / "SMPL_NEUTRAL.pkl", chumpy=False)
        with redirect_stdout(StringIO()):
            peer = smplx.SMPL(folder, gender="neutral")
    extra = torch.tensor(model.regressors["extra"], dtype=torch.float32)

    def posed(rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        found = peer(
            global_orient=rotations[:, :1],
            body_pose=rotations[:, 1:],
            betas=betas,
            pose2rot=False,
        )
        return found.vertices, found.joints

    def joints(rotations: Tensor, betas: Tensor) -> Tensor:
        vertices, found = posed(rotations, betas)
        return torch.cat([found, extra @ vertices], dim=1)

    return SMPL(model), peer, lambda *given: posed(*given)[0], joints


def training_pass(forward: Pass, rotations: Tensor, betas: Tensor) -> Callable[[], None]:
    """Forward, and backward to rotations and betas from a gradient that some loss may have."""
    leaves = rotations.clone().requires_grad_(), betas.clone().requires_grad_()
    gradient = torch.randn_like(forward(rotations, betas))

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward(*leaves).backward(gradient)

    return step


def take_turns(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each; the quick ones run ten times in their turn."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for warm in (True, False):
        for _ in range(3 if warm else rounds):
            for name, step in steps.items():
                step()  # what the one before has thrown out of the cache comes back
                repeats = 10 if "joints" in name and not name.startswith("smplx") else 1
                start = time.process_time()
                for _ in range(repeats):
                    step()
                if not warm:
                    spent[name].append((time.process_time() - start) / repeats * 1e3)
    return {name: float(np.median(times)) for name, times in spent.items()}


def kept_megabytes(forward: Pass, rotations: Tensor, betas: Tensor, body: torch.nn.Module) -> float:
    """What automatic differentiation keeps between forward and backward, each storage once."""
    constant = {buffer.untyped_storage().data_ptr() for buffer in body.buffers()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in constant:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = forward(rotations.requires_grad_(), betas.requires_grad_())
    del found
    return sum(kept.values()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours, peer, their_vertices, their_joints = bodies()
    rotations = axis_angle_to_matrix(torch.randn(options.batch, 24, 3) * 0.5)
    betas = torch.randn(options.batch, 10)

    def joints(rotations: Tensor, betas: Tensor) -> Tensor:
        return ours.joints(rotations, betas, of="smpl_54")

    def vertices(rotations: Tensor, betas: Tensor) -> Tensor:
        return ours.skin(rotations, betas)[0]

    passes: dict[str, tuple[Pass, Pass]] = {
        "joints": (joints, their_joints),
        "vertices": (vertices, their_vertices),
    }
    if not options.no_compile:
        passes["joints, compiled"] = (torch.compile(joints, fullgraph=True), their_joints)
        passes["vertices, compiled"] = (torch.compile(vertices, fullgraph=True), their_vertices)
    steps = {name: training_pass(mine, rotations, betas) for name, (mine, _) in passes.items()}
    for name in ("joints", "vertices"):
        steps[f"smplx {name}"] = training_pass(passes[name][1], rotations, betas)
    spent = take_turns(steps, options.rounds)
    print(f"batch {options.batch}, one core      smplx      ours    ratio    bar     apart")
    for name, (mine, theirs) in passes.items():
        theirs_ms = spent[f"smplx {name.split(',')[0]}"]
        with torch.no_grad():
            apart = float((mine(rotations, betas) - theirs(rotations, betas)).abs().max())
        bar = f"{BARS[name]:5.1f} x" if name in BARS else "       "
        times = f"{theirs_ms:8.2f} ms {spent[name]:7.2f} ms {theirs_ms / spent[name]:6.1f} x"
        print(f"{name:20} {times} {bar} {apart:8.1e} m")
    for name in ("joints", "vertices"):
        mine, theirs = (
            kept_megabytes(forward, rotations, betas, body)
            for forward, body in zip(passes[name], (ours, peer), strict=True)
        )
        print(f"kept for backward, {name:9} smplx {theirs:7.1f} MB, ours {mine:5.1f} MB")
    print(f"bars: apart <= {METRES:.0e} m; joints keep <= {MEGABYTES:.0f} MB")


if __name__ == "__main__":
    main()
