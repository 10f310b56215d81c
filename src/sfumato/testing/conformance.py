"""The conformance suite: everything that a part must do, on everything that it may meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ..core import InputError, Schedule
from ..guidance import TwoScale
from ..inverse import Measured
from .config_checks import (
    config_laws,
    options,
    prediction_effect,
    scaling_effect,
    schedule_effect,
    solver_effect,
)
from .guidance_checks import guidance_laws, rewrap
from .prediction_checks import prediction_laws, same_sample
from .report import Case, Report, run
from .run_checks import run_laws
from .schedule_checks import schedule_laws
from .solver_checks import convergence, drawn
from .table import CLASSES, GUIDANCE, PREDICTIONS, SCALINGS, SCHEDULES, SOLVERS, Pictured

# the three families: variance preserving, variance exploding, and one whose alpha ends at 0
_FAMILIES = {name: SCHEDULES[name] for name in ("VPLinear", "VE", "Rectified")}


def check(part: Any) -> Report:
    """Run every check that applies to a solver, schedule, prediction, scaling or guidance of your own.

    A solver runs on every schedule, a schedule with every solver and prediction, a prediction on every schedule; a
    guidance, built around any denoiser, is rebuilt around exact ones. Returns a `Report` to print; it raises nothing
    for a failure, `report.raise_for_failures()` does.

    Raises `InputError` for something that is none of these.
    """
    return run(cases(part))


def cases(part: Any = None) -> list[Case]:
    """Return the checks of `part`, or of everything in the conformance table, for a test to be parametrised over."""
    if part is not None:
        return list(_cases(_name(part), part))
    everything = {**SCHEDULES, **PREDICTIONS, **SCALINGS, **SOLVERS, **GUIDANCE}
    # a pair of a solver or a prediction with a schedule is listed once, under the former
    return [
        case for name, part in everything.items() for case in _cases(name, part, pairs=not isinstance(part, Schedule))
    ]


def _cases(name: str, part: Any, pairs: bool = True) -> Iterator[Case]:
    if isinstance(part, type):
        raise InputError(f"a class cannot be checked: give an instance, such as {part.__name__}()")
    if isinstance(part, Schedule):
        yield from schedule_laws(name, part)
        yield from _config(name, part, schedule_effect)
        if pairs:
            for other, solver in SOLVERS.items():
                yield from convergence(f"{other} on {name}", solver, part)
            for other, prediction in PREDICTIONS.items():
                yield from same_sample(f"{other} on {name}", prediction, part)
    elif hasattr(part, "step") and hasattr(part, "nfe"):
        for other, schedule in SCHEDULES.items():
            yield from convergence(f"{name} on {other}", part, schedule)
        for other, schedule in _FAMILIES.items():
            yield from run_laws(f"{name} on {other}", part, schedule)
            yield from drawn(f"{name} on {other}", part, schedule)
        yield from _config(name, part, solver_effect(SCHEDULES["VPLinear"]))
    elif hasattr(part, "to_x0") and hasattr(part, "target"):
        yield from prediction_laws(name, part)
        yield from _config(name, part, prediction_effect)
        for other, schedule in SCHEDULES.items():
            yield from same_sample(f"{name} on {other}", part, schedule)
    elif isinstance(part, Measured):
        raise InputError(
            f"{name} cannot be checked: it belongs to its measurements; check_operator checks its operator"
        )
    elif hasattr(part, "denoiser") and hasattr(part, "cond"):
        for other, schedule in _FAMILIES.items():
            yield from guidance_laws(f"{name} on {other}", part, schedule)
        inner = CLASSES.denoiser(SCHEDULES["VPLinear"])
        yield from options(name, rewrap(part, inner), _guidance_effect)
    elif callable(part) and dataclasses.is_dataclass(part):
        yield from _config(name, part, scaling_effect)
    else:
        raise InputError(
            f"{_name(part)} cannot be checked: give a solver, schedule, prediction, scaling or a guided denoiser"
        )


def _config(name: str, part: Any, effect: Any) -> Iterator[Case]:
    if dataclasses.is_dataclass(part):
        yield from config_laws(name, part)
        yield from options(name, part, effect)


def _guidance_effect(guided: Any) -> Any:
    x, y = CLASSES.sample(6, 2) * 1.1, CLASSES.components(6, 3).clamp(max=1)
    if isinstance(guided, TwoScale):  # a picture beside the class
        paired = Pictured(denoiser=CLASSES.denoiser(SCHEDULES["VPLinear"]))
        return dataclasses.replace(guided, denoiser=paired)(x, 0.3, y=y, extra=0.1 * x)
    return guided(x, 0.3, y=y)


def _name(part: Any) -> str:
    return getattr(part, "__name__", type(part).__name__)
