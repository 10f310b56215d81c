"""Pseudoinverse-guided diffusion (Song et al. 2023, ICLR, "PiGDM", equations 7 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import InputError
from ..guidance.guided import branches_of, gradient, reach
from .measured import Measured, solved, spread


@dataclass(frozen=True, kw_only=True, eq=False)
class PiGDM(Measured):
    """x0_hat + (sigma^2 / alpha) J^T A^T (r^2 A A^T + sigma_y^2)^-1 (y - A x0_hat), J = d x0_hat / d x_t.

    The score of y under x_0 ~ N(x0_hat, r^2): what is not known yet is not enforced. For data N(m, v I) and its
    r^2 = v sigma^2 / (alpha^2 v + sigma^2) it is E[x_0 | x_t, y] exactly. `variance` v is the data's, 1 the paper's.
    `noise` is sigma_y; for sigma_y = 0 the bracket is (A A^T)^+ / r^2, which makes A^T (...) the pseudo-inverse.

    One evaluation and one backward pass through the network. J is as good as the network's derivative, and sigma^2 /
    alpha magnifies its error where the noise is high: with a trained network begin the grid at sigma / alpha of about
    10 (`sigma_max=10`), above which x_t says next to nothing. Raises `InputError` where alpha = 0.
    """

    noise: float = 0.0
    variance: float = 1.0

    def __post_init__(self) -> None:
        if self.noise < 0 or self.variance <= 0:
            raise InputError(f"PiGDM needs noise >= 0 and variance > 0, got {self.noise} and {self.variance}")

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, free)."""
        self.outermost(x)
        answers: list[Tensor] = []

        def product(z: Tensor) -> Tensor:
            x0, free = branches_of(self.denoiser, z, t, **cond)
            answers.extend((x0.detach(), free.detach()))
            r2 = spread(self.schedule, self.variance, t, x)
            with torch.no_grad():
                _, gap = self.measured(x, x0)
                pull = self.operator.A_adjoint(solved(self.operator, gap, r2, self.noise**2))
            return x0 * pull  # the gradient of its sum is J^T pull

        shift = reach("PiGDM", self.schedule, t, x) * gradient(product, x)
        return answers[0] + shift, answers[1]
