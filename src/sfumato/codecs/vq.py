"""The VQ model: latents that are replaced by the nearest of a codebook's vectors before they are decoded.

Latent diffusion diffuses what the encoder gives and quantises in the decoder (Rombach et al., arXiv 2112.10752,
section 3.1); masked-token models diffuse the indices. Both stand on VQ-VAE (arXiv 1711.00937) and VQGAN (2012.09841).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from ..core.noise import Noise
from .codec import Normalisation, Striped, computing
from .strips import Conv, precise
from .trunk import Decoder, Encoder, Shape, gathered, spread

_DISTANCES = 1 << 24  # distances computed at a time: 64 MiB


@register
@dataclass(frozen=True, kw_only=True)
class VQModelConfig:
    """The shape of a VQ model; the defaults are those of latent diffusion's VQ-f4 (55,322,782 parameters).

    - `widths`, `layers`, `attention`, `middle`, `groups`, `patch`: as in `AutoencoderKLConfig`. `latent`: channels
      between the trunk and the 1x1 convolutions around the codebook. `codes` vectors of width `code`.
    - `spatial`: every norm of the decoder reads the quantised latent (MoVQ, arXiv 2209.09002); `code` = `latent` then.
    - `tokens`: the denoiser's data are indices of the codebook, not latents: a label, it changes no computation here.
    - `scale`: the latents that a denoiser sees are scale z. `upcast`: float16 weights compute in float32.
    Raises `InputError` for widths that do not divide into `groups` (32 where `spatial`).
    """

    in_channels: int = 3
    out_channels: int = 3
    latent: int = 3
    widths: tuple[int, ...] = (128, 256, 512)
    layers: int = 2
    attention: tuple[int, ...] = ()
    middle: bool = True
    groups: int = 32
    codes: int = 8192
    code: int = 3
    spatial: bool = False
    tokens: bool = False
    scale: float = 1.0
    upcast: bool = False
    patch: int = 1

    def __post_init__(self) -> None:
        self.trunk.check("VQModelConfig")
        if self.patch < 1:
            raise InputError(f"VQModelConfig.patch={self.patch} must be at least 1")
        if self.spatial:
            replace(self.trunk, groups=32).check("VQModelConfig (spatial)")
            if self.code != self.latent:
                raise InputError(f"VQModelConfig (spatial) needs code = latent, got {self.code} and {self.latent}")

    @property
    def trunk(self) -> Shape:
        """What encoder and decoder share."""
        return Shape(self.widths, self.layers, self.groups, self.attention, self.middle)

    def build(self) -> VQModel:
        """Return the network, freshly initialised."""
        return VQModel(self)


class VQModel(Striped):
    """latents = encoder(pixels), pixels = decoder(nearest code of each place's latent).

    `decode` quantises; `render` decodes latents as they are. `indices` and `lookup` go to the tokens and back.
    Gradients go straight through the quantisation, as if it were not there.
    """

    decoding: ClassVar[tuple[str, ...]] = ("codebook", "decoded", "decoder")

    def __init__(self, config: VQModelConfig) -> None:
        super().__init__()
        self.config = k = config
        self.factor, self.channels = k.patch * 2 ** (len(k.widths) - 1), k.code
        self.normalise = Normalisation(k.scale)
        self.encoder = Encoder(k.in_channels * k.patch**2, k.latent, k.trunk)
        self.coded = Conv(k.latent, k.code, 1)
        self.codebook = nn.Embedding(k.codes, k.code)
        nn.init.uniform_(self.codebook.weight, -1 / k.codes, 1 / k.codes)  # as in VQGAN's code
        self.decoded = Conv(k.code, k.latent, 1)
        trunk = replace(k.trunk, spatial=k.code if k.spatial else 0)
        self.decoder = Decoder(k.latent, k.out_channels * k.patch**2, trunk)

    def posterior(self, pixels: Tensor, height: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the latents before quantisation, which are certain."""
        dtype = computing(self.encoder.conv_in.weight, self.config.upcast)
        z = self.coded(self.encoder(gathered(pixels, self.config.patch).to(dtype), height)).contiguous()
        return self.normalise(precise(z)), None

    def decode(self, latents: Tensor, noise: Noise | None = None, height: int | None = None) -> Tensor:
        """Return pixels [B, 3, H, W] of the nearest codes of `latents`."""
        return self.render(self.quantise(latents), height)

    def render(self, latents: Tensor, height: int | None = None) -> Tensor:
        """Return pixels of `latents` as they are, not quantised."""
        dtype = computing(self.decoder.conv_in.weight, self.config.upcast)
        z = self.normalise.inverse(latents).to(dtype)
        squares = self.decoder(self.decoded(z), z if self.config.spatial else None, height)
        return spread(squares, self.config.patch)

    def quantise(self, latents: Tensor) -> Tensor:
        """Return the nearest codes, as latents; their gradient is that of `latents` (straight through)."""
        nearest = self.lookup(self.indices(latents)).to(latents.dtype)
        return latents + (nearest - latents).detach() if torch.is_grad_enabled() else nearest

    def indices(self, latents: Tensor) -> Tensor:
        """Return int64 [B, h, w]: argmin_k |z - e_k|^2, the first of equals."""
        places = precise(self.normalise.inverse(latents)).movedim(1, -1).flatten(0, -2)
        codes = self.codebook.weight.to(places.dtype)
        squares = (codes**2).sum(1)
        parts = places.split(max(1, _DISTANCES // len(codes)))
        nearest = [torch.addmm(squares, part, codes.T, alpha=-2.0).argmin(1) for part in parts]
        return torch.cat(nearest).reshape(len(latents), *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the latents [B, channels, h, w] of the codes int[B, h, w]."""
        return self.normalise(precise(self.codebook(indices)).movedim(-1, 1).contiguous())


def codebook_loss(z: Tensor, quantised: Tensor, *, codebook: float = 1.0, commitment: float = 0.25) -> Tensor:
    """Return loss[B] = codebook mean |sg(z) - e|^2 + commitment mean |z - sg(e)|^2 (arXiv 1711.00937, eq. 3).

    `z` before, `quantised` e after quantisation, not straight through. The first term moves the codes, the second the
    encoder. VQGAN's code, and all networks trained with it, had beta = 0.25 on the first instead: codebook=0.25,
    commitment=1.
    """
    moved = ((quantised - z.detach()) ** 2).flatten(1).mean(1)
    committed = ((z - quantised.detach()) ** 2).flatten(1).mean(1)
    return codebook * moved + commitment * committed


def vq_f4() -> VQModelConfig:
    """Return latent diffusion's VQ-f4: 8192 codes of 3 numbers on 1/4 of the size; 55,322,782 parameters."""
    return VQModelConfig()


def vq_f8() -> VQModelConfig:
    """Return latent diffusion's VQ-f8: 16,384 codes of 4 numbers, attention at the smallest grid."""
    return VQModelConfig(latent=4, code=4, codes=16_384, widths=(128, 256, 256, 512), attention=(3,))


def vq_f16() -> VQModelConfig:
    """Return latent diffusion's VQ-f16: 16,384 codes of 8 numbers, attention at the smallest grid."""
    return VQModelConfig(latent=8, code=8, codes=16_384, widths=(128, 128, 256, 256, 512), attention=(4,))
