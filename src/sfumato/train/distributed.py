"""One process, or several that train as one.

One process needs nothing. Under `torchrun`, lightning-fabric starts the group and wraps the network: `DDP` keeps a
whole copy in each process, `FSDP` a slice of every parameter (PyTorch's `fully_shard`).
"""

from __future__ import annotations

import contextlib
import copy
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..core import InputError, Model, register

M = TypeVar("M", bound=Model)


class World:
    """A process among those that train together; as it stands, the one that trains alone."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def place(self, net: nn.Module) -> nn.Module:
        """Put `net` on this process's device and return what is to be called in its place."""
        return net.to(self.device)

    def accumulating(self, net: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a micro-batch that is not the last: its gradients are not exchanged yet."""
        return contextlib.nullcontext()

    def agree(self, loss: Tensor, signal: int) -> tuple[float, int]:
        """Return the mean loss of the processes, and the signal that any of them was sent (0 for none)."""
        return float(loss), signal

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows [B, ...] of all processes, in the order of the batch; each has as many."""
        return rows

    def tell(self, text: str) -> str:
        """Return the `text` of the first process."""
        return text

    def whole(self, tensor: Tensor) -> Tensor:
        """Return all of a tensor of which this process may hold a slice; every process must ask."""
        return tensor

    def fill(self, tensor: Tensor, whole: Tensor) -> None:
        """Write this process's slice of `whole` into `tensor`."""
        tensor.copy_(whole)

    def barrier(self) -> None:
        """Wait for the others."""


class Parallel(ABC):
    """How several processes share the work; without several, it is not used."""

    @abstractmethod
    def strategy(self, fabric: Any) -> Any:
        """Return lightning-fabric's strategy, given its module."""

    def world(self) -> World:
        """Return this process's place: alone unless a launcher such as `torchrun` started several."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return World()
        from .fabric import FabricWorld

        return FabricWorld(self)


@register
@dataclass(frozen=True, kw_only=True)
class DDP(Parallel):
    """A whole copy of the network in each process, gradients averaged (`DistributedDataParallel`)."""

    def strategy(self, fabric: Any) -> Any:
        """Return fabric's DDP."""
        return fabric.strategies.DDPStrategy()


@register
@dataclass(frozen=True, kw_only=True)
class FSDP(Parallel):
    """A slice of every parameter in each process (`fully_shard`, FSDP2): for networks that one device cannot hold."""

    def strategy(self, fabric: Any) -> Any:
        """Return fabric's model-parallel strategy over one axis of data parallelism."""
        size = int(os.environ["WORLD_SIZE"])
        return fabric.strategies.ModelParallelStrategy(_shard, data_parallel_size=size, tensor_parallel_size=1)


def _shard(net: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for child in net.children():  # one gather for each top-level part, not one for everything
        if any(True for _ in child.parameters()) and not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            fully_shard(child, mesh=mesh["data_parallel"])
    fully_shard(net, mesh=mesh["data_parallel"])
    return net


def share(batch_size: int, accumulation: int, world: World) -> int:
    """Return the rows of one micro-batch of one process; `InputError` where they do not come out even."""
    rows, rest = divmod(batch_size, accumulation * world.size)
    if rest:
        raise InputError(
            f"batch_size={batch_size} does not split over {world.size} processes times accumulation={accumulation}; "
            "give a multiple"
        )
    return rows


def with_net(model: M, net: nn.Module) -> M:
    """Return `model` with another network in its place; the original is left as it is."""
    if net is model.net:
        return model
    twin = copy.copy(model)
    twin._modules = model._modules | {"net": net}
    return twin
