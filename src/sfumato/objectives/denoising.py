"""Denoising score matching: the loss that trains nearly every model here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..core import Batch, InputError, Noise, Preconditioned, per_row, register
from .couplings import Coupling, Independent
from .time_laws import TimeLaw, Uniform
from .weightings import Simple, Weighting


class Objective(Protocol):
    """What one `Trainer` minimises: (denoiser, batch, noise) -> loss[B], a pure function of its arguments."""

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
        """Return the unreduced loss, one value a row."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Denoising:
    """loss = weighting(alpha, sigma) mean (out - target)^2, x_t = alpha x_0 + sigma eps, t from the time law.

    With `drop`, each condition that has a null value is replaced by it with that probability, all of a row together,
    which is what classifier-free guidance needs (Ho & Salimans 2022, arXiv 2207.12598, algorithm 1: 0.1 to 0.2).
    `coupling` says which noise a row is mixed with: its own, or for straighter flows one of `couplings`.
    Defaults: uniform t and the simple weighting, DDPM's (arXiv 2006.11239, algorithm 1); nothing dropped.
    """

    time: TimeLaw = field(default_factory=Uniform)
    weighting: Weighting = field(default_factory=Simple)
    drop: float = 0.0
    coupling: Coupling = field(default_factory=Independent)

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise InputError(f"Denoising.drop={self.drop} is a probability: give a number in [0, 1]")

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B] of `batch` with the randomness of `noise`, one seed a row."""
        batch, eps = self.coupling(batch, noise.like(batch.x0, "eps"))
        x0 = batch.x0
        t = self.time(noise.uniform("time"), denoiser.schedule)
        alpha, sigma = denoiser.schedule(t)
        x = torch.addcmul(x0 * per_row(alpha, x0), eps, per_row(sigma, x0))
        out, a, s = denoiser.output(x, t, **self.dropped(denoiser, batch, noise))
        error = (out - denoiser.prediction.target(x0, eps, a, s)).square().flatten(1).mean(1)
        weight = self.weighting(alpha, sigma, denoiser.prediction.gain(alpha, sigma))
        return error * weight.to(device=x0.device, dtype=error.dtype)

    def dropped(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Return the batch's conditions with nulls put in."""
        if self.drop == 0.0:
            return batch.cond
        gone = noise.uniform("drop") < self.drop
        cond: dict[str, Tensor] = {}
        for key, value in batch.cond.items():
            null = denoiser.cond.get(key)
            if null is None:
                cond[key] = value
                continue
            mask = gone.to(value.device).reshape(-1, *(1 for _ in value.shape[1:]))
            cond[key] = torch.where(mask, torch.as_tensor(null, dtype=value.dtype, device=value.device), value)
        return cond
