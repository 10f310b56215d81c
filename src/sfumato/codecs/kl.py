"""The KL autoencoder: a Gaussian over latents, near its standard normal (Rombach et al., arXiv 2112.10752, G)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from ..core.noise import Noise
from .codec import Normalisation, Striped, computing
from .strips import Conv, precise
from .trunk import Decoder, Encoder, Shape, gathered, spread


@register
@dataclass(frozen=True, kw_only=True)
class AutoencoderKLConfig:
    """The shape of a KL autoencoder; the defaults are those of Stable Diffusion 1 and 2 (83,653,863 parameters).

    - `widths`: channels of each level, level i on 1 / 2^i of the size; `layers`: residual blocks of a level, one more
      on the way up. `attention`: levels that have it, beside the `middle`. `latent`: channels of the latents.
    - `groups`: of every group normalisation; 0 for none, which small networks learn faster without.
    - `moments`, `decoded`: whether a 1x1 convolution stands after the encoder and before the decoder.
    - `scale`, `shift`, `mean`, `std`: the latents that a denoiser sees are (z - shift - mean) scale / std.
    - `patch`: the trunk sees squares of so many pixels as the channels of one place: its largest grids, the dear ones,
      are that much smaller. `lift`: the encoder also sees sin and cos of 2^k pi x of the pixels x, for these k (Emu,
      arXiv 2309.15807, section 3).
    - `upcast`: float16 weights compute in float32, since activations overflow in them (that of SDXL needs it).
    Raises `InputError` for widths that do not divide into `groups` and for moments of another length than `latent`.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    attention: tuple[int, ...] = ()
    middle: bool = True
    groups: int = 32
    moments: bool = True
    decoded: bool = True
    scale: float = 0.18215
    shift: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    upcast: bool = False
    patch: int = 1
    lift: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.trunk.check("AutoencoderKLConfig")
        if self.patch < 1:
            raise InputError(f"AutoencoderKLConfig.patch={self.patch} must be at least 1")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, self.latent):
                raise InputError(f"AutoencoderKLConfig.{name} needs {self.latent} numbers or none, one a channel")

    @property
    def trunk(self) -> Shape:
        """What encoder and decoder share."""
        return Shape(self.widths, self.layers, self.groups, self.attention, self.middle)

    def build(self) -> AutoencoderKL:
        """Return the network, freshly initialised."""
        return AutoencoderKL(self)


class AutoencoderKL(Striped):
    """q(z | pixels) = N(mean, e^logvar), logvar clamped to [-30, 20]; pixels = decoder(z).

    `height`, of both directions: work along strips of that many rows (see `Strips`), None for the whole at once.
    """

    decoding: ClassVar[tuple[str, ...]] = ("decoded", "decoder")

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        self.config = k = config
        self.factor, self.channels = k.patch * 2 ** (len(k.widths) - 1), k.latent
        self.normalise = Normalisation(k.scale, k.shift, k.mean, k.std)
        seen = k.in_channels * (1 + 2 * len(k.lift)) * k.patch**2
        self.encoder = Encoder(seen, 2 * k.latent, k.trunk)
        self.moments = Conv(2 * k.latent, 2 * k.latent, 1) if k.moments else nn.Identity()
        self.decoded = Conv(k.latent, k.latent, 1) if k.decoded else nn.Identity()
        self.decoder = Decoder(k.latent, k.out_channels * k.patch**2, k.trunk)

    def posterior(self, pixels: Tensor, height: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents, each [B, channels, h, w]."""
        dtype = computing(self.encoder.conv_in.weight, self.config.upcast)
        squares = gathered(lifted(pixels, self.config.lift), self.config.patch)
        moments = self.moments(self.encoder(squares.to(dtype), height)).contiguous()
        mean, logvar = precise(moments).chunk(2, dim=1)
        deviation = torch.exp(0.5 * logvar.clamp(-30.0, 20.0))
        return self.normalise(mean), self.normalise.deviation(deviation)

    def decode(self, latents: Tensor, noise: Noise | None = None, height: int | None = None) -> Tensor:
        """Return pixels [B, 3, H, W] of `latents`, about -1 to 1, in the dtype in which they were computed."""
        dtype = computing(self.decoder.conv_in.weight, self.config.upcast)
        squares = self.decoder(self.decoded(self.normalise.inverse(latents).to(dtype)), None, height)
        return spread(squares, self.config.patch)


def lifted(pixels: Tensor, powers: tuple[int, ...]) -> Tensor:
    """Return [x, sin(2^k pi x), cos(2^k pi x), ...] for k of `powers`, along the channels of x [B, C, H, W]."""
    angles = [pixels * (math.pi * 2.0**k) for k in powers]
    return torch.cat([pixels, *(wave(a) for a in angles for wave in (torch.sin, torch.cos))], 1) if powers else pixels


def sd() -> AutoencoderKLConfig:
    """Return the autoencoder of Stable Diffusion 1 and 2: 83,653,863 parameters."""
    return AutoencoderKLConfig()


def sdxl() -> AutoencoderKLConfig:
    """Return that of SDXL (arXiv 2307.01952, section 2.4): the same shape, scale 0.13025, overflows in float16."""
    return AutoencoderKLConfig(scale=0.13025, upcast=True)


def sd3() -> AutoencoderKLConfig:
    """Return that of Stable Diffusion 3 (arXiv 2403.03206, section 5.2.1): 16 channels; 83,819,683 parameters."""
    return AutoencoderKLConfig(latent=16, moments=False, decoded=False, scale=1.5305, shift=0.0609, upcast=True)


def upscaler() -> AutoencoderKLConfig:
    """Return that of the x4 up-scaler of Stable Diffusion 2: 1/4 of the size, scale 0.08333; 55,325,927 parameters."""
    return AutoencoderKLConfig(widths=(128, 256, 512), scale=0.08333)
