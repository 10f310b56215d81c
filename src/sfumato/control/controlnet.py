"""ControlNet for the U-Nets of latent diffusion: a copy of the way down that sees a picture (arXiv 2302.05543)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from ..nets.blocks.attention import Keys
from ..nets.blocks.conv import conv
from ..nets.hooks import Site
from ..nets.latent_unet import DownUNet, LatentUNet, LatentUNetConfig, sd1, sdxl


@register
@dataclass(frozen=True, kw_only=True)
class ControlNetConfig:
    """The shape of a ControlNet; the defaults are those for Stable Diffusion 1 (361,279,120 parameters).

    - `unet`: the shape of the U-Net that it is a half of; it sees no `extra` channels.
    - `hints`: channels of the convolutions over the picture, which halve it between each two: 8 pixels a latent's
      place for four of them. `hint_channels` of the picture.
    - `averaged`: each residual is its mean over the grid, as in the network for shuffled pictures.
    Raises `InputError` for fewer than two entries in `hints`, and for a U-Net without a middle.
    """

    unet: LatentUNetConfig = field(default_factory=LatentUNetConfig)
    hints: tuple[int, ...] = (16, 32, 96, 256)
    hint_channels: int = 3
    averaged: bool = False

    def __post_init__(self) -> None:
        if len(self.hints) < 2 or self.unet.middle is None:
            raise InputError(f"ControlNetConfig needs two hints or more and a U-Net with a middle, got {self.hints}")

    def build(self) -> ControlNet:
        """Return the network, freshly initialised: its residuals are zero until it is trained."""
        return ControlNet(self)


class HintEncoder(nn.Module):
    """Convolutions over a picture, SiLU after each, the last one zero at first; every second halves the grid."""

    def __init__(self, channels: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.conv_in = conv(channels, widths[0])
        self.blocks = nn.ModuleList(c for a, b in pairwise(widths) for c in (conv(a, a), conv(a, b, stride=2)))
        self.conv_out = zero(conv(widths[-1], outputs))

    def forward(self, hint: Tensor) -> Tensor:
        """Return [B, outputs, H / 2^n, W / 2^n] of `hint` [B, channels, H, W]."""
        h = F.silu(self.conv_in(hint))
        for block in self.blocks:
            h = F.silu(block(h))
        return self.conv_out(h)


class ControlNet(nn.Module):
    """net(x, c_noise [B or 1], hint=[B, 3, 8 H, 8 W] in [0, 1], context=..., ...) -> residuals of skips and middle.

    x is the host's input [B, C, H, W], without the channels beside it; the other conditions are the host's too. Used by
    `Controlled`.
    """

    once = ("hint.*", *(f"unet.{name}" for name in DownUNet.once))

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = DownUNet(config.unet)
        self.cond: dict[str, Any] = {"hint": None} | {k: v for k, v in self.unet.cond.items() if k != "extra"}
        self.hint = HintEncoder(config.hint_channels, config.hints, config.unet.widths[0])
        self.outs = nn.ModuleList(zero(conv(c, c, 1)) for c in (*self.unet.saved, config.unet.widths[-1]))

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> list[Tensor]:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond))

    def seen(self, host: nn.Module, x: Tensor) -> Tensor:
        """Return `x`."""
        return x

    def places(self, known: Sequence[Site]) -> list[tuple[Site, int]]:
        """Return (site of the host, number of its residual): the skips, then the middle's last block."""
        found = [s for s in known if s.kind == "skip"]
        found += [s for s in known if s.kind == "residual" and s.stage == "middle"][-1:]
        if len(found) != len(self.outs):
            raise InputError(f"this ControlNet gives {len(self.outs)} residuals, its host takes {len(found)}")
        return [(site, i) for i, site in enumerate(found)]

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return what depends on noise labels [N] alone."""
        return self.unet.embed(c_noise)

    def condition(self, hint: Tensor | None = None, **cond: Any) -> dict[str, Any]:
        """Return what depends on the conditions alone, as the keyword arguments of `trunk`."""
        channels = self.config.hint_channels
        if hint is None or hint.ndim != 4 or hint.shape[1] != channels:
            got = "none" if hint is None else str(list(hint.shape))
            raise InputError(f"this ControlNet needs a hint [B, {channels}, 8 H, 8 W], a picture in [0, 1], got {got}")
        return {"hint": self.hint(hint.to(self.unet.conv_in.weight.dtype)), **self.unet.condition(**cond)}

    def steer(self, emb: Tensor, **given: Any) -> list[Tensor]:
        """Return what time and conditions decide together, the trunk's `steering`."""
        return self.unet.steer(emb, **given)

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        hint: Tensor,
        keys: list[Keys | None],
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        scale: Tensor | None = None,
        extra: Tensor | None = None,
        steering: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Return the residuals for `x`, `embed`'s emb and what `condition` gave."""
        told = iter(self.steer(emb, vector=vector, scale=scale) if steering is None else steering)
        h = self.unet.begun(x, extra)
        if h.shape[-2:] != hint.shape[-2:]:
            factor = 2 ** (len(self.config.hints) - 1)
            height, width = (factor * n for n in h.shape[-2:])
            raise InputError(f"the hint must be {height} x {width} pixels, {factor} times the latent's size")
        h, skips = self.unet.downward(h + hint, told, iter(keys), mask, None)
        found = [out(s) for out, s in zip(self.outs, (*skips, h), strict=True)]
        return [r.mean(dim=(2, 3), keepdim=True) for r in found] if self.config.averaged else found


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Return `layer` with its weight and bias set to zero."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def trained_from(host: LatentUNet) -> ControlNet:
    """Return a ControlNet that starts as a copy of the host's way down, its residuals zero."""
    net = ControlNet(ControlNetConfig(unet=host.config))
    mine = net.unet.state_dict()
    net.unet.load_state_dict({name: value for name, value in host.state_dict().items() if name in mine})
    return net.to(next(host.parameters()))


def guessed(count: int = 13) -> tuple[float, ...]:
    """Return the scales of guess mode for `count` residuals: 10^-1 to 10^0, evenly in the exponent (its code)."""
    return tuple(torch.logspace(-1, 0, count).tolist())


def sd1_controlnet() -> ControlNetConfig:
    """Return the ControlNet of Stable Diffusion 1: 361,279,120 parameters."""
    return ControlNetConfig(unet=sd1())


def sdxl_controlnet() -> ControlNetConfig:
    """Return the ControlNet of SDXL: 1,251,014,160 parameters."""
    return ControlNetConfig(unet=sdxl())
