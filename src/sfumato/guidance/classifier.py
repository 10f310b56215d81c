"""Classifier guidance (Dhariwal & Nichol 2021, arXiv 2105.05233, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core import InputError, Preconditioned, check_cond
from .guided import Around, branches_of, gradient, reach, taken


class LogLikelihood(Protocol):
    """A differentiable classifier of noisy data: (x_t, t, y) -> log p(y | x_t), float[B]."""

    def __call__(self, x: Tensor, t: float | Tensor, y: Tensor) -> Tensor:
        """Return log p(y | x_t) for each row of x [B, ...], t a float or float64[B]; a row depends on itself alone."""
        ...


class Logits:
    """log p(y | x_t) by a network whose output are class logits: log_softmax(network.output(x, t))_y.

    `network` is the `Preconditioned` that the objective `Classifying` trains. Raises `InputError` for labels that it
    does not know.
    """

    def __init__(self, network: Preconditioned) -> None:
        self.network = network

    def __call__(self, x: Tensor, t: float | Tensor, y: Tensor) -> Tensor:
        """Return log p(y | x_t = x), [B]."""
        out = self.network.output(x, t)[0]
        if y.shape != x.shape[:1] or not bool(((y >= 0) & (y < out.shape[1])).all()):
            raise InputError(f"this classifier knows the classes 0..{out.shape[1] - 1}: give one of them for each row")
        return torch.log_softmax(out, 1).gather(1, y[:, None])[:, 0]


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
