"""Several processes that train as one, through lightning-fabric; imported only where there are several."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import Tensor, nn

from ..core import InputError
from .distributed import Parallel, World


class FabricWorld(World):
    """A process among those that the launcher started: gloo on CPUs, NCCL on GPUs.

    Raises `InputError` where lightning-fabric is not installed.
    """

    def __init__(self, parallel: Parallel) -> None:
        try:
            import lightning_fabric
        except ImportError as error:
            raise InputError("several processes need lightning-fabric: pip install 'sfumato[distributed]'") from error
        self._fabric: Any = lightning_fabric.Fabric(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            strategy=parallel.strategy(lightning_fabric),
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])),
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        )
        self._fabric.launch()
        self.rank, self.size, self.device = self._fabric.global_rank, self._fabric.world_size, self._fabric.device

    def place(self, net: nn.Module) -> nn.Module:
        """Put `net` on this process's device and return it wrapped, to be called in its place."""
        return self._fabric.setup_module(net)

    def accumulating(self, net: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which gradients are not exchanged."""
        return self._fabric.no_backward_sync(net)

    def agree(self, loss: Tensor, signal: int) -> tuple[float, int]:
        """Return the mean loss of the processes, and the signal that any of them was sent (0 for none)."""
        losses, signals = self._fabric.all_gather(
            torch.stack([loss.double(), loss.new_tensor(signal).double()])
        ).unbind(1)
        return float(losses.mean()), int(signals.max())

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows [B, ...] of all processes, in the order of the batch; each has as many."""
        return self._fabric.all_gather(rows).flatten(0, 1)

    def tell(self, text: str) -> str:
        """Return the `text` of the first process."""
        return self._fabric.broadcast(text)

    def whole(self, tensor: Tensor) -> Tensor:
        """Return all of a tensor of which this process may hold a slice."""
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[attr-defined]

    def fill(self, tensor: Tensor, whole: Tensor) -> None:
        """Write this process's slice of `whole` into `tensor`."""
        if hasattr(tensor, "full_tensor"):
            from torch.distributed.tensor import distribute_tensor

            sliced: Any = tensor
            whole = distribute_tensor(whole.to(self.device), sliced.device_mesh, sliced.placements)
        tensor.copy_(whole)

    def barrier(self) -> None:
        """Wait for the others."""
        self._fabric.barrier()
