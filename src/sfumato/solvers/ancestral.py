"""Ancestral sampling around any solver (Katherine Crowson's k-diffusion): step below the next level, add noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Schedule, Solver, Step, evaluations, fit, register, update
from .dpm_solver import DPMSolver2


@register
@dataclass(frozen=True, kw_only=True)
class Ancestral:
    """Run `solver` to s_down < s_s, then add noise up to s_s: s_up = eta s_s sqrt(1 - s_s^2 / s_t^2), s_down^2 =
    s_s^2 - s_up^2, in the noise levels s = sigma / alpha, so for any schedule.

    eta = 0 is `solver` itself, 1, the default, renews as much as DDPM with beta-tilde; around `Euler` it is DDIM(eta).
    A first step from alpha = 0, where x tells nothing of the data yet, is taken without noise. The default
    solver, DPM-Solver-2, makes it what is known as DPM2 ancestral.

    Raises `InputError` for an eta outside of [0, 1] and a solver that draws noise itself.
    """

    solver: Solver = field(default_factory=DPMSolver2)
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise InputError(f"Ancestral.eta={self.eta} must lie in [0, 1]: 0 draws no noise, 1 is ancestral")
        if self.solver.stochastic:
            raise InputError(f"Ancestral.solver={type(self.solver).__name__} draws noise already: give its plain form")

    @property
    def order(self) -> int:
        """The order of the deterministic part."""
        return self.solver.order

    @property
    def nfe(self) -> int | None:
        """The evaluations of a step of `solver`."""
        return self.solver.nfe

    def evaluations(self, grid: Tensor, schedule: Schedule | None) -> int | None:
        """Return the evaluations of a run over a grid that ends above the data."""
        return evaluations(self.solver, grid, schedule)

    def fits(self, schedule: Schedule) -> None:
        """Raise `InputError` where `solver` does."""
        fit(self.solver, schedule)

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta > 0.0

    def init(self, x: Tensor) -> Any:
        """Return the state of `solver`."""
        return self.solver.init(x)

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Any, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return a draw of x_s and the state of `solver`."""
        if self.eta == 0.0 or k.alpha_t == 0.0:
            return self.solver.step(denoiser, x, k, state, noise, cond)
        q = k.sigma_s * k.alpha_t / (k.alpha_s * k.sigma_t)
        low = denoiser.schedule.inverse(k.lam_s - 0.5 * math.log((1 - self.eta**2) + (self.eta * q) ** 2))
        alpha, sigma = denoiser.schedule(low)
        down = k._replace(s=low, alpha_s=alpha, sigma_s=sigma)
        x, state = self.solver.step(denoiser, x, down, state, noise, cond)
        r = k.alpha_s / alpha
        z = noise.increment(x, k.t, k.s)
        return update(x, r, z, (k.sigma_s**2 - (r * sigma) ** 2) ** 0.5), state
