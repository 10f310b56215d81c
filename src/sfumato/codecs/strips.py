"""Convolutions that can work along strips of rows, with the result of the whole: memory for one strip beside the grids.

A strip needs the neighbouring rows that the kernel covers (its halo), and a normalisation needs the statistics of the
whole grid. Both are given here, so nothing is blended and there is no seam: only the order of sums differs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Reader = Callable[[int, int], Tensor]


class Conv(nn.Conv2d):
    """A convolution of odd kernel that keeps the size of the grid; weights are cast to the dtype of the input."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, input: Tensor) -> Tensor:
        """Return [B, outputs, H, W] of `input` [B, inputs, H, W]."""
        half = self.kernel_size[0] // 2
        return self.apply_to(input, (half, half))

    def apply_to(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Return the convolution of `x` with `padding` zeros above and below, left and right."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(x, self.weight.to(x.dtype), bias, self.stride, padding)

    def strip(self, read: Reader, a: int, b: int, height: int) -> Tensor:
        """Return rows a..b of the result, of an input of `height` rows that `read` gives."""
        first, last = max(a - 1, 0), min(b + 1, height)
        # at the edge of the grid the convolution's own zeros serve: a row too many is cheaper than a padded copy
        edge = first == a or last == b
        y = self.apply_to(read(first, last), (int(edge), 1))
        return y[:, :, a - first : b - first] if edge else y


class Halving(Conv):
    """Half the grid: a 3x3 convolution of stride 2 after one row of zeros below and one column at the right."""

    def forward(self, input: Tensor, height: int | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return [B, outputs, H / 2, W / 2] of `input` [B, inputs, H, W]."""
        if height is None:
            return self._halved(F.pad(input, (0, 1, 0, 1)))
        return along(self, lambda a, b: input[:, :, a:b], input.shape[2], height, rows=input.shape[2] // 2)

    def strip(self, read: Reader, a: int, b: int, height: int) -> Tensor:
        """Return rows a..b of the result, of an input of `height` rows that `read` gives."""
        last = min(2 * b + 1, height)
        return self._halved(F.pad(read(2 * a, last), (0, 1, 0, 2 * b + 1 - last)))

    def _halved(self, padded: Tensor) -> Tensor:
        return F.conv2d(padded, self.weight.to(padded.dtype), _cast(self.bias, padded), 2)


class Doubling(Conv):
    """Twice the grid: nearest neighbours, then a 3x3 convolution."""

    def forward(self, input: Tensor, height: int | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return [B, outputs, 2 H, 2 W] of `input` [B, inputs, H, W]."""
        if height is None:
            return self.apply_to(_doubled(input), (1, 1))
        return along(self, lambda a, b: input[:, :, a:b], input.shape[2], height, rows=2 * input.shape[2])

    def strip(self, read: Reader, a: int, b: int, height: int) -> Tensor:
        """Return rows a..b of the result, of an input of `height` rows that `read` gives."""
        first, last = max(a - 1, 0) // 2, min((b + 2) // 2, height)
        wide = _doubled(read(first, last))
        return super().strip(lambda i, j: wide[:, :, i - 2 * first : j - 2 * first], a, b, 2 * height)


def along(
    conv: Conv,
    read: Reader,
    height: int,
    strip: int,
    out: Tensor | None = None,
    add: Reader | None = None,
    rows: int | None = None,
) -> Tensor:
    """Return conv(what `read` gives) + add, `strip` rows at a time.

    `height`: rows of the input; `rows`: of the result, where they differ. `out`: where the result goes, new by default.
    """
    rows = height if rows is None else rows
    for a in range(0, rows, strip):
        b = min(a + strip, rows)
        y = conv.strip(read, a, b, height)
        if add is not None:
            y = y + add(a, b) if torch.is_grad_enabled() else y.add_(add(a, b))
        if out is None:
            shape = (*y.shape[:2], rows, y.shape[3])
            out = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
        out[:, :, a:b] = y
    assert out is not None
    return out


def affine(x: Tensor, norm: nn.GroupNorm, strip: int) -> tuple[Tensor, Tensor]:
    """Return scale and shift [B, C, 1, 1] with GN(x) = x scale + shift, of statistics taken strip by strip.

    Means and variances of the strips are joined in float64 (Chan et al. 1979), each weighed by its rows.
    """
    count, channels, height, width = x.shape
    means: list[Tensor] = []
    variances: list[Tensor] = []
    weights: list[float] = []
    for part in (x[:, :, a : a + strip] for a in range(0, height, strip)):
        size = part.shape[2] * width
        # the kernel that normalises gives the moments fastest: mean and 1 / sqrt(variance + eps) of each group
        dense = _dense(precise(part))
        found = torch.native_group_norm(dense, None, None, count, channels, size, norm.num_groups, norm.eps)
        means.append(found[1].double())
        variances.append(found[2].double() ** -2 - norm.eps)
        weights.append(part.shape[2] / height)
    weight = torch.tensor(weights, dtype=torch.float64, device=x.device)[:, None, None]
    mean = (weight * torch.stack(means)).sum(0)
    variance = (weight * (torch.stack(variances) + (torch.stack(means) - mean) ** 2)).sum(0)
    scale = norm.weight.double().unflatten(0, (norm.num_groups, -1)) * torch.rsqrt(variance + norm.eps)[..., None]
    shift = norm.bias.double().unflatten(0, (norm.num_groups, -1)) - mean[..., None] * scale
    dtype = torch.promote_types(x.dtype, torch.float32)
    return scale.flatten(1)[..., None, None].to(dtype), shift.flatten(1)[..., None, None].to(dtype)


def precise(x: Tensor) -> Tensor:
    """Return `x` in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _dense(x: Tensor) -> Tensor:
    """Return `x` in the memory layout of the kernel: channels last on a CPU, as it comes, else channels first.

    The strides are made anew: a strip of one picture keeps that of the whole for its batch, which the kernel refuses.
    """
    if x.device.type != "cpu":
        return x.contiguous()
    last = x.permute(0, 2, 3, 1)
    return last.contiguous().flatten().view(last.shape).permute(0, 3, 1, 2)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _cast(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype)
