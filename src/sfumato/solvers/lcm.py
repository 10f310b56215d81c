"""Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, alg. 1; Luo et al. 2023, arXiv 2310.04378)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Denoiser, Noise, Step, register, update


@register
@dataclass(frozen=True, kw_only=True)
class LCM:
    """x_s = alpha_s f(x_t, t) + sigma_s z, for a model f that is the end of the flow: any number of steps is exact.

    With a model that is not distilled, whose x0_hat is a mean, the samples lack spread, however many steps are taken.
    """

    order = 1
    nfe = 1
    distilled = True

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
        return update(denoiser(x, k.t, **cond), k.alpha_s, noise.increment(x, k.t, k.s), k.sigma_s), None
