"""Denoisers: x0_hat = denoiser(x, t, **cond), E[x_0 | x_t, cond]; and the one class that calls a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast, overload, runtime_checkable

import torch
from torch import Tensor, nn

from .ahead import Ahead, remembered
from .config import register
from .errors import InputError, nearest
from .model import Model
from .predictions import Prediction
from .schedules import Schedule


@runtime_checkable
class Denoiser(Protocol):
    """E[x_0 | x_t, cond]: a plain tensor from x [B, ...] and t (a float for all rows, or float64[B])."""

    @property
    def schedule(self) -> Schedule:
        """The corruption that this denoiser undoes."""
        ...

    @property
    def cond(self) -> Mapping[str, Any]:
        """The condition keys that it takes, each with its null value (None where there is none)."""
        ...

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return E[x_0 | x_t = x, cond], a fresh tensor shaped like `x`."""
        ...


class Batch(NamedTuple):
    """A batch of clean data with its conditions: x0 [B, ...], and a tensor [B, ...] for each condition key."""

    x0: Tensor
    cond: dict[str, Tensor]


class Scaling(Protocol):
    """What a network sees of (x, t)."""

    def __call__(self, t: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
        """Return (c_in, c_noise): the factor on x and the label of the noise level."""
        ...


@register
@dataclass(frozen=True, kw_only=True)
class Plain:
    """c_in = 1, c_noise = scale t + shift: DDPM's time label.

    Default 1000 t: networks with sinusoidal embeddings expect 0..1000 (arXiv 2006.11239, app. B). A `Table` of T
    entries, whose index i stands at t = (i + 1) / T, takes scale = T and shift = -1.
    """

    scale: float = 1000.0
    shift: float = 0.0

    def __call__(self, t: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
        """Return (c_in, c_noise)."""
        return 1.0, self.scale * t + self.shift


@register
@dataclass(frozen=True, kw_only=True)
class FlowTime:
    """c_in = 1, c_noise = scale sigma + shift: the label of rectified flows, whose own time is the noise level.

    Default 1000 sigma, SD3's (arXiv 2403.03206 and its code); a flow that counts from noise to data has 1 - sigma.
    """

    scale: float = 1000.0
    shift: float = 0.0

    def __call__(self, t: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
        """Return (c_in, c_noise)."""
        return 1.0, self.scale * sigma + self.shift


@register
@dataclass(frozen=True, kw_only=True)
class EDM:
    """c_in = 1 / sqrt(sigma^2 + alpha^2 sd^2), c_noise = ln(sigma / alpha) / 4 (arXiv 2206.00364, table 1).

    The input has unit variance at every t. |lambda| is clipped at `limit` so that both ends of a schedule are finite;
    the default 20 lies beyond every noise level in use. `sigma_data` 0.5 is the paper's.
    """

    sigma_data: float = 0.5
    limit: float = 20.0

    def __call__(self, t: Any, alpha: Any, sigma: Any) -> tuple[Any, Any]:
        """Return (c_in, c_noise)."""
        c_in = (sigma * sigma + alpha * alpha * self.sigma_data**2) ** -0.5
        if isinstance(alpha, Tensor):
            lam = (torch.log(alpha) - torch.log(cast(Tensor, sigma))).clamp(-self.limit, self.limit)
        elif alpha <= 0.0 or sigma <= 0.0:
            lam = self.limit if alpha > 0.0 else -self.limit
        else:
            lam = min(max(math.log(alpha / sigma), -self.limit), self.limit)
        return c_in, -0.25 * lam


class Preconditioned(Model):
    """A network made into a denoiser: x0_hat = prediction.to_x0(net(c_in x, c_noise, **cond), x, alpha, sigma).

    The only class that calls a network, and the only place that casts: the network runs in its own dtype, the state
    keeps the dtype that it came with.

    A network is called as `net(x, c_noise, **cond)` with c_noise float32[B], or [1] when all rows share it. It
    declares `cond`, its condition keys with their null values. If it has `embed(c_noise) -> emb` and
    `trunk(x, emb, **cond)` with forward = trunk(x, embed(c_noise)), `prepare` computes all embeddings of a run at once.
    If it also has `condition(**cond) -> dict`, the trunk takes that instead of cond, and a run computes it once;
    `steer` and `tables`, what more of it a run computes once, are described in `Ahead`.
    `hooks` reach into a network that takes them (`sfumato.nets.hooks`).

    Raises `InputError` for condition keys that the network does not take.
    """

    def __init__(
        self, net: nn.Module, schedule: Schedule, prediction: Prediction, scaling: Scaling | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.schedule = schedule
        self.prediction = prediction
        self.scaling: Scaling = Plain() if scaling is None else scaling

    @property
    def cond(self) -> Mapping[str, Any]:
        """The network's condition keys with their null values."""
        return cast("Mapping[str, Any]", getattr(self.net, "cond", {}))

    def around(self) -> dict[str, Any]:
        """Return schedule, prediction and scaling."""
        return {"schedule": self.schedule, "prediction": self.prediction, "scaling": self.scaling}

    def forward(self, x: Tensor, t: float | Tensor, hooks: Any = None, **cond: Any) -> Tensor:
        """Return E[x_0 | x_t = x, cond]."""
        out, alpha, sigma = self.output(x, t, hooks, **cond)
        return self.prediction.to_x0(out, x, alpha, sigma)

    def output(self, x: Tensor, t: float | Tensor, hooks: Any = None, **cond: Any) -> tuple[Tensor, Any, Any]:
        """Return the network's own output, with alpha and sigma shaped for x: what an objective compares."""
        check_cond(self.cond, cond)
        alpha, sigma = self.schedule(t)
        c_in, c_noise = self.scaling(t, alpha, sigma)
        label = _label(c_noise, x)
        if isinstance(t, Tensor):
            alpha, sigma, c_in = (per_row(v, x) for v in (alpha, sigma, c_in))
        return _call(self.net, net_dtype(self.net), x, c_in, label, cond, hooks), alpha, sigma

    def prepare(self, times: Sequence[float]) -> Denoiser:
        """Return this denoiser with all that depends on t alone computed once, for the `times` of one run."""
        embed = getattr(self.net, "embed", None)
        if embed is None or not times:
            return self
        return _Prepared(self, times)


class _Prepared:
    """A `Preconditioned` for one run: what its states do not decide is computed once (`Ahead`)."""

    def __init__(self, denoiser: Preconditioned, times: Sequence[float]) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.cond = denoiser.cond
        self.prediction = denoiser.prediction
        moments = torch.tensor(list(times), dtype=torch.float64)
        alpha, sigma = denoiser.schedule(moments)
        c_in, c_noise = denoiser.scaling(moments, alpha, sigma)
        net = cast(Any, denoiser.net)
        self._dtype, self._trunk, self._to_x0 = net_dtype(net), net.trunk, denoiser.prediction.to_x0
        self._condition: Callable[..., dict[str, Any]] | None = getattr(net, "condition", None)
        parameter = next(denoiser.net.parameters(), None)
        labels = c_noise.to(device=getattr(parameter, "device", "cpu"), dtype=torch.float32)
        self._ahead = Ahead(net, labels)
        self.memo = self._ahead.memo
        factors = c_in.tolist() if isinstance(c_in, Tensor) else [c_in] * len(times)
        rows = zip(range(len(times)), alpha.tolist(), sigma.tolist(), factors, self._ahead.rows, strict=True)
        self._rows = dict(zip(times, rows, strict=True))

    def __call__(self, x: Tensor, t: float | Tensor, hooks: Any = None, **cond: Any) -> Tensor:
        out, alpha, sigma = self.output(x, t, hooks, **cond)
        return self._to_x0(out, x, alpha, sigma)

    def output(self, x: Tensor, t: float | Tensor, hooks: Any = None, **cond: Any) -> tuple[Tensor, Any, Any]:
        if isinstance(t, Tensor):
            return self.denoiser.output(x, t, hooks, **cond)
        check_cond(self.cond, cond)
        i, alpha, sigma, c_in, row = self._rows.get(t) or self._between(x, t)
        condition = self._condition
        given: Mapping[str, Any] = cond
        if condition is not None:
            given = remembered(self, "condition", cond, lambda: condition(**cond))
        given = self._ahead.told(i, x, given)
        return _call(self._trunk, self._dtype, x, c_in, row, given, hooks), alpha, sigma

    def _between(self, x: Tensor, t: float) -> tuple[None, float, float, Any, Tensor]:
        """Return what there is of a time that was not announced: a solver's own, between two of the grid."""
        alpha, sigma = self.schedule(t)
        c_in, c_noise = self.denoiser.scaling(t, alpha, sigma)
        return None, alpha, sigma, c_in, cast(Any, self.denoiser.net).embed(_label(c_noise, x))


def _call(
    function: Any, dtype: torch.dtype, x: Tensor, c_in: Any, label: Tensor, cond: Mapping[str, Any], hooks: Any
) -> Tensor:
    """Return function(c_in x, label, **cond) in the dtype of x: the one cast to the network's and back."""
    inside = x if isinstance(c_in, float) and c_in == 1.0 else x * c_in
    more = {} if hooks is None else {"hooks": hooks}
    return cast(Tensor, function(inside.to(dtype), label, **cond, **more)).to(x.dtype)


def prepare(denoiser: Denoiser, times: Sequence[float]) -> Denoiser:
    """Return `denoiser.prepare(times)` where it has one, else `denoiser` itself."""
    method = getattr(denoiser, "prepare", None)
    return denoiser if method is None else cast(Denoiser, method(times))


def device_of(denoiser: Any) -> torch.device:
    """Return the device of the first parameter of `denoiser`, or of the denoiser that it wraps; the CPU without any."""
    while not hasattr(denoiser, "parameters") and hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    first = next(iter(denoiser.parameters()), None) if hasattr(denoiser, "parameters") else None
    return torch.device("cpu") if first is None else cast(Tensor, first).device


def check_cond(known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise `InputError` for condition keys that are not `known`."""
    for key in given:
        if key not in known:
            raise InputError(f"this denoiser takes no condition {key!r}{nearest(key, known)}")


@overload
def per_row(value: Tensor, x: Tensor) -> Tensor: ...
@overload
def per_row(value: float, x: Tensor) -> float: ...
@overload
def per_row(value: Tensor | float, x: Tensor) -> Tensor | float: ...
def per_row(value: Tensor | float, x: Tensor) -> Tensor | float:
    """Return `value` [B] shaped [B, 1, ...] in the dtype of `x`, so that it multiplies rows and never columns."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != x.shape[:1]:
        raise InputError(f"one value a row is needed: got shape {tuple(value.shape)} for x of shape {tuple(x.shape)}")
    return value.to(device=x.device, dtype=x.dtype).reshape(-1, *(1 for _ in x.shape[1:]))


def net_dtype(net: nn.Module) -> torch.dtype:
    """Return the dtype of the network's first parameter (float32 where it has none)."""
    parameter = next(net.parameters(), None)
    return torch.float32 if parameter is None else parameter.dtype


def _label(c_noise: Any, x: Tensor) -> Tensor:
    """Return the noise label as float32 on the device of `x`: [B], or [1] when all rows share it."""
    if isinstance(c_noise, Tensor):
        return c_noise.to(device=x.device, dtype=torch.float32)
    return torch.tensor([c_noise], dtype=torch.float32, device=x.device)
