"""Training a dVAE: codes drawn by a relaxation that is annealed away (arXiv 2102.12092, section 2.1, appendix A.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...core.config import register
from ...core.denoiser import Batch
from ...core.errors import InputError
from ...core.noise import Noise
from ..codec import Codec
from ..dvae import DVAE, gumbel, logit_laplace, mapped
from .learner import Learner
from .stepped import Ramp, Stepped


@register
@dataclass(frozen=True, kw_only=True)
class Relaxing(Stepped):
    """loss = (-ln p(x | y) + beta KL(q || uniform)) / D, y = softmax((logits + Gumbel) / tau).

    (Gumbel-softmax: arXiv 1611.01144, eq. 2, and 1611.00712.) KL = sum over places of sum q ln q + ln K. Both terms in
    nats, over the D pixel values. With beta = 1 and tau = 0 it is the bound; the paper's beta = 6.6 makes for codes
    that are used. Defaults: the paper's, tau from 1 to 1/16 over 150,000 steps, beta from 0 to 6.6 over 5,000.

    Raises `InputError` for another codec than a dVAE.
    """

    tau: Ramp = field(default_factory=lambda: Ramp(start=1.0, end=1 / 16, steps=150_000))
    beta: Ramp = field(default_factory=lambda: Ramp(start=0.0, end=6.6, steps=5_000))

    def parts(self, codec: Codec) -> dict[str, nn.Module]:
        """Return nothing."""
        if not isinstance(codec, DVAE):
            raise InputError(f"Relaxing trains a DVAE, not a {type(codec).__name__}")
        return {}

    def loss(self, learner: Learner, batch: Batch, noise: Noise, step: int) -> Tensor:
        """Return the loss[B]."""
        codec, x = learner.codec, batch.x0
        assert isinstance(codec, DVAE)
        logits = codec.logits(x).float()
        soft = relaxed(logits, noise, self.tau(step))
        mu, log_scale = codec.moments(soft)
        nats = logit_laplace(mapped(x), mu.float(), log_scale.float()).flatten(1).sum(1)
        return (nats + self.beta(step) * uniform_kl(logits)) / x[0].numel()


def relaxed(logits: Tensor, noise: Noise, tau: float) -> Tensor:
    """Return softmax((logits + Gumbel) / tau) over the codes, dimension 1."""
    return torch.softmax((logits + gumbel(logits, noise)) / tau, dim=1)


def uniform_kl(logits: Tensor) -> Tensor:
    """Return KL(softmax(logits) || uniform)[B] in nats, over dimension 1, summed over the places."""
    q, log_q = torch.softmax(logits, 1), torch.log_softmax(logits, 1)
    return ((q * log_q).sum(1) + math.log(logits.shape[1])).flatten(1).sum(1)
