"""Training a plain VAE: the evidence lower bound, in bits per dimension (Kingma & Welling 2013, arXiv 1312.6114)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.config import register
from ...core.denoiser import Batch
from ...core.errors import InputError
from ...core.noise import Noise
from ...objectives.bound import decoder, gaussian_kl
from ..codec import Codec
from ..vae import VAE
from .learner import Coding, Learner


def evidence(codec: VAE, x: Tensor, noise: Noise, bin: float | None = None) -> tuple[Tensor, Tensor]:
    """Return (-ln p(x | z), KL(q(z | x) || N(0, 1))), each [B] in nats, for one z ~ q a row (eq. 3).

    The mean of their sum over draws is at least -ln p(x). With `bin`, the distance of neighbouring levels of data in
    [-1, 1], p(x | z) is the mass of the level's bin; without, the density.
    """
    mean, deviation = codec.posterior(x)
    assert deviation is not None
    made = codec.decode(mean + deviation * noise.like(mean, "posterior"))
    nats = decoder(x, made, 2 * codec.log_scale, bin)
    kl = gaussian_kl(mean, 2 * torch.log(deviation), torch.zeros_like(mean))
    return nats.flatten(1).sum(1), kl.flatten(1).sum(1)


@register
@dataclass(frozen=True, kw_only=True)
class ELBO:
    """loss = (-ln p(x | z) + KL) / (D ln 2): its mean bounds the bits per dimension of the data; no term is weighted.

    `bin` as in `evidence`: with it the bound is one on the discrete likelihood. Raises `InputError` for a codec that is
    not a `VAE`: others have no likelihood.
    """

    bin: float | None = None

    def parts(self, codec: Codec) -> dict[str, nn.Module]:
        """Return nothing: the likelihood's scale is the codec's."""
        if not isinstance(codec, VAE):
            raise InputError(f"ELBO trains a VAE, which has a likelihood, not a {type(codec).__name__}")
        return {}

    def __call__(self, model: Coding, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B] in bits per dimension."""
        return model.net(lambda learner: self.loss(learner, batch, noise))

    def loss(self, learner: Learner, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B] in bits per dimension."""
        codec = learner.codec
        assert isinstance(codec, VAE)
        nats, kl = evidence(codec, batch.x0, noise, self.bin)
        return (nats + kl) / (batch.x0[0].numel() * math.log(2))
