"""Rotary positions: each pair of a head's channels turns by an angle that its place decides (arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]


def frequencies(pairs: int, *, theta: float = 10_000.0, device: torch.device | None = None) -> Tensor:
    """Return float32[pairs], w_i = theta^(-i / pairs): radians a step (arXiv 2104.09864, equation 15)."""
    return theta ** (-torch.arange(pairs, dtype=torch.float32, device=device) / pairs)


def rotation(angles: Tensor) -> Rotation:
    """Return (cos, sin) of angles [tokens, pairs], float32."""
    return torch.cos(angles), torch.sin(angles)


def rotation_2d(rows: Tensor, columns: Tensor, width: int, *, theta: float = 10_000.0) -> Rotation:
    """Return the rotation of a grid's tokens, row by row, for heads of `width`: (cos, sin), each [H W, width / 2].

    `rows` [H] and `columns` [W] are the places of the rows and columns. The first half of the pairs turns with the
    column, the second half with the row (Hunyuan-DiT, arXiv 2405.08748, section 2.1).
    """
    w = frequencies(width // 4, theta=theta, device=rows.device)
    size = (len(rows), len(columns), width // 4)

    def spread(by_row: Tensor, by_column: Tensor) -> Tensor:
        return torch.cat((by_column.expand(size), by_row.unsqueeze(1).expand(size)), dim=-1).flatten(0, 1)

    turned = zip(rotation(torch.outer(rows, w)), rotation(torch.outer(columns, w)), strict=True)
    cos, sin = (spread(by_row, by_column) for by_row, by_column in turned)
    return cos, sin


def rotated(x: Tensor, turn: Rotation) -> Tensor:
    """Return `x` [..., tokens, d] with its pairs (x_2i, x_2i+1) turned: in float32, returned in the dtype of `x`.

    y_2i = x_2i cos - x_2i+1 sin, y_2i+1 = x_2i sin + x_2i+1 cos (arXiv 2104.09864, equation 34).
    """
    cos, sin = turn
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # a compiler fuses this, and does not know complex numbers
        even, odd = pairs.unbind(-1)
        y = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:
        y = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return y.flatten(-2).to(x.dtype)
