"""Sampling from distilled models, whose x0_hat is the end of the flow: TCD (arXiv 2402.19159) and LCM (2310.04378)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update


@register
@dataclass(frozen=True, kw_only=True)
class TCD:
    """Go by DDIM to the time (1 - gamma) s, then add noise up to s (Zheng et al. 2024, arXiv 2402.19159, algorithm 2).

    gamma = 0 is DDIM; gamma = 1 goes to the data and back, which is multistep consistency sampling, `LCM`. In between
    it is right as far as DDIM steps of that length are: for a model that was distilled so. With an undistilled model,
    whose x0_hat is a mean, too little noise comes back, however many steps are taken. Default: gamma 0.3, the paper's.
    """

    gamma: float = 0.3

    order = 1
    nfe = 1
    distilled = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise InputError(f"TCD.gamma={self.gamma} must lie in [0, 1]: 0 is DDIM, 1 is LCM")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.gamma > 0.0

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return x_s."""
        x0 = denoiser(x, k.t, **cond)
        if self.gamma == 0.0:
            kept = k.sigma_s / k.sigma_t
            return update(x, kept, x0, k.alpha_s - k.alpha_t * kept), None
        alpha, sigma = denoiser.schedule((1 - self.gamma) * k.s)
        r = k.alpha_s / alpha
        kept = r * sigma / k.sigma_t
        std = (k.sigma_s**2 - (r * sigma) ** 2) ** 0.5
        return update(x, kept, x0, k.alpha_s - k.alpha_t * kept, noise.increment(x, k.t, k.s), std), None
