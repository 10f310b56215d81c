"""One small training that the tests of this room share, in this process or in a child that gets killed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core import Eps, Preconditioned, VPLinear
from sfumato.data import Tensors
from sfumato.objectives import Denoising
from sfumato.train import Constant, Run, TrainConfig, Trainer, latest_checkpoint, read_metrics


class Net(nn.Module):
    """A perceptron with dropout: its result depends on every random draw that training makes."""

    def __init__(self, width: int = 16, dropout: float = 0.2, outputs: int = 2) -> None:
        super().__init__()
        self.cond: dict[str, Any] = {}
        self.first, self.drop, self.last = nn.Linear(3, width), nn.Dropout(dropout), nn.Linear(width, outputs)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        label = (c_noise / 1000).expand(len(x)).unsqueeze(-1)
        return self.last(self.drop(torch.relu(self.first(torch.cat([x, label], 1)))))


def denoiser(**settings: Any) -> Preconditioned:
    net = Net(**settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return Preconditioned(net, VPLinear(), Eps())


def points(rows: int = 37) -> Tensors:
    return Tensors(torch.randn(rows, 2, generator=torch.Generator().manual_seed(5)))


def config(**changes: Any) -> TrainConfig:
    base = {"steps": 40, "batch_size": 8, "lr": 1e-2, "rate": Constant(warmup=5), "ema": (40.0, 400.0), "seed": 11}
    return TrainConfig(**(base | {"checkpoint_every": 10, "log_every": 1, "keep": 2} | changes))


def trainer(run: Run | None = None, **changes: Any) -> Trainer:
    return Trainer(denoiser(), Denoising(), points(), config(**changes), run, quiet=True)


def digest(run: Run, after: int = 0) -> str:
    """A sha256 of all tensors of the newest checkpoint, and of the losses and gradient norms after step `after`."""
    found = latest_checkpoint(run.checkpoints)
    assert found is not None
    sha = hashlib.sha256(json.dumps(found.state, sort_keys=True).encode())
    for part in ("model", "ema", "optim"):
        for name, tensor in sorted(found.read(part).items()):
            sha.update(f"{part} {name}".encode() + tensor.numpy().tobytes())
    for line in read_metrics(run):
        if line["step"] > after:
            sha.update(json.dumps([line[k] for k in ("step", "loss", "grad_norm", "lr", "skipped")]).encode())
    return sha.hexdigest()


def child(path: str, changes: dict[str, Any], pause: float, step: Any, silence: bool = True) -> None:
    """Train in `path`, writing each step begun into the shared number `step`, with a pause in which to be hit."""
    torch.set_num_threads(1)
    if silence:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    made = trainer(Run(path), **changes)
    gradients = made._gradients

    def spoken(batch: Any) -> Tensor:
        step.value = made.state.tally.step
        time.sleep(pause)
        return gradients(batch)

    made._gradients = spoken  # type: ignore[method-assign]
    made.train()


CONTEXT = multiprocessing.get_context("forkserver")
# PyTorch is imported once, with what it imports late, and forked before it has run anything
CONTEXT.set_forkserver_preload(["train_toy", "torch._dynamo", "torch.utils.tensorboard.writer", "pytest", "hypothesis"])


class Child:
    """A real process that trains."""

    def __init__(self, run: Run, pause: float = 0.0, **changes: Any) -> None:
        self.step = CONTEXT.Value("i", -1, lock=False)
        self.process = CONTEXT.Process(target=child, args=(str(run.path), changes, pause, self.step))
        self.process.start()

    def hit(self, at: int, *signals: int) -> int:
        """Send `signals` once step `at` has begun, wait for the end and return the exit code (-9 for SIGKILL)."""
        while self.step.value < at and self.process.is_alive():
            time.sleep(0.001)
        for number in signals:
            if self.process.is_alive():
                os.kill(self.process.pid, number)
                time.sleep(0.02)
        return self.end()

    def end(self) -> int:
        self.process.join(60)
        assert self.process.exitcode is not None, "the child did not end"
        return self.process.exitcode
