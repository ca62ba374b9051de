"""Several processes that train one network together, as ``torchrun`` starts them.

    torchrun --nproc-per-node 8 -m humandata.cli.main train --mix coco.zarr --out runs/hmr

Every process draws its own part of each epoch (`humandata.training.sampling`) and sees
``batch_size`` samples a step; gradients are averaged. Batch norm takes the statistics of a
process's own batch, and the running ones are those of process 0, which alone writes; with
``sync_norm``, as hmr-benchmarks trains, it takes those of all processes (`synchronised`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from humandata.errors import HumandataError
from humandata.training.sampling import hashed


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is.

    Attributes
    ----------
    rank, world_size : int
    local : int
        Its number on this machine: the GPU it takes.
    """

    rank: int = 0
    world_size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def seed(self, seed: int, step: int) -> None:
        """Seed torch for a step, where each process draws (dropout) for itself.

        A function of the step, so that a resumed run draws the same in every process; one process
        alone goes on with the state its checkpoint holds.
        """
        if self.world_size > 1:
            torch.manual_seed(int(hashed(seed, step, self.rank)[0] >> 1))

    def any(self, flag: bool) -> bool:
        """Whether it is so for any process; all of them have to ask."""
        if self.world_size == 1:
            return flag
        answer = torch.tensor(int(flag))
        distributed.all_reduce(answer, distributed.ReduceOp.MAX)
        return bool(answer)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean of numbers over all processes; all of them have to ask."""
        if self.world_size == 1:
            return values
        numbers: Tensor = torch.tensor(list(values.values()), dtype=torch.float64)
        distributed.all_reduce(numbers)
        return dict(zip(values, (numbers / self.world_size).tolist(), strict=True))

    def together(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over all processes."""
        if self.world_size == 1:
            return network
        # As in the references: running statistics are not sent about, process 0 keeps its own.
        wrapped: nn.Module = nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)
        return wrapped


def synchronised(network: nn.Module) -> nn.Module:
    """The network with batch norm over the samples of all processes, on GPUs.

    Layers that are in evaluation mode, because a backbone keeps their statistics, stay as they are,
    and so do the names of all tensors.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    kind = nn.modules.batchnorm._BatchNorm
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind) and child.training:
                changed = convert_sync_batchnorm(child)  # type: ignore[no-untyped-call]
                setattr(module, name, changed)
    return network


def ranks() -> Ranks:
    """What the environment says (``torchrun``, or ``srun`` with its variables set).

    Raises
    ------
    HumandataError
        When the variables do not fit together.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: os.environ[name] for name in names if name in os.environ}
    if "WORLD_SIZE" not in given:
        return Ranks()
    try:
        world, rank = int(given["WORLD_SIZE"]), int(given.get("RANK", ""))
        local = int(given.get("LOCAL_RANK", rank))
    except ValueError:
        world, rank, local = 0, 0, 0
    if not 0 <= rank < world:
        listed = ", ".join(f"{name}={value}" for name, value in given.items())
        raise HumandataError(
            f"the environment speaks of several processes, but not which one this is ({listed}); "
            "start them by torchrun, or unset WORLD_SIZE"
        )
    return Ranks(rank, world, local)


@contextlib.contextmanager
def group(here: Ranks, device: torch.device) -> Iterator[None]:
    """Connect the processes for as long as the block runs; nothing where there is one."""
    if here.world_size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        distributed.barrier()  # nobody takes the connection down while others still use it
    finally:
        distributed.destroy_process_group()
