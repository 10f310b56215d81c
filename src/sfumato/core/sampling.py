"""The one sampling loop, and what a solver is."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import repeat
from operator import gt
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from .config import REGISTRY
from .denoiser import Denoiser, check_cond, device_of, prepare
from .errors import InputError
from .noise import Noise
from .schedules import Schedule


class Step(NamedTuple):
    """One step k of a grid, from t to s < t: step i of n, with the schedule's values at both ends, as floats."""

    i: int
    n: int
    t: float
    s: float
    alpha_t: float
    sigma_t: float
    alpha_s: float
    sigma_s: float

    @property
    def lam_t(self) -> float:
        """ln(alpha_t / sigma_t), -inf where alpha_t = 0."""
        return math.log(self.alpha_t / self.sigma_t) if self.alpha_t > 0.0 else -math.inf

    @property
    def lam_s(self) -> float:
        """ln(alpha_s / sigma_s)."""
        return math.log(self.alpha_s / self.sigma_s)


class Solver(Protocol):
    """A frozen dataclass that turns a denoiser into steps; it holds settings and no state.

    `order` is the order of convergence of its deterministic part, `nfe` the evaluations of one step (None where steps
    differ, or where the solver chooses its own), `stochastic` whether it draws noise (then moments converge rather
    than paths; an order of 0 says that it mixes, without a step that converges). Class variables, fields and properties
    will do alike.

    Two methods are optional. `evaluations(grid, schedule) -> int | None` counts the evaluations of a run over a grid
    that ends above the data, for a solver whose steps differ; None says that they are known afterwards only.
    `fits(schedule) -> None` raises `InputError` for a schedule that the settings do not fit: `sample` asks before
    anything runs. An attribute `distilled = True` says that the loop is for models whose x0_hat is the end of the flow;
    fields `atol` and `rtol`, that the solver chooses its own steps.
    """

    @property
    def order(self) -> int:
        """The order of convergence."""
        ...

    @property
    def nfe(self) -> int | None:
        """The evaluations of one step."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether these settings draw noise."""
        ...

    def init(self, x: Tensor) -> Any:
        """Return the state before the first step."""
        ...

    def step(
        self, denoiser: Denoiser, x: Tensor, k: Step, state: Any, noise: Noise, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return (x_s, state) from x = x_t, for sigma_s > 0. May overwrite `x`, which belongs to the loop."""
        ...


_LARGE = 1 << 18  # values: from here on a pass over a state costs more than the calls that save one

_GRID = "a grid is a falling sequence of at least two times: use one of sfumato.grids"

Callback = Callable[[Step, Tensor], None]


def steps(schedule: Schedule, grid: Tensor) -> tuple[Step, ...]:
    """Return the steps of a grid of times (float64[n + 1], falling) on a schedule."""
    if grid.ndim != 1:
        raise InputError(_GRID)
    times = tuple(grid.double().tolist())
    if _fixed(schedule):
        with suppress(TypeError):  # one that cannot be compared is planned anew
            return _plan(schedule, times)
    return _plan.__wrapped__(schedule, times)


def _fixed(schedule: Schedule) -> bool:
    """Return whether a schedule is registered, with those that it is made of: numbers, which never change."""
    if REGISTRY.get(type(schedule).__name__) is not type(schedule):
        return False
    values = (getattr(schedule, field.name) for field in fields(cast(Any, schedule)))
    return all(_fixed(v) for v in values if isinstance(v, Schedule))


@functools.lru_cache(maxsize=64)  # the next batch on the same grid asks for the same steps
def _plan(schedule: Schedule, t: tuple[float, ...]) -> tuple[Step, ...]:
    if len(t) < 2 or not all(map(gt, t, t[1:])):
        raise InputError(_GRID)
    n, alpha, sigma = len(t) - 1, *(v.tolist() for v in schedule(torch.tensor(t, dtype=torch.float64)))
    rows = zip(range(n), repeat(n), t, t[1:], alpha, sigma, alpha[1:], sigma[1:], strict=False)
    return tuple(map(Step._make, rows))


def evaluations(solver: Solver, grid: Tensor, schedule: Schedule | None = None) -> int | None:
    """Return how often `sample` calls the denoiser: `nfe` a step, and once for a last step that ends at the data.

    None for a solver that chooses its own steps. Raises `InputError` without a `schedule` where it decides the number.
    """
    last = int(float(grid[-1]) == 0.0)
    inner = grid[: len(grid) - last]
    counted = getattr(solver, "evaluations", None)
    if counted is not None:
        number = counted(inner, schedule)
    else:
        number = None if solver.nfe is None else solver.nfe * (len(inner) - 1)
    return None if number is None else number + last


def fit(solver: Solver, schedule: Schedule) -> None:
    """Raise `InputError` where a solver says that it does not fit a schedule."""
    fits = getattr(solver, "fits", None)
    if fits is not None:
        fits(schedule)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    shape: Sequence[int] | None = None,
    *,
    solver: Solver,
    grid: Tensor,
    seeds: Iterable[int] | Noise,
    x: Tensor | None = None,
    cond: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    compile: bool = False,
) -> Tensor:
    """Draw samples: run `solver` over `grid` and take the terminal step to sigma = 0, which is x_0 = E[x_0 | x_t].

    Starts at sigma(grid[0]) times the seeds' noise, of `shape` [B, ...], or at `x`, which is taken as x_t at grid[0]
    and is not changed. `seeds` gives one seed a row. `callback(k, x)` is called after each step with the state, which
    the next step may overwrite; raising in it cancels the run. Without `device`, that of the denoiser's parameters.

    `compile` makes the steps into compiled graphs, which pays where one network and grid are run many times and a step
    costs less than the calls in it; noise and grid are the same, samples agree to rounding.

    Raises `InputError` for a shape, seeds, conditions or a solver that do not fit.
    """
    noise = seeds if isinstance(seeds, Noise) else Noise(seeds)
    plan = steps(denoiser.schedule, grid)
    cond = {} if cond is None else cond
    check_cond(denoiser.cond, cond)
    fit(solver, denoiser.schedule)
    if x is None:
        if shape is None:
            raise InputError("sample needs a shape, (batch, ...), or a start x")
        place = device_of(denoiser) if device is None else device
        x = noise.normal(shape, "start", dtype=dtype, device=place).mul_(plan[0].sigma_t)
    else:
        if len(noise) != len(x):
            raise InputError(f"{len(noise)} seeds for {len(x)} samples: give one seed for each row of x")
        x = x.clone()
    if compile:
        from .compiled import run  # torch's compiler is slow to import

        return run(denoiser, x, solver, plan, noise, cond, callback)
    return loop(prepare(denoiser, [k.t for k in plan]), x, solver, plan, noise, cond, callback)


def loop(
    ready: Denoiser,
    x: Tensor,
    solver: Solver,
    plan: Sequence[Step],
    noise: Noise,
    cond: Mapping[str, Any],
    callback: Callback | None,
) -> Tensor:
    """Return x at the end of `plan`, from `x` at its start, with a denoiser that is prepared for its times."""
    state = solver.init(x)
    for k in plan:
        if k.sigma_s == 0.0:
            x = ready(x, k.t, **cond)
            if k.alpha_s != 1.0:
                x = x * k.alpha_s
        else:
            x, state = solver.step(ready, x, k, state, noise, cond)
        if callback is not None:
            callback(k, x)
    return x


def update(x: Tensor, a: float, y: Tensor, b: float, z: Tensor | None = None, c: float = 0.0) -> Tensor:
    """Return a x + b y + c z: every solver's last line. Written over `x`, unless autograd records or they share it.

    Memory is all that the step of a large state costs, a pass for each operation: `addr_` (beta x + alpha u v^T, here
    with u = 1) scales and adds in one.
    """
    place = x.data_ptr()
    if torch.is_grad_enabled() or y.data_ptr() == place or (z is not None and z.data_ptr() == place):
        x = torch.add(x * a, y, alpha=b)
        return x if z is None else x.add(z, alpha=c)
    if x.numel() >= _LARGE and _one_pass(x, y):
        x.view(1, -1).addr_(x.new_ones(1), y.view(-1), beta=a, alpha=b)
    else:
        if a != 1.0:
            x.mul_(a)
        x.add_(y, alpha=b)
    return x if z is None else x.add_(z, alpha=c)


def combine(x: Tensor, a: float, values: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Return a x + sum_j factors_j values_j, values[0] being the newest; like `update`, written over `x`.

    A past value cannot share its memory with x.
    """
    x = update(x, a, values[0], factors[0])
    for value, b in zip(values[1:], factors[1:], strict=False):
        x = x.add(value, alpha=b) if torch.is_grad_enabled() else x.add_(value, alpha=b)
    return x


def _one_pass(x: Tensor, y: Tensor) -> bool:
    """Return whether a sum is one for `addr_`; where a run is written down a compiler fuses any."""
    alike = x.dtype == y.dtype and x.is_contiguous() and y.is_contiguous()
    return alike and torch._C._len_torch_dispatch_stack() == 0
