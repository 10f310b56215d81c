"""UniPC, a unified predictor-corrector (Zhao et al. 2023, arXiv 2302.04867), in x0_hat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core import Denoiser, InputError, Noise, Step, register, update
from .adams_moulton import Ahead, predict
from .dpmpp_2m import History


@register
@dataclass(frozen=True, kw_only=True)
class BH1:
    """B(h) = h; 1 for the infinite step from alpha = 0."""

    def __call__(self, h: float) -> float:
        """Return B(h)."""
        return h if h < math.inf else 1.0


@register
@dataclass(frozen=True, kw_only=True)
class BH2:
    """B(h) = 1 - e^-h, the factor on x0_hat itself."""

    def __call__(self, h: float) -> float:
        """Return B(h)."""
        return -math.expm1(-h)


@register
@dataclass(frozen=True, kw_only=True)
class UniPC:
    """The predictor UniP-p, and the corrector UniC-p with the next step's evaluation, of order p + 1.

    UniP-p integrates the polynomial in lambda through the last p x0_hat exactly, x_s = (sigma_s / sigma_t) x +
    alpha_s int_0^h e^-(h-u) P(u) du; UniC-p puts the one at s into P too. Where P is a line its slope weighs B(h) / 2
    instead (p = 2's predictor, and the corrector of the first step); otherwise B cancels from the paper's equations.
    The first steps use what values there are, which costs p = 3 its order only far below the errors of any use: x0_hat
    hardly changes there. The state that is returned is predicted, and corrected at the next step.

    Defaults: p = 2, the usual choice under guidance (3 without), and B = `BH2`. Raises `InputError` for another p.
    """

    p: int = 2
    b: BH1 | BH2 = field(default_factory=BH2)

    nfe = 1

    def __post_init__(self) -> None:
        if self.p not in (2, 3):
            raise InputError(f"UniPC.p={self.p} must be 2 or 3")

    @property
    def order(self) -> int:
        """The order of convergence, p + 1."""
        return self.p + 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> Ahead:
        """Return an empty history."""
        return Ahead()

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Ahead, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Ahead]:
        """Return the predicted x_s and the history with this step's x0_hat."""
        return predict(x, k, denoiser(x, k.t, **cond), state, self.p, 1.0, self.b)


@register
@dataclass(frozen=True, kw_only=True)
class UniP:
    """UniPC's predictor alone, p = 2: x_s = (sigma_s / sigma_t) x + alpha_s [(1 - e^-h) D_0 + B(h) (D_0 - D_1) / 2r].

    r = h_prev / h. With `BH2`, the default, it is `DPMpp2M`; with `BH1` a relative of it. UniP-3, from which B cancels,
    has `DPMpp3M`'s formula.
    """

    b: BH1 | BH2 = field(default_factory=BH2)

    order = 2
    nfe = 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn: never."""
        return False

    def init(self, x: Tensor) -> History:
        """Return an empty history."""
        return None

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: History, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, History]:
        """Return x_s and the history with this step's x0_hat."""
        x0, lam_t, kept = denoiser(x, k.t, **cond), k.lam_t, k.sigma_s / k.sigma_t
        c = k.alpha_s - k.alpha_t * kept
        if state is None:
            return update(x, kept, x0, c), (x0, lam_t)
        previous, lam_previous = state
        h = k.lam_s - lam_t
        w = 0.5 * k.alpha_s * self.b(h) * h / (lam_t - lam_previous)
        return update(x, kept, x0, c + w, previous, -w), (x0, lam_t)
