"""The plain VAE: a picture from one Gaussian vector (Kingma & Welling 2013, arXiv 1312.6114)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from ..core.noise import Noise
from ..nets.blocks.conv import conv, initialised
from .codec import Codec


@register
@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The shape of a VAE of square pictures: a convolution of stride 2 for each of `widths`, and its mirror.

    `latent` numbers a picture. Defaults: for digits of 8 x 8. Raises `InputError` for a `size` that does not halve so
    often.
    """

    in_channels: int = 1
    size: int = 8
    widths: tuple[int, ...] = (32, 64)
    latent: int = 16

    def __post_init__(self) -> None:
        if self.size % 2 ** len(self.widths) or self.size < 1:
            raise InputError(f"VAEConfig.size={self.size} does not halve {len(self.widths)} times: give fewer widths")

    def build(self) -> VAE:
        """Return the network, freshly initialised."""
        return VAE(self)


class VAE(Codec):
    """q(z | x) = N(mean, deviation^2) and p(x | z) = N(decode(z), e^(2 log_scale)), z [B, latent, 1, 1] ~ N(0, 1).

    `log_scale` is one learned number, the deviation of every pixel value (arXiv 2006.13202, section 3.1): with it the
    bound is that of a density, and needs no weight. A picture is drawn in one call: decode of a normal z.
    """

    decoding: ClassVar[tuple[str, ...]] = ("log_scale", "start", "up")

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = k = config
        self.factor, self.channels = k.size, k.latent
        widths = (k.in_channels, *k.widths)
        self.small = k.size // 2 ** len(k.widths)
        flat = widths[-1] * self.small**2
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in pairwise(widths))
        self.moments = initialised(nn.Linear(flat, 2 * k.latent))
        self.start = initialised(nn.Linear(k.latent, flat))
        self.up = nn.ModuleList(conv(b, a) for a, b in reversed(list(pairwise(widths))))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents, each [B, latent, 1, 1]."""
        h = pixels
        for layer in self.down:
            h = F.silu(layer(h))
        mean, logvar = self.moments(h.flatten(1))[:, :, None, None].chunk(2, dim=1)
        return mean, torch.exp(0.5 * logvar.clamp(-30.0, 20.0))

    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the mean pixels [B, C, size, size] of `latents`, in (-1, 1)."""
        h = self.start(latents.flatten(1)).unflatten(1, (-1, self.small, self.small))
        for layer in self.up:
            h = layer(F.interpolate(F.silu(h), scale_factor=2.0, mode="nearest"))
        return torch.tanh(h)
