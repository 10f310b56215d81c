"""Attention over tokens with separate query, key and value matrices, as released checkpoints store them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from .attend import attend
from .kernels import Halves, linear_geglu

if TYPE_CHECKING:
    from ..hooks import Hooks

Keys = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """out(softmax(q k^T / sqrt(d) + mask) v), q = W_q x, k, v = W_k c, W_v c of a context c (c = x: self-attention).

    `context` is the width of c, None for self-attention. `head_width` d, `width` / `heads` by default. `bias` is that
    of q, k and v; the output matrix always has one. A cross-attention's keys and values depend on the context alone:
    `keys(c)` gives them once a run. `upcast` computes the logits in float32, which some half precision weights need.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        head_width: int | None = None,
        context: int | None = None,
        bias: bool = False,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        self.kind = "self" if context is None else "cross"
        self.heads = heads
        self.upcast = upcast
        inner = width if head_width is None else heads * head_width
        source = width if context is None else context
        self.q = nn.Linear(width, inner, bias=bias)
        self.k = nn.Linear(source, inner, bias=bias)
        self.v = nn.Linear(source, inner, bias=bias)
        self.out = nn.Linear(inner, width)

    def split(self, tokens: Tensor) -> Tensor:
        """Return [..., N, heads d] as [..., heads, N, d]."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def keys(self, context: Tensor) -> Keys:
        """Return (k, v) [..., heads, T, d] of a context [..., T, width of the context]."""
        return self.split(self.k(context)), self.split(self.v(context))

    def forward(
        self, x: Tensor, keys: Keys | None = None, mask: Tensor | None = None, hooks: Hooks | None = None
    ) -> Tensor:
        """Return [B, N, width] of tokens `x` [B, N, width]; `keys` of a context, None to attend to `x` itself."""
        events = None if hooks is None else hooks.of(self)
        if events is not None:
            ready = events.before(x)
            if ready is not None:
                return events.out(ready)
        q = self.split(self.q(x))
        k, v = self.keys(x) if keys is None else keys
        if self.upcast:
            q, k = q.float(), k.float()
        kernel = attend if events is None else events.attend
        y = kernel(q, k, v.to(q.dtype), mask)
        y = self.out(y.transpose(1, 2).flatten(2).to(x.dtype))
        return y if events is None else events.out(y)


class GatedFeedForward(nn.Module):
    """W_2 (u GELU(g)) + b_2, [u, g] = W_1 x + b_1: the exact GELU, values first (GEGLU, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Halves(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., width] of `x` [..., width]."""
        return self.fc2(linear_geglu(self.fc1, x))
