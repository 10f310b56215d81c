"""What a network sees of a noise label, a class and a place: sinusoids, random Fourier features, label tables.

A feature map is a registered configuration with `build(inputs) -> nn.Module`; the module maps [..., inputs] to
[..., dim] and says its `dim`. Features are computed in float32 (float64 for float64 input) whatever the dtype of the
network: at a label of 999 half precision would round the phases by whole radians. The caller casts the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn

from ...core.config import register
from ...core.errors import InputError
from ...core.noise import Noise


def sinusoidal(
    c: Tensor, dim: int, *, max_period: float = 10_000.0, sin_first: bool = False, shift: float = 0.0
) -> Tensor:
    """Return [cos(w c), sin(w c)] of `c` [...] as [..., dim], w_i = max_period^(-i / (dim/2 - shift)), i < dim/2.

    The published variants differ in two details. Transformers and all U-Nets after DDPM have cosines first and shift
    0, the defaults; DDPM (arXiv 2006.11239) has sines first and shift 1 (its last frequency is exactly 1/max_period).
    `max_period` 10000 is that of Vaswani et al. (arXiv 1706.03762, section 3.5).
    """
    half = dim // 2
    dtype = torch.promote_types(c.dtype, torch.float32)
    # exp and log in float32, in this order: released weights were trained on these rounded frequencies
    index = torch.arange(half, dtype=dtype, device=c.device)
    phase = c.to(dtype).unsqueeze(-1) * torch.exp(-math.log(max_period) * index / (half - shift))
    cos, sin = torch.cos(phase), torch.sin(phase)
    return torch.cat((sin, cos) if sin_first else (cos, sin), dim=-1)


def sincos_2d(
    dim: int,
    height: int,
    width: int,
    *,
    base: float | None = None,
    scale: float = 1.0,
    device: torch.device | None = None,
) -> Tensor:
    """Return float32[height * width, dim], the fixed position table of DiT, PixArt and SD3, row by row.

    The first half of the channels encodes the column, the second half the row; in each half sines then cosines of the
    frequencies 10000^(-i / (dim/4)) (MAE, arXiv 2111.06377, as used by DiT, arXiv 2212.09748, section 3.2).
    The place of row r is r, or r base / (height scale) with the `base` of a grid that all sizes are stretched to, as in
    PixArt (arXiv 2310.00426); columns likewise.
    """
    if dim % 4:
        raise InputError(f"a sin-cos position table needs a width that is a multiple of 4, got {dim}")

    def half(count: int) -> Tensor:
        places = torch.arange(count, dtype=torch.float64, device=device)
        places = places if base is None else places * (base / (count * scale))
        return sinusoidal(places, dim // 2, sin_first=True).float()

    # a sinusoid for each row and column, not for each place: cheap enough to be made again in each evaluation
    columns = half(width).expand(height, width, dim // 2)
    rows = half(height).unsqueeze(1).expand(height, width, dim // 2)
    return torch.cat((columns, rows), dim=-1).flatten(0, 1)


class Features(Protocol):
    """A configuration of a feature map; `build(inputs)` gives the module that maps [..., inputs] to [..., dim]."""

    def build(self, inputs: int) -> FeatureMap:
        """Return the module."""
        ...


class FeatureMap(nn.Module):
    """A module that maps [..., inputs] to [..., dim] in float32 (float64 for float64 input)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


@register
@dataclass(frozen=True, kw_only=True)
class NoFeature:
    """gamma(x) = nothing: the network does not see x."""

    def build(self, inputs: int) -> FeatureMap:
        """Return the module that maps [..., inputs] to [..., 0]."""
        return _Nothing(0)


class _Nothing(FeatureMap):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., :0]


@register
@dataclass(frozen=True, kw_only=True)
class Raw:
    """gamma(x) = scale x + shift: x itself by default."""

    scale: float = 1.0
    shift: float = 0.0

    def build(self, inputs: int) -> FeatureMap:
        """Return the module that maps [..., inputs] to [..., inputs]."""
        return _Affine(self, inputs)


class _Affine(FeatureMap):
    def __init__(self, config: Raw, inputs: int) -> None:
        super().__init__(inputs)
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        if self.config == Raw():
            return x
        return x * self.config.scale + self.config.shift


@register
@dataclass(frozen=True, kw_only=True)
class Sinusoidal:
    """gamma(c) = [cos(w scale c), sin(w scale c)]: `sinusoidal` of one label, with the same defaults.

    `scale` brings the label into the range 0..1000 that the frequencies are made for, where it is not there already.
    Raises `InputError` for an odd `dim` and for more than one input.
    """

    dim: int
    max_period: float = 10_000.0
    sin_first: bool = False
    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise InputError(f"Sinusoidal.dim must be an even number, got {self.dim}")
        if self.shift >= self.dim // 2:
            raise InputError(f"Sinusoidal.shift must be below dim / 2 = {self.dim // 2}, got {self.shift}")

    def build(self, inputs: int) -> FeatureMap:
        """Return the module that maps [..., 1] to [..., dim]."""
        if inputs != 1:
            raise InputError(f"Sinusoidal features are of one number, got {inputs}; use Fourier for a vector")
        return _Sinusoids(self)


class _Sinusoids(FeatureMap):
    def __init__(self, config: Sinusoidal) -> None:
        super().__init__(config.dim)
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        k = self.config
        return sinusoidal(x.squeeze(-1) * k.scale, k.dim, max_period=k.max_period, sin_first=k.sin_first, shift=k.shift)


@register
@dataclass(frozen=True, kw_only=True)
class Fourier:
    """gamma(x) = [sin B x, cos B x], the rows of B from N(0, scale^2 I) and fixed (arXiv 2006.10739, section 6.1).

    `count` is the number of rows. `scale` holds the paper's 2 pi: NCSN++ has scale = 2 pi 16 on ln sigma (arXiv
    2011.13456, appendix C.2). The default 1 is the one for standardised points. B is drawn from `seed`, and saved.
    """

    count: int
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"Fourier.count must be at least 1, got {self.count}")

    def build(self, inputs: int) -> FeatureMap:
        """Return the module that maps [..., inputs] to [..., 2 count]."""
        return FourierFeatures(self, inputs)


class FourierFeatures(FeatureMap):
    """The module of `Fourier`: its frequencies are the persistent buffer `B` [count, inputs], float32 for ever."""

    B: Tensor

    def __init__(self, config: Fourier, inputs: int) -> None:
        super().__init__(2 * config.count)
        self.config = config
        rows = Noise([config.seed]).normal((1, config.count, inputs), "fourier")[0]
        self.register_buffer("B", config.scale * rows)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [..., 2 count] of `x` [..., inputs]."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        phase = nn.functional.linear(x, self.B.to(x.dtype))
        return torch.cat((torch.sin(phase), torch.cos(phase)), dim=-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # a network moved to half precision keeps its frequencies: rounding them would make other features
        kept = self.B
        super()._apply(fn, recurse)
        self._buffers["B"] = self.B.float() if kept.is_meta or self.B.is_meta else kept.to(self.B.device)
        return self


class NoiseEmbedding(nn.Module):
    """emb = W_2 SiLU(W_1 gamma(c) + b_1) + b_2 of a noise label c [N]: [N, width] in the dtype of the weights.

    The time embedding of DDPM (arXiv 2006.11239, appendix B) and of every network after it; `hidden` is W_1's
    output width, `width` by default.
    """

    def __init__(self, features: Features, width: int, hidden: int | None = None) -> None:
        super().__init__()
        self.features = features.build(1)
        hidden = width if hidden is None else hidden
        self.mlp = nn.Sequential(nn.Linear(self.features.dim, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, c_noise: Tensor) -> Tensor:
        """Return the embeddings [N, width] of the labels `c_noise` [N]."""
        weight = cast(nn.Linear, self.mlp[0]).weight
        return self.mlp(self.features(c_noise.unsqueeze(-1)).to(weight.dtype))


class LabelEmbedding(nn.Module):
    """A table of `num_classes` + 1 rows, the last one (index `null`) for "no class" (arXiv 2207.12598, section 3.2).

    Without `nothing` there is no such row, as in networks that were trained with classes alone (ADM's). Rows start as
    N(0, 0.02^2), as in DiT. Called with labels int[B] it returns [B, width]; with one int, or None for the null class,
    [1, width]. Raises `InputError` for labels outside of the table (on a GPU the kernel asserts).
    """

    def __init__(self, num_classes: int, width: int, *, nothing: bool = True) -> None:
        super().__init__()
        if num_classes < 1:
            raise InputError(f"num_classes must be at least 1, got {num_classes}; leave it None for no classes")
        self.null = num_classes if nothing else None
        self.table = nn.Embedding(num_classes + nothing, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, y: Tensor | int | None) -> Tensor:
        """Return the rows of the labels `y`."""
        if not isinstance(y, Tensor):
            label = self.null if y is None else y
            if label is None:
                raise InputError(f"this network knows no null class: give labels y in 0..{len(self.table.weight) - 1}")
            y = torch.tensor([label], device=self.table.weight.device)
        if y.ndim != 1 or y.dtype.is_floating_point:
            raise InputError(f"class labels y must be integers of shape [B], got {y.dtype} {list(y.shape)}")
        try:
            return self.table(y)
        except IndexError:
            none = "" if self.null is None else f" ({self.null} is no class)"
            raise InputError(f"class labels y must be in 0..{len(self.table.weight) - 1}{none}") from None
