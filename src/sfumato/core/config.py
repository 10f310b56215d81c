"""Configurations: frozen, keyword-only dataclasses, written as JSON with a `kind`, read back from a closed registry.

A configuration is data, never code: a `kind` is looked up among the registered classes, an unknown kind or key is
refused, and a value of the wrong type too.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import Any, TypeVar

import numpy as np

from .errors import InputError, nearest

T = TypeVar("T")

REGISTRY: dict[str, type] = {}


def register(cls: type[T]) -> type[T]:
    """Make a frozen dataclass readable by `from_config` under its own name
    (a second class of that name is an error).
    """
    if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise TypeError(f"{cls.__name__} is not a frozen dataclass: only those can be registered")
    known = REGISTRY.setdefault(cls.__name__, cls)
    if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
        raise TypeError(f"two classes are called {cls.__name__}: {known.__module__} and {cls.__module__}")
    REGISTRY[cls.__name__] = cls
    return cls


def to_config(obj: Any) -> Any:
    """Return `obj` as plain JSON data: a registered dataclass becomes `{"kind": name, **fields}`, tuples become
    lists.
    """
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        kind = type(obj).__name__
        if REGISTRY.get(kind) is not type(obj):
            raise InputError(f"{kind} is not registered, so it cannot be written; decorate it with sfumato.register")
        return {"kind": kind} | {f.name: to_config(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, (list, tuple)):
        return [to_config(v) for v in obj]
    if isinstance(obj, dict):
        return {str(k): to_config(v) for k, v in obj.items()}
    if obj is None or isinstance(obj, (bool, int, float, str)):
        return obj
    if isinstance(obj, np.integer):  # a seed of an array
        return int(obj)
    raise InputError(f"{type(obj).__name__} cannot be written in a configuration; use numbers, strings and dataclasses")


def from_config(data: Any, expected: type | None = None) -> Any:
    """Rebuild what `to_config` wrote.

    Raises `InputError` for an unknown kind or key, a missing key, a value of the wrong type, or a kind that is not an
    `expected`.
    """
    if not isinstance(data, dict) or "kind" not in data:
        raise InputError(f"a configuration needs a 'kind', got {str(data)[:80]!r}")
    kind = data["kind"]
    cls = REGISTRY.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise InputError(f"unknown kind {kind!r}{nearest(str(kind), REGISTRY)}")
    if expected is not None and not _fits(cls, expected):
        raise InputError(f"kind {kind!r} is not a {expected.__name__}; give the kind of one")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key == "kind":
            continue
        if key not in fields:
            raise InputError(f"{kind} has no field {key!r}{nearest(key, fields)}")
        values[key] = _read(value, hints[key], f"{kind}.{key}")
    missing = [
        n
        for n, f in fields.items()
        if n not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{kind} needs {', '.join(missing)}: add it to the configuration")
    return cls(**values)


def _fits(cls: type, expected: type) -> bool:
    """Return whether `cls` is an `expected`; a protocol asks for its methods and their parameters, not for ancestry."""
    if not getattr(expected, "_is_protocol", False):
        return issubclass(cls, expected)
    asked: dict[str, types.FunctionType] = {}
    for base in expected.__mro__:
        for name, method in vars(base).items():
            if isinstance(method, types.FunctionType) and (name == "__call__" or not name.startswith("_")):
                asked.setdefault(name, method)
    for name, method in asked.items():
        own = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
        if not isinstance(own, types.FunctionType):
            return False
        wanted = list(inspect.signature(method).parameters)
        if list(inspect.signature(own).parameters)[: len(wanted)] != wanted:
            return False
    return True


def _read(value: Any, hint: Any, where: str) -> Any:
    """Check `value` against the type `hint` and convert what JSON cannot say (tuples, nested kinds)."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return from_config(value) if isinstance(value, dict) and "kind" in value else value
    if origin in (typing.Union, types.UnionType):
        reasons: list[str] = []
        for arm in typing.get_args(hint):
            try:
                return _read(value, arm, where)
            except InputError as error:
                reasons.append(str(error))
        raise InputError(reasons[0])
    if isinstance(value, dict) and "kind" in value:
        return from_config(value, origin or hint if isinstance(origin or hint, type) else None)
    if origin is tuple and isinstance(value, (list, tuple)):
        args = typing.get_args(hint)
        arms = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(arms) != len(value):
            raise InputError(f"{where} needs {len(arms)} values, got {len(value)}")
        return tuple(_read(v, a, where) for v, a in zip(value, arms, strict=True))
    if origin is dict and isinstance(value, dict):
        inner = typing.get_args(hint)[1]
        return {k: _read(v, inner, f"{where}.{k}") for k, v in value.items()}
    if origin is typing.Literal and value in typing.get_args(hint):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint is type(None) and value is None:
        return None
    raise InputError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r:.80}")
