"""The objective that trains a restorer (arXiv 2208.09392, eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..core import Batch, Noise, Preconditioned, register
from ..objectives import Discrete, TimeLaw
from .degradations import Degradation


@register
@dataclass(frozen=True, kw_only=True)
class Restoration:
    """loss = mean |R(D(x_0, t), t) - x_0|, t from the time law.

    R is a `Preconditioned` network with the prediction `X0`, of whose schedule only the label of t is used: no noise is
    added here. Default: the times of a chain of 20 steps, the paper's for MNIST.
    """

    degradation: Degradation
    time: TimeLaw = field(default_factory=lambda: Discrete(count=20))

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B]; each row's t and degradation belong to its seed."""
        t = self.time(noise.uniform("time"), denoiser.schedule)
        degraded = self.degradation(batch.x0, t.to(batch.x0.device), noise)
        return (denoiser(degraded, t, **batch.cond) - batch.x0).abs().flatten(1).mean(1)
