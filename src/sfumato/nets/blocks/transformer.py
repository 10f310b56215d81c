"""Parts of vision transformers: patches, self-attention, the feed-forward layer, adaptive layer norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels import linear_gelu


def patchify(x: Tensor, p: int) -> Tensor:
    """Return the p x p patches of `x` [B, C, H, W] as tokens [B, H/p W/p, C p p], row by row."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // p**2, c * p * p)


def unpatchify(tokens: Tensor, p: int, height: int, width: int) -> Tensor:
    """Return [B, C, height, width] from tokens [B, height/p width/p, p p C]; the channels of a token run fastest."""
    b, h, w = len(tokens), height // p, width // p
    return tokens.reshape(b, h, w, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, height, width)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return LN(x) (1 + scale) + shift; LN has no learned part and eps = 1e-6 (arXiv 2212.09748, section 3.2)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over tokens, Q, K, V from one matrix, heads of d = width / heads, then a matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended tokens [B, N, width] of `x` [B, N, width]."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class FeedForward(nn.Module):
    """W_2 GELU(W_1 x + b_1) + b_2, GELU in its tanh form, as in DiT."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., width] of `x` [..., width]."""
        return self.fc2(linear_gelu(self.fc1, x))
