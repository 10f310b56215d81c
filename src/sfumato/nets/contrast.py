"""Pictures and texts as directions of one space: a small contrastive model (CLIP's form, arXiv 2103.00020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import register
from ..core.errors import InputError
from .blocks.checks import check_counts
from .words import TokenBlock, WordEncoderConfig, initialise

SHARPEST = math.log(100.0)  # the scale never passes 100 (arXiv 2103.00020, section 2.5)


@register
@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """A tower of pictures, one of texts (`text`), and `features`, the dimension of the space in which they meet.

    Pictures of `size` x `size` go through convolutions of stride 2 to `widths` channels each, then as tokens through
    `layers` transformer blocks as wide as the last of them. The defaults are for 64 x 64: 8 x 8 tokens of width 96.
    Raises `InputError` for sizes that do not divide.
    """

    text: WordEncoderConfig
    size: int = 64
    channels: int = 3
    widths: tuple[int, ...] = (32, 64, 96)
    layers: int = 2
    heads: int = 4
    features: int = 64

    def __post_init__(self) -> None:
        check_counts(self, "size", "channels", "layers", "heads", "features")
        if not self.widths or any(w < 8 or w % 8 for w in self.widths) or self.widths[-1] % self.heads:
            raise InputError(f"ContrastConfig.widths={self.widths}: multiples of 8, the last of heads={self.heads} too")
        if self.size % 2 ** len(self.widths):
            raise InputError(f"ContrastConfig.size={self.size} must halve {len(self.widths)} times, once a width")

    def build(self) -> Contrast:
        """Return the network, freshly initialised."""
        return Contrast(self)


class Contrast(nn.Module):
    """net(x [B, C, size, size], c_noise, tokens=int[B, T]) -> L [B, B], L_ij = e^s <picture i, text j>, s learned.

    With the condition `wrong` int[B, T], captions that are not true, L is [B, 2 B]. `picture` and `words` give the two
    sides: unit vectors. e^s starts at 1 / 0.07. It does not look at the noise's label.
    """

    def __init__(self, config: ContrastConfig) -> None:
        super().__init__()
        self.config = k = config
        self.cond: dict[str, Any] = {"tokens": None, "wrong": None}
        steps = zip((k.channels, *k.widths), k.widths, strict=False)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in steps)
        self.norms = nn.ModuleList(nn.GroupNorm(8, w) for w in k.widths)
        width = k.widths[-1]
        self.start = nn.Parameter(torch.empty(width))
        self.places = nn.Parameter(torch.empty(1 + (k.size >> len(k.widths)) ** 2, width))
        self.blocks = nn.ModuleList(TokenBlock(width, k.heads) for _ in range(k.layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, k.features, bias=False)
        self.text = k.text.build()
        self.project_text = nn.Linear(k.text.width, k.features, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for table in (self.start, self.places):
            nn.init.normal_(table, std=0.02)
        initialise(self.blocks)

    def forward(self, x: Tensor, c_noise: Tensor, tokens: Tensor | None = None, wrong: Tensor | None = None) -> Tensor:
        """Return L; raise `InputError` without tokens."""
        if tokens is None:
            raise InputError("pictures are compared with texts: give tokens [B, T]")
        texts = self.words(tokens if wrong is None else torch.cat((tokens, wrong)))
        return self.sharpness.clamp(max=SHARPEST).exp() * (self.picture(x) @ texts.T)

    def picture(self, x: Tensor) -> Tensor:
        """Return the directions [B, features] of pictures, in float32."""
        return F.normalize(self.project(self.features(x)).float(), dim=-1)

    def features(self, x: Tensor) -> Tensor:
        """Return what the tower sees in pictures [B, C, size, size]: [B, width], before the projection."""
        k = self.config
        if x.shape[1:] != (k.channels, k.size, k.size):
            raise InputError(f"this model looks at [B, {k.channels}, {k.size}, {k.size}], got {list(x.shape)}")
        h = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.silu(norm(conv(h)))
        tokens = h.flatten(2).transpose(1, 2)
        h = torch.cat((self.start.to(tokens.dtype).expand(len(x), 1, -1), tokens), 1) + self.places
        for block in self.blocks:
            h = block(h)
        return self.norm(h)[:, 0]

    def words(self, tokens: Tensor) -> Tensor:
        """Return the directions [B, features] of texts, in float32."""
        return F.normalize(self.project_text(self.text(tokens)[0][:, 0]).float(), dim=-1)
