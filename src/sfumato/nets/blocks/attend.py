"""Softmax attention by the fastest kernel for the shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + mask) v for q, k, v [B, heads, N, d], by the fastest kernel for the shape.

    `mask` broadcasts to [B, heads, queries, keys]: booleans, True where a key is seen, or numbers that are added.
    The kernel is the fused one, except for training in bf16 on a CPU, where its backward pass is far slower than in
    float32: heads below 32 then go through float32, wider ones through plain products while the N x N matrix is small.
    In inference, blocks of queries through plain products were measured too, bf16 on a processor with a matrix unit,
    heads of 40 to 160 and 256 to 4096 tokens: 1.4 to 1.8 times slower than the fused kernel.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        if q.shape[-1] < 32:
            mask = mask.float() if mask is not None and mask.dtype != torch.bool else mask
            with torch.autocast("cpu", enabled=False):
                return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)
        if q.shape[-2] * k.shape[-2] <= 1024**2:
            logits = (q * q.shape[-1] ** -0.5) @ k.mT
            if mask is not None:
                logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
            return torch.softmax(logits, dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, mask)


def seen(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask of tokens [B, T], True or 1 where a token is seen, as numbers to add: [B, 1, 1, T], 0 or -10000.

    Finite, so that a row of which nothing is seen attends evenly instead of giving NaN (the convention that released
    networks were trained with).
    """
    return None if mask is None else ((1.0 - mask.to(dtype)) * -10_000.0)[:, None, None, :]
