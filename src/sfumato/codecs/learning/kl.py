"""Training a KL autoencoder as latent diffusion does (Rombach et al., arXiv 2112.10752, appendix G)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...core.config import register
from ...core.denoiser import Batch
from ...core.errors import InputError
from ...core.noise import Noise
from ...objectives.bound import gaussian_kl
from ..codec import Codec
from .adversary import Adversary
from .learner import Learner
from .perceptual import PerceptualConfig
from .stepped import Stepped


@register
@dataclass(frozen=True, kw_only=True)
class KLAutoencoding(Stepped):
    """loss = d / e^s + s + beta KL / D + the adversary's, d = mean |x - x~| + `perceptual` d_features (eq. 25).

    x~ = decode(z), z drawn from the posterior; s a learned number, KL in nats summed over the latents, D the number of
    pixel values: all terms are means over pixel values, which changes no ratio of latent diffusion's sums. d / e^s + s
    is, without the perceptual term, the negative logarithm of a Laplace density less ln 2. Defaults: beta = 1e-6, both
    distances with weight 1, that of its code; `square`: mean (x - x~)^2 instead, with which it is twice that of a
    Gaussian of variance e^s less ln 2 pi.

    Raises `InputError` for a codec whose latents are scaled: they are measured once it is trained.
    """

    beta: float = 1e-6
    perceptual: float = 1.0
    eye: PerceptualConfig = field(default_factory=PerceptualConfig)
    adversary: Adversary | None = field(default_factory=Adversary)
    square: bool = False

    def parts(self, codec: Codec) -> dict[str, nn.Module]:
        """Return the learned scale, the perceptual features and the critic."""
        bare(codec)
        parts: dict[str, nn.Module] = {"scale": Scale(), "eye": self.eye.build()}
        return parts if self.adversary is None else parts | self.adversary.parts()

    def loss(self, learner: Learner, batch: Batch, noise: Noise, step: int) -> Tensor:
        """Return the loss[B]."""
        x, codec = batch.x0, learner.codec
        mean, deviation = codec.posterior(x)
        assert deviation is not None
        made = codec.decode(mean + deviation * noise.like(mean, "posterior")).float()
        error = (x - made).square() if self.square else (x - made).abs()
        distance = error.flatten(1).mean(1) + self.perceptual * learner.parts["eye"](x, made)
        s = learner.parts["scale"]()
        near = distance * torch.exp(-s) + s
        kl = gaussian_kl(mean, 2 * torch.log(deviation), torch.zeros_like(mean)).flatten(1).sum(1)
        loss = near + self.beta * kl / x[0].numel()
        return loss if self.adversary is None else loss + self.adversary(learner, x, made, near, step)


class Scale(nn.Module):
    """A learned number, 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        """Return it."""
        return self.value


def bare(codec: Codec) -> None:
    """Raise `InputError` for a codec that shifts or scales its latents."""
    k = getattr(codec, "config", None)
    scaled = (getattr(k, "scale", 1.0), getattr(k, "shift", 0.0)) != (1.0, 0.0)
    if scaled or getattr(k, "mean", ()) or getattr(k, "std", ()):
        raise InputError("a codec is trained with scale 1, shift 0 and no mean and std: they are measured afterwards")
