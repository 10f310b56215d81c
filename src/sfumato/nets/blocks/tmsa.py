"""Time-dependent self-attention: the time enters queries, keys and values (DiffiT, arXiv 2312.02139, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import InputError
from .attend import attend
from .transformer import FeedForward

if TYPE_CHECKING:
    from ..hooks import Hooks


class TMSA(nn.Module):
    """out(softmax(q k^T / sqrt(d) + B) v) in every window of a grid, [q, k, v] = W_s x + W_t c + b, c the time.

    B is learned, one number for a head and a difference of places: `bias` [(2 window - 1)^2, heads]. What c adds to the
    keys is the same for all of them, which softmax does not see: that third of W_t is there as it is in the paper.
    A site of kind "self", where the windows stand beside each other as further heads.
    """

    def __init__(self, width: int, heads: int, window: int, time: int) -> None:
        super().__init__()
        self.kind, self.heads, self.window = "self", heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.time = nn.Linear(time, 3 * width)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, told: Tensor, index: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Return [B, windows, window^2, width] of `x`, for W_t c [B or 1, 3 width] and `differences(window)`."""
        events = None if hooks is None else hooks.of(self)
        if events is not None:
            ready = events.before(x)
            if ready is not None:
                return events.out(ready)
        many = x.shape[1]
        parts = (self.qkv(x) + told[:, None, None]).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # each [B, windows heads, window^2, d]
        mask = self.bias[index].permute(2, 0, 1).repeat(many, 1, 1)[None]
        kernel = attend if events is None else events.attend
        y = kernel(q, k, v, mask).unflatten(1, (many, self.heads)).transpose(2, 3).flatten(3)
        y = self.out(y)
        return y if events is None else events.out(y)


class TimeBlock(nn.Module):
    """x += TMSA(LN(x), c); x += MLP(LN(x)): LN without a learned part, eps 1e-6 (equations 7 and 8)."""

    def __init__(self, width: int, heads: int, window: int, time: int, hidden: int) -> None:
        super().__init__()
        self.attn = TMSA(width, heads, window, time)
        self.mlp = FeedForward(width, hidden)

    def steer(self, c: Tensor) -> Tensor:
        """Return what the attention reads of the time c [..., time]: [..., 3 width]."""
        return self.attn.time(c)

    def forward(self, x: Tensor, told: Tensor, index: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Return the next tokens [B, windows, window^2, width]."""
        x = x + self.attn(_normed(x), told, index, hooks)
        return x + self.mlp(_normed(x))


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def differences(window: int, device: torch.device) -> Tensor:
    """Return int64[window^2, window^2]: the row of a table of differences for each pair of places (query, key).

    Row (i - k + window - 1) (2 window - 1) + (j - l + window - 1) for the places (i, j) and (k, l), row by row.
    """
    side = torch.arange(window, device=device)
    rows, columns = side.repeat_interleave(window), side.repeat(window)
    down, right = rows[:, None] - rows + window - 1, columns[:, None] - columns + window - 1
    return down * (2 * window - 1) + right


def windowed(x: Tensor, window: int) -> Tensor:
    """Return the windows of `x` [B, C, H, W] as tokens [B, H/w W/w, w^2, C], row by row."""
    b, c, h, w = x.shape
    if h % window or w % window:
        raise InputError(f"a grid of {h} x {w} does not divide into windows of {window} x {window}")
    return (
        x.reshape(b, c, h // window, window, w // window, window).permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)
    )


def unwindowed(tokens: Tensor, window: int, height: int, width: int) -> Tensor:
    """Return [B, C, height, width] of `windowed`'s tokens."""
    b, _, _, c = tokens.shape
    grid = tokens.reshape(b, height // window, width // window, window, window, c)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)
