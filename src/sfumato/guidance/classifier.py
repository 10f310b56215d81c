"""Classifier guidance (Dhariwal & Nichol 2021, arXiv 2105.05233, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..core import InputError, check_cond
from .guided import Around, branches_of, gradient, reach, taken


class LogLikelihood(Protocol):
    """A differentiable classifier of noisy data: (x_t, t, y) -> log p(y | x_t), float[B]."""

    def __call__(self, x: Tensor, t: float | Tensor, y: Tensor) -> Tensor:
        """Return log p(y | x_t) for each row of x [B, ...], t a float or float64[B]; a row depends on itself alone."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier(Around):
    """x0_hat + scale (sigma^2 / alpha) grad_x log p(y | x_t), the gradient on x_t itself.

    One formula for both of the paper's: the shift of the reverse mean by w Sigma grad log p (algorithm 1) and that of
    eps by -w sigma grad log p (algorithm 2, DDIM) are both what this x0_hat gives, since x_0 = (x - sigma eps) / alpha
    (for algorithm 1 with the step's mean in place of x_t, to first order in the step).

    `scale` = w counts from the denoiser as it is: 0 is off (the classifier is not called), and 1 makes an
    unconditional denoiser the conditional one, by Bayes' rule. `classifier` gets the condition `y`; the denoiser gets
    it too where it takes one, which is the paper's guidance of a class-conditional model.

    Raises `InputError` without a `y`, and where alpha = 0.
    """

    classifier: LogLikelihood
    scale: float

    @property
    def cond(self) -> Mapping[str, Any]:
        """The denoiser's condition keys, and the classifier's."""
        return {"y": None, **self.denoiser.cond}

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided, unguided)."""
        check_cond(self.cond, cond)
        guided, conditional = branches_of(self.denoiser, x, t, **taken(self.denoiser, cond))
        if self.scale == 0.0:
            return guided, conditional
        if "y" not in cond:
            raise InputError("classifier guidance needs to know what to look for: give the condition 'y'")
        slope = gradient(lambda z: self.classifier(z, t, cond["y"]), x)
        return guided + slope * (self.scale * reach("Classifier", self.schedule, t, x)), conditional
