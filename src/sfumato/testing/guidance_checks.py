"""Laws that every guidance keeps, and those of the kinds that are known here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core import Denoiser, Schedule, grids, sample
from ..guidance import ClassifierFree
from ..solvers import DPMpp2M
from .exact import Counted
from .report import Case, title_of
from .table import CLASSES, PICTURES


def rewrap(guided: Any, denoiser: Denoiser) -> Any:
    """Return the same nest of guidance around another denoiser."""
    if not (dataclasses.is_dataclass(guided) and hasattr(guided, "denoiser")):
        return denoiser
    return dataclasses.replace(guided, denoiser=rewrap(guided.denoiser, denoiser))  # type: ignore[type-var]


def guidance_laws(name: str, guided: Any, schedule: Schedule) -> Iterator[Case]:
    """Yield the checks of one nest of guidance on a schedule; the denoiser inside it is replaced by exact ones."""
    checks: list[Any] = [_attributes, _rows_apart, _times, _samples, _inputs_kept]
    if isinstance(guided, ClassifierFree):
        checks += [_off, _unconditional, _linear]
    for check in checks:
        title = title_of(check)
        yield Case(f"guidance: {title}", name, lambda c=check: c(guided, schedule))


def _data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return PICTURES.sample(4, 3, dtype=dtype) * 1.2, torch.tensor([2, 0, 1, 1])


def _attributes(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """Schedule and conditions are those of the inner denoiser."""
    made = rewrap(guided, CLASSES.denoiser(schedule))
    return dict(made.cond), str(dict(CLASSES.cond)), dict(made.cond) == dict(CLASSES.cond) and made.schedule == schedule


def _rows_apart(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """A row does not change with its neighbours, also where B = H = W."""
    made = rewrap(guided, PICTURES.denoiser(schedule))
    worst = 0.0
    for dtype, bar in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        x, y = _data(dtype)
        for t in (0.2, 0.5, 0.9):
            batch = made(x, t, y=y)
            order = [2, 0, 3, 1]
            gaps = [(made(x[order], t, y=y[order]) - batch[order]).abs().max()]
            gaps += [(made(x[i : i + 1], t, y=y[i : i + 1]) - batch[i]).abs().max() for i in range(4)]
            worst = max(worst, float(max(gaps)) / bar)
            worst = worst if batch.dtype == dtype and batch.shape == x.shape else float("inf")
    return worst, "<= 1 rounding unit (1e-13, 1e-5)", worst <= 1


def _times(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """A time for each row, where B = H = W, is each row at its time."""
    made = rewrap(guided, PICTURES.denoiser(schedule))
    x, y = _data()
    t = torch.tensor([0.15, 0.4, 0.6, 0.95], dtype=torch.float64)
    batch = made(x, t, y=y)
    worst = max(float((made(x[i : i + 1], float(t[i]), y=y[i : i + 1]) - batch[i]).abs().max()) for i in range(4))
    return worst, "<= 1e-11", worst <= 1e-11


def _samples(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """A run from t = 1 to 0 is finite, and differs from an unguided one."""
    y = torch.tensor([0, 1, 1, 0])
    ends = [
        sample(d, (4, 2), solver=DPMpp2M(), grid=grids.uniform(schedule, 24), seeds=range(4), cond={"y": y})
        for d in (rewrap(guided, CLASSES.denoiser(schedule)), CLASSES.denoiser(schedule))
    ]
    gap = float((ends[0] - ends[1]).abs().max())
    return gap, "> 1e-3", bool(ends[0].isfinite().all()) and gap > 1e-3


def _inputs_kept(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """X and the conditions are left alone."""
    made = rewrap(guided, PICTURES.denoiser(schedule))
    x, y = _data()
    before, labels = x.clone(), y.clone()
    made(x, 0.5, y=y)
    differing = int((x != before).sum()) + int((y != labels).sum())
    return differing, "0 values differ", differing == 0


def _off(guided: ClassifierFree, schedule: Schedule) -> tuple[object, str, bool]:
    """W = 1 is the conditional denoiser, bit for bit, at its cost."""
    counted = Counted(PICTURES.denoiser(schedule))
    made = dataclasses.replace(guided, denoiser=counted, scale=1.0)
    x, y = _data()
    differing = int((made(x, 0.5, y=y) != PICTURES.denoiser(schedule)(x, 0.5, y=y)).sum())
    return (differing, counted.rows), "0 values differ, 4 rows", (differing, counted.rows) == (0, 4)


def _unconditional(guided: ClassifierFree, schedule: Schedule) -> tuple[object, str, bool]:
    """W = 0 is the unconditional denoiser."""
    made = dataclasses.replace(guided, denoiser=PICTURES.denoiser(schedule), scale=0.0)
    x, y = _data()
    worst = float((made(x, 0.5, y=y) - PICTURES.denoiser(schedule)(x, 0.5)).abs().max())
    return worst, "<= 1e-14", worst <= 1e-14


def _linear(guided: ClassifierFree, schedule: Schedule) -> tuple[object, str, bool]:
    """Null + w (cond - null), with classes whose denoisers are known."""
    made = rewrap(guided, CLASSES.denoiser(schedule))
    x = CLASSES.sample(6, 2, dtype=torch.float64)
    worst = 0.0
    for y in (0, 1):
        null, cond = (m.denoiser(schedule)(x, 0.4) for m in (CLASSES, CLASSES.conditional(y)))
        exact = null + guided.scale * (cond - null)
        worst = max(worst, float((made(x, 0.4, y=torch.full((6,), y)) - exact).abs().max()))
    return worst, "<= 1e-12", worst <= 1e-12
