"""What stands between pixels and what is diffused: a codec, and the normalisation of its latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from ..core.noise import Noise


class Codec(nn.Module, ABC):
    """Pixels [B, 3, H, W] in [-1, 1] <-> latents [B, channels, H / factor, W / factor].

    The latents are those that a denoiser sees: shifted and scaled to about unit variance. Nothing here switches
    gradients off: guidance differentiates through `decode`, training through both.
    """

    factor: int
    channels: int
    decoding: ClassVar[tuple[str, ...]] = ()  # the parts that only decode: without them, latents are the same

    @abstractmethod
    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents, None for the latter where encoding is not random."""

    @abstractmethod
    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the pixels of `latents`; only codecs with a `draws` of True take `noise`, one seed a row."""

    @property
    def draws(self) -> bool:
        """Whether `decode` draws, and so needs noise."""
        return False

    def encode(self, pixels: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the mean of the posterior, or a sample of it where `noise` is given: row i of seed i alone.

        Raises `InputError` for a picture whose sides are no multiples of `factor`.
        """
        whole(self, pixels)
        mean, deviation = self.posterior(pixels)
        if noise is None or deviation is None:
            return mean
        return mean + deviation * noise.like(mean, "posterior")


class Striped(Codec):
    """A codec whose layers can work along strips of `height` rows, with the same result and less memory."""

    @abstractmethod
    def posterior(self, pixels: Tensor, height: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents."""

    @abstractmethod
    def decode(self, latents: Tensor, noise: Noise | None = None, height: int | None = None) -> Tensor:
        """Return the pixels of `latents`."""


def whole(codec: Codec, pixels: Tensor) -> None:
    """Raise `InputError` for a picture that does not fill its latents."""
    height, width = pixels.shape[-2:]
    if height % codec.factor or width % codec.factor:
        raise InputError(f"a picture of {width}x{height} has no whole latents: crop to multiples of {codec.factor}")


@dataclass(frozen=True)
class Normalisation:
    """(z - shift - mean) scale / std: what a denoiser sees of the z that an encoder gives.

    `mean` and `std` are one number a channel, () where there are none.
    """

    scale: float
    shift: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def _numbers(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        shift: Tensor | float = self.shift
        scale: Tensor | float = self.scale
        if self.mean:
            shift = shift + like.new_tensor(self.mean)[:, None, None]
        if self.std:
            scale = scale / like.new_tensor(self.std)[:, None, None]
        return shift, scale

    def __call__(self, z: Tensor) -> Tensor:
        """Return what a denoiser sees of `z` [B, C, h, w]."""
        shift, scale = self._numbers(z)
        return (z - shift) * scale

    def deviation(self, z: Tensor) -> Tensor:
        """Return the standard deviation of what a denoiser sees, of that of z."""
        return z * self._numbers(z)[1]

    def inverse(self, latents: Tensor) -> Tensor:
        """Return z of what a denoiser sees."""
        shift, scale = self._numbers(latents)
        return latents / scale + shift


@register
@dataclass(frozen=True, kw_only=True)
class IdentityConfig:
    """The codec of models that diffuse pixels themselves: latents = pixels."""

    channels: int = 3

    def build(self) -> Identity:
        """Return the codec."""
        return Identity(self)


class Identity(Codec):
    """latents = pixels."""

    def __init__(self, config: IdentityConfig | None = None) -> None:
        super().__init__()
        self.config = IdentityConfig() if config is None else config
        self.factor, self.channels = 1, self.config.channels

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels."""
        return pixels, None

    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the latents."""
        return latents


def computing(weight: Tensor, upcast: bool) -> torch.dtype:
    """Return the dtype to compute in: that of the weights, float32 for float16 weights that overflow in it.

    bfloat16 has the range of float32, so it needs no such help.
    """
    return torch.float32 if upcast and weight.dtype == torch.float16 else weight.dtype
