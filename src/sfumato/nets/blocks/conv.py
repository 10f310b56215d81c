"""What convolutional networks are made of: residual blocks, samplers of the grid, attention over its places.

Initialisation is DDPM's everywhere (its published code, `nn.py`): uniform variance scaling over the mean of both fans,
and almost zero (1e-10 of that variance) where a branch joins its residual stream, so that a block starts as identity.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.config import register
from ...core.errors import InputError
from .attend import attend
from .kernels import Conv2d

ALMOST_ZERO = 1e-10
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def initialised(layer: Layer, scale: float = 1.0) -> Layer:
    """Draw the weight from U(-l, l), l^2 = 6 scale / (fan_in + fan_out), and zero the bias; return `layer`."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv(
    inputs: int, outputs: int, kernel: int = 3, *, scale: float = 1.0, stride: int = 1, padding: int | None = None
) -> nn.Conv2d:
    """Return an initialised convolution that keeps the size of the grid at stride 1."""
    layer = Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2 if padding is None else padding)
    return initialised(layer, scale)


def joined(x: Tensor, y: Tensor) -> Tensor:
    """Return x + y; written over `x`, which the caller must own, unless autograd is recording."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def silu(x: Tensor) -> Tensor:
    """Return x / (1 + e^-x); written over `x`, which the caller must own, unless autograd is recording."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def arranged(x: Tensor) -> Tensor:
    """Return `x` [B, C, H, W] in the memory layout that the network should run in: channels last.

    The layout carries through every layer, spares oneDNN and cuDNN their reorderings and makes tokens of the grid a
    view. The exception is training in half precision on a CPU, where the backward kernels are slower in it.
    """
    if x.device.type == "cpu" and x.dtype != torch.float32 and torch.is_grad_enabled():
        return x
    return x.to(memory_format=torch.channels_last)


def raised(x: Tensor) -> Tensor:
    """Return `x` [B, C, H, W], in float32 where that makes its normalisation faster (and more exact).

    On a CPU the bf16 kernel for channels last is several times slower than that of float32 on grids of less than 1024
    places, where it takes another path.
    """
    slow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.shape[2:].numel() < 1024
    return x.float() if slow and x.is_contiguous(memory_format=torch.channels_last) else x


class GroupNorm(nn.GroupNorm):
    """Group normalisation (arXiv 1803.08494) that takes a float32 input beside weights of any dtype."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised `input` [B, C, H, W]."""
        weight, bias = self.weight, self.bias
        if input.dtype == torch.float32:
            weight, bias = weight.float(), bias.float()
        return F.group_norm(input, self.num_groups, weight, bias, self.eps)


class TimeInjection(ABC):
    """How a residual block is told the time: a function of its second norm, its state h and its time vector e."""

    @abstractmethod
    def width(self, channels: int) -> int:
        """Return how many numbers of the time vector a block of `channels` channels takes."""

    @abstractmethod
    def __call__(self, norm: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        """Return the normalised h [B, C, H, W] that knows e [B or 1, width(C)]."""


@register
@dataclass(frozen=True, kw_only=True)
class AddTime(TimeInjection):
    """h <- norm(h + e): DDPM's (arXiv 2006.11239, appendix B)."""

    def width(self, channels: int) -> int:
        """Return `channels`."""
        return channels

    def __call__(self, norm: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        """Return norm(h + e); `h` must not be used again."""
        return norm(joined(h, e[:, :, None, None]))


@register
@dataclass(frozen=True, kw_only=True)
class ScaleShiftTime(TimeInjection):
    """h <- norm(h) (1 + scale) + shift, e = [scale, shift] (Improved DDPM, arXiv 2102.09672, and its code)."""

    def width(self, channels: int) -> int:
        """Return 2 `channels`."""
        return 2 * channels

    def __call__(self, norm: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        """Return norm(h) (1 + scale) + shift."""
        scale, shift = e[:, :, None, None].to(h.dtype).chunk(2, dim=1)
        return torch.addcmul(shift, norm(h), 1 + scale)


class ResBlock(nn.Module):
    """x -> shortcut(x) + conv2(dropout(SiLU(time(norm2, conv1(SiLU(norm1(x))), e)))): DDPM's residual block.

    `e` [B or 1, time.width(outputs)] is this block's own time vector, already projected. The shortcut is a 1x1
    convolution where the channel counts differ.
    """

    def __init__(
        self, inputs: int, outputs: int, *, time: TimeInjection, groups: int, eps: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.time = time
        self.norm1 = GroupNorm(groups, inputs, eps)
        self.conv1 = conv(inputs, outputs)
        self.norm2 = GroupNorm(groups, outputs, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(outputs, outputs, scale=ALMOST_ZERO)
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, x: Tensor, e: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return [B, outputs, H, W] of `x` [B, inputs, H, W]; a block that resamples may be asked for a `size`."""
        h = silu(self.norm1(raised(x))).to(x.dtype)
        x = self.resampled(x, size)
        h = self.conv1(self.resampled(h, size))
        h = silu(self.time(self.norm2, raised(h), e)).to(h.dtype)
        return joined(self.conv2(self.dropout(h)), self.shortcut(x))

    def resampled(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Return the branch and the shortcut on the block's output grid: here the same."""
        return x


class ResDownsample(ResBlock):
    """A residual block on half the grid: both branches through means of 2 x 2 (ADM, arXiv 2105.05233, section 3)."""

    def resampled(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Return the means of 2 x 2 places."""
        return F.avg_pool2d(x, 2)


class ResUpsample(ResBlock):
    """A residual block on twice the grid, or that asked for: both its branches by the nearest neighbour (ADM)."""

    def resampled(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Return each place as 2 x 2."""
        return F.interpolate(x, size=size, scale_factor=None if size else 2.0, mode="nearest")


class Attention(nn.Module):
    """x -> x + out(softmax(q k^T / sqrt(d)) v) over all places of a grid, q, k, v = split(qkv(norm(x))).

    `head_width` d is the width of a head (None: one head over all channels, as in DDPM). Raises `InputError` where the
    channels do not divide into such heads.
    """

    def __init__(self, channels: int, *, head_width: int | None, groups: int, eps: float) -> None:
        super().__init__()
        width = channels if head_width is None else head_width
        if channels % width:
            raise InputError(f"attention over {channels} channels needs a head_width that divides them, got {width}")
        self.heads = channels // width
        self.norm = GroupNorm(groups, channels, eps)
        # three maps packed in one: each keeps the fan of its own
        self.qkv = nn.Linear(channels, 3 * channels)
        for rows in self.qkv.weight.detach().chunk(3):
            nn.init.xavier_uniform_(rows)
        nn.init.zeros_(self.qkv.bias)
        self.out = initialised(nn.Linear(channels, channels), ALMOST_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended `x` [B, channels, H, W]."""
        h = self.norm(raised(x)).to(x.dtype).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = attend(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(h).transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """Half the grid: a 3x3 convolution of stride 2 after `padding` = (before, after) zeros on both axes.

    (1, 1) is that of Improved DDPM, ADM and latent diffusion; (0, 1) that of DDPM, whose framework pads at the end.
    """

    def __init__(self, channels: int, padding: tuple[int, int]) -> None:
        super().__init__()
        before, after = padding
        self.extra = (0, after - before) * 2
        self.conv = conv(channels, channels, stride=2, padding=before)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, channels, ~H/2, ~W/2]: halves round up for (1, 1), down for (0, 1)."""
        return self.conv(F.pad(x, self.extra) if any(self.extra) else x)


class Upsample(nn.Module):
    """Twice the grid, or to the `size` asked for: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return [B, channels, *size]."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
