"""The discrete VAE of DALL-E: a distribution over codes at each place of a grid (arXiv 2102.12092, appendix A)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from ..core.noise import Noise
from .codec import Codec, whole

EDGE = 0.1  # pixels are mapped to (EDGE, 1 - EDGE), away from where the likelihood has its poles (appendix A.3)


@register
@dataclass(frozen=True, kw_only=True)
class DVAEConfig:
    """The shape of a dVAE; the defaults are those of DALL-E: 8192 codes on 1/8 of the size.

    - `width`: channels of the first group, times each of `multipliers`, one a group; the grid halves between groups.
      `blocks` residual blocks a group. `inner`: channels between a code and the decoder.
    Raises `InputError` for widths that do not divide by 4, what a block's inside has.
    """

    in_channels: int = 3
    out_channels: int = 3
    codes: int = 8192
    width: int = 256
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    blocks: int = 2
    inner: int = 128

    def __post_init__(self) -> None:
        if self.width % 4 or self.codes < 2:
            raise InputError(f"DVAEConfig needs a width that 4 divides and 2 codes, got {self.width} and {self.codes}")

    def build(self) -> DVAE:
        """Return the network, freshly initialised."""
        return DVAE(self)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Return a convolution with weights from N(0, 1 / fan_in) and no bias at first, as in the published code."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.normal_(layer.weight, 0.0, 1 / math.sqrt(inputs * kernel**2))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Bottleneck(nn.Module):
    """shortcut(x) + gain path(x): four convolutions, each after a ReLU, with a quarter of the channels inside.

    `kernels` of the four: 3, 3, 3, 1 in the encoder and 1, 3, 3, 3 in the decoder; gain = 1 / (blocks of the half)^2.
    """

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        widths = (inputs, outputs // 4, outputs // 4, outputs // 4, outputs)
        self.gain = gain
        self.shortcut = nn.Identity() if inputs == outputs else _conv(inputs, outputs, 1)
        self.path = nn.ModuleList(_conv(widths[i], widths[i + 1], kernel) for i, kernel in enumerate(kernels))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H, W] of `x` [B, inputs, H, W]."""
        h = x
        for layer in self.path:
            h = layer(F.relu(h))
        return self.shortcut(x) + self.gain * h


def _groups(start: int, widths: list[int], blocks: int, kernels: tuple[int, ...]) -> nn.ModuleList:
    gain = 1 / (len(widths) * blocks) ** 2
    groups, width = nn.ModuleList(), start
    for wide in widths:
        inner = [width] + [wide] * (blocks - 1)
        groups.append(nn.Sequential(*(Bottleneck(i, wide, kernels, gain) for i in inner)))
        width = wide
    return groups


class DVAE(Codec):
    """q(code | place, pixels) = softmax(logits), pixels ~ logit-Laplace(decoder(codes)).

    Latents are distributions over the codes, [B, codes, h, w]: one-hot where a code was chosen, in between while
    the relaxation trains it. `encode` takes the most likely code, or with `noise` draws one; `indices` and `lookup` go
    to the numbers of the codes and back; `decode` gives the median pixels.
    """

    decoding: ClassVar[tuple[str, ...]] = ("codebook", "up", "pixels")

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.config = k = config
        self.factor, self.channels = 2 ** (len(k.multipliers) - 1), k.codes
        widths = [k.width * m for m in k.multipliers]
        self.conv_in = _conv(k.in_channels, k.width, 7)
        self.down = _groups(k.width, widths, k.blocks, (3, 3, 3, 1))
        self.chosen = _conv(widths[-1], k.codes, 1)
        self.codebook = _conv(k.codes, k.inner, 1)
        self.up = _groups(k.inner, widths[::-1], k.blocks, (1, 3, 3, 3))
        self.pixels = _conv(k.width, 2 * k.out_channels, 1)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits of the codes, [B, codes, h, w], of pixels in [-1, 1]."""
        h = self.conv_in(mapped(pixels))
        for i, group in enumerate(self.down):
            h = group(h if i == 0 else F.max_pool2d(h, 2))
        return self.chosen(F.relu(h))

    def moments(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and log-scale of the logit-Laplace law of the mapped pixels, each [B, C, H, W]."""
        h = self.codebook(latents)
        for i, group in enumerate(self.up):
            h = group(h if i == 0 else F.interpolate(h, scale_factor=2.0, mode="nearest"))
        mu, log_scale = self.pixels(F.relu(h)).chunk(2, dim=1)
        return mu, log_scale

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the most likely code of each place, one-hot."""
        return self.lookup(self.logits(pixels).argmax(1)), None

    def encode(self, pixels: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the most likely codes, or with `noise` drawn ones: row i of seed i alone; one-hot."""
        whole(self, pixels)
        logits = self.logits(pixels)
        return self.lookup((logits if noise is None else logits + gumbel(logits, noise)).argmax(1))

    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the median pixels [B, C, H, W] of `latents`, in [-1, 1]."""
        return unmapped(torch.sigmoid(self.moments(latents)[0]))

    def indices(self, latents: Tensor) -> Tensor:
        """Return int64[B, h, w], the most likely code of each place."""
        return latents.argmax(1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the one-hot latents [B, codes, h, w] of codes int64[B, h, w]."""
        hot = F.one_hot(indices, self.config.codes).movedim(-1, 1)
        return hot.to(self.pixels.weight.dtype)


def mapped(pixels: Tensor) -> Tensor:
    """Return (1 - 2 e)(x + 1) / 2 + e of pixels x in [-1, 1], e = 0.1: in [0.1, 0.9]."""
    return (1 - 2 * EDGE) * (pixels + 1) / 2 + EDGE


def unmapped(y: Tensor) -> Tensor:
    """Return the pixels of which `y` is mapped, kept in [-1, 1]."""
    return ((y - EDGE) / (1 - 2 * EDGE)).clamp(0.0, 1.0) * 2 - 1


def gumbel(x: Tensor, noise: Noise) -> Tensor:
    """Return Gumbel numbers -ln(-ln u) shaped as `x`, u = Phi(normal): row i of seed i alone."""
    return -torch.log(-torch.special.log_ndtr(noise.like(x, "gumbel")))


def logit_laplace(y: Tensor, mu: Tensor, log_scale: Tensor) -> Tensor:
    """Return -ln p(y) elementwise, p(y) = exp(-|logit y - mu| / b) / (2 b y (1 - y)), b = e^log_scale, y in (0, 1).

    The law of sigmoid(mu + b Laplace) (arXiv 2102.12092, appendix A.3, eq. 2).
    """
    away = (torch.logit(y) - mu).abs() * torch.exp(-log_scale)
    return away + log_scale + math.log(2) + torch.log(y) + torch.log1p(-y)
