"""EDM's churn (Karras et al. 2022, arXiv 2206.00364, algorithm 2, lines 4-6): a little noise added before a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..core import InputError, Noise, Schedule, Step, register, update


@register
@dataclass(frozen=True, kw_only=True)
class Churn:
    """Raise the noise level s = sigma / alpha to (1 + gamma) s, gamma = min(amount / n, sqrt(2) - 1) for low <= s <=
    high.

    The added noise has standard deviation `noise` sqrt(s_hat^2 - s^2) in x / alpha; s_hat is kept within the schedule.
    Defaults: the whole range and noise = 1, as the paper's table 5 has it for CIFAR-10's VP; for ImageNet-64 the paper
    has amount 40, low 0.05, high 50, noise 1.003.
    """

    amount: float
    low: float = 0.0
    high: float = float("inf")
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not (self.amount >= 0 and 0 <= self.low <= self.high and self.noise >= 0):
            raise InputError(f"{self} is not possible: amount and noise are at least 0, and low is at most high")

    def __call__(self, schedule: Schedule, x: Tensor, k: Step, noise: Noise) -> tuple[Tensor, Step]:
        """Return (x, k) with the step's start moved up to the noisier time."""
        gamma = min(self.amount / k.n, 2**0.5 - 1)
        if gamma <= 0.0 or k.alpha_t <= 0.0 or not self.low <= k.sigma_t / k.alpha_t <= self.high:
            return x, k
        t_hat = min(schedule.inverse(k.lam_t - math.log1p(gamma)), 1.0)
        alpha, sigma = schedule(t_hat)
        if alpha <= 0.0 or t_hat <= k.t:
            return x, k
        r = alpha / k.alpha_t
        added = max(sigma * sigma - (r * k.sigma_t) ** 2, 0.0) ** 0.5
        z = noise.like(x, "churn", f"{k.t:.17g}")
        return update(x, r, z, self.noise * added), k._replace(t=t_hat, alpha_t=alpha, sigma_t=sigma)
