"""The tiny autoencoder: a KL autoencoder's latents read and made by a few convolutions (TAESD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from ..core.noise import Noise
from ..nets.blocks.conv import arranged, joined
from .codec import Codec, Normalisation
from .strips import precise


@register
@dataclass(frozen=True, kw_only=True)
class AutoencoderTinyConfig:
    """The shape of a tiny autoencoder; the defaults are those of TAESD and TAESDXL (2,445,063 parameters).

    `encoder`, `decoder`: residual blocks at each size, in the order in which they run; sizes differ by 2. `width`
    channels everywhere, as released; `latent` channels of the latents, which come out in the denoiser's units already
    (`scale` 1, `shift` 0). Raises `InputError` for halves of different depth.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent: int = 4
    width: int = 64
    encoder: tuple[int, ...] = (1, 3, 3, 3)
    decoder: tuple[int, ...] = (3, 3, 3, 1)
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if len(self.encoder) != len(self.decoder):
            sizes = f"{len(self.encoder)} sizes in encoder, {len(self.decoder)} in decoder"
            raise InputError(f"AutoencoderTinyConfig has {sizes}: make them equal")

    def build(self) -> AutoencoderTiny:
        """Return the network, freshly initialised."""
        return AutoencoderTiny(self)


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=not torch.is_grad_enabled())


class TinyBlock(nn.Module):
    """ReLU(x + conv(ReLU(conv(ReLU(conv(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, H, W] of `x` of that shape."""
        return _relu(joined(self.conv3(_relu(self.conv2(_relu(self.conv1(x))))), x))


class TinyStage(nn.Module):
    """The residual blocks of a size after a convolution that leads there."""

    def __init__(self, inputs: int, width: int, blocks: int, *, stride: int = 1, bias: bool) -> None:
        super().__init__()
        self.lead = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=bias)
        self.blocks = nn.Sequential(*(TinyBlock(width) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, H / stride, W / stride] of `x` [B, inputs, H, W]."""
        return self.blocks(self.lead(x))


class Entry(TinyStage):
    """The first stage of a decoder, with a ReLU after its convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, h, w] of `x` [B, inputs, h, w]."""
        return self.blocks(_relu(self.lead(x)))


class Grown(TinyStage):
    """A later stage of a decoder, on twice the grid (nearest neighbours)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, 2 h, 2 w] of `x` [B, inputs, h, w]."""
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class AutoencoderTiny(Codec):
    """latents = encoder((pixels + 1) / 2), pixels = 2 decoder(3 tanh(latents / 3)) - 1: both work on pixels in [0, 1].

    Encoding is not random. The released networks have seen nothing outside [-1, 1], and nothing clamps their output.
    """

    decoding: ClassVar[tuple[str, ...]] = ("decoder", "pixels")

    def __init__(self, config: AutoencoderTinyConfig) -> None:
        super().__init__()
        self.config = k = config
        self.factor, self.channels = 2 ** (len(k.encoder) - 1), k.latent
        self.normalise = Normalisation(k.scale, k.shift)
        width = k.width
        self.encoder = nn.Sequential(
            TinyStage(k.in_channels, width, k.encoder[0], bias=True),
            *(TinyStage(width, width, blocks, stride=2, bias=False) for blocks in k.encoder[1:]),
        )
        self.latent = nn.Conv2d(width, k.latent, 3, padding=1)
        self.decoder = nn.Sequential(
            Entry(k.latent, width, k.decoder[0], bias=True),
            *(Grown(width, width, blocks, bias=False) for blocks in k.decoder[1:]),
        )
        self.pixels = nn.Conv2d(width, k.out_channels, 3, padding=1)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the latents, which are certain."""
        z = self.latent(self.encoder(arranged(((pixels + 1) / 2).to(self.latent.weight.dtype))))
        return self.normalise(precise(z.contiguous())), None

    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return pixels [B, 3, H, W] of `latents`, about -1 to 1."""
        z = self.normalise.inverse(latents).to(self.pixels.weight.dtype)
        return (self.pixels(self.decoder(arranged(3 * torch.tanh(z / 3)))) * 2 - 1).contiguous()


def taesd() -> AutoencoderTinyConfig:
    """Return TAESD, for the latents of Stable Diffusion 1 and 2 (and TAESDXL): 2,445,063 parameters."""
    return AutoencoderTinyConfig()


def taesd3() -> AutoencoderTinyConfig:
    """Return TAESD3, for the 16 channels of Stable Diffusion 3: 2,458,899 parameters."""
    return AutoencoderTinyConfig(latent=16)
