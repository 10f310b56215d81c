"""U-ViT: a transformer for which everything is a token, with long skips (Bao et al., arXiv 2209.12152)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.config import register
from ..core.errors import InputError
from .blocks.embedding import LabelEmbedding, Sinusoidal
from .blocks.transformer import SelfAttention, patchify, unpatchify
from .hooks import Hooks, Tap, passed


@register
@dataclass(frozen=True, kw_only=True)
class UViTConfig:
    """A transformer on the patches of `size` x `size` images, with the time and what it is told as tokens before them.

    - `size`, `channels`, `patch`, `width`, `layers` (an odd number: the middle one has no partner), `heads`,
      `mlp_ratio`. The paper's sizes (its table of configurations) are `uvit_s`, `uvit_m`, `uvit_l`, `uvit_h`; the
      defaults are S/2's on CIFAR-10.
    - `num_classes`: None, or the number of classes, one token. `context`, `tokens`: width and number of a text's
      tokens, 0 for none.
    - `time`: the features of c_noise, `width` sinusoids of a label 0..1000 when None: they are the token, without an
      MLP.
    - `smooth`: a 3 x 3 convolution of the output, which the networks on pixels have.
    Raises `InputError` for an even number of layers, and sizes that do not divide.
    """

    size: int = 32
    channels: int = 3
    patch: int = 2
    width: int = 512
    layers: int = 13
    heads: int = 8
    mlp_ratio: float = 4.0
    num_classes: int | None = None
    context: int = 0
    tokens: int = 77
    time: Sinusoidal | None = None
    smooth: bool = True

    def __post_init__(self) -> None:
        if self.layers < 1 or self.layers % 2 == 0:
            raise InputError(f"UViTConfig.layers must be odd, got {self.layers}: the skips go in pairs around a middle")
        if self.size % self.patch:
            raise InputError(f"UViTConfig.size={self.size} must be a multiple of patch={self.patch}")
        if self.width % self.heads or self.width % 2:
            raise InputError(f"UViTConfig.width={self.width} must be even and a multiple of heads={self.heads}")
        if self.time is not None and self.time.dim != self.width:
            raise InputError(f"UViTConfig.time has dim {self.time.dim}: its features are a token of width {self.width}")

    def build(self) -> UViT:
        """Return the network, freshly initialised."""
        return UViT(self)


class Block(nn.Module):
    """x <- W [x, s] + b with a partner's output s; x += Attention(LN x); x += MLP(LN x), exact GELU, eps 1e-5."""

    kind = "block"

    def __init__(self, config: UViTConfig, *, skip: bool) -> None:
        super().__init__()
        d, hidden = config.width, int(config.width * config.mlp_ratio)
        self.skip = nn.Linear(2 * d, d) if skip else None
        self.norm_1 = nn.LayerNorm(d)
        self.attention = SelfAttention(d, config.heads, bias=False)
        self.norm_2 = nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, hidden), nn.GELU(), nn.Linear(hidden, d))

    def forward(self, x: Tensor, partner: Tensor | None, hooks: Hooks | None = None) -> Tensor:
        """Return the next tokens [B, N, D] for tokens `x` and its partner's output, None on the way in."""
        if self.skip is not None and partner is not None:
            x = self.skip(torch.cat((x, partner), dim=-1))
        x = x + self.attention(self.norm_1(x), hooks)
        x = x + self.mlp(self.norm_2(x))
        return passed(self, x, hooks)


class UViT(nn.Module):
    """net(x [B, C, size, size], c_noise [B] or [1], y=int[B] or context=[B, tokens, context]) -> like x.

    The tokens are: the class, the time, the text, the patches, each where there is one; all have learned positions.
    forward = trunk(x, embed(c_noise), **condition(**cond)). Matrices start as N(0, 0.02^2), cut at two deviations.
    """

    def __init__(self, config: UViTConfig) -> None:
        super().__init__()
        self.config = config
        k, d = config, config.width
        self.features = (k.time or Sinusoidal(dim=d)).build(1)
        self.patches = nn.Linear(k.channels * k.patch**2, d)
        self.label = None if k.num_classes is None else LabelEmbedding(k.num_classes, d)
        self.text = nn.Linear(k.context, d) if k.context else None
        self.cond: dict[str, Any] = {} if self.label is None else {"y": self.label.null}
        self.cond |= {"context": None} if k.context else {}
        self.extra = 1 + (self.label is not None) + (k.tokens if k.context else 0)
        self.positions = nn.Parameter(torch.zeros(self.extra + (k.size // k.patch) ** 2, d))
        half = k.layers // 2
        self.blocks = nn.ModuleList(Block(k, skip=i > half) for i in range(k.layers))
        self.skips = nn.ModuleList(Tap("skip") for _ in range(half))
        self.norm_out = nn.LayerNorm(d)
        self.out = nn.Linear(d, k.patch**2 * k.channels)
        self.smooth = nn.Conv2d(k.channels, k.channels, 3, padding=1) if k.smooth else None
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias) if module.bias is not None else None

    def place(self, name: str) -> tuple[str, int]:
        """Return ("trunk", how many blocks come before) of a module's path."""
        return "trunk", int(name.split(".")[1])

    def forward(self, x: Tensor, c_noise: Tensor, hooks: Hooks | None = None, **cond: Any) -> Tensor:
        """Return trunk(x, embed(c_noise), **condition(**cond))."""
        return self.trunk(x, self.embed(c_noise), **self.condition(**cond), hooks=hooks)

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the time's token [N, width] of noise labels [N]."""
        return self.features(c_noise.unsqueeze(-1)).to(self.out.weight.dtype)

    def condition(self, y: Tensor | int | None = None, context: Tensor | None = None) -> dict[str, Any]:
        """Return the tokens of what it is told, as the keyword arguments of `trunk`."""
        k = self.config
        if y is not None and self.label is None:
            raise InputError("this U-ViT has no classes: leave y out, or set UViTConfig.num_classes")
        if self.text is None:
            if context is not None:
                raise InputError("this U-ViT reads no text: leave context out, or set UViTConfig.context")
        elif context is None or tuple(context.shape[1:]) != (k.tokens, k.context):
            got = "none" if context is None else str(list(context.shape))
            raise InputError(f"this U-ViT needs a context [B, {k.tokens}, {k.context}] (the text's tokens), got {got}")
        return {
            "label": None if self.label is None else self.label(y),
            "text": None if self.text is None or context is None else self.text(context.to(self.out.weight.dtype)),
        }

    def trunk(
        self,
        x: Tensor,
        emb: Tensor,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        hooks: Hooks | None = None,
    ) -> Tensor:
        """Return the output for x [B, C, size, size], `embed`'s emb [B or 1, width] and what `condition` gave."""
        k = self.config
        if x.shape[1:] != (k.channels, k.size, k.size):
            raise InputError(f"this U-ViT takes [B, {k.channels}, {k.size}, {k.size}], got {list(x.shape)}")
        single = [None if row is None else row.unsqueeze(1) for row in (label, emb)]
        parts = [part for part in (*single, text) if part is not None]
        h = torch.cat([*(part.expand(len(x), -1, -1) for part in parts), self.patches(patchify(x, k.patch))], dim=1)
        h = h + self.positions
        half = k.layers // 2
        partners: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            h = block(h, partners.pop() if i > half else None, hooks)
            if i < half:
                partners.append(self.skips[i](h, hooks))
        y = unpatchify(self.out(self.norm_out(h[:, self.extra :])), k.patch, k.size, k.size)
        return y if self.smooth is None else self.smooth(y)


def uvit_s(patch: int = 2) -> UViTConfig:
    """Return U-ViT-S on CIFAR-10: 13 layers of width 512, 8 heads; 44 M parameters with patch 2."""
    return UViTConfig(patch=patch)


def uvit_m(patch: int = 4) -> UViTConfig:
    """Return U-ViT-M on ImageNet 64: 17 layers of width 768, 12 heads; 131 M parameters."""
    return UViTConfig(size=64, patch=patch, width=768, layers=17, heads=12, num_classes=1000)


def uvit_l(patch: int = 2) -> UViTConfig:
    """Return U-ViT-L on the latents of ImageNet 256: 21 layers of width 1024, 16 heads; 287 M parameters."""
    return UViTConfig(channels=4, patch=patch, width=1024, layers=21, heads=16, num_classes=1000)


def uvit_h(patch: int = 2) -> UViTConfig:
    """Return U-ViT-H on the latents of ImageNet 256: 29 layers of width 1152, 16 heads; 501 M parameters."""
    return UViTConfig(channels=4, patch=patch, width=1152, layers=29, heads=16, num_classes=1000, smooth=False)
