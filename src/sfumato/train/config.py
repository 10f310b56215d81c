"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from ..core import InputError, register
from .distributed import DDP, Parallel
from .lr import Constant, Rate
from .optimisers import AdamW, Optimiser
from .posthoc import PostHoc


@register
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and how carefully to train.

    - `steps`, `batch_size`: optimiser steps, and images in each over all processes and micro-batches.
    - `accumulation`: micro-batches a step; the result is that of one batch, to rounding.
    - `lr`, `rate`, `optimiser`: base learning rate, its law over the steps, and `AdamW` or `Muon`. 2e-4 is DDPM's for
      small images (arXiv 2006.11239, app. B).
    - `frozen`: patterns of names ("codec.encoder.*") of parameters that stay as they are.
    - `clip`: the gradient's norm is scaled down to this (1 as in DDPM's code); None does not clip.
    - `ema`: half-lives in images, one average each; 0.5 M is EDM's for CIFAR-10 (arXiv 2206.00364, table 7).
      `ema_ramp` is explained in `EMA`.
    - `posthoc`: track and save averages from which one of any length can be made after training (`PostHoc`).
    - `precision`: fp32; bf16 or fp16 run the network under autocast, fp16 with loss scaling. Weights stay float32.
    - `compile`: compile the network. `parallel`: how several processes share the work, `DDP` or `FSDP`.
    - `seed`: batch, noise, times and dropout of a step are pure functions of (seed, step).
    - `workers`: processes that prepare batches; the batches do not depend on it.
    - `checkpoint_every`, `keep`, `sample_every`, `log_every`: in steps; the newest `keep` checkpoints stay.
    - `patience`, `rollbacks`: a non-finite step is skipped; after `patience` in a row the last checkpoint is restored
      and the noise drawn anew; more than `rollbacks` of these in a run is `Diverged`.

    Raises `InputError` for values that make no sense.
    """

    steps: int
    batch_size: int
    accumulation: int = 1
    lr: float = 2e-4
    rate: Rate = field(default_factory=Constant)
    optimiser: Optimiser = field(default_factory=AdamW)
    frozen: tuple[str, ...] = ()
    clip: float | None = 1.0
    ema: tuple[float, ...] = (500_000.0,)
    ema_ramp: float | None = 0.05
    posthoc: PostHoc | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    parallel: Parallel = field(default_factory=DDP)
    seed: int = 0
    workers: int = 0
    checkpoint_every: int = 1000
    keep: int = 3
    sample_every: int = 1000
    log_every: int = 50
    patience: int = 5
    rollbacks: int = 3

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "checkpoint_every", "keep", "log_every", "sample_every"):
            if getattr(self, name) < 1:
                raise InputError(f"TrainConfig.{name}={getattr(self, name)} must be at least 1")
        for name in ("workers", "patience", "rollbacks"):
            if getattr(self, name) < 0:
                raise InputError(f"TrainConfig.{name}={getattr(self, name)} must be 0 or more")
        if not self.lr > 0 or (self.clip is not None and not self.clip > 0):
            raise InputError(f"TrainConfig.lr={self.lr} and clip={self.clip} must be above 0 (clip may be None)")
        if self.batch_size % self.accumulation:
            raise InputError(
                f"TrainConfig.batch_size={self.batch_size} does not split into accumulation={self.accumulation} "
                "equal micro-batches; give a multiple"
            )
        if self.precision not in DTYPES:
            raise InputError(f"TrainConfig.precision={self.precision!r} must be one of {', '.join(DTYPES)}")

    def course(self) -> TrainConfig:
        """Return the settings with those blanked that do not change what is learned: a resumed run may change these."""
        steps = self.steps if self.rate.bounded else 1
        return replace(
            self, steps=steps, parallel=DDP(), workers=0, checkpoint_every=1, keep=1, sample_every=1, log_every=1
        )


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
