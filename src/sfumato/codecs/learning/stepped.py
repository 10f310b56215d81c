"""Objectives that change along a run: the adversary that waits, the temperature that falls, the weight that rises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.config import register
from ...core.denoiser import Batch
from ...core.errors import InputError
from ...core.noise import Noise
from .learner import Coding, Learner


class Stepped(ABC):
    """An objective that knows how many steps the run has made: its memory, which the Trainer keeps and checkpoints.

    Called without a memory it stands at step 0.
    """

    @abstractmethod
    def loss(self, learner: Learner, batch: Batch, noise: Noise, step: int) -> Tensor:
        """Return the loss[B] at `step`, the number of steps made before."""

    def __call__(self, model: Coding, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B] of the first step."""
        return model.net(lambda learner: self.loss(learner, batch, noise, 0))

    def memory(self) -> dict[str, Tensor]:
        """Return the number of steps made: none."""
        return {"step": torch.zeros((), dtype=torch.int64)}

    def recalling(self, memory: dict[str, Tensor]) -> Callable[[Any, Batch, Noise], Tensor]:
        """Return the objective of the step that `memory` is at."""

        def loss(model: Coding, batch: Batch, noise: Noise) -> Tensor:
            return model.net(lambda learner: self.loss(learner, batch, noise, int(memory["step"])))

        return loss

    def record(self, memory: dict[str, Tensor], noise: Noise, losses: Tensor) -> None:
        """Count a step."""
        memory["step"] += 1


@register
@dataclass(frozen=True, kw_only=True)
class Ramp:
    """From `start` to `end` over `steps` steps along half a cosine, then `end` (arXiv 2102.12092, appendix A.2).

    (start + end) / 2 + (start - end) / 2 cos(pi min(step / steps, 1)). Raises `InputError` for fewer than 1 step.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"Ramp.steps={self.steps} must be at least 1")

    def __call__(self, step: int) -> float:
        """Return the value at `step`."""
        part = math.cos(math.pi * min(step / self.steps, 1.0))
        return 0.5 * (self.start + self.end) + 0.5 * (self.start - self.end) * part
