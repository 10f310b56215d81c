"""What all guidance shares: a denoiser around another, the two branches of an evaluation, gradients on x_t."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor

from ..core import Denoiser, InputError, Schedule, per_row, prepare
from ..core.ahead import remembered


class Guided(Denoiser, Protocol):
    """A denoiser that steers another: it also gives the unguided answer that its own started from."""

    @property
    def plain(self) -> Denoiser:
        """The innermost denoiser, without any guidance."""
        ...

    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided x0_hat, conditional x0_hat) from the same evaluations."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Around(ABC):
    """A guidance around `denoiser`: a method gives its `branches`, the rest is the inner denoiser's."""

    denoiser: Denoiser

    @property
    def schedule(self) -> Schedule:
        """The schedule of the guided denoiser."""
        return self.denoiser.schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The condition keys of the guided denoiser."""
        return self.denoiser.cond

    @property
    def plain(self) -> Denoiser:
        """The innermost denoiser, without any guidance."""
        return getattr(self.denoiser, "plain", self.denoiser)

    def prepare(self, times: Sequence[float]) -> Self:
        """Return this with the inner denoiser prepared for the times of a run."""
        return replace(self, denoiser=prepare(self.denoiser, times))

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return the guided x0_hat."""
        return self.branches(x, t, **cond)[0]

    @abstractmethod
    def branches(self, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return (guided x0_hat, conditional x0_hat) from the same evaluations."""


def branches_of(denoiser: Denoiser, x: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
    """Return (guided, conditional) of a denoiser; one that is not guided gives its own answer for both."""
    method = getattr(denoiser, "branches", None)
    if method is not None:
        return cast("tuple[Tensor, Tensor]", method(x, t, **cond))
    x0 = denoiser(x, t, **cond)
    return x0, x0


def taken(denoiser: Denoiser, cond: Mapping[str, Any]) -> dict[str, Any]:
    """Return those conditions that `denoiser` takes: what a guidance uses beyond them is its own."""
    return {key: value for key, value in cond.items() if key in denoiser.cond}


def with_null(
    denoiser: Denoiser, null: Mapping[str, Any] | None, x: Tensor, t: float | Tensor, cond: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return (conditional, null) in one batched evaluation; `null` overrides the denoiser's own null values."""
    nulls = {**denoiser.cond, **(null or {})}

    def doubled() -> dict[str, Tensor]:
        return {key: torch.cat([value, _filled(nulls.get(key), value)]) for key, value in cond.items()}

    given = {**cond, **{f"null {key}": nulls.get(key) for key in cond}}
    both = remembered(denoiser, "doubled", given, doubled)
    time = torch.cat([t, t]) if isinstance(t, Tensor) else t
    conditional, nothing = playing(denoiser, ("cond", "null"))(torch.cat([x, x]), time, **both).chunk(2)
    return conditional, nothing


def playing(denoiser: Denoiser, roles: tuple[str, ...]) -> Denoiser:
    """Return `denoiser` told the roles of equal parts of its batch, where hooks listen to it."""
    method = getattr(denoiser, "playing", None)
    return denoiser if method is None else cast(Denoiser, method(roles))


def check_null(denoiser: Denoiser, null: Mapping[str, Any] | None) -> None:
    """Raise `InputError` unless some condition has a null value."""
    if all(value is None for value in {**denoiser.cond, **(null or {})}.values()):
        raise InputError("classifier-free guidance needs a condition with a null value; this denoiser has none")


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of `function(x)` [B, ...], summed, with respect to `x` [B, ...], also under `no_grad`.

    A row's values depend on that row alone, and so does its gradient, though the sum goes over all rows.
    Where `x` itself is being differentiated (a guidance around this one), the gradient can be differentiated too.
    """
    recorded = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        free = x if recorded else x.detach().requires_grad_()
        return torch.autograd.grad(function(free).sum(), free, create_graph=recorded)[0]


def reach(name: str, schedule: Schedule, t: float | Tensor, x: Tensor) -> Any:
    """Return sigma^2 / alpha at `t`, shaped for `x`: what turns a gradient of log p on x_t into a shift of x0_hat.

    Tweedie's formula, x0_hat = (x + sigma^2 grad log p(x_t)) / alpha (arXiv 2011.13456, eq. 7), is linear in the score.
    Raises `InputError` where alpha = 0: x_t says nothing about x_0 there, and the gradient on it nothing either.
    """
    alpha, sigma = schedule(cast(Any, t))
    if bool((alpha <= 0).any()) if isinstance(alpha, Tensor) else alpha <= 0:
        raise InputError(
            f"{name} steers by a gradient on x_t, which says nothing of x_0 where alpha = 0 (this schedule's t = 1): "
            "start the grid below it (start=0.999)"
        )
    return per_row(sigma * sigma / alpha, x)


def step_at(grid: Tensor, t: float | Tensor) -> Tensor:
    """Return the step k of `grid` whose times (t_(k+1), t_k] hold `t`, int64 of its shape; the nearest beyond them."""
    moment = torch.as_tensor(t, dtype=torch.float64).cpu()
    return ((grid.double() >= moment[..., None]).sum(-1) - 1).clamp(0, len(grid) - 2)


def check_run(name: str, grid: Tensor, times: Sequence[float]) -> None:
    """Raise `InputError` unless the `times` of a run are those of `grid`, or of a stretch of it."""
    known = grid.double().tolist()[:-1]
    start = known.index(times[0]) if times and times[0] in known else 0
    if list(times) != known[start : start + len(times)]:
        raise InputError(
            f"{name} was given a grid of {len(known)} steps and is run over another of {len(times)}: its strength "
            f"belongs to the grid, so give {name} the grid of the run"
        )


def _filled(null: Any, value: Tensor) -> Tensor:
    if null is None:
        return value
    return torch.as_tensor(null, dtype=value.dtype, device=value.device).expand_as(value)
