"""Parts of vision transformers: patches, self-attention, the feed-forward layer, adaptive layer norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attend import attend
from .kernels import gated_add, linear_gelu

if TYPE_CHECKING:
    from ..hooks import Hooks


def patchify(x: Tensor, p: int) -> Tensor:
    """Return the p x p patches of `x` [B, C, H, W] as tokens [B, H/p W/p, C p p], row by row."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // p**2, c * p * p)


def unpatchify(tokens: Tensor, p: int, height: int, width: int) -> Tensor:
    """Return [B, C, height, width] from tokens [B, height/p width/p, p p C]; the channels of a token run fastest."""
    b, h, w = len(tokens), height // p, width // p
    return tokens.reshape(b, h, w, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, height, width)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Return LN(x) (1 + scale) + shift; LN has no learned part and eps = 1e-6 (arXiv 2212.09748, section 3.2)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def gated(x: Tensor, gate: Tensor, y: Tensor, hooks: Hooks | None) -> Tensor:
    """Return x + gate y for a block's input `x`, which is written over only where no subscriber can have kept it."""
    return gated_add(x, gate, y) if hooks is None else torch.addcmul(x, gate, y)


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over tokens, Q, K, V from one matrix, heads of d = width / heads, then a matrix.

    `bias` is that of the first matrix; the last one always has one.
    """

    kind = "self"

    def __init__(self, width: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Return the attended tokens [B, N, width] of `x` [B, N, width]."""
        events = None if hooks is None else hooks.of(self)
        if events is not None:
            ready = events.before(x)
            if ready is not None:
                return events.out(ready)
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v) if events is None else events.attend(q, k, v, None)
        y = self.proj(y.transpose(1, 2).reshape(b, n, d))
        return y if events is None else events.out(y)


class AdaptiveNorm(nn.Module):
    """LN(x) (1 + s) + b, [b, s] = W SiLU(c) + bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)

    def steer(self, c: Tensor) -> Tensor:
        """Return what it reads of SiLU(t + y) [..., D]: [..., 2 D]."""
        return self.modulation(c)

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        """Return tokens like `x` [B, N, D] for `steer`'s [B or 1, 2 D]."""
        shift, scale = steering.unsqueeze(1).chunk(2, dim=-1)
        return modulate(x, shift, scale)


class FeedForward(nn.Module):
    """W_2 GELU(W_1 x + b_1) + b_2, GELU in its tanh form, as in DiT."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., width] of `x` [..., width]."""
        return self.fc2(linear_gelu(self.fc1, x))
