"""Predictor-corrector sampling (Song et al. 2021, arXiv 2011.13456, algorithms 2 to 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Schedule, Solver, Step, evaluations, fit, register
from .ddpm import DDPM
from .langevin import langevin


@register
@dataclass(frozen=True, kw_only=True)
class PredictorCorrector:
    """A step of `solver`, then `steps` of Langevin dynamics at the new level s.

    x <- x + e score + sqrt(2 e) z with e = 2 a (snr sigma_s)^2, a = (alpha_t / alpha_s)^2, the paper's alpha_i, which
    is 1 where alpha is constant. There e has |z| / |score|, means over the batch, for sigma_s, which is what it is
    where noise dominates, as |score| = |eps_hat| / sigma. Rows would then depend on each other, and the ratio of a
    single row has no variance in few dimensions.

    Defaults: snr 0.16 and one step, the paper's for images; the solver is DDPM with the larger variance, which on VE
    is the paper's reverse diffusion, x + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) z.

    Raises `InputError` for settings that are not possible.
    """

    solver: Solver = field(default_factory=lambda: DDPM(variance=1.0))
    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        if not (0.0 < self.snr <= 0.5 and self.steps >= 1):
            raise InputError(f"{self} is not possible: it needs 0 < snr <= 0.5 and at least 1 step")

    @property
    def order(self) -> int:
        """The order of `solver`."""
        return self.solver.order

    @property
    def nfe(self) -> int | None:
        """The evaluations of a step."""
        return None if self.solver.nfe is None else self.solver.nfe + self.steps

    def evaluations(self, grid: Tensor, schedule: Schedule | None) -> int | None:
        """Return the evaluations of a run over a grid that ends above the data."""
        own = evaluations(self.solver, grid, schedule)
        return None if own is None else own + self.steps * (len(grid) - 1)

    def fits(self, schedule: Schedule) -> None:
        """Raise `InputError` where `solver` does."""
        fit(self.solver, schedule)

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: always."""
        return True

    def init(self, x: Tensor) -> Any:
        """Return the state of `solver`."""
        return self.solver.init(x)

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Any, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return a draw of x_s and the state of `solver`."""
        x, state = self.solver.step(denoiser, x, k, state, noise, cond)
        rate = 2 * (self.snr * k.alpha_t / k.alpha_s) ** 2
        return langevin(denoiser, x, k, rate, self.steps, noise, cond), state
