"""Moment-matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import InputError
from ..guidance.guided import branches_of, reach
from .measured import Measured, conjugate_gradients


@dataclass(frozen=True, kw_only=True, eq=False)
class MomentMatching(Measured):
    """x0_hat + V A^T (A V A^T + sigma_y^2)^-1 (y - A x0_hat), V = Cov[x_0 | x_t] = (sigma^2 / alpha) d x0_hat / d x_t.

    The covariance is the denoiser's own (Tweedie's second formula), so no variance has to be guessed and directions
    that the data do not have are left alone: for Gaussian data of any covariance this is E[x_0 | x_t, y] exactly. The
    bracket is solved by at most `iterations` conjugate gradients, each a backward pass through the network; the
    default 3 lies in the range of 1 to 5 that the paper finds enough, and as many as y has values is exact.

    `noise` is sigma_y. With a trained network V is only nearly symmetric and its error is magnified where the noise is
    high: begin the grid at sigma / alpha of about 10 (`sigma_max=10`). Raises `InputError` where alpha = 0.
    """

    noise: float = 0.0
    iterations: int = 3

    def __post_init__(self) -> None:
        if self.noise < 0 or self.iterations < 1:
            raise InputError(f"MomentMatching needs noise >= 0, iterations >= 1, got {self.noise}, {self.iterations}")

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, free)."""
        self.outermost(x)
        scale = reach("MomentMatching", self.schedule, t, x)
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            x0, free = branches_of(self.denoiser, z, t, **cond)

        def spread(v: Tensor) -> Tensor:
            # V is symmetric for an exact denoiser, so its product is the backward one
            return scale * torch.autograd.grad(x0, z, v, retain_graph=True)[0]

        with torch.no_grad():
            _, gap = self.measured(x, x0.detach())
            a, adjoint = self.operator.A, self.operator.A_adjoint
        pull = conjugate_gradients(lambda u: a(spread(adjoint(u))) + self.noise**2 * u, gap, steps=self.iterations)
        return x0.detach() + spread(adjoint(pull)), free.detach()
