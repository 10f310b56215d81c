"""The one Trainer, for every Objective."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor

from ..core import Batch, Diverged, Noise, fold
from ..data import Dataset, Loader
from ..objectives import Remembering
from . import checkpoint as disk
from .config import DTYPES, TrainConfig
from .distributed import FSDP, M, share, with_net
from .ema import swapped
from .posthoc import cut, save_snapshot
from .progress import Progress, Silent, progress
from .runs import Metrics, Run, description
from .signals import Stop, stoppable
from .state import State, finite


class Result(NamedTuple):
    """How a run ended: steps done, mean loss since the last line of metrics, steps left out, restorations, seconds."""

    steps: int
    loss: float
    skipped: int
    rollbacks: int
    seconds: float


class Trainer(Generic[M]):
    """Trains `model.net` to minimise the mean of `objective(model, batch, noise)` over `dataset`.

    The model is a denoiser, or whatever else the objective takes: a `Model`, whose `net` is what is trained.

    What is random in a step (rows, noise, times, dropout) is a pure function of (config.seed, step), so that a run
    that was stopped or killed at any instant goes on bit for bit as if it had not been: same machine, same PyTorch,
    same number of threads. With a `run` that has checkpoints, training goes on from the newest whole one; without a
    `run` nothing is written.

    `samples(model, path)` is called every `config.sample_every` steps with the longest EMA's weights in place and
    the path of a PNG to write. `quiet` shows no progress.

    Raises `InputError` for settings that do not fit the run, `CheckpointError` where the disk refuses or no checkpoint
    is whole, `Diverged` after too many steps that were not finite.
    """

    def __init__(
        self,
        model: M,
        objective: Callable[[M, Batch, Noise], Tensor],
        dataset: Dataset,
        config: TrainConfig,
        run: Run | None = None,
        *,
        samples: Callable[[M, Path], None] | None = None,
        quiet: bool = False,
    ) -> None:
        self.model, self.objective, self.dataset, self.config, self.run = model, objective, dataset, config, run
        self.samples, self.quiet = samples, quiet
        self.world = config.parallel.world()
        if run is not None:
            run.path = Path(self.world.tell(str(run.path)))
        self.rows = share(config.batch_size, config.accumulation, self.world)
        self.called = self.world.place(model.net)
        self._model = with_net(model, self.called)
        if config.compile:
            model.net.compile()
        memory = objective.memory() if isinstance(objective, Remembering) else {}
        self.state = State(model.net, config, self.world, memory)
        self._loss = objective.recalling(self.state.memory) if isinstance(objective, Remembering) else objective
        self.history: list[dict[str, Any]] = []
        self._metrics: Metrics | None = None
        self._logged = time.monotonic()

    def train(self) -> Result:
        """Train to `config.steps` and return how it went.

        After SIGTERM or Ctrl-C the step at hand is finished and saved, and the process exits with 143 or 130.
        """
        began, devices = time.monotonic(), [self.world.device] if self.world.device.type == "cuda" else []
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(stoppable())
            stack.enter_context(torch.random.fork_rng(devices=devices))
            self._begin(stack)
            bar = stack.enter_context(contextlib.closing(self._progress()))
            self.model.train()
            while self.state.tally.step < self.config.steps:
                self._stretch(stop, bar)
        tally = self.state.tally
        loss = self.history[-1]["loss"] if self.history else math.nan
        result = Result(tally.step, loss, tally.skipped, tally.rollbacks, time.monotonic() - began)
        if self._metrics is not None and self.run is not None:
            line = f"{result.steps} steps of {self.config.batch_size} images, loss {result.loss:.4g}"
            self.run.summarise(line, result._asdict())
        return result

    @contextlib.contextmanager
    def ema_weights(self, half_life: float | None = None) -> Generator[M, None, None]:
        """Give the model the EMA's weights (of the longest half-life by default) inside, in evaluation mode."""
        training = self.model.training
        with swapped(self.model.net, self.state.ema.of(half_life)):
            self.model.eval()
            try:
                yield self.model
            finally:
                self.model.train(training)

    def _begin(self, stack: contextlib.ExitStack) -> None:
        """Take up the run where it stands, or write its first checkpoint: the untrained weights."""
        if self.run is None:
            return
        if self.world.rank == 0:
            stack.enter_context(disk.locked(self.run.path))
            self.run.settle(description(self.model, self.objective, self.dataset, self.config))
        found = disk.latest(self.run.checkpoints, _say)
        self.world.barrier()  # all have looked before the first one writes
        if found is not None:
            self.state.restore(found)
        if self.world.rank == 0:
            cut(self.run, self.state.tally.step)
            self._metrics = Metrics(self.run, self.state.tally.step)
            stack.callback(lambda: self._metrics and self._metrics.close())
        if found is None:
            self._save()

    def _stretch(self, stop: Stop, bar: Progress) -> None:
        """Train until the end, a roll-back or a signal."""
        config, tally = self.config, self.state.tally
        for batch in self._batches():
            loss, asked = self.world.agree(self._gradients(batch), stop.signal)
            self.state.update(loss)
            tally.step += 1
            bar.update(tally.step, loss)
            if tally.in_a_row > config.patience:
                self._roll_back("the loss or the gradient was not finite")
                return
            done = tally.step >= config.steps
            if done or tally.step % config.log_every == 0:
                self._log()
            if config.posthoc is not None and (done or tally.step % config.posthoc.every == 0):
                self._snapshot()  # before the checkpoint: a run that is killed in between goes back and writes it again
            if (done or asked or tally.step % config.checkpoint_every == 0) and not self._save():
                return
            if done or tally.step % config.sample_every == 0:
                self._sample()
            if done:
                return
            if asked:
                raise SystemExit(128 + asked)

    def _batches(self) -> Loader:
        """Return this process's rows of the batches from here on."""
        config, world = self.config, self.world
        return Loader(
            self.dataset,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=config.workers,
            start_step=self.state.tally.step,
            rank=world.rank,
            world=world.size,
        )

    def _gradients(self, batch: Batch) -> Tensor:
        """Leave the gradients of this process's rows in the parameters and return the mean loss."""
        config, tally, world = self.config, self.state.tally, self.world
        draw = fold(config.seed, tally.rollbacks, tally.step)
        first = draw + world.rank * self.rows * config.accumulation
        dtype = DTYPES[config.precision]
        total = torch.zeros((), device=world.device)
        every: list[Tensor] = []
        for part in range(config.accumulation):
            low, high = part * self.rows, (part + 1) * self.rows
            micro = Batch(batch.x0[low:high], {k: v[low:high] for k, v in batch.cond.items()})
            noise = Noise(range(first + low, first + high))  # row r of the whole batch has the seed draw + r
            _seed_dropout(fold(draw, "dropout", part, world.rank), world.device)
            last = part == config.accumulation - 1
            with contextlib.nullcontext() if last else world.accumulating(self.called):
                with torch.autocast(world.device.type, dtype, enabled=dtype != torch.float32):
                    losses = self._loss(self._model, _to(micro, world.device), noise)
                loss = losses.mean() / config.accumulation
                (loss * tally.scale).backward()
            total += loss.detach()
            every.append(losses.detach())
        if isinstance(self.objective, Remembering):  # once a step, so that all micro-batches see the same memory
            losses = world.gather(torch.cat(every))  # and all processes have the same
            self.objective.record(self.state.memory, Noise(range(draw, draw + len(losses))), losses)
        return total

    def _roll_back(self, why: str) -> None:
        """Go back to the last checkpoint with other noise, or give up."""
        tally, limit = self.state.tally, self.config.rollbacks
        at, skipped, rollbacks = tally.step, tally.skipped, tally.rollbacks
        if self.run is None or rollbacks >= limit:
            raise Diverged(
                f"{why} at step {at} ({skipped} steps were left out, {rollbacks} roll-backs made); "
                "try a lower lr, a smaller clip, or fp32"
            )
        found = disk.latest(self.run.checkpoints, _say)
        if found is None:
            raise Diverged(f"{why} at step {at}, and there is no checkpoint to go back to; try a lower lr")
        self.state.restore(found)
        tally = self.state.tally
        tally.skipped, tally.in_a_row, tally.rollbacks = skipped, 0, rollbacks + 1
        _say(f"{why} at step {at}: back to step {tally.step} with other noise")
        self.history = [line for line in self.history if line["step"] <= tally.step]
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = Metrics(self.run, tally.step)
            cut(self.run, tally.step)

    def _save(self) -> bool:
        """Write a checkpoint; where a tensor is not finite, write none, roll back and return False."""
        if self.run is None:
            return True
        parts = self.state.whole()
        bad = finite(parts)
        if bad is not None:
            self._roll_back(f"{bad} was not finite")
            return False
        if self._metrics is not None:
            self._metrics.sync()
        if self.world.rank == 0:
            disk.save(self.run.checkpoints, self.state.tally.step, parts, self.state.numbers(), self.config.keep)
        self.world.barrier()
        return True

    def _snapshot(self) -> None:
        """Save the power-function averages, from which others can be made later."""
        averages = {name: self.world.whole(tensor) for name, tensor in self.state.powers.state().items()}
        if self.run is not None and self.world.rank == 0:
            step = self.state.tally.step
            save_snapshot(self.run, step, step * self.config.batch_size, averages)

    def _log(self) -> None:
        tally, config = self.state.tally, self.config
        if not tally.count:
            return
        now = time.monotonic()
        line = {
            "step": tally.step,
            "loss": tally.loss / tally.count,
            "grad_norm": tally.norm / tally.count,
            "lr": config.lr * config.rate(tally.step - 1, config.steps),
            "skipped": tally.skipped,
            "rollbacks": tally.rollbacks,
            "images_per_s": round(tally.count * config.batch_size / max(now - self._logged, 1e-9), 1),
        }
        tally.loss, tally.norm, tally.count, self._logged = 0.0, 0.0, 0, now
        self.history.append(line)
        if self._metrics is not None:
            self._metrics.write(line)

    def _sample(self) -> None:
        """Let the caller draw samples with the averaged weights; sliced ones would need every process."""
        if self.samples is None or self.run is None or self.world.rank != 0:
            return
        if self.world.size > 1 and isinstance(self.config.parallel, FSDP):
            return
        average = self.ema_weights() if self.config.ema else contextlib.nullcontext(self.model)
        with average as model, torch.no_grad():
            self.samples(model, self.run.samples / f"step-{self.state.tally.step:08d}.png")

    def _progress(self) -> Progress:
        if self.quiet or self.world.rank != 0:
            return Silent()
        return progress(self.state.tally.step, self.config.steps, self.config.batch_size)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return Batch(
        batch.x0.to(device, non_blocking=True),
        {k: v.to(device, non_blocking=True) for k, v in batch.cond.items()},
    )


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generator of `device`, from which dropout draws: 70 times cheaper than `torch.manual_seed`."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or torch.cuda.current_device()].manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
