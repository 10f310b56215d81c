"""Training a classifier of noised data, for classifier guidance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Batch, InputError, Noise, Preconditioned, per_row, register
from .time_laws import TimeLaw, Uniform


@register
@dataclass(frozen=True, kw_only=True)
class Classifying:
    """loss = -log p(y | x_t), the cross-entropy of the network's output as logits, x_t = alpha x_0 + sigma eps.

    Dhariwal & Nichol 2021 (arXiv 2105.05233, section 4): the classifier sees data noised as the diffusion model's, at
    the times of the time law (uniform by default, as theirs). The `denoiser` that is trained is a `Preconditioned`
    whose network puts out logits [B, classes]; its prediction is not used. The classes are the condition `y`, int[B].

    Raises `InputError` for a batch without `y`.
    """

    time: TimeLaw = field(default_factory=Uniform)

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B] of `batch` with the randomness of `noise`, one seed a row."""
        if "y" not in batch.cond:
            raise InputError("a classifier is trained on data with classes: this batch has no condition 'y'")
        x0 = batch.x0
        t = self.time(noise.uniform("time"), denoiser.schedule)
        alpha, sigma = denoiser.schedule(t)
        x = torch.addcmul(x0 * per_row(alpha, x0), noise.like(x0, "eps"), per_row(sigma, x0))
        return F.cross_entropy(denoiser.output(x, t)[0], batch.cond["y"], reduction="none")
