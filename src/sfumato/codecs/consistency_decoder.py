"""The consistency decoder of DALL-E 3: a U-Net that paints the pixels of Stable Diffusion's latents in two steps.

Its weights and code are published, no paper is; the two steps are a consistency model's (arXiv 2303.01469, alg. 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from ..core.noise import Noise
from ..nets.blocks.conv import GroupNorm, arranged, conv, joined, raised, silu
from .codec import Codec, Normalisation
from .strips import Conv, precise
from .trunk import Encoder, Shape

Resample = Callable[[Tensor], Tensor]


@register
@dataclass(frozen=True, kw_only=True)
class ConsistencyDecoderConfig:
    """The shape of a consistency decoder; the defaults are those released: a U-Net of 621,277,702 parameters.

    `widths`, `layers`, `groups`, `latent`: the encoder's, as in `AutoencoderKLConfig`. `unet_widths`, `unet_layers`,
    `unet_groups`, `unet_eps`: those of the U-Net, which has no attention; `times`: rows of its table of times.
    Raises `InputError` for widths that do not divide into their groups, and more than 4 latent channels: the
    normalisation of the U-Net's input is known for those of Stable Diffusion alone.
    """

    in_channels: int = 3
    latent: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    groups: int = 32
    scale: float = 0.18215
    unet_out: int = 6
    unet_widths: tuple[int, ...] = (320, 640, 1024, 1024)
    unet_layers: int = 3
    unet_groups: int = 32
    unet_eps: float = 1e-5
    times: int = 1024

    def __post_init__(self) -> None:
        self.trunk.check("ConsistencyDecoderConfig")
        Shape(self.unet_widths, self.unet_layers, self.unet_groups).check("ConsistencyDecoderConfig (U-Net)")
        if self.latent != len(ConsistencyDecoder.MEAN):
            raise InputError(f"ConsistencyDecoderConfig needs latent = 4 (Stable Diffusion's), got {self.latent}")

    @property
    def trunk(self) -> Shape:
        """The encoder's shape."""
        return Shape(self.widths, self.layers, self.groups)

    def build(self) -> ConsistencyDecoder:
        """Return the network, freshly initialised."""
        return ConsistencyDecoder(self)


class TimedResidual(nn.Module):
    """shortcut(r(x)) + conv2(SiLU(norm2(conv1(r(SiLU(norm1 x)))) (1 + scale) + shift)), (scale, shift) = time(e).

    r changes the size of the grid, or does not.
    """

    def __init__(self, inputs: int, outputs: int, k: ConsistencyDecoderConfig, resample: Resample | None) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = GroupNorm(k.unet_groups, inputs, k.unet_eps)
        self.conv1 = conv(inputs, outputs)
        self.time = nn.Linear(4 * k.unet_widths[0], 2 * outputs)
        self.norm2 = GroupNorm(k.unet_groups, outputs, k.unet_eps)
        self.conv2 = conv(outputs, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return [B, outputs, ...] of `x` [B, inputs, H, W] and SiLU of the time vector."""
        h = silu(self.norm1(raised(x))).to(x.dtype)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        scale, shift = self.time(e)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(raised(h)).to(h.dtype), 1 + scale)
        return joined(self.conv2(silu(h)), self.shortcut(x))


def _half(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class PaintingUNet(nn.Module):
    """net([c_in x, latents at the size of x], t) -> [B, out, H, W], t a row of a table of times."""

    def __init__(self, k: ConsistencyDecoderConfig) -> None:
        super().__init__()
        widths, last = k.unet_widths, len(k.unet_widths) - 1
        block = lambda inputs, outputs, resample=None: TimedResidual(inputs, outputs, k, resample)
        self.times = nn.Embedding(k.times, widths[0])
        self.mlp = nn.Sequential(
            nn.Linear(widths[0], 4 * widths[0]), nn.SiLU(), nn.Linear(4 * widths[0], 4 * widths[0])
        )
        self.conv_in = conv(k.in_channels + k.latent, widths[0])
        skips, width = [widths[0]], widths[0]
        self.down = nn.ModuleList()
        for level, wide in enumerate(widths):
            stage = [block(i, wide) for i in [width] + [wide] * (k.unet_layers - 1)]
            stage += [block(wide, wide, _half)] if level < last else []
            self.down.append(nn.ModuleList(stage))
            skips += [wide] * len(stage)
            width = wide
        self.middle = nn.ModuleList(block(width, width) for _ in range(2))
        self.up = nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            stage = [block(i + skips.pop(), wide) for i in [width] + [wide] * k.unet_layers]
            stage += [block(wide, wide, _double)] if level else []
            self.up.append(nn.ModuleList(stage))
            width = wide
        self.blocks = k.unet_layers + 1  # of a stage on the way up that read a skip
        self.norm_out = GroupNorm(k.unet_groups, width, k.unet_eps)
        self.conv_out = conv(width, k.unet_out)

    def forward(self, x: Tensor, t: int) -> Tensor:
        """Return the output for `x` [B, 3 + latent, H, W] at time `t`."""
        e = F.silu(self.mlp(self.times.weight[t : t + 1]))
        h = self.conv_in(arranged(x))
        skips = [h]
        for stage in self.down:
            for block in stage:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, e)
                skips.append(h)
        for block in self.middle:
            h = block(h, e)
        for stage in self.up:
            for index, block in enumerate(stage):  # pyright: ignore[reportArgumentType]
                h = block(torch.cat((h, skips.pop()), dim=1) if index < self.blocks else h, e)
        return self.conv_out(silu(self.norm_out(raised(h))).to(h.dtype))


class ConsistencyDecoder(Codec):
    """x0(x, t) = clamp(c_skip x + c_out net([c_in x, latents], t), -1, 1), at t = 1008 and, noised again, at 512.

    With abar_t = f((t + 1) / 1024) / f(0), f(u) = cos^2(pi/2 (u + 0.008) / 1.008), s^2 = 1 / abar_t - 1 and
    sigma_d = 0.5: c_in = 1 / sqrt(abar_t (s^2 + sigma_d^2)), c_skip = sigma_d^2 / (sqrt(abar_t) (s^2 + sigma_d^2)),
    c_out = s sigma_d / sqrt(s^2 + sigma_d^2). The published code clamps after both evaluations, and so does this.
    `decode` draws, so it needs noise: row i of seed i alone. Encoding is Stable Diffusion's.
    """

    TIMES: ClassVar[tuple[int, ...]] = (1008, 512)
    # of Stable Diffusion's latents, over the data that it was trained on (published code)
    MEAN: ClassVar[tuple[float, ...]] = (0.38862467, 0.02253063, 0.07381133, -0.0171294)
    STD: ClassVar[tuple[float, ...]] = (0.9654121, 1.0440036, 0.76147926, 0.77022034)

    def __init__(self, config: ConsistencyDecoderConfig) -> None:
        super().__init__()
        self.config = k = config
        self.factor, self.channels = 2 ** (len(k.widths) - 1), k.latent
        self.normalise = Normalisation(k.scale)
        self.encoder = Encoder(k.in_channels, 2 * k.latent, k.trunk)
        self.moments = Conv(2 * k.latent, 2 * k.latent, 1)
        self.unet = PaintingUNet(k)

    @property
    def draws(self) -> bool:
        """True."""
        return True

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of the latents, each [B, 4, h, w]."""
        moments = self.moments(self.encoder(pixels.to(self.moments.weight.dtype)))
        mean, logvar = precise(moments.contiguous()).chunk(2, dim=1)
        deviation = torch.exp(0.5 * logvar.clamp(-30.0, 20.0))
        return self.normalise(mean), self.normalise.deviation(deviation)

    def decode(self, latents: Tensor, noise: Noise | None = None) -> Tensor:
        """Return pixels [B, 3, H, W] of `latents`, within -1 and 1."""
        if noise is None:
            raise InputError("a consistency decoder draws what it paints: give decode a Noise, one seed a row")
        z = Normalisation(1.0, 0.0, self.MEAN, self.STD)(precise(latents))
        z = F.interpolate(z, scale_factor=float(self.factor), mode="nearest")
        shape = (len(z), self.config.in_channels, *z.shape[2:])
        x0 = z.new_zeros(shape)
        for t in self.TIMES:
            a = abar(t, self.config.times)
            fresh = noise.normal(shape, "decode", t, dtype=z.dtype, device=z.device)
            x = math.sqrt(a) * x0 + math.sqrt(1 - a) * fresh
            x0 = self._denoised(x, z, t)
        return x0.contiguous()

    def _denoised(self, x: Tensor, z: Tensor, t: int) -> Tensor:
        """Return x0(x, t) for the latents at the size of x."""
        a = abar(t, self.config.times)
        s, data = math.sqrt(1 / a - 1), 0.5
        total = s**2 + data**2
        inputs = torch.cat((x / math.sqrt(a * total), z), dim=1).to(self.unet.conv_in.weight.dtype)
        out = precise(self.unet(inputs, t)[:, : x.shape[1]])
        return (x * (data**2 / (math.sqrt(a) * total)) + out * (s * data / math.sqrt(total))).clamp(-1.0, 1.0)


def abar(t: int, times: int) -> float:
    """Return alpha^2 of step `t` of the cosine schedule in `times` steps (arXiv 2102.09672, eq. 17)."""
    f = lambda u: math.cos(math.pi / 2 * (u + 0.008) / 1.008) ** 2
    return f((t + 1) / times) / f(0.0)
