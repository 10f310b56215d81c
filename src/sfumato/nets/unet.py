"""The U-Net of DDPM and its descendants: residual blocks on a pyramid of grids, with skips from the way down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from .blocks.conv import (
    ALMOST_ZERO,
    AddTime,
    Attention,
    Downsample,
    GroupNorm,
    ResBlock,
    ResDownsample,
    ResUpsample,
    ScaleShiftTime,
    TimeInjection,
    Upsample,
    arranged,
    conv,
    initialised,
    raised,
    silu,
)
from .blocks.embedding import Fourier, LabelEmbedding, NoiseEmbedding, Sinusoidal


@register
@dataclass(frozen=True, kw_only=True)
class Convolved:
    """Between levels: a convolution of stride 2, and nearest neighbours with a convolution, as in DDPM."""

    def down(self, channels: int, config: UNetConfig) -> nn.Module:
        """Return what halves the grid."""
        return Downsample(channels, config.padding)

    def up(self, channels: int, config: UNetConfig) -> nn.Module:
        """Return what doubles it."""
        return Upsample(channels)


@register
@dataclass(frozen=True, kw_only=True)
class Residual:
    """Between levels: residual blocks that resample both their branches, as in ADM (arXiv 2105.05233, section 3)."""

    def down(self, channels: int, config: UNetConfig) -> nn.Module:
        """Return what halves the grid."""
        k = config
        return ResDownsample(channels, channels, time=k.time, groups=k.groups, eps=k.eps, dropout=k.dropout)

    def up(self, channels: int, config: UNetConfig) -> nn.Module:
        """Return what doubles it."""
        k = config
        return ResUpsample(channels, channels, time=k.time, groups=k.groups, eps=k.eps, dropout=k.dropout)


@register
@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The shape of a U-Net (Ho et al. 2020, arXiv 2006.11239, appendix B).

    Level i works on 1 / 2^i of the size with `channels` * `multipliers[i]` channels: `layers` residual blocks on the
    way down, `layers` + 1 on the way up. Levels in `attention` have self-attention after each block, the middle always.

    `head_width`: the width of an attention head, None for a single head as in DDPM. Default 64: ADM found it best
    (arXiv 2105.05233, section 3), and narrow heads starve a processor.
    `time`: how a block is told the time. `embedding`: features of the noise label, `Sinusoidal(dim=channels)` if None.
    `padding`: zeros (before, after) each axis in the down-samplers, see `Downsample`. `resampling`: what stands between
    levels, `Convolved()` or ADM's `Residual()`.
    `num_classes`: None, or the number of classes; their embeddings are added to the time vector, as in ADM. `nothing`:
    whether there is a row for no class, which ADM's own networks do not have.
    Other defaults: two layers as in DDPM; 32 groups, eps 1e-5 and no dropout as in ADM's code.

    Raises `InputError` for channels that do not divide into the groups or the heads and for levels that do not exist.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 64
    multipliers: tuple[float, ...] = (1, 2, 2, 2)
    layers: int = 2
    attention: tuple[int, ...] = (1,)
    head_width: int | None = 64
    dropout: float = 0.0
    groups: int = 32
    eps: float = 1e-5
    time: TimeInjection = field(default_factory=AddTime)
    embedding: Sinusoidal | Fourier | None = None
    padding: tuple[int, int] = (1, 1)
    resampling: Convolved | Residual = field(default_factory=Convolved)
    num_classes: int | None = None
    nothing: bool = True

    def __post_init__(self) -> None:
        for level, width in enumerate(self.widths):
            if width % self.groups:
                raise InputError(f"level {level} has {width} channels, not a multiple of groups={self.groups}")
        for level in self.attention:
            if not 0 <= level < len(self.multipliers):
                raise InputError(f"attention level {level} does not exist: levels are 0..{len(self.multipliers) - 1}")
        if sum(self.padding) not in (1, 2) or not 0 <= self.padding[0] <= self.padding[1]:
            raise InputError(f"padding must be (1, 1) or (0, 1), got {self.padding}")

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of channels of each level."""
        return tuple(int(self.channels * m) for m in self.multipliers)

    def build(self) -> UNet:
        """Return the network, freshly initialised."""
        return UNet(self)


class Block(nn.Module):
    """A residual block, and attention after it where its level has that."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig, *, attention: bool) -> None:
        super().__init__()
        k = config
        self.res = ResBlock(inputs, outputs, time=k.time, groups=k.groups, eps=k.eps, dropout=k.dropout)
        self.attention = Attention(outputs, head_width=k.head_width, groups=k.groups, eps=k.eps) if attention else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return [B, outputs, H, W] of `x` [B, inputs, H, W] and the time vector `e` of the residual block."""
        h = self.res(x, e)
        return h if self.attention is None else self.attention(h)


class Stage(nn.Module):
    """The blocks of one level, and what leads to the next: `sample`, None at the end."""

    def __init__(self, blocks: Iterable[Block], sample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.sample = sample


class UNet(nn.Module):
    """net(x [B, in, H, W], c_noise [B or 1], y=int[B]) -> [B, out, H, W] for any H and W.

    forward = trunk(x, embed(c_noise)). A class-conditional one takes `y`, class labels; left out, all rows are of the
    null class, `num_classes`.
    """

    once = ("noise.*", "label.*", "time")  # for `packed`

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        k, widths = config, config.widths
        self.cond: dict[str, Any] = {} if k.num_classes is None else {"y": k.num_classes if k.nothing else None}
        dim = 4 * k.channels
        self.noise = NoiseEmbedding(k.embedding or Sinusoidal(dim=k.channels), dim)
        for layer in self.noise.mlp:
            if isinstance(layer, nn.Linear):
                initialised(layer)
        self.label = None if k.num_classes is None else LabelEmbedding(k.num_classes, dim, nothing=k.nothing)

        self.conv_in = conv(k.in_channels, widths[0])
        skips, width = [widths[0]], widths[0]
        self.down = nn.ModuleList()
        for level, outputs in enumerate(widths):
            last = level == len(widths) - 1
            inputs = [width] + [outputs] * (k.layers - 1)
            blocks = [Block(i, outputs, k, attention=level in k.attention) for i in inputs]
            self.down.append(Stage(blocks, None if last else k.resampling.down(outputs, k)))
            skips += [outputs] * (k.layers + (not last))
            width = outputs
        self.middle = nn.ModuleList([Block(width, width, k, attention=True), Block(width, width, k, attention=False)])
        self.up = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(widths))):
            inputs = [h + skips.pop() for h in [width] + [outputs] * k.layers]
            blocks = [Block(i, outputs, k, attention=level in k.attention) for i in inputs]
            self.up.append(Stage(blocks, k.resampling.up(outputs, k) if level > 0 else None))
            width = outputs
        self.norm_out = GroupNorm(k.groups, width, k.eps)
        self.conv_out = conv(width, k.out_channels, scale=ALMOST_ZERO)

        # the time projections of all blocks are one matrix: one product a step in place of one a block
        self.splits = [k.time.width(m.conv2.out_channels) for m in self.modules() if isinstance(m, ResBlock)]
        self.time = nn.Linear(dim, sum(self.splits))
        for rows in self.time.weight.detach().split(self.splits):
            nn.init.xavier_uniform_(rows)
        nn.init.zeros_(self.time.bias)

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **cond)."""
        return self.trunk(x, self.embed(c_noise), **cond)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return what depends on the noise label alone: [N, 4 channels] for c_noise [N]."""
        return self.noise(c_noise)

    def steer(self, emb: Tensor, *, y: Tensor | int | None = None) -> Tensor:
        """Return all blocks' time vectors [..., N, sum of their widths]: the trunk's `steering`."""
        if self.label is not None:
            emb = emb + self.label(y)
        elif y is not None:
            raise InputError("this U-Net takes no class y: build it with num_classes")
        return self.time(F.silu(emb))

    def trunk(self, x: Tensor, emb: Tensor, y: Tensor | int | None = None, *, steering: Tensor | None = None) -> Tensor:
        """Return the output for x [B, in, H, W] and emb [B or 1, 4 channels]."""
        told = self.steer(emb, y=y) if steering is None else steering
        times = iter(told.split(self.splits, dim=1))
        h = arranged(self.conv_in(x))
        skips = [h]
        for stage in cast("Iterable[Stage]", self.down):
            for block in stage.blocks:
                h = block(h, next(times))
                skips.append(h)
            if stage.sample is not None:
                h = stage.sample(h, next(times)) if isinstance(stage.sample, ResBlock) else stage.sample(h)
                skips.append(h)
        for block in self.middle:
            h = block(h, next(times))
        for stage in cast("Iterable[Stage]", self.up):
            for block in stage.blocks:
                h = block(torch.cat((h, skips.pop()), dim=1), next(times))
            if stage.sample is not None:
                size = skips[-1].shape[-2:]
                sample = stage.sample
                h = sample(h, next(times), size) if isinstance(sample, ResBlock) else sample(h, size)
        return self.conv_out(silu(self.norm_out(raised(h))).to(h.dtype)).contiguous()


def ddpm_cifar() -> UNetConfig:
    """Return DDPM's network for CIFAR-10, 3x32x32: 35,746,307 parameters (arXiv 2006.11239, appendix B)."""
    return UNetConfig(
        channels=128,
        multipliers=(1, 2, 2, 2),
        attention=(1,),
        head_width=None,
        dropout=0.1,
        eps=1e-6,
        embedding=Sinusoidal(dim=128, sin_first=True, shift=1),
        padding=(0, 1),
    )


def ddpm_256() -> UNetConfig:
    """Return DDPM's network for 3x256x256 pictures: 113,673,219 parameters (arXiv 2006.11239, appendix B)."""
    return UNetConfig(
        channels=128,
        multipliers=(1, 1, 2, 2, 4, 4),
        attention=(4,),
        head_width=None,
        eps=1e-6,
        embedding=Sinusoidal(dim=128, sin_first=True, shift=1),
        padding=(0, 1),
    )


def small(*, in_channels: int = 3, num_classes: int | None = None) -> UNetConfig:
    """Return the default for small pictures (32 px, levels of 64 to 128 channels): 9.0 M parameters, heads of 64."""
    return UNetConfig(in_channels=in_channels, out_channels=in_channels, num_classes=num_classes)


def digits(*, num_classes: int | None = 10) -> UNetConfig:
    """Return the class-conditional network for the 8x8 scans of digits: 0.29 M parameters (0.28 M unconditional).

    Groups of four channels: with one channel a group, the norm would erase the brightness of a stroke.
    """
    return UNetConfig(
        in_channels=1,
        out_channels=1,
        channels=32,
        multipliers=(1, 1),
        layers=1,
        attention=(1,),
        head_width=32,
        groups=8,
        num_classes=num_classes,
    )


def adm(
    size: int, *, channels: int, multipliers: tuple[float, ...], layers: int, num_classes: int | None
) -> UNetConfig:
    """Return a network of ADM for pictures of `size` (arXiv 2105.05233, table 4): attention at 32, 16 and 8, heads of
    64, residual resampling, scale and shift by the time, and a learned variance.
    """
    return UNetConfig(
        out_channels=6,
        channels=channels,
        multipliers=multipliers,
        layers=layers,
        attention=tuple(i for i in range(len(multipliers)) if size >> i in (32, 16, 8)),
        time=ScaleShiftTime(),
        resampling=Residual(),
        num_classes=num_classes,
        nothing=False,
    )


def adm_64() -> UNetConfig:
    """Return ADM's class-conditional network for 64 x 64: 295,904,454 parameters."""
    return adm(64, channels=192, multipliers=(1, 2, 3, 4), layers=3, num_classes=1000)


def adm_256(*, num_classes: int | None = 1000) -> UNetConfig:
    """Return ADM's network for 256 x 256: 553,838,086 parameters with classes, 552,814,086 without."""
    return adm(256, channels=256, multipliers=(1, 1, 2, 2, 4, 4), layers=2, num_classes=num_classes)
