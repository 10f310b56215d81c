"""Solvers and grids by the names that people type, and the defaults of a pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ..core import InputError, Schedule, Solver, grids, nearest, register
from ..solvers import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    LCM,
    LMS,
    PLMS,
    PNDM,
    RK45,
    TCD,
    Ancestral,
    AnnealedLangevin,
    DDPMLearned,
    DPMAdaptive,
    DPMpp2M,
    DPMpp2MHeunSDE,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp2SSDE,
    DPMpp3M,
    DPMpp3MSDE,
    DPMpp3MShipped,
    DPMpp3S,
    DPMSolver2,
    DPMSolver3,
    Euler,
    Heun,
    PredictorCorrector,
    Restart,
    SASolver,
    UniP,
    UniPC,
)
from .request import checked

Grid = Callable[[Schedule, int], Tensor]
T = TypeVar("T")

SOLVERS: dict[str, Solver] = {
    "ddpm": DDPM(),
    "ddpm-learned": DDPMLearned(),
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "dpm++2m": DPMpp2M(),
    "dpm++2s-sde": DPMpp2SSDE(),
    "dpm++2m-sde": DPMpp2MSDE(),
    "dpm++2m-sde-heun": DPMpp2MHeunSDE(),
    "dpm++3m": DPMpp3M(),
    "dpm++3m-shipped": DPMpp3MShipped(),
    "dpm++3m-sde": DPMpp3MSDE(),
    "dpm++2s": DPMpp2S(),
    "dpm++3s": DPMpp3S(),
    "dpm-solver-1": DDIM(),  # what it is
    "dpm-solver-2": DPMSolver2(),
    "dpm-solver-3": DPMSolver3(),
    "deis": DEIS(),
    "unip": UniP(),
    "unipc": UniPC(),
    "unipc-3": UniPC(p=3),
    "sa": SASolver(),
    "euler-ancestral": DDIM(eta=1.0),  # what it is, in any coordinates
    "dpm2": DPMSolver2(),  # what it is
    "dpm2-ancestral": Ancestral(),
    "dpm++2s-ancestral": Ancestral(solver=DPMpp2S()),
    "lms": LMS(),
    "plms": PLMS(),
    "pndm": PNDM(),
    "ipndm": IPNDM(),
    "rk45": RK45(),
    "dpm-adaptive": DPMAdaptive(),
    "restart": Restart(),
    "pc": PredictorCorrector(),
    "langevin": AnnealedLangevin(),
    "tcd": TCD(),
    "lcm": LCM(),
}
GRIDS: dict[str, Grid] = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "karras": grids.karras,
    "log_snr": grids.log_snr,
    "logistic": grids.logistic,
    "karras-table": grids.karras_table,
    "leading": grids.leading,
    "leading-0": grids.leading_zero,
    "leading-open": grids.leading_open,
    "linspace": grids.linspace,
    "linspace-open": grids.linspace_open,
    "trailing": grids.trailing,
    "flow": grids.flow,
    "lcm": grids.lcm,
    "ays": grids.tabulated,
}


@register
@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a pipeline uses where a call says nothing: solver, grid (a name of `GRIDS`), steps and guidance scale.

    20 steps are the usual choice for trained models (arXiv 2211.01095, section 7, uses 15 to 20); guidance 1 is off.
    DEIS of third order on the logistic grid needs the fewest evaluations for most errors on three exact mixtures, of
    which one is stiff, from 5 evaluations on (`sfumato bench evaluations`). The fourth order needs still fewer where
    data are smooth, and is far worse where they are stiff or the steps few. `guided_channels`: see `ClassifierFree`.
    `clip`: x0_hat, guided or not, is clipped to [-clip, clip] in each step, as models of pixels mostly are sampled.
    """

    solver: Solver = field(default_factory=DEIS)
    grid: str = "logistic"
    steps: int = 20
    guidance: float = 1.0
    guided_channels: int | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        by_name("grid", self.grid, GRIDS)
        if self.steps < 1 or not math.isfinite(self.guidance):
            raise InputError(f"Defaults needs steps of at least 1 and a finite guidance, got {self}")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise InputError(f"Defaults.clip={self.clip} must be positive and finite, such as 1; None is no clip")


def by_name(what: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`, in any case; raises `InputError` with the nearest name."""
    found = table.get(name.lower())
    if found is None:
        raise InputError(f"unknown {what} {name!r}{nearest(name.lower(), table)}")
    return found


def solver_of(solver: str | Solver) -> Solver:
    """Return the solver of a name, or the one that is given; `InputError` for what is none."""
    if isinstance(solver, str):
        return by_name("solver", solver, SOLVERS)
    if isinstance(solver, type) or not hasattr(solver, "step"):
        what = f"the class {solver.__name__}" if isinstance(solver, type) else repr(solver)
        raise InputError(f"{what:.60} is no solver: give a name, or an object such as DDIM()")
    return solver


def grid_of(grid: str | Tensor | Sequence[float], schedule: Schedule, steps: int | None, default: int) -> Tensor:
    """Return the times float64[n + 1]: a named grid of `steps` (else `default`), or the times that are given.

    Raises `InputError` for an unknown name, times that are no grid, and where `steps` contradicts the times.
    """
    checked(steps=default if steps is None else steps)
    if isinstance(grid, str):
        return by_name("grid", grid, GRIDS)(schedule, default if steps is None else steps)
    times = torch.as_tensor(grid, dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2:
        raise InputError(f"a grid is a falling sequence of at least two times, got the shape {list(times.shape)}")
    if not bool(((times >= 0) & (times <= 1 + 1e-6)).all()):  # 999 and the like: what networks are told, not times
        raise InputError(f"a grid's times lie from 1, noise, to 0, data; got {times.max():.6g} to {times.min():.6g}")
    if steps is not None and steps != len(times) - 1:
        raise InputError(f"steps={steps} but the grid has {len(times) - 1} steps; give one of the two")
    return times
