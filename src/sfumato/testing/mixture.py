"""A mixture of Gaussians: many modes, labels if wanted, and still an exact denoiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import InputError, Schedule
from .exact import ExactDenoiser, draws, float64, rotate, spectrum, total


class GaussianMixture:
    """sum_k weights_k N(means_k, covariances_k), with full covariances.

    `means` [K, ...] of D values each; `covariances` [K, D, D], or [K] or one number for multiples of the identity;
    `weights` [K], equal by default, are divided by their sum. With `labels`, K integers from 0, it is a
    class-conditional model: its denoiser takes `y`, the class of each row, whose null value is the number of classes.

    Raises `InputError` for shapes that do not fit, weights that are not positive, and covariances that are not positive
    definite.
    """

    def __init__(
        self, means: Any, covariances: Any, weights: Any = None, labels: Sequence[int] | Tensor | None = None
    ) -> None:
        self.means = float64(means)
        if self.means.ndim < 2:
            raise InputError(f"GaussianMixture.means has shape {tuple(self.means.shape)}: give one row a component")
        count = len(self.means)
        self.shape = tuple(self.means.shape[1:])
        given = float64(covariances)
        self._given = given.expand(count).clone() if given.ndim == 0 else given
        if len(self._given) != count or self._given.ndim not in (1, 3):
            raise InputError(f"GaussianMixture.covariances has shape {tuple(given.shape)} for {count} components")
        self._variances, self._basis = spectrum(self._given, self.means[0].numel())
        self.weights = torch.full((count,), 1 / count, dtype=torch.float64) if weights is None else float64(weights)
        if self.weights.shape != (count,) or not bool((self.weights > 0).all()):
            raise InputError(f"GaussianMixture.weights must be {count} positive numbers, got {self.weights.tolist()}")
        self.weights = self.weights / self.weights.sum()
        self.labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64).clone()
        if self.labels is not None and (self.labels.shape != (count,) or int(self.labels.min()) < 0):
            raise InputError(f"GaussianMixture.labels must be {count} integers from 0, got {self.labels.tolist()}")

    @property
    def covariances(self) -> Tensor:
        """The covariances, [K, D, D]."""
        if self._given.ndim == 3:
            return self._given
        return self._given[:, None, None] * torch.eye(self.means[0].numel(), dtype=torch.float64)

    @property
    def cond(self) -> Mapping[str, Any]:
        """`y` with the number of classes as its null value, where there are labels."""
        return {} if self.labels is None else {"y": int(self.labels.max()) + 1}

    @property
    def mean(self) -> Tensor:
        """The mean of the whole mixture, shaped as a data point."""
        return (self.weights @ self.means.flatten(1)).reshape(self.shape)

    @property
    def covariance(self) -> Tensor:
        """The covariance of the whole mixture, [D, D]."""
        off = self.means.flatten(1) - self.mean.flatten()
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return within + torch.einsum("k,ki,kj->ij", self.weights, off, off)

    def conditional(self, y: int) -> GaussianMixture:
        """Return the mixture of the components with label `y`: what the denoiser conditioned on it belongs to."""
        keep = [] if self.labels is None else (self.labels == y).nonzero().flatten()
        if len(keep) == 0:
            raise InputError(f"no component has the label {y}; known: {self.labels}")
        return GaussianMixture(self.means[keep], self._given[keep], self.weights[keep])

    def components(self, n: int, seed: int = 0) -> Tensor:
        """Return int64[n], the component that each draw of `sample(n, seed)` comes from."""
        edges = self.weights.cumsum(0)[:-1]
        return torch.searchsorted(edges, draws(n, seed).uniform("component"), right=True)

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return n draws, [n, ...]; draw i depends on (seed, i) alone."""
        k = self.components(n, seed)
        z = draws(n, seed).normal((n, self.means[0].numel()), dtype=torch.float64) * self._variances[k].sqrt()
        basis = None if self._basis is None else self._basis[k].mT
        return (self.means.flatten(1)[k] + rotate(z, basis)).reshape(n, *self.shape).to(dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), float64[B], for x [B, ...]."""
        joint, _ = self._joint(x.double().reshape(len(x), -1), 1.0, 0.0)
        high = joint.amax(-1, keepdim=True)
        return torch.log(total(torch.exp(joint - high))) + high[:, 0]

    def marginal(self, schedule: Schedule, t: float) -> GaussianMixture:
        """Return the distribution of x_t: means alpha m_k, covariances alpha^2 C_k + sigma^2, the same weights."""
        alpha, sigma = schedule(t)
        noise = sigma**2 * (torch.eye(self._given.shape[-1], dtype=torch.float64) if self._given.ndim == 3 else 1.0)
        return GaussianMixture(alpha * self.means, alpha**2 * self._given + noise, self.weights, self.labels)

    def denoiser(self, schedule: Schedule) -> ExactDenoiser:
        """Return E[x_0 | x_t], and E[x_0 | x_t, y] with `y`: each component's own, weighted by its responsibility."""
        return ExactDenoiser(model=self, schedule=schedule)

    def posterior_mean(self, x: Tensor, alpha: Any, sigma: Any, cond: Mapping[str, Tensor]) -> Tensor:
        """Return E[x_0 | x, cond] for x [B, D] = alpha x_0 + sigma eps."""
        joint, z = self._joint(x, alpha, sigma, cond.get("y"))
        share = torch.exp(joint - joint.amax(-1, keepdim=True))
        share = share / total(share)[:, None]
        s, alpha, sigma = self._variances.to(x.device), _inner(alpha), _inner(sigma)
        shrunk = rotate(
            z * (alpha * s / (alpha * alpha * s + sigma * sigma)), None if self._basis is None else self._basis.mT
        )
        return total(share[..., None] * (self.means.flatten(1).to(x.device) + shrunk), dim=1)

    def flow(self, schedule: Schedule, x: Tensor, t: float, s: float) -> Tensor:
        """Return where the probability-flow ODE takes x_t = `x` [B, 1] at time s, for one-dimensional data.

        On a line the flow keeps every quantile, so x_s = F_s^-1(F_t(x_t)) with the marginals' distribution functions;
        solved by bisection in float64. Raises `InputError` for data of more dimensions, which has no closed form.
        """
        if self.means[0].numel() != 1:
            raise InputError(f"the flow of a mixture is known on a line only, not for data of shape {self.shape}")
        here, there = self.marginal(schedule, t), self.marginal(schedule, s)
        point = x.double().reshape(-1, 1)
        # the smaller tail is inverted: a distribution function next to 1 has lost its digits
        upper = here._tail(point, 1.0) > 0.5
        sign = torch.where(upper, -1.0, 1.0).double()
        level = torch.log(here._tail(point, sign))
        spread = there._given.flatten().max().sqrt() * 40 + there.means.abs().max()
        low, high = torch.full_like(point, -float(spread)), torch.full_like(point, float(spread))
        for _ in range(80):
            middle = 0.5 * (low + high)
            beyond = (torch.log(there._tail(middle, sign)) - level) * sign > 0
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        return (0.5 * (low + high)).reshape(x.shape).to(x.dtype)

    def _tail(self, x: Tensor, sign: Any) -> Tensor:
        """Return P(X < x) for sign 1, P(X > x) for sign -1, [B, 1]."""
        z = sign * (x - self.means.flatten()) / self._given.flatten().sqrt()
        return total(self.weights * 0.5 * torch.special.erfc(-z / math.sqrt(2)))[:, None]

    def log_joint(self, x: Tensor, alpha: Any, sigma: Any, y: Tensor | None = None) -> Tensor:
        """Return log p(component k, x_t = x), float64[B, K], for x [B, D]; -inf for components that are not of `y`."""
        return self._joint(x, alpha, sigma, y)[0]

    def _joint(self, x: Tensor, alpha: Any, sigma: Any, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log(weights_k N(x; alpha m_k, v_k)) [B, K], and x - alpha m_k in each component's axes, [B, K, D]."""
        alpha, sigma = _inner(alpha), _inner(sigma)
        s = self._variances.to(x.device)
        z = rotate(x[:, None, :] - alpha * self.means.flatten(1).to(x.device), self._basis)
        v = alpha * alpha * s + sigma * sigma
        joint = torch.log(self.weights).to(x.device) - 0.5 * total(z * z / v + torch.log(2 * math.pi * v))
        if y is None or self.labels is None:
            return joint, z
        known = self.labels.to(x.device)
        y = y.to(x.device)
        allowed = (known == y[:, None]) | (y == self.cond["y"])[:, None]
        if y.shape != (len(x),) or not bool(allowed.any(-1).all()):
            raise InputError(f"y must name a class with components, or the null class {self.cond['y']}, for each row")
        return joint.masked_fill(~allowed, -math.inf), z


def _inner(value: Any) -> Any:
    """Return a coefficient [B, 1] as [B, 1, 1], so that it meets [B, K, D]; a float stays as it is."""
    return value[..., None] if isinstance(value, Tensor) else value
