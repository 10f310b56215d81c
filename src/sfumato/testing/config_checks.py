"""Laws of configurations: written and read back, and no field without an effect."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core import InputError, Schedule, from_config, sample, to_config
from ..solvers import DDIM
from ..solvers.churn import Churn
from ..solvers.unipc import BH1, BH2
from .grids import uniform
from .report import Case
from .table import CHURN, CLASSES, PREDICTIONS, SCHEDULES

Effect = Callable[[Any], Tensor]


def config_laws(name: str, config: Any) -> Iterator[Case]:
    """Yield the round trip of a configuration and the refusal of keys that it does not have."""
    yield Case("config: JSON and back", name, lambda: _round_trip(config))
    yield Case("config: unknown keys are refused", name, lambda: _unknown_key(config))
    yield Case("config: frozen", name, lambda: _frozen(config))


def options(name: str, config: Any, effect: Effect) -> Iterator[Case]:
    """Yield a check for each field of a dataclass, and of those nested in it: changing it changes `effect(config)`."""
    for field in dataclasses.fields(config):
        if field.name in ("denoiser", "bad", "classifier"):  # models, not settings
            continue
        yield Case(f"config: {field.name} has an effect", name, lambda f=field: _has_effect(config, f, effect))
        inner = getattr(config, field.name)
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            yield from options(
                f"{name}.{field.name}", inner, lambda v, f=field: effect(dataclasses.replace(config, **{f.name: v}))
            )


def solver_effect(schedule: Schedule) -> Effect:
    """Return what a solver's options are seen by: a run on the class mixture."""
    return lambda solver: sample(
        CLASSES.denoiser(schedule),
        (4, 2),
        solver=solver,
        grid=uniform(solver, schedule, 9),
        seeds=range(4),
        dtype=torch.float64,
    )


def schedule_effect(schedule: Schedule) -> Tensor:
    """Return what a schedule's options are seen by: its coefficients."""
    return torch.stack(schedule(torch.linspace(0.01, 1, 50, dtype=torch.float64)))


def prediction_effect(prediction: Any) -> Tensor:
    """Return what a prediction's options are seen by: x_0 of a given output."""
    x, out = CLASSES.sample(4, 1, dtype=torch.float64), CLASSES.sample(4, 2, dtype=torch.float64)
    return prediction.to_x0(out, x, 0.6, 0.8)


def scaling_effect(scaling: Any) -> Tensor:
    """Return what a scaling's options are seen by: c_in and c_noise, up to both ends."""
    values = [scaling(t, a, s) for t, a, s in ((0.0, 1.0, 0.0), (0.3, 0.8, 0.6), (1.0, 0.0, 1.0))]
    return torch.tensor(values, dtype=torch.float64)


def _round_trip(config: Any) -> tuple[object, str, bool]:
    back = from_config(json.loads(json.dumps(to_config(config))))
    return back == config, "True", back == config and type(back) is type(config)


def _unknown_key(config: Any) -> tuple[object, str, bool]:
    try:
        from_config({**to_config(config), "no_such_option": 1})
    except InputError as refusal:
        return "refused", "one line that names it", "no_such_option" in str(refusal) and "\n" not in str(refusal)
    return "accepted", "refused", False


def _frozen(config: Any) -> tuple[object, str, bool]:
    fields = [f.name for f in dataclasses.fields(config)] or ["anything"]
    try:
        setattr(config, fields[0], None)
    except (dataclasses.FrozenInstanceError, AttributeError):
        return "frozen", "frozen", True
    return "changed", "frozen", False


def _has_effect(config: Any, field: dataclasses.Field[Any], effect: Effect) -> tuple[object, str, bool]:
    base, value, tried = effect(config), getattr(config, field.name), []
    for other in _others(value, typing.get_type_hints(type(config))[field.name]):
        try:
            changed = effect(dataclasses.replace(config, **{field.name: other}))
        except (InputError, ValueError):
            continue  # not a value that this option can have
        tried.append(other)
        if changed.shape != base.shape or bool((changed != base).any()):
            return f"{value} -> {other}"[:60], "the output changes", True
    return f"tried {tried}"[:60], "the output changes", False


def _others(value: Any, hint: Any) -> Iterator[Any]:
    """Yield other values for an option of this value and type."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        near = [value * 1.1, value * 0.9, value + 0.25, value - 0.25, 0.5, 1.0, 2.0]
        yield from (v for v in ([value + 1, value - 1, value * 2] if isinstance(value, int) else near) if v != value)
    elif isinstance(value, tuple) and len(value) > 2:
        yield value[:-1]
    elif isinstance(value, Tensor):
        yield value * 0.9
    elif typing.get_origin(hint) is typing.Literal:
        yield from (v for v in typing.get_args(hint) if v != value)
    else:
        arms = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        known: list[Any] = [None, 1, "y", CHURN, Churn(amount=4.0), {"y": 0}, BH1(), BH2(), DDIM()]
        known += [*SCHEDULES.values(), *PREDICTIONS.values()]
        yield from (v for v in known if v != value and any(_is(v, arm) for arm in arms))


def _is(example: Any, kind: Any) -> bool:
    """Return whether `example` is of a type that a field asks for."""
    if isinstance(example, (int, str)):
        return kind is type(example)
    if example is None or isinstance(example, dict):
        return kind is type(example) or (isinstance(example, dict) and typing.get_origin(kind) is Mapping)
    try:
        return from_config(to_config(example), kind) == example
    except (InputError, TypeError):
        return False
