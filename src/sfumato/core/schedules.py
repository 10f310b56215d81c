"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps for t in [0, 1]; t = 0 is data, t = 1 is noise.

lambda(t) = ln(alpha / sigma) falls strictly with t. Every formula is written once and works on a Python float (fast,
used inside the sampling loop) and on a float64 tensor (used for grids and training batches). All start exactly at the
data: alpha(0) = 1 and sigma(0) = 0.
"""

from __future__ import annotations

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from .config import register
from .errors import InputError

Real = TypeVar("Real", bound=float | Tensor)


def _ops(value: Any) -> Any:
    """Return the module whose `exp`, `log`, ... act on `value`: `torch` for tensors, `math` for floats."""
    return torch if isinstance(value, Tensor) else math


def _softplus(x: Any) -> Any:
    """ln(1 + e^x) without overflow."""
    if isinstance(x, Tensor):
        return torch.logaddexp(x, torch.zeros_like(x))
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


class Schedule(ABC):
    """The Gaussian corruption x_t = alpha(t) x_0 + sigma(t) eps, as two functions of t in [0, 1]."""

    @abstractmethod
    def __call__(self, t: Real) -> tuple[Real, Real]:
        """Return (alpha, sigma) at `t`, a float or a float64 tensor of any shape."""

    @abstractmethod
    def inverse(self, lam: Real) -> Real:
        """Return the t at which ln(alpha / sigma) = `lam`."""

    def lam(self, t: Real) -> Real:
        """Return lambda = ln(alpha / sigma): +inf where sigma = 0, -inf where alpha = 0."""
        values: tuple[Any, Any] = self(t)
        alpha, sigma = values
        if isinstance(alpha, Tensor):
            lam: Any = torch.log(alpha) - torch.log(sigma)
        elif sigma <= 0.0:
            lam = math.inf
        else:
            lam = math.log(alpha / sigma) if alpha > 0.0 else -math.inf
        return lam

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (d alpha/dt, d sigma/dt) at the float64 tensor `t`, by automatic differentiation."""
        with torch.enable_grad():
            u = t.detach().double().requires_grad_()
            alpha, sigma = self(u)
            # alpha and sigma share a part of their graph, which the first call must leave for the second
            grads = [torch.autograd.grad(v.sum(), u, retain_graph=True, allow_unused=True)[0] for v in (alpha, sigma)]
        d_alpha, d_sigma = (torch.zeros_like(u) if g is None else g for g in grads)
        return d_alpha.detach(), d_sigma.detach()


class VP(Schedule):
    """Variance preserving: alpha^2 + sigma^2 = 1. A member gives ln alpha(t) and its inverse."""

    @abstractmethod
    def log_alpha(self, t: Any) -> Any:
        """Return ln alpha(t), 0 at t = 0."""

    @abstractmethod
    def inverse_log_alpha(self, log_alpha: Any) -> Any:
        """Return the t at which ln alpha(t) = `log_alpha`."""

    def __call__(self, t: Any) -> tuple[Any, Any]:
        f = _ops(t)
        log_alpha = self.log_alpha(t)
        return f.exp(log_alpha), f.sqrt(-f.expm1(2 * log_alpha))

    def inverse(self, lam: Any) -> Any:
        return self.inverse_log_alpha(-0.5 * _softplus(-2 * lam))


@register
@dataclass(frozen=True, kw_only=True)
class VPLinear(VP):
    """beta(t) = beta_min + t (beta_max - beta_min), alpha = exp(-1/2 int beta)
    (Song et al. 2021, arXiv 2011.13456, eq. 32).

    Defaults: 0.1 and 20, the continuous limit of DDPM's 1e-4 -> 0.02 over 1000 steps (arXiv 2006.11239, section 4).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def log_alpha(self, t: Any) -> Any:
        return -0.25 * (self.beta_max - self.beta_min) * t * t - 0.5 * self.beta_min * t

    def inverse_log_alpha(self, log_alpha: Any) -> Any:
        # the root of the quadratic that does not cancel as t -> 0
        half = 0.5 * self.beta_min
        return -2 * log_alpha / (half + _ops(log_alpha).sqrt(half * half - (self.beta_max - self.beta_min) * log_alpha))


@register
@dataclass(frozen=True, kw_only=True)
class VPScaledLinear(VP):
    """sqrt(beta) linear in t: the schedule of latent diffusion (arXiv 2112.10752, released configurations).

    Defaults: 0.85 and 12, which is Stable Diffusion's 0.00085 -> 0.012 times its 1000 steps.
    """

    beta_min: float = 0.85
    beta_max: float = 12.0

    def log_alpha(self, t: Any) -> Any:
        a, c = math.sqrt(self.beta_min), math.sqrt(self.beta_max) - math.sqrt(self.beta_min)
        return -0.5 * t * (a * a + t * (a * c + t * (c * c / 3)))

    def inverse_log_alpha(self, log_alpha: Any) -> Any:
        a, c = math.sqrt(self.beta_min), math.sqrt(self.beta_max) - math.sqrt(self.beta_min)
        integral = -2 * log_alpha
        root = (3 * c * integral + a**3) ** (1 / 3)
        return 3 * integral / (root * root + root * a + a * a)


@register
@dataclass(frozen=True, kw_only=True)
class VPCosine(VP):
    """alpha = cos(theta(t)) / cos(theta(0)), theta linear from s/(1+s) pi/2
    (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17).

    Defaults: s = 0.008 as in the paper; alpha_end = 5e-5, what the paper's cap beta <= 0.999 leaves of sqrt(alpha-bar)
    at T = 1000. Without such an end alpha(1) would be rounding noise. `ZeroTerminalSNR` makes it exactly 0.
    """

    s: float = 0.008
    alpha_end: float = 5e-5

    @cached_property
    def _angles(self) -> tuple[float, float]:
        start = self.s / (1 + self.s) * math.pi / 2
        return start, math.acos(self.alpha_end * math.cos(start)) - start

    def log_alpha(self, t: Any) -> Any:
        start, span = self._angles
        f, delta = _ops(t), span * t
        return f.log1p(-2 * f.sin(0.5 * delta) ** 2 - math.tan(start) * f.sin(delta))

    def inverse_log_alpha(self, log_alpha: Any) -> Any:
        start, span = self._angles
        f = _ops(log_alpha)
        return (f.acos(f.exp(log_alpha) * math.cos(start)) - start) / span


@register
@dataclass(frozen=True, kw_only=True)
class VPSigmoid(VP):
    """alpha^2 falls as a sigmoid from `start` to `end` at temperature `tau`
    (Jabri et al. 2022, arXiv 2212.11972, section 3.4).

    Defaults: -3, 3 and 1 with a floor of 1e-9 on alpha^2, the paper's; the floor is blended in, not clipped, so that
    lambda stays strictly falling.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    floor: float = 1e-9

    @cached_property
    def _ends(self) -> tuple[float, float]:
        low, high = (1 / (1 + math.exp(-v / self.tau)) for v in (self.start, self.end))
        return low, high - low

    def log_alpha(self, t: Any) -> Any:
        low, span = self._ends
        f = _ops(t)
        gate = 1 / (1 + f.exp(-(t * (self.end - self.start) + self.start) / self.tau))
        return 0.5 * f.log1p(-(1 - self.floor) * (gate - low) / span)

    def inverse_log_alpha(self, log_alpha: Any) -> Any:
        low, span = self._ends
        f = _ops(log_alpha)
        gate = low - span * f.expm1(2 * log_alpha) / (1 - self.floor)
        return (self.tau * f.log(gate / (1 - gate)) - self.start) / (self.end - self.start)


@register
@dataclass(frozen=True, kw_only=True)
class SubVP(Schedule):
    """alpha as `VPLinear`, sigma = 1 - alpha^2: less noise than VP at every t
    (Song et al. 2021, arXiv 2011.13456, eq. 29).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    @cached_property
    def _vp(self) -> VPLinear:
        return VPLinear(beta_min=self.beta_min, beta_max=self.beta_max)

    def __call__(self, t: Any) -> tuple[Any, Any]:
        f = _ops(t)
        log_alpha = self._vp.log_alpha(t)
        return f.exp(log_alpha), -f.expm1(2 * log_alpha)

    def inverse(self, lam: Any) -> Any:
        # sigma / alpha = (1 - alpha^2) / alpha = 2 sinh(-ln alpha)
        return self._vp.inverse_log_alpha(-_ops(lam).asinh(0.5 * _ops(lam).exp(-lam)))


@register
@dataclass(frozen=True, kw_only=True)
class VE(Schedule):
    """alpha = 1, sigma = sigma_min sqrt(r^(2t) - 1), r = sigma_max / sigma_min: variance exploding
    (arXiv 2011.13456, eq. 31).

    This is the exact transition kernel of the VE SDE from the data, so sigma(0) = 0; it is the geometric ladder
    sigma_min r^t as soon as r^t >> 1. Defaults: 0.002 and 80, EDM's range (arXiv 2206.00364, table 1).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __call__(self, t: Any) -> tuple[Any, Any]:
        f = _ops(t)
        sigma = self.sigma_min * f.sqrt(f.expm1(2 * math.log(self.sigma_max / self.sigma_min) * t))
        return t * 0 + 1.0, sigma

    def inverse(self, lam: Any) -> Any:
        f = _ops(lam)
        return 0.5 * f.log1p(f.exp(-2 * lam) / self.sigma_min**2) / math.log(self.sigma_max / self.sigma_min)


@register
@dataclass(frozen=True, kw_only=True)
class Rectified(Schedule):
    """alpha = 1 - u, sigma = u, u = shift t / (1 + (shift - 1) t): straight paths
    (Liu et al. 2022, arXiv 2209.03003, eq. 1).

    `shift` is SD3's resolution shift sqrt(m / n) (arXiv 2403.03206, eq. 23); 1, the default, is none.
    """

    shift: float = 1.0

    def __call__(self, t: Any) -> tuple[Any, Any]:
        scale = 1 + (self.shift - 1) * t
        return (1 - t) / scale, self.shift * t / scale

    def inverse(self, lam: Any) -> Any:
        f = _ops(lam)
        u = f.exp(-_softplus(lam))  # 1 / (1 + e^lam)
        return u / (self.shift - (self.shift - 1) * u)


@register
@dataclass(frozen=True, kw_only=True)
class Table(Schedule):
    """The discrete alpha-bar of a released checkpoint: index i stands at t = (i + 1) / T, lambda is linear in between.

    Between the data (t = 0) and the first entry sigma / alpha is linear in t. `alphas_cumprod` are the T values of
    alpha-bar = alpha^2, strictly falling, in (0, 1).
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        a = self.alphas_cumprod
        if len(a) < 2 or not (a[0] < 1 and a[-1] > 0 and all(p > q for p, q in itertools.pairwise(a))):
            raise InputError("Table.alphas_cumprod must fall strictly inside (0, 1); a zero end is ZeroTerminalSNR's")

    @classmethod
    def from_betas(cls, betas: Tensor) -> Table:
        """Build the table of per-step variances beta_1..beta_T: alpha-bar is the running product of 1 - beta."""
        return cls(alphas_cumprod=tuple(torch.cumprod(1 - betas.double(), 0).tolist()))

    @cached_property
    def _hash(self) -> int:
        return hash(self.alphas_cumprod)

    def __hash__(self) -> int:  # asked for at every run, which is planned once
        return self._hash

    @cached_property
    def _lams(self) -> list[float]:
        return [0.5 * (math.log(a) - math.log1p(-a)) for a in self.alphas_cumprod]

    @cached_property
    def _nodes(self) -> Tensor:
        return torch.tensor(self._lams, dtype=torch.float64)

    def lam(self, t: Any) -> Any:
        lams, count = self._lams, len(self._lams)
        if isinstance(t, Tensor):
            nodes = self._nodes.to(t.device)
            place = (t.double() * count - 1).clamp(max=count - 1)
            low = place.floor().clamp(0, count - 2)
            inner = torch.lerp(nodes[low.long()], nodes[low.long() + 1], place - low)
            return torch.where(place < 0, nodes[0] - torch.log(t * count), inner)
        place = min(t * count - 1, count - 1)
        if place < 0:
            return lams[0] - math.log(t * count) if t > 0 else math.inf
        low = min(int(place), count - 2)
        return lams[low] + (lams[low + 1] - lams[low]) * (place - low)

    def __call__(self, t: Any) -> tuple[Any, Any]:
        lam, f = self.lam(t), _ops(t)
        return f.exp(-0.5 * _softplus(-2 * lam)), f.exp(-0.5 * _softplus(2 * lam))

    def inverse(self, lam: Any) -> Any:
        lams, count = self._lams, len(self._lams)
        if isinstance(lam, Tensor):
            return torch.tensor(
                [self.inverse(v) for v in lam.double().flatten().tolist()], dtype=torch.float64, device=lam.device
            ).reshape(lam.shape)
        if lam >= lams[0]:
            return math.exp(lams[0] - lam) / count
        low = min(bisect.bisect_left(lams, -lam, key=lambda v: -v), count - 1) - 1
        return min((low + 1 + (lams[low] - lam) / (lams[low] - lams[low + 1])) / count, 1.0)


@register
@dataclass(frozen=True, kw_only=True)
class ZeroTerminalSNR(Schedule):
    """A variance-preserving `base` with alpha shifted and scaled so that alpha(1) = 0 exactly
    (Lin et al. 2023, arXiv 2305.08891, alg. 1).

    alpha'(t) = (alpha(t) - alpha(1)) / (1 - alpha(1)). Raises `InputError` for a base that does not preserve variance.
    """

    base: Schedule

    def __post_init__(self) -> None:
        alpha, sigma = self.base(0.5)
        if abs(alpha * alpha + sigma * sigma - 1) > 1e-9:
            raise InputError(
                f"ZeroTerminalSNR needs a variance-preserving base, got {type(self.base).__name__}; use a VP"
            )

    @cached_property
    def _end(self) -> float:
        return self.base(1.0)[0]

    def __call__(self, t: Any) -> tuple[Any, Any]:
        f = _ops(t)
        alpha, sigma = self.base(t)
        # the end by the same arithmetic as alpha, so that their difference is exactly 0 at t = 1
        end = self.base(torch.ones_like(t))[0] if isinstance(t, Tensor) else self._end
        # 1 - alpha' = (1 - alpha) / (1 - end), and 1 - alpha = sigma^2 / (1 + alpha) does not cancel near the data
        gap = sigma * sigma / ((1 + alpha) * (1 - end))
        return (alpha - end) / (1 - end), f.sqrt(gap * (2 - gap))

    def inverse(self, lam: Any) -> Any:
        f = _ops(lam)
        alpha = f.exp(-0.5 * _softplus(-2 * lam))
        gap = f.exp(-_softplus(2 * lam)) / (1 + alpha) * (1 - self._end)  # 1 - alpha of the base
        return self.base.inverse(f.log(1 - gap) - 0.5 * f.log(gap * (2 - gap)))
