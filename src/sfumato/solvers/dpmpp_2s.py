"""DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update
from .phi import between


@register
@dataclass(frozen=True, kw_only=True)
class DPMpp2S:
    """x_s = (sigma_s / sigma_t) x - alpha_s (e^-h - 1) [(1 - 1 / (2 r)) D_t + D_u / (2 r)], h = lambda_s - lambda_t.

    D_u is x0_hat at lambda_u = lambda_t + r h, at the x_u that DDIM gives. The default r = 1/2, the midpoint in lambda,
    is the usual one. From alpha = 0, where h is infinite, u is the share r of e^lambda instead.
    """

    r: float = 0.5

    order = 2
    nfe = 2

    def __post_init__(self) -> None:
        if not 0.0 < self.r < 1.0:
            raise InputError(f"{type(self).__name__}.r={self.r} must lie inside (0, 1): 0.5 is the middle of a step")

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> None:
        """Keep nothing between steps."""

    def weight(self, k: Step) -> float:
        """Return the weight on D_u - D_t, in units of alpha_s (1 - e^-h)."""
        return 0.5 / self.r

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: None, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        """Return x_s."""
        x0 = denoiser(x, k.t, **cond)
        u, alpha_u, sigma_u = between(denoiser.schedule, k, self.r)
        kept = sigma_u / k.sigma_t
        middle = denoiser(x * kept + x0 * (alpha_u - k.alpha_t * kept), u, **cond)
        kept = k.sigma_s / k.sigma_t
        c, w = k.alpha_s - k.alpha_t * kept, self.weight(k)
        return update(x, kept, x0, c * (1 - w), middle, c * w), None
