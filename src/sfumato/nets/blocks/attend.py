"""Softmax attention by the fastest kernel for the shape."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import inference

_LOGITS = 1 << 20  # how many at once


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + mask) v for q, k, v [B, heads, N, d], by the fastest kernel for the shape.

    `mask` broadcasts to [B, heads, queries, keys]: booleans, True where a key is seen, or numbers that are added.
    The kernel is the fused one, except for training in bf16 on a CPU, where its backward pass is far slower than in
    float32: heads below 32 then go through float32, wider ones through plain products while the N x N matrix is small.
    In inference in bf16, on processors without a matrix unit, blocks of queries go through plain products: 1.2 to 1.7
    times faster than the fused kernel (Zen 4; heads of 40 to 160, 256 to 4096 tokens), and 1.4 to 1.8 times slower on a
    Xeon with AMX.
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
    elif mask is None and q.shape[-2] >= 256 and inference() and _plain_pays(q, k, v):
        return _in_blocks(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, mask)


def _plain_pays(q: Tensor, k: Tensor, v: Tensor) -> bool:
    same = q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and q.dtype == k.dtype == v.dtype == torch.bfloat16
    return same and q.device.type == "cpu" and _multiplies_bf16() and not torch.is_autocast_enabled("cpu")


@cache
def _multiplies_bf16() -> bool:
    """Return whether this processor multiplies in bf16, and has no unit for whole matrices."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def _in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v: some heads, or some queries of one, at a time, so that caches hold them."""
    shape, n, m = q.shape, q.shape[-2], k.shape[-2]
    heads, rows = max(1, _LOGITS // (n * m)), max(1, _LOGITS // m)
    keys, values = k.flatten(0, -3).mT, v.flatten(0, -3)
    if rows < n:  # many blocks read them: worth bringing into order, and to whole tiles of a product
        keys, values = keys.contiguous(), F.pad(values, (0, -values.shape[-1] % 16))
    queries = (q * shape[-1] ** -0.5).flatten(0, -3)
    y = q.new_empty(*queries.shape[:2], values.shape[-1])
    # kept from block to block: fresh memory of this size costs as much as the products
    logits = q.new_empty(min(heads, len(y)) * min(rows, n) * m)
    weights = torch.empty_like(logits)
    for i in range(0, len(y), heads):
        for j in range(0, n, rows):
            some, part = slice(i, i + heads), slice(j, j + rows)
            block = queries[some, part]
            a, p = (u[: block.shape[0] * block.shape[1] * m].view(*block.shape[:2], m) for u in (logits, weights))
            torch.bmm(block, keys[some], out=a) if heads > 1 else torch.mm(block[0], keys[i], out=a[0])
            torch.softmax(a, -1, out=p)
            torch.bmm(p, values[some], out=y[some, part]) if heads > 1 else torch.mm(p[0], values[i], out=y[i, part])
    return y[..., : v.shape[-1]].unflatten(0, shape[:-2])


def seen(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask of tokens [B, T], True or 1 where a token is seen, as numbers to add: [B, 1, 1, T], 0 or -10000.

    Finite, so that a row of which nothing is seen attends evenly instead of giving NaN (the convention that released
    networks were trained with).
    """
    return None if mask is None else ((1.0 - mask.to(dtype)) * -10_000.0)[:, None, None, :]
