"""Range and null space (DDNM, Wang et al. 2022, arXiv 2212.00490), and its step for noisy measurements (DiffPIR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import InputError
from ..guidance.guided import branches_of
from .measured import Measured, solved, spread


@dataclass(frozen=True, kw_only=True, eq=False)
class DDNM(Measured):
    """x0_hat + A^+ (y - A x0_hat): what is measured is put in its place, the rest is the denoiser's (equation 13).

    So A x0_hat = y exactly where y can be reached. With `noise` sigma_y > 0 it is the step of DiffPIR (Zhu et al. 2023,
    arXiv 2305.08995, equation 12a): x0_hat + r^2 A^T (r^2 A A^T + sigma_y^2)^-1 (y - A x0_hat), the nearest compromise
    for x_0 ~ N(x0_hat, r^2), r^2 as in `spread`, whose limit for sigma_y = 0 is the line above. No gradient is taken.
    `variance` is the data's; 1 is that of standardised data, and about 0.25 of pictures in [-1, 1].
    """

    noise: float = 0.0
    variance: float = 1.0

    def __post_init__(self) -> None:
        if self.noise < 0 or self.variance <= 0:
            raise InputError(f"DDNM needs noise >= 0 and variance > 0, got {self.noise} and {self.variance}")

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (consistent, free)."""
        x0, free = branches_of(self.denoiser, x, t, **cond)
        _, gap = self.measured(x, x0)
        if self.noise == 0.0:
            return x0 + self.operator.A_dagger(gap), free
        r2 = spread(self.schedule, self.variance, t, x)
        return x0 + r2 * self.operator.A_adjoint(solved(self.operator, gap, r2, self.noise**2)), free
