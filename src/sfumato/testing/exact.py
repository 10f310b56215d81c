"""What the closed-form models share: their denoiser, a network that reproduces it, and sums that never depend on B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..core import Denoiser, InputError, Noise, Plain, Preconditioned, Prediction, Schedule, check_cond, fold


class Model(Protocol):
    """A distribution of clean data whose E[x_0 | x_t] is known exactly."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one data point."""
        ...

    @property
    def cond(self) -> Mapping[str, Any]:
        """The condition keys with their null values: `y`, where the model has labels."""
        ...

    def sample(self, n: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return n draws, [n, *shape]."""
        ...

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """Return the exact denoiser under a schedule."""
        ...

    def posterior_mean(self, x: Tensor, alpha: Any, sigma: Any, cond: Mapping[str, Tensor]) -> Tensor:
        """Return E[x_0 | x, cond], float64[B, D], for x = alpha x_0 + sigma eps; coefficients are floats or [B, 1]."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactDenoiser:
    """E[x_0 | x_t] of a closed-form model, computed in float64 and returned in the dtype of x.

    Rows are bit-identical whatever the batch: only elementwise operations and sums in a fixed order are used.
    """

    model: Model
    schedule: Schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The model's condition keys with their null values."""
        return self.model.cond

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return E[x_0 | x_t = x, cond]."""
        check_cond(self.cond, cond)
        if x.shape[1:] != self.model.shape:
            raise InputError(f"x has shape {tuple(x.shape)}, but a data point here has shape {self.model.shape}")
        alpha, sigma = self.schedule(cast(Any, t))
        if isinstance(t, Tensor):
            if t.shape != x.shape[:1]:
                raise InputError(f"t has shape {tuple(t.shape)} for {len(x)} rows: give a float or one time a row")
            alpha, sigma = (cast(Tensor, v).double().to(x.device)[:, None] for v in (alpha, sigma))
        mean = self.model.posterior_mean(x.double().reshape(len(x), -1), alpha, sigma, cond)
        return mean.reshape(x.shape).to(x.dtype)


class Counted:
    """A denoiser that counts its evaluations: `calls`, and `rows`, the sum of their batch sizes."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.calls = 0
        self.rows = 0

    @property
    def schedule(self) -> Schedule:
        """The schedule of the counted denoiser."""
        return self.denoiser.schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The condition keys of the counted denoiser."""
        return self.denoiser.cond

    @property
    def prediction(self) -> Prediction | None:
        """The prediction of the counted denoiser, where it is a network's."""
        return getattr(self.denoiser, "prediction", None)

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Count, and return the denoiser's answer."""
        self.calls += 1
        self.rows += len(x)
        return self.denoiser(x, t, **cond)

    def output(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Any, Any]:
        """Count, and return the output of the denoiser's network, with alpha and sigma."""
        self.calls += 1
        self.rows += len(x)
        return cast(Any, self.denoiser).output(x, t, **cond)


class _ExactOutput(nn.Module):
    """The network whose output is what `prediction` would have it be, for the exact denoiser of `model`."""

    def __init__(self, model: Model, schedule: Schedule, prediction: Prediction) -> None:
        super().__init__()
        self.model, self.schedule, self.prediction = model, schedule, prediction
        # `Preconditioned` runs a network in the dtype of its first parameter
        self.dtype_mark = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)
        self.cond = model.cond

    def embed(self, c_noise: Tensor) -> Tensor:
        """Return the time itself, float64[N, 1]."""
        return c_noise.double()[:, None]

    def trunk(self, x: Tensor, emb: Tensor, **cond: Any) -> Tensor:
        """Return the exact output at x and the time in `emb`, which has one row for each of x, or one for all."""
        alpha, sigma = self.schedule(emb.expand(len(x), 1).contiguous())
        flat = x.double().reshape(len(x), -1)
        x0 = self.model.posterior_mean(flat, alpha, sigma, cond)
        eps = (flat - alpha * x0) / sigma
        out = self.prediction.target(x0, eps, alpha, sigma)
        return out.reshape(len(x), -1, *x.shape[2:])  # a learned variance has twice the channels

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> Tensor:
        """Return the exact output."""
        return self.trunk(x, self.embed(c_noise), **cond)


def exact_network(model: Model, schedule: Schedule, prediction: Prediction) -> Preconditioned:
    """Return a `Preconditioned` network whose outputs are exact, so that it equals `model.denoiser(schedule)`.

    It shows that all predictions are one: the same samples come out whatever the network puts out. Its label is t in
    float32, so it is exact to float64 rounding at times that float32 holds (`grid.float().double()`), for sigma > 0.
    """
    return Preconditioned(_ExactOutput(model, schedule, prediction), schedule, prediction, Plain(scale=1.0))


def draws(n: int, seed: int) -> Noise:
    """Return the noise of n draws: draw i depends on (seed, i) alone, so a larger n begins with the same draws."""
    if n < 1:
        raise InputError(f"cannot draw n={n} samples: give at least 1")
    return Noise([fold("testing", seed, i) for i in range(n)])


def total(v: Tensor, dim: int = -1) -> Tensor:
    """Return the sum over `dim`, in a fixed order of elementwise additions.

    `torch.sum` and matrix products may add in another order for another batch size; this never does.
    """
    n = v.shape[dim]
    while n > 1:
        half = n // 2
        added = v.narrow(dim, 0, half) + v.narrow(dim, half, half)
        v = added if n % 2 == 0 else torch.cat([added, v.narrow(dim, n - 1, 1)], dim)
        n = v.shape[dim]
    return v.squeeze(dim)


def rotate(v: Tensor, basis: Tensor | None) -> Tensor:
    """Return v [..., D] times basis [..., D, D], in a fixed order; None is the identity."""
    if basis is None:
        return v
    basis = basis.to(v.device)
    out = v[..., 0:1] * basis[..., 0, :]
    for j in range(1, v.shape[-1]):
        out = out + v[..., j : j + 1] * basis[..., j, :]
    return out


def spectrum(covariances: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    """Return (variances [K, D], basis [K, D, D] or None) of covariances [K] (isotropic) or [K, D, D].

    Raises `InputError` unless all are symmetric and positive definite.
    """
    if covariances.ndim == 1:
        variances, basis = covariances[:, None].expand(-1, size).contiguous(), None
    else:
        if covariances.shape[1:] != (size, size):
            raise InputError(
                f"covariances have shape {tuple(covariances.shape)}, data of size {size} needs {size}x{size}"
            )
        if not torch.allclose(covariances, covariances.mT):
            raise InputError("a covariance is not symmetric: give one that equals its transpose")
        variances, basis = torch.linalg.eigh(covariances)
    if not bool((variances > 0).all()):
        raise InputError(
            f"a covariance has the eigenvalue {variances.min().item():.3g}: all must be positive "
            "(for single points use Empirical)"
        )
    return variances, basis


def float64(values: Any) -> Tensor:
    """Return `values` (a tensor, an array or nested lists) as a float64 tensor of its own."""
    # a Python float made a tensor first would be rounded to float32
    return torch.as_tensor(values, dtype=torch.float64, device="cpu").detach().clone()
