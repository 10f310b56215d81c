"""Pasting the noised known part (Song et al. 2020, arXiv 2011.13456, appendix I.2): a named baseline, and biased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from ..core import InputError, Noise
from ..guidance.guided import branches_of
from .measured import Measured


@dataclass(frozen=True, kw_only=True, eq=False)
class Replacement(Measured):
    """The denoiser sees x_t with its measured part replaced by a noised y, and its answer gets y there.

    x_t <- x_t + A^+ (A (alpha A^+ y + sigma z) - A x_t), x0_hat <- x0_hat + A^+ (y - A x0_hat). The pasted part is
    drawn anew at each time and knows nothing of the rest of x_t, so the samples are not draws of the posterior, however
    many steps are taken. It is cheap, and everywhere; for in-painting without the bias there are `PiGDM` and
    `MomentMatching`. `noise` has a seed for each row of x; a draw belongs to (seed, t).

    Raises `InputError` for a time for each row (its draw would have no name) and for seeds that do not fit.
    """

    noise: Noise

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (pasted, free)."""
        if isinstance(t, Tensor):
            raise InputError("Replacement draws the noise of one time for all rows: give t as a float")
        a, sigma = cast("tuple[float, float]", self.schedule(t))
        y, gap = self.measured(x, x)
        known = self.operator.A_dagger(y) * a + self.noise.like(x, "replacement", repr(float(t))) * sigma
        pasted = x + self.operator.A_dagger(self.operator.A(known) - y + gap)
        x0, free = branches_of(self.denoiser, pasted, t, **cond)
        return x0 + self.operator.A_dagger(self.measured(x, x0)[1]), free
