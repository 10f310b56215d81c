"""DDPM with the variance that the network says (Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Noise, Step, posterior, register
from ..core.variance import learned


@register
@dataclass(frozen=True, kw_only=True)
class DDPMLearned:
    """Draw x_s with the mean of `DDPM` and the variance exp(v ln beta + (1 - v) ln beta-tilde), v from the network.

    beta and beta-tilde are those of the step at hand (eq. 19), so any strided grid rescales them by itself. Under
    guidance, x0_hat is the guided one and v the network's own for the given conditions, as in ADM (arXiv 2105.05233,
    algorithm 1), at one more evaluation of the network. Raises `InputError` for a network whose prediction is not
    `LearnedVariance`, before it is asked for anything.
    """

    order = 1
    nfe = 1

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
        network = getattr(denoiser, "plain", denoiser)
        own = {key: value for key, value in cond.items() if key in network.cond}  # a guidance may take others
        out, prediction, alpha, sigma = learned(network, x, k.t, own)
        first, v = prediction.halves(out)
        guided = network is not denoiser
        x0 = denoiser(x, k.t, **cond) if guided else prediction.prediction.to_x0(first, x, alpha, sigma)
        q = posterior(k.alpha_t, k.sigma_t, k.alpha_s, k.sigma_s)
        mean = q.kept * x + q.gain * x0
        std = q.beta**0.5 * torch.exp((1 - v) * math.log(k.sigma_s / k.sigma_t))
        return mean + std.to(x.dtype) * noise.increment(x, k.t, k.s), None
