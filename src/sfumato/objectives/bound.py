"""The variational bound as an objective (Nichol & Dhariwal 2021, arXiv 2102.09672, sections 2.1 and 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..core import Batch, InputError, Noise, Preconditioned, per_row, posterior, register
from ..core.variance import learned
from .denoising import Objective


def gaussian_kl(gap: Tensor, log_q: Any, log_p: Any) -> Tensor:
    """Return KL(N(m, e^log_q) || N(m + gap, e^log_p)) in nats, elementwise."""
    ratio = torch.as_tensor(log_q - log_p)
    return 0.5 * (torch.exp(ratio) - 1 - ratio + gap.square() * torch.exp(torch.as_tensor(-log_p)))


def decoder(x0: Tensor, mean: Tensor, log_variance: Any, bin: float | None) -> Tensor:
    """Return -ln p(x_0 | x_1) in nats, elementwise (Ho et al. 2020, arXiv 2006.11239, eq. 13).

    With `bin`, the mass of N(mean, e^log_variance) in the bin around x_0, a level of [-1, 1]; the outer bins, at -1 and
    1, reach to infinity, so all levels together have the mass 1. Without, minus the logarithm of the density.
    """
    log_variance = torch.as_tensor(log_variance, dtype=x0.dtype, device=x0.device)
    scale = torch.exp(-0.5 * log_variance)
    z = (x0 - mean) * scale
    if bin is None:
        return 0.5 * (z.square() + log_variance + math.log(2 * math.pi))
    half = 0.5 * bin * scale
    low, high = z - half, z + half
    # an open end is one that is so far out that its mass is nothing in float64, and its gradient too
    low = torch.where(x0 <= -1 + 0.5 * bin, torch.minimum(high, torch.zeros_like(high)) - 50, low)
    high = torch.where(x0 >= 1 - 0.5 * bin, torch.maximum(low, torch.zeros_like(low)) + 50, high)
    # in the lower tail both logarithms keep their digits
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return -(upper + torch.log(-torch.expm1((lower - upper).clamp(max=-1e-12))))


@runtime_checkable
class Stepwise(Protocol):
    """An objective over the steps 1..T of a chain that can be asked for given steps."""

    @property
    def T(self) -> int:
        """The number of steps."""
        ...

    def at(self, denoiser: Preconditioned, batch: Batch, noise: Noise, step: Tensor) -> Tensor:
        """Return the loss[B] of the steps int64[B] in 1..T."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class VLB:
    """T L_(t-1) in bits per dimension, t uniform on 1..T: its mean is the bound on -log2 p(x_0) / d less the prior L_T.

    L_(t-1) = KL(q(x_s | x_t, x_0) || p(x_s | x_t)) for the step from t / T to s = (t - 1) / T, L_0 the `decoder`, with
    `bin` the distance of neighbouring levels of discrete data, None for data with a density. Variances are learned:
    the denoiser's prediction is `LearnedVariance`. For the first step ln beta-tilde is that of the second, as in the
    paper's code: its own is ln 0. Default T = 1000; the paper trains with 4000.

    Raises `InputError` for a denoiser that says no variance.
    """

    T: int = 1000
    bin: float | None = None

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B]."""
        return self.at(denoiser, batch, noise, uniform_steps(noise, self.T))

    def at(self, denoiser: Preconditioned, batch: Batch, noise: Noise, step: Tensor) -> Tensor:
        """Return the loss[B] of given steps."""
        return self.parts(denoiser, batch, noise, step, detach=False)[0]

    def parts(
        self, denoiser: Preconditioned, batch: Batch, noise: Noise, step: Tensor, *, detach: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (the loss[B], mean squared error[B] of the prediction); with `detach` the first has no gradient
        through the mean: it then teaches the variance alone.
        """
        x0 = batch.x0
        t = step.double() / self.T
        (a, s), (c, d) = denoiser.schedule(t), denoiser.schedule((step - 1).double() / self.T)
        eps = noise.like(x0, "eps")
        x = torch.addcmul(x0 * per_row(a, x0), eps, per_row(s, x0))
        out, prediction, alpha, sigma = learned(denoiser, x, t, batch.cond)
        first, v = prediction.halves(out)
        error = (first - prediction.prediction.target(x0, eps, alpha, sigma)).square().flatten(1).mean(1)
        clean = prediction.prediction.to_x0(first.detach() if detach else first, x, alpha, sigma)
        q = posterior(a, s, c, d)
        low, high = (
            per_row(v_, x0)
            for v_ in (torch.log(torch.where(step == 1, self._second(denoiser), q.tilde)), torch.log(q.beta))
        )
        log_p = v * high + (1 - v) * low
        kl = gaussian_kl(per_row(q.gain, x0) * (clean - x0), low, log_p)
        # of the first step the mean is clean itself
        nll = decoder(x0, clean, log_p, self.bin)
        nats = torch.where(per_row(step == 1, x0).bool(), nll, kl).flatten(1).mean(1)
        return nats * (self.T / math.log(2)), error

    def _second(self, denoiser: Preconditioned) -> Tensor:
        """Return beta-tilde of the second step."""
        times = torch.tensor([2.0, 1.0], dtype=torch.float64) / self.T
        alpha, sigma = denoiser.schedule(times)
        return posterior(alpha[0], sigma[0], alpha[1], sigma[1]).tilde


@register
@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """L_hybrid = mean (out - target)^2 + scale * VLB, the latter without a gradient through the mean (section 3.1).

    Default scale: the paper's 0.001, on the bound in bits per dimension summed over the steps.
    """

    vlb: VLB = field(default_factory=VLB)
    scale: float = 0.001

    @property
    def T(self) -> int:
        """The number of steps."""
        return self.vlb.T

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B]."""
        return self.at(denoiser, batch, noise, uniform_steps(noise, self.T))

    def at(self, denoiser: Preconditioned, batch: Batch, noise: Noise, step: Tensor) -> Tensor:
        """Return the loss[B] of given steps."""
        bound, error = self.vlb.parts(denoiser, batch, noise, step, detach=True)
        return error + self.scale * bound


@runtime_checkable
class Remembering(Protocol):
    """An objective that learns from the losses of earlier steps; the Trainer keeps its memory with the checkpoints."""

    def memory(self) -> dict[str, Tensor]:
        """Return an empty memory."""
        ...

    def recalling(self, memory: dict[str, Tensor]) -> Callable[[Any, Batch, Noise], Tensor]:
        """Return the objective of a step, a pure function of the memory before it."""
        ...

    def record(self, memory: dict[str, Tensor], noise: Noise, losses: Tensor) -> None:
        """Take the losses[B] of a whole step, made with the seeds of `noise`, into the memory."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Importance:
    """`objective` with steps drawn with p_t proportional to sqrt(E[L_t^2]) and weighted by 1 / (T p_t) (eq. 18).

    Unbiased for whatever the memory holds. It keeps the last `keep` losses of every step, and draws uniformly until
    every step has so many; `uniform` is the share that stays uniform. Defaults: 10, the paper's, and 0.001, its code's.
    """

    objective: Stepwise
    keep: int = 10
    uniform: float = 0.001

    def __post_init__(self) -> None:
        if self.keep < 1 or not 0 <= self.uniform <= 1:
            raise InputError(f"Importance needs keep of at least 1 and uniform in [0, 1]: {self.keep}, {self.uniform}")

    def memory(self) -> dict[str, Tensor]:
        """Return an empty memory: the last losses of each step, and how many each has had."""
        losses = torch.zeros(self.objective.T, self.keep, dtype=torch.float64)
        return {"losses": losses, "count": torch.zeros(self.objective.T, dtype=torch.int64)}

    def chances(self, memory: dict[str, Tensor]) -> Tensor:
        """Return p_t, float64[T]."""
        T = self.objective.T
        even = torch.full((T,), 1 / T, dtype=torch.float64)
        if bool((memory["count"] < self.keep).any()):
            return even
        root = memory["losses"].square().mean(1).sqrt()
        return (1 - self.uniform) * root / root.sum() + self.uniform * even

    def steps(self, memory: dict[str, Tensor], noise: Noise) -> tuple[Tensor, Tensor]:
        """Return (the steps int64[B] in 1..T, their weights 1 / (T p_t))."""
        p = self.chances(memory)
        edges = p.cumsum(0)
        index = torch.searchsorted(edges / edges[-1], noise.uniform("time")).clamp(max=len(p) - 1)
        return index + 1, 1 / (len(p) * p[index])

    def __call__(self, denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
        """Return the loss[B] of uniform steps: without a memory there is nothing to go by."""
        return self.objective.at(denoiser, batch, noise, self.steps(self.memory(), noise)[0])

    def recalling(self, memory: dict[str, Tensor]) -> Objective:
        """Return the objective that draws by `memory`."""

        def loss(denoiser: Preconditioned, batch: Batch, noise: Noise) -> Tensor:
            step, weight = self.steps(memory, noise)
            found = self.objective.at(denoiser, batch, noise, step)
            return found * weight.to(device=found.device, dtype=found.dtype)

        return loss

    def record(self, memory: dict[str, Tensor], noise: Noise, losses: Tensor) -> None:
        """Put the losses in the place of the oldest of their steps; those that are not finite are left out."""
        step, weight = self.steps(memory, noise)
        rows, counts = memory["losses"], memory["count"]
        for t, loss in zip((step - 1).tolist(), (losses.double().cpu() / weight).tolist(), strict=True):
            if math.isfinite(loss):
                rows[t, int(counts[t]) % self.keep] = loss
                counts[t] += 1


def uniform_steps(noise: Noise, T: int) -> Tensor:
    """Return int64[B], uniform on 1..T, by the seeds of `noise`."""
    return torch.ceil(noise.uniform("time") * T).clamp(1, T).long()
