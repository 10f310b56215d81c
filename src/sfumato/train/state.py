"""What a checkpoint of a run holds: the network, its averages, the optimiser, and a few numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core import CheckpointError, InputError
from ..core.weights import specs
from .checkpoint import Checkpoint
from .config import TrainConfig
from .distributed import FSDP, World
from .ema import EMA
from .posthoc import PowerEMA


@dataclass
class Tally:
    """The numbers of a run that are not weights. Randomness is not among them: it follows from (seed, step)."""

    step: int = 0
    skipped: int = 0  # steps left out because something was not finite
    in_a_row: int = 0  # of them, without a good one between
    overflows: int = 0  # of fp16: the scale was too large
    rollbacks: int = 0
    scale: float = 1.0  # of the fp16 loss
    calm: int = 0  # steps since the last overflow
    count: int = 0  # finite steps since the last line of metrics,
    loss: float = 0.0  # and the sums of their losses
    norm: float = 0.0  # and of their gradients' norms


class State:
    """All that a run carries from step to step, and its way to and from a checkpoint's tensors."""

    def __init__(
        self, net: nn.Module, config: TrainConfig, world: World, memory: dict[str, Tensor] | None = None
    ) -> None:
        self.net, self.config, self.world = net, config, world
        self.memory = {} if memory is None else memory  # what the objective has seen
        self.tally = Tally(scale=65536.0 if config.precision == "fp16" else 1.0)
        self.ema = EMA(net, config.ema, config.ema_ramp)
        self.powers = PowerEMA(net, () if config.posthoc is None else config.posthoc.sigma_rels)
        for pattern in config.frozen:
            named = [p for n, p in net.named_parameters() if fnmatch(n, pattern)]
            if not named:
                raise InputError(f"TrainConfig.frozen: no parameter is named like {pattern!r}")
            for p in named:
                p.requires_grad_(False)
        self.trained = {n: p for n, p in net.named_parameters() if p.requires_grad}
        if not self.trained:
            raise InputError(f"TrainConfig.frozen={config.frozen} leaves nothing to train")
        if config.optimiser.whole and isinstance(config.parallel, FSDP) and world.size > 1:
            raise InputError(f"{type(config.optimiser).__name__} needs whole matrices, and FSDP slices them: use DDP")
        self.moments = config.optimiser.memories(self.trained)

    def update(self, loss: float) -> None:
        """Clip, step and average with the gradients that are there, or leave the step out where one is not finite.

        An fp16 gradient that overflows halves the loss's scale, and 2,000 steps without double it (Micikevicius et al.
        2017, arXiv 1710.03740, section 3.2); until the scale is down to 1 that is not counted as a failure.
        """
        config, tally = self.config, self.tally
        live = [(name, p, self.moments[name]) for name, p in self.trained.items() if p.grad is not None]
        grads = [cast(Tensor, p.grad) for _, p, _ in live]
        # the one wait for the device in a step: it has little left to do then, and all that follows is decided here
        norm = float(self.world.whole(torch.nn.utils.get_total_norm(grads))) / tally.scale
        good = math.isfinite(loss) and math.isfinite(norm)
        if good:
            factor = 1.0 if config.clip is None else min(1.0, config.clip / (norm + 1e-6))
            if factor != tally.scale:
                torch._foreach_mul_(grads, factor / tally.scale)  # pyright: ignore[reportPrivateImportUsage]
            config.optimiser.step(live, config.lr * config.rate(tally.step, config.steps))
            self.ema.update(config.batch_size, tally.step * config.batch_size)
            self.powers.update(config.batch_size, (tally.step + 1) * config.batch_size)
            tally.in_a_row = 0
            tally.loss, tally.norm, tally.count = tally.loss + loss, tally.norm + norm, tally.count + 1
        elif math.isfinite(loss) and tally.scale > 1.0:
            tally.overflows += 1
            tally.scale, tally.calm = max(1.0, tally.scale / 2), 0
        else:
            tally.skipped += 1
            tally.in_a_row += 1
        if good and config.precision == "fp16":
            tally.calm += 1
            tally.scale *= 1.0 if tally.calm % 2000 else 2.0
        for _, p, _ in live:
            p.grad = None

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return the live tensors, as a checkpoint's files name them."""
        optim = {f"{key}/{name}": t for name, moments in self.moments.items() for key, t in moments.items()}
        parts = {"model": dict(self.net.state_dict()), "ema": self.ema.state(), "optim": optim}
        more = {"powers": self.powers.state(), "memory": self.memory}
        return parts | {name: tensors for name, tensors in more.items() if tensors}

    def whole(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors unsliced; every process of the world must ask."""
        return {part: {n: self.world.whole(t) for n, t in ts.items()} for part, ts in self.parts().items()}

    def numbers(self) -> dict[str, Any]:
        """Return the tally as JSON data."""
        return asdict(self.tally)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's values; every shape and dtype is checked before a tensor is read."""
        for part, tensors in self.parts().items():
            values = checkpoint.read(part, specs(tensors))
            for name, tensor in tensors.items():
                self.world.fill(tensor, values[name])
        if set(checkpoint.state) != {f.name for f in fields(Tally)}:
            raise CheckpointError(f"{checkpoint.path}: state.json does not hold what this version writes")
        self.tally = Tally(**checkpoint.state)


def finite(parts: dict[str, dict[str, Tensor]]) -> str | None:
    """Return the name of the first tensor that holds a NaN or an infinity, None where all are finite."""
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                return f"{part}/{name}"
    return None
