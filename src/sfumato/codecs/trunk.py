"""The convolutional encoder and decoder that KL autoencoders and VQ models share (arXiv 2112.10752, appendix G).

Every layer casts its weights to the dtype of what comes in: weights in half precision can be run in float32 with the
memory of one cast layer beside them. With a `height`, each layer works on strips of that many rows: see `strips.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import InputError
from ..nets.blocks.attend import attend
from ..nets.blocks.conv import GroupNorm, arranged, joined, raised, silu
from .strips import Conv, Doubling, Halving, Reader, affine, along, precise

EPS = 1e-6  # of every group normalisation here
PLACES = 1 << 14  # summed at a time: 7e-7 off


@dataclass(frozen=True)
class Shape:
    """What the two halves share: channels a level (level i on 1 / 2^i of the size), residual blocks, groups (0: none).

    `attention`: levels whose residual blocks are each followed by attention; `middle`: whether the middle has it.
    `spatial`: channels of the latent that every norm of the decoder reads, 0 for plain norms.
    """

    widths: Sequence[int]
    layers: int
    groups: int
    attention: Sequence[int] = ()
    middle: bool = True
    spatial: int = 0

    def check(self, name: str) -> None:
        """Raise `InputError` for widths that do not divide into groups and levels that do not exist."""
        for level, width in enumerate(self.widths):
            if self.groups and width % self.groups:
                raise InputError(f"{name}: level {level} has {width} channels, not a multiple of groups={self.groups}")
        for level in self.attention:
            if not 0 <= level < len(self.widths):
                raise InputError(
                    f"{name}: attention level {level} does not exist, levels are 0..{len(self.widths) - 1}"
                )


class Norm(GroupNorm):
    """Group normalisation; the second argument is for norms that read the latent.

    On a CPU PyTorch sums channels last one by one in float32: 3e-5 off on 512 x 512 places, eight times as much on
    twice the side. So large grids in float32 are summed strip by strip.
    """

    def forward(self, input: Tensor, latent: Tensor | None = None) -> Tensor:
        """Return the normalised `input` [B, C, H, W]."""
        x = raised(input)
        exact = x.dtype == torch.float32 and x.device.type == "cpu" and x.shape[2:].numel() > PLACES
        if not exact or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x).to(input.dtype)
        scale, shift = affine(x, self, max(1, PLACES // x.shape[-1]))
        return torch.addcmul(shift, x, scale).to(input.dtype)

    def reader(self, x: Tensor, latent: Tensor | None, height: int) -> Reader:
        """Return (first row, last row) -> the normalised rows of `x`, by the statistics of all of it."""
        scale, shift = affine(x, self, height)
        return lambda a, b: torch.addcmul(shift, precise(x[:, :, a:b]), scale).to(x.dtype)


class SpatialNorm(nn.Module):
    """GN(x) s(z) + b(z), s and b 1x1 convolutions of the latent z at the size of x (MoVQ, arXiv 2209.09002, eq. 4)."""

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.norm = Norm(32, channels, EPS)  # 32 in the released networks, whatever the groups of the encoder
        self.scale = Conv(latent, channels, 1)
        self.shift = Conv(latent, channels, 1)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Return the normalised `x` [B, C, H, W] for the latent [B, latent, h, w]."""
        z = F.interpolate(latent, size=x.shape[-2:], mode="nearest")
        return torch.addcmul(self.shift(z), self.norm(x), self.scale(z))

    def reader(self, x: Tensor, latent: Tensor, height: int) -> Reader:
        """Return (first row, last row) -> the normalised rows of `x`, by the statistics of all of it."""
        plain = self.norm.reader(x, None, height)
        z = F.interpolate(latent, size=x.shape[-2:], mode="nearest")
        return lambda a, b: torch.addcmul(self.shift(z[:, :, a:b]), plain(a, b), self.scale(z[:, :, a:b]))


class Unnormed(nn.Module):
    """No normalisation: what goes in comes out, as something that may be written over."""

    def forward(self, x: Tensor, latent: Tensor | None = None) -> Tensor:
        """Return `x`, a copy of it where no gradient is recorded."""
        return x if torch.is_grad_enabled() else x.clone()

    def reader(self, x: Tensor, latent: Tensor | None, height: int) -> Reader:
        """Return (first row, last row) -> those rows of `x`."""
        return lambda a, b: self(x[:, :, a:b])


def _norm(channels: int, shape: Shape) -> Norm | SpatialNorm | Unnormed:
    if shape.spatial:
        return SpatialNorm(channels, shape.spatial)
    return Norm(shape.groups, channels, EPS) if shape.groups else Unnormed()


class Normed(nn.Module):
    """conv(SiLU(norm(x))): the step of which all is made."""

    def __init__(self, inputs: int, outputs: int, shape: Shape) -> None:
        super().__init__()
        self.norm = _norm(inputs, shape)
        self.conv = Conv(inputs, outputs, 3)

    def forward(self, x: Tensor, latent: Tensor | None, height: int | None) -> Tensor:
        """Return [B, outputs, H, W] of `x` [B, inputs, H, W]."""
        if height is None:
            return self.conv(silu(self.norm(x, latent)))
        return along(self.conv, self.reader(x, latent, height), x.shape[2], height)

    def reader(self, x: Tensor, latent: Tensor | None, height: int) -> Reader:
        """Return (first row, last row) -> the rows that go into the convolution."""
        normed = self.norm.reader(x, latent, height)  # pyright: ignore[reportArgumentType]
        return lambda a, b: silu(normed(a, b))


class Residual(nn.Module):
    """shortcut(x) + step2(step1(x)): a 1x1 convolution as the shortcut where the widths differ."""

    def __init__(self, inputs: int, outputs: int, shape: Shape) -> None:
        super().__init__()
        self.step1 = Normed(inputs, outputs, shape)
        self.step2 = Normed(outputs, outputs, shape)
        self.shortcut = nn.Identity() if inputs == outputs else Conv(inputs, outputs, 1)

    def forward(self, x: Tensor, latent: Tensor | None, height: int | None) -> Tensor:
        """Return [B, outputs, H, W] of `x` [B, inputs, H, W]."""
        h = self.step1(x, latent, height)
        if height is None:
            return joined(self.step2(h, latent, None), self.shortcut(x))
        # the shortcut is the last that reads the rows of x: the sum takes their place where it fits
        fits = not torch.is_grad_enabled() and h.shape[1] <= x.shape[1]
        return along(
            self.step2.conv,
            self.step2.reader(h, latent, height),
            x.shape[2],
            height,
            out=x[:, : h.shape[1]] if fits else None,
            add=lambda a, b: self.shortcut(x[:, :, a:b]),
        )


class Linear(nn.Linear):
    """x W^T + b, W and b cast to the dtype of x."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] of `input` [..., in]."""
        return F.linear(input, self.weight.to(input.dtype), self.bias.to(input.dtype))


class GridAttention(nn.Module):
    """x + out(softmax(q k^T / sqrt(C)) v) over all places of a grid: one head, q, k, v = W norm(x) + b."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        self.norm = _norm(channels, shape)
        self.q, self.k, self.v, self.out = (Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor, latent: Tensor | None) -> Tensor:
        """Return the attended `x` [B, C, H, W], which must not be used again."""
        h = self.norm(x, latent).flatten(2).transpose(1, 2)[:, None]
        h = attend(self.q(h), self.k(h), self.v(h))[:, 0]
        # over x, which keeps its memory layout: that of the tokens says nothing of the batch where it is one picture
        return joined(x, self.out(h).transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """A residual block, and attention after it where its level has that."""

    def __init__(self, inputs: int, outputs: int, shape: Shape, *, attention: bool) -> None:
        super().__init__()
        self.res = Residual(inputs, outputs, shape)
        self.attention = GridAttention(outputs, shape) if attention else None

    def forward(self, x: Tensor, latent: Tensor | None, height: int | None) -> Tensor:
        """Return [B, outputs, H, W] of `x` [B, inputs, H, W]."""
        h = self.res(x, latent, height)
        return h if self.attention is None else self.attention(h, latent)


class Stage(nn.Module):
    """The blocks of one level, and what leads to the next: `sample`, None at the end."""

    def __init__(self, blocks: Iterable[Block], sample: Halving | Doubling | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.sample = sample


class Encoder(nn.Module):
    """conv -> levels, each halved by a convolution of stride 2 -> middle -> norm, SiLU, conv."""

    def __init__(self, inputs: int, outputs: int, shape: Shape) -> None:
        super().__init__()
        widths = shape.widths
        self.conv_in = Conv(inputs, widths[0], 3)
        self.down = nn.ModuleList()
        width = widths[0]
        for level, wide in enumerate(widths):
            inner = [width] + [wide] * (shape.layers - 1)
            blocks = [Block(i, wide, shape, attention=level in shape.attention) for i in inner]
            self.down.append(Stage(blocks, Halving(wide, wide, 3) if level < len(widths) - 1 else None))
            width = wide
        self.middle = nn.ModuleList(Block(width, width, shape, attention=a) for a in (shape.middle, False))
        self.out = Normed(width, outputs, shape)

    def forward(self, pixels: Tensor, height: int | None = None) -> Tensor:
        """Return [B, outputs, H / 2^n, W / 2^n] of pixels [B, inputs, H, W]."""
        h = self.conv_in(arranged(pixels))
        for stage in cast("Iterable[Stage]", self.down):
            for block in stage.blocks:
                h = block(h, None, height)
            h = h if stage.sample is None else stage.sample(h, height)
        for block in self.middle:
            h = block(h, None, height)
        return self.out(h, None, height)


class Decoder(nn.Module):
    """conv -> middle -> levels, each doubled by nearest neighbours and a convolution -> norm, SiLU, conv.

    One residual block a level more than the encoder. `shape.spatial`: every norm reads the latent.
    """

    def __init__(self, inputs: int, outputs: int, shape: Shape) -> None:
        super().__init__()
        widths = shape.widths
        width = widths[-1]
        self.conv_in = Conv(inputs, width, 3)
        self.middle = nn.ModuleList(Block(width, width, shape, attention=a) for a in (shape.middle, False))
        self.up = nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            inner = [width] + [wide] * shape.layers
            blocks = [Block(i, wide, shape, attention=level in shape.attention) for i in inner]
            self.up.append(Stage(blocks, Doubling(wide, wide, 3) if level else None))
            width = wide
        self.out = Normed(width, outputs, shape)

    def forward(self, z: Tensor, latent: Tensor | None = None, height: int | None = None) -> Tensor:
        """Return pixels [B, outputs, H, W] of z [B, inputs, h, w]."""
        h = self.conv_in(arranged(z))
        for block in self.middle:
            h = block(h, latent, height)
        # not in a method of the stage: this frame would keep its input, the largest grid, until it is through
        for stage in cast("Iterable[Stage]", self.up):
            for block in stage.blocks:
                h = block(h, latent, height)
            h = h if stage.sample is None else stage.sample(h, height)
        return self.out(h, latent, height).contiguous()


def gathered(pixels: Tensor, patch: int) -> Tensor:
    """Return squares of `patch` pixels a side as the channels of one place: [B, C patch^2, H / patch, W / patch]."""
    return pixels if patch == 1 else F.pixel_unshuffle(pixels, patch)


def spread(squares: Tensor, patch: int) -> Tensor:
    """Return the pixels that were `gathered`."""
    return squares if patch == 1 else F.pixel_shuffle(squares, patch)
