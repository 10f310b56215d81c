"""Annealed Langevin dynamics (Song & Ermon 2019, arXiv 1907.05600, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register
from .langevin import langevin


@register
@dataclass(frozen=True, kw_only=True)
class AnnealedLangevin:
    """`steps` of x <- x + (a / 2) score + sqrt(a) z at each level of the grid.

    a = rate sigma^2, the paper's step epsilon sigma_i^2 / sigma_L^2. From level to level y = x / alpha is kept, which
    is x itself in the paper, whose alpha is 1; so it runs on any schedule. A first step from alpha = 0 starts it with
    pure noise at the next level. The level of the last state before the data is left by E[x_0 | x_t]. Its order is 0:
    it is as right as it has mixed at the levels.

    Defaults: 100 steps and rate 0.2 = 2e-5 / 0.01^2, the paper's for levels from 1 to 0.01.

    Raises `InputError` for settings that are not possible.
    """

    steps: int = 100
    rate: float = 0.2

    order = 0

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and 0.0 < self.rate <= 1.0):
            raise InputError(f"{self} is not possible: it needs at least 1 step and 0 < rate <= 1")

    @property
    def nfe(self) -> int:
        """The evaluations of a step."""
        return self.steps

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: always."""
        return True

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return a draw of x_s."""
        x = x * (k.alpha_s / k.alpha_t if k.alpha_t > 0.0 else k.sigma_s / k.sigma_t)
        return langevin(denoiser, x, k, 0.5 * self.rate, self.steps, noise, cond), None
