"""Degradations D(x, t): any way to lose a picture, t = 0 being the picture itself (arXiv 2208.09392, section 3).

A degradation is a frozen dataclass called as D(x [B, C, H, W], t, noise), t a float or float64[B] in [0, 1]. What is
random about it belongs to the rows' seeds, so that the same `noise` gives the same snow, mask or partner at every t:
the chain of one sample degrades by one and the same D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core import InputError, Noise, fold, per_row, register
from ..data import Dataset


class Degradation(Protocol):
    """D(x, t, noise), D(x, 0) = x exactly; for a given noise, continuous or by steps in t."""

    def __call__(self, x: Tensor, t: float | Tensor, noise: Noise) -> Tensor:
        """Return x degraded to severity t, a fresh tensor."""
        ...


def _column(t: float | Tensor, x: Tensor) -> Tensor:
    """Return t as float64[B, 1, 1, 1], or [1, 1, 1, 1] where all rows share it."""
    if x.ndim != 4:
        raise InputError(f"a degradation takes pictures [B, C, H, W], got shape {tuple(x.shape)}")
    if isinstance(t, Tensor):
        return per_row(t, x.double())
    return torch.full((1, 1, 1, 1), t, dtype=torch.float64, device=x.device)


@register
@dataclass(frozen=True, kw_only=True)
class Blur:
    """A periodic Gaussian blur of variance v(t) = first (r^t - 1) pixels^2, r = 1 + variance / first.

    Exact in Fourier space, where it multiplies by exp(-v |k|^2 / 2): blurs compose, and that of t is the product of
    all before it, as in the paper's cumulative kernels (section 5.1). Defaults: ours, for 8 x 8 pictures, of which
    little is left at t = 1; the paper blurs 28 x 28 by 7^2 in each of 20 steps.
    """

    variance: float = 8.0
    first: float = 0.05

    def __post_init__(self) -> None:
        if not (self.variance > 0 and self.first > 0):
            raise InputError(f"{self} needs a variance and a first above 0")

    def variance_at(self, t: Any) -> Any:
        """Return v(t)."""
        f: Any = torch if isinstance(t, Tensor) else math
        return self.first * f.expm1(t * math.log1p(self.variance / self.first))

    def __call__(self, x: Tensor, t: float | Tensor, noise: Noise) -> Tensor:
        """Return x blurred."""
        v = self.variance_at(_column(t, x))
        down, across = (2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64, device=x.device) for n in x.shape[2:])
        factor = torch.exp(-0.5 * v * (down[:, None] ** 2 + across**2))
        blurred = torch.fft.ifft2(torch.fft.fft2(x.double()) * factor).real
        return torch.where(v > 0, blurred, x.double()).to(x.dtype)


@register
@dataclass(frozen=True, kw_only=True)
class Masking:
    """x m + fill (1 - m), m the product over i <= t steps of 1 - exp(-|p - c|^2 / (2 w_i^2)), c random: inpainting.

    The widths w_i grow evenly to `width` times the picture's side; the last factor enters by its share, so that m is
    continuous in t (section 5.2). Defaults: 50 steps, the paper's for small pictures; a fifth of the side, so that
    the rim is left at the end: a picture that is masked entirely says nothing about which it was.
    """

    steps: int = 50
    width: float = 0.2
    fill: float = 0.0

    def __call__(self, x: Tensor, t: float | Tensor, noise: Noise) -> Tensor:
        """Return x masked about a centre of its own."""
        reached = (_column(t, x) * self.steps).squeeze(1)
        height, across = x.shape[2:]
        centre = [noise.uniform("masking", axis).to(x.device)[:, None, None] for axis in ("y", "x")]
        y = torch.arange(height, device=x.device)[:, None] + 0.5 - height * centre[0]
        r2 = y**2 + (torch.arange(across, device=x.device) + 0.5 - across * centre[1]) ** 2
        log = torch.zeros_like(r2)
        for i in range(1, self.steps + 1):
            w = self.width * max(height, across) * i / self.steps
            log += (reached - i + 1).clamp(0, 1) * torch.log(-torch.expm1(-r2 / (2 * w * w)).clamp(min=-1, max=-1e-12))
        m = torch.exp(log)[:, None].to(x.dtype)
        return torch.where(m < 1, x * m + self.fill * (1 - m), x)


@register
@dataclass(frozen=True, kw_only=True)
class Downsampling:
    """The mean of each block of 2^k x 2^k pixels put back in its place, k = ceil(steps t): super-resolution.

    (section 5.3, where it is 3 to 4 halvings.) Default 3. Raises `InputError` for sides that 2^steps does not divide.
    """

    steps: int = 3

    def __call__(self, x: Tensor, t: float | Tensor, noise: Noise) -> Tensor:
        """Return x at a lower resolution, of the same size."""
        if any(side % 2**self.steps for side in x.shape[2:]):
            raise InputError(f"{self.steps} halvings do not divide a picture of {tuple(x.shape[2:])}; use fewer steps")
        level = torch.ceil(_column(t, x) * self.steps - 1e-9)
        out, small = x.clone(), x
        for k in range(1, self.steps + 1):
            small = torch.nn.functional.avg_pool2d(small, 2)
            large = small.repeat_interleave(2**k, 2).repeat_interleave(2**k, 3)
            out = torch.where(level == k, large, out)
        return out


@register
@dataclass(frozen=True, kw_only=True)
class Snow:
    """x + t amount s (1 - x), s in [0, 1] streaks of snow: whiter where a flake falls, fixed in its place for all t.

    s is the share above `threshold` of normal numbers, drawn out over `length` pixels down the diagonal: after
    ImageNet-C's snow, without its zoom (section 5.4). Defaults: ours, of moderate density.
    """

    amount: float = 0.9
    threshold: float = 1.0
    length: int = 3

    def __call__(self, x: Tensor, t: float | Tensor, noise: Noise) -> Tensor:
        """Return x under its own snow."""
        flakes = (noise.normal((len(x), 1, *x.shape[2:]), "snow", device=x.device) - self.threshold).clamp(0, 1)
        fallen = torch.stack([flakes.roll((i, i), (2, 3)) for i in range(self.length)]).amax(0)
        share = _column(t, x) * self.amount * fallen.double()
        return (x.double() + share * (1 - x.double())).to(x.dtype)


@register
@dataclass(frozen=True, kw_only=True)
class Animorph:
    """cos(pi t / 2) x + sin(pi t / 2) z, z a row of `data` that belongs to the sample: one picture becomes another.

    (section 5.5: CelebA to animals, with sqrt(alpha-bar), a cosine too.) Raises `InputError` for data of another shape.
    """

    data: Dataset

    def __call__(self, x: Tensor, t: float | Tensor, noise: Noise) -> Tensor:
        """Return x on its way to z."""
        if self.data.shape != tuple(x.shape[1:]):
            raise InputError(
                f"Animorph.data is {self.data.shape}, the pictures are {tuple(x.shape[1:])}: give alike ones"
            )
        index = (noise.uniform("animorph") * len(self.data)).long().tolist()
        z = self.data.batch(index, Noise([fold("animorph", seed) for seed in noise.seeds])).x0.to(x.device).double()
        angle = 0.5 * math.pi * _column(t, x)
        return (torch.cos(angle) * x.double() + torch.sin(angle) * z).to(x.dtype)


@register
@dataclass(frozen=True, kw_only=True)
class Desaturate:
    """x + t (luma - x): colours fade to the grey of the same luma, `weights` . RGB (ITU-R BT.601's are the default)."""

    weights: tuple[float, float, float] = (0.299, 0.587, 0.114)

    def __call__(self, x: Tensor, t: float | Tensor, noise: Noise) -> Tensor:
        """Return x with less colour."""
        if x.shape[1] != 3:
            raise InputError(f"Desaturate needs RGB pictures, got {x.shape[1]} channels")
        weights = torch.tensor(self.weights, dtype=torch.float64, device=x.device)[:, None, None]
        grey = (x.double() * weights).sum(1, keepdim=True)
        return (x.double() + _column(t, x) * (grey - x.double())).to(x.dtype)
