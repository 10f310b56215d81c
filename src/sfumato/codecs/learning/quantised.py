"""Training a VQ model: VQ-VAE (arXiv 1711.00937), and with features and an adversary VQGAN (arXiv 2012.09841)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...core.config import register
from ...core.denoiser import Batch
from ...core.errors import InputError
from ...core.noise import Noise
from ..codec import Codec
from ..vq import VQModel, codebook_loss
from .adversary import Adversary
from .codebook import Follower
from .kl import bare
from .learner import Learner
from .perceptual import PerceptualConfig
from .stepped import Stepped


@register
@dataclass(frozen=True, kw_only=True)
class Quantising(Stepped):
    """loss = mean (x - x~)^2 / variance + beta mean |z - sg e|^2 + `perceptual` d_features + the adversary's.

    x~ decodes e, the nearest codes of z, with gradients straight through (arXiv 1711.00937, eq. 3). The codes follow
    the latents by moving averages and dead ones are revived (`Follower`), so no gradient moves them. Defaults: the
    paper's beta = 0.25 and decay = 0.99, its code's smoothing 1e-5; `variance` is the data's, by which the code
    divides, 1 by default; revival below 1 % of an even share. Without eye and adversary it is VQ-VAE; with both VQGAN.

    The codebook moves in every micro-batch: with `accumulation` use a decay nearer to 1. Raises `InputError` for
    another codec than a VQ model, and one whose latents are scaled.
    """

    beta: float = 0.25
    decay: float = 0.99
    smooth: float = 1e-5
    revive: float = 0.01
    variance: float = 1.0
    perceptual: float = 1.0
    eye: PerceptualConfig | None = None
    adversary: Adversary | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1 or self.smooth < 0 or not 0 <= self.revive < 1 or self.variance <= 0:
            raise InputError(f"{self} needs decay and revive in [0, 1), smooth of at least 0 and variance above 0")

    def parts(self, codec: Codec) -> dict[str, nn.Module]:
        """Return what follows the codebook, and what eye and adversary take; the codebook gets no gradient."""
        bare(codec)
        if not isinstance(codec, VQModel):
            raise InputError(f"Quantising trains a VQModel, not a {type(codec).__name__}")
        codec.codebook.weight.requires_grad_(False)
        parts: dict[str, nn.Module] = {"book": Follower(codec.config.codes, codec.config.code)}
        if self.eye is not None:
            parts["eye"] = self.eye.build()
        return parts if self.adversary is None else parts | self.adversary.parts()

    def loss(self, learner: Learner, batch: Batch, noise: Noise, step: int) -> Tensor:
        """Return the loss[B]; in training mode the codebook has moved afterwards."""
        x, codec, book = batch.x0, learner.codec, learner.parts["book"]
        assert isinstance(codec, VQModel)
        assert isinstance(book, Follower)
        z, _ = codec.posterior(x)
        z = z.float()
        places = z.detach().movedim(1, -1).flatten(0, -2)
        if learner.training and not bool(book.counts.any()):  # the first step: codes are latents before they are used
            self._follow(codec, book, places, codec.indices(z.detach()).flatten(), noise)
        codes = codec.indices(z.detach())
        e = codec.lookup(codes).to(z.dtype)
        made = codec.render(z + (e - z).detach()).float()
        near = (x - made).square().flatten(1).mean(1) / self.variance
        if self.eye is not None:
            near = near + self.perceptual * learner.parts["eye"](x, made)
        loss = near + codebook_loss(z, e, codebook=0.0, commitment=self.beta)
        if self.adversary is not None:
            loss = loss + self.adversary(learner, x, made, near, step)
        if learner.training:
            self._follow(codec, book, places, codes.flatten(), noise)
        return loss

    def _follow(self, codec: VQModel, book: Follower, places: Tensor, codes: Tensor, noise: Noise) -> None:
        settings = {"decay": self.decay, "smooth": self.smooth, "revive": self.revive}
        book.follow(codec.codebook.weight, places, codes, noise, **settings)


def usage(indices: Tensor, codes: int) -> tuple[float, float]:
    """Return (share of the codes that occur among `indices`, perplexity e^entropy of how often each does)."""
    share = indices.flatten().bincount(minlength=codes).double()
    share = share / share.sum()
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return float((share > 0).double().mean()), float(entropy.exp())
