"""HMR's adversarial prior in training: real bodies, the discriminator and its own optimiser.

The network and its losses are in `humandata.training.discriminator`. In a step of training, as
hmr-benchmarks takes it (``ImageBodyModelEstimator.train_step``), the discriminator makes one step
on the predictions, which it is told are fake, and on as many real bodies; then it judges the
predictions once more, and the network is trained to look real to it. mmhuman3d's later version
steps the discriminator's optimiser a second time, with gradients of zero; that is not done here.

Real bodies are drawn evenly and with replacement, as a pure function of seed, step and the place of
a sample in the step, so that a resumed run draws what an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

import humandata
from humandata import humandata_npz, unpickle
from humandata.errors import DataError, HumandataError
from humandata.training.discriminator import (
    SMPLDiscriminator,
    discriminator_loss,
    frozen,
    generator_loss,
)
from humandata.training.distributed import Ranks
from humandata.training.rotations import axis_angle_to_matrix
from humandata.training.sampling import hashed

FILE = "cmu_mosh.npz"
"""The real bodies of hmr-benchmarks and mmhuman3d: MoSh fits to the CMU motion capture."""

_EXPECTED = (
    f"{FILE} of mmhuman3d (a member 'smpl' with body_pose (n, 23, 3) and betas (n, 10)), or a "
    "store with SMPL bodies"
)
_KEY = 0x7072696F72
"""What the draws of real bodies are hashed with, so that they meet no other draws."""

_JOINTS, _BETAS = 23, 10


@dataclass(frozen=True, eq=False)
class Bodies:
    """Real bodies to draw from.

    Attributes
    ----------
    body_pose : (n, 23, 3) array_like of float
        Axis-angle of the joints of the body, radians; mapped from the disk where it is a store's.
    betas : (n, 10) array_like of float
    rows : (m,) int64
        Those of the n that may be drawn.
    title : str
        Where they come from.
    """

    body_pose: Any
    betas: Any
    rows: NDArray[np.int64]
    title: str

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, seed: int, step: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Body poses (count, 23, 3) and betas (count, 10) of samples ``first`` ... of a step."""
        words = hashed(_KEY, seed, step, np.arange(first, first + count))
        rows = self.rows[(words % np.uint64(len(self.rows))).astype(np.int64)]
        pose = np.asarray(self.body_pose[rows], np.float32).reshape(count, _JOINTS, 3)
        betas = np.asarray(self.betas[rows], np.float32)[:, :_BETAS]
        return torch.from_numpy(pose), torch.from_numpy(np.ascontiguousarray(betas))


def read_bodies(path: Path) -> Bodies:
    """Real bodies from a file or a store.

    Parameters
    ----------
    path : Path
        ``cmu_mosh.npz`` or another file of mmhuman3d with a member ``smpl``, read without executing
        what it pickles; or a store, of which the valid SMPL bodies are taken.

    Raises
    ------
    DataError
        When there are no bodies in it, or not of these shapes, or some are not finite.
    """
    if not path.exists():
        raise DataError(
            path,
            expected=_EXPECTED,
            found="nothing there",
            hint="Name another by --prior, or leave the prior out: --prior none",
        )
    return _from_store(path) if path.is_dir() else _from_file(path)


def _from_file(path: Path) -> Bodies:
    members: Mapping[str, Any] = (
        unpickle.load_npz(path) if path.suffix == ".npz" else humandata_npz.load(path)
    )
    if "smpl" not in members:
        raise DataError(
            path,
            expected=_EXPECTED,
            found=f"the keys {', '.join(list(members)[:12]) or '(none)'}",
            hint="Motion capture in another form has to be brought to this one first.",
        )
    smpl = members["smpl"]
    smpl = smpl.item() if isinstance(smpl, np.ndarray) and smpl.ndim == 0 else smpl
    if not isinstance(smpl, Mapping):
        raise DataError(path, "smpl", expected="a dictionary", found=type(smpl).__name__)
    pose, betas = (_numbers(path, smpl, key) for key in ("body_pose", "betas"))
    if pose[:1].size != 3 * _JOINTS or betas.ndim != 2 or betas.shape[1] < _BETAS:
        raise DataError(
            path, "smpl", expected=_EXPECTED, found=f"shapes {pose.shape} and {betas.shape}"
        )
    if len(pose) != len(betas):
        raise DataError(
            path, "smpl", expected="as many betas as poses", found=f"{len(betas)} and {len(pose)}"
        )
    bad = ~(np.isfinite(pose.reshape(len(pose), -1)).all(1) & np.isfinite(betas).all(1))
    if bad.any():
        raise DataError(
            path,
            f"body {int(np.flatnonzero(bad)[0])}",
            expected="finite poses and betas",
            found=f"{int(bad.sum()):,} of {len(pose):,} bodies that are not",
        )
    return Bodies(pose, betas, np.arange(len(pose)), path.name)


def _numbers(path: Path, smpl: Mapping[str, Any], key: str) -> NDArray[np.float32]:
    if key not in smpl:
        raise DataError(
            path, f"smpl/{key}", expected=_EXPECTED, found=f"the keys {', '.join(smpl)}"
        )
    try:
        values = np.asarray(smpl[key], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(path, f"smpl/{key}", expected="numbers", found=str(error)) from error
    if not len(values.shape) or not len(values):
        raise DataError(path, f"smpl/{key}", expected=_EXPECTED, found="no body at all")
    return values


def _from_store(path: Path) -> Bodies:
    store = humandata.open(path)
    fields = ("smpl/body_pose", "smpl/betas", "smpl/valid")
    if not all(field in store.instances for field in fields):
        raise DataError(
            path,
            expected=_EXPECTED,
            found=f"a store of {store.dataset} without SMPL bodies",
            hint="Name a store that has them, or leave the prior out: --prior none",
        )
    rows = np.flatnonzero(np.asarray(store.instances["smpl/valid"][:]))
    if not len(rows):
        raise DataError(path, "smpl/valid", expected=_EXPECTED, found="no valid body")
    title = f"bodies of {store.dataset} {store.split}"
    return Bodies(store.instances["smpl/body_pose"], store.instances["smpl/betas"], rows, title)


class AdversarialPrior:
    """The discriminator of a run, what it learns from, and its optimiser.

    Parameters
    ----------
    bodies : Bodies
    weight : float
        Of the term that the network is trained on; 1 in the published runs.
    lr : float
        Of the discriminator's Adam; 1e-4 in the published runs. It follows the schedule of the run.
    seed : int
        Of the draws and of the first weights, which are the same in all processes; the random state
        of torch on the CPU is left as it was.
    device : torch.device
    """

    def __init__(
        self,
        bodies: Bodies,
        weight: float = 1.0,
        lr: float = 1e-4,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.bodies, self.weight, self.seed = bodies, weight, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(hashed(_KEY, seed)[0] >> 1))
            self.network = SMPLDiscriminator()
        self.network.to(device)
        groups = [{"params": list(self.network.parameters()), "lr": lr, "peak_lr": lr}]
        fused = torch.device(device).type in ("cuda", "cpu")
        self.optimizer = torch.optim.Adam(groups, fused=fused)

    def step(
        self,
        prediction: Any,
        step: int,
        here: Ranks = Ranks(),  # noqa: B008
    ) -> tuple[Tensor, float]:
        """Train the discriminator for a step; what the network is to be trained on, and its loss.

        Parameters
        ----------
        prediction
            With ``pose`` (B, 24, 3, 3) and ``betas`` (B, 10).
        step : int
            Number of the step, from 0.
        here : Ranks
            Gradients of the discriminator are averaged over all processes.

        Returns
        -------
        term : scalar Tensor
            The weighted loss of the network against the discriminator after its step.
        loss : float
            The discriminator's loss before it: 0 where it tells all bodies apart.

        Raises
        ------
        HumandataError
            When the discriminator's loss is not a finite number; it is left as it was.
        """
        pose, betas = prediction.pose.float(), prediction.betas.float()
        count = len(pose)
        body_pose, real_betas = (
            part.to(pose.device)
            for part in self.bodies.draw(self.seed, step, here.rank * count, count)
        )
        # The global orientation is not judged.
        real = nn.functional.pad(axis_angle_to_matrix(body_pose), (0, 0, 0, 0, 1, 0))
        loss = discriminator_loss(
            self.network(pose.detach(), betas.detach()), self.network(real, real_betas)
        )
        value = float(loss.detach())
        if not math.isfinite(value):
            raise HumandataError(
                f"the loss of the discriminator in step {step + 1:,} is not a finite number "
                f"({value}). Resume from the last checkpoint with --prior none, or with a lower "
                "--set prior_lr=..."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if here.world_size > 1:
            _average_gradients(self.network, here.world_size)
        self.optimizer.step()
        with frozen(self.network):
            term = self.weight * generator_loss(self.network(pose, betas))
        return term, value


def _average_gradients(network: nn.Module, world_size: int) -> None:
    gradients = [values.grad for values in network.parameters() if values.grad is not None]
    together = nn.utils.parameters_to_vector(gradients)
    distributed.all_reduce(together)
    nn.utils.vector_to_parameters(together / world_size, gradients)
