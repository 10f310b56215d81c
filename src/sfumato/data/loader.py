"""Batches of a data set: batch k is a pure function of (seed, k), whoever reads it, whenever, on however many workers.

Nothing is carried from batch to batch, so there is no state to save: a run resumes by starting at its step.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..core import Batch, InputError, Noise, SfumatoError, fold
from .dataset import Dataset

_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Loader:
    """An endless row of batches, `batch(start_step)`, `batch(start_step + 1)`, ...

    The rows of epoch e are the data set in the order of a hash of (seed, e, row number). Steps cut the endless row of
    epochs into pieces of `batch_size`, so every row is shown once in each epoch, and a batch may end one epoch and
    begin the next.

    `batch_size` counts the rows of one step over all `world` processes; `rank` gets its contiguous share of them. A
    row's randomness is its own: `row_seeds` follow the row's place in the whole batch, so that any `world` trains on
    the same rows with the same noise.

    With `workers` > 0 that many processes prepare batches ahead, `prefetch` each; batches are the same bit for bit. Use
    0 (the default) for data in memory. Raises `InputError` for sizes that do not fit, and `SfumatoError` in one line
    when a worker process dies.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if world < 1 or not 0 <= rank < world:
            raise InputError(f"rank {rank} is not one of {world} processes; ranks count from 0")
        if batch_size < 1 or batch_size % world:
            raise InputError(f"batch_size {batch_size} does not divide into {world} equal shares; give a multiple")
        if workers < 0 or prefetch < 1 or start_step < 0:
            raise InputError(
                f"workers {workers}, prefetch {prefetch}, start_step {start_step}: at least 0, 1 and 0 are needed"
            )
        if not len(dataset):
            raise InputError("the data set has no rows: give at least one")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.prefetch = prefetch
        self.start_step = start_step
        share = batch_size // world
        self._rows = range(rank * share, (rank + 1) * share)
        self._numbers = Noise(range(len(dataset)))
        self._orders: dict[int, Tensor] = {}

    def indices(self, step: int) -> list[int]:
        """Return the row numbers, in the data set, of this process's rows of batch `step`."""
        if step < 0:
            raise InputError(f"step {step} does not exist; steps count from 0")
        n = len(self.dataset)
        start, stop = (step * self.batch_size + row for row in (self._rows.start, self._rows.stop))
        out: list[int] = []
        for epoch in range(start // n, (stop - 1) // n + 1):
            first = epoch * n
            out += self._order(epoch)[max(start - first, 0) : stop - first].tolist()
        return out

    def row_seeds(self, step: int) -> list[int]:
        """Return the seed of each of this process's rows of batch `step`: fold(seed, step) + row in the whole batch."""
        first = fold(self.seed, step)
        return [first + row for row in self._rows]

    def batch(self, step: int) -> Batch:
        """Return this process's rows of batch `step`."""
        return self.dataset.batch(self.indices(step), Noise(self.row_seeds(step)))

    def __iter__(self) -> Iterator[Batch]:
        if self.workers:
            return self._ahead()
        return map(self.batch, itertools.count(self.start_step))

    def _order(self, epoch: int) -> Tensor:
        """Return the order of one epoch; the last two are kept."""
        if epoch not in self._orders:
            order = torch.argsort(self._numbers.uniform("epoch", self.seed, epoch), stable=True)
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1} | {epoch: order}
        return self._orders[epoch]

    def _ahead(self) -> Iterator[Batch]:
        """Yield the batches as worker processes make them, in order."""
        loader = DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=itertools.count(self.start_step),
            num_workers=self.workers,
            prefetch_factor=self.prefetch,
            collate_fn=_as_it_is,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # else it draws from the global one
        )
        batches, close = _start(loader)
        atexit.register(close)  # before Python's own, which waits for workers that nobody told to end
        try:
            while True:
                batch = next(batches)
                if isinstance(batch, SfumatoError):
                    raise batch
                yield batch
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # a RuntimeError where torch misses the worker, the others where its shared memory went with it
            if "Traceback" in str(error) or (type(error) is RuntimeError and "DataLoader worker" not in str(error)):
                raise
            raise SfumatoError(
                "a loader worker died (killed, or out of memory or shared memory); use fewer workers, or 0 to see why"
            ) from None
        finally:
            close()
            atexit.unregister(close)


def _start(loader: DataLoader[Any]) -> tuple[Iterator[Any], Callable[[], None]]:
    """Start the workers; return their batches, and the function that ends them and waits for their end.

    Signals wait until the workers have their handlers. torch's own for a worker's death is taken off again: it would
    raise in the middle of whatever the main thread does, a save for one, where `next` finds out by itself.
    """
    if not hasattr(signal, "pthread_sigmask"):
        batches: Any = iter(loader)
        return batches, batches._shutdown_workers
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        batches = iter(loader)
        if handler is not None and signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return batches, batches._shutdown_workers


class _Steps(TorchDataset[Any]):
    """Batch numbers to batches, in a worker; what the user did wrong travels back as it is, without a traceback."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> Batch | SfumatoError:
        try:
            return self.loader.batch(step)
        except SfumatoError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(worker: int) -> None:
    """Let a worker outlive Ctrl-C and one SIGTERM to the whole group, so that the parent can finish its step.

    It ends when the parent ends its iteration or is gone, and at a second SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # torch watches the process that forked a worker, which under "forkserver" is a helper that waits for us
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    """End this process when the parent has ended, however it did."""
    connection.wait([sentinel])
    os._exit(1)
