"""Overriding a configuration field by field: `--train.lr 1e-3 --schedule VPLinear --net.multipliers 1,2,2`.

Works on the plain data of a configuration, so that every registered kind can be put anywhere one is expected, and
`from_config` checks names and types.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..core import InputError, from_config, nearest, to_config


def override(config: Any, words: Iterable[str]) -> Any:
    """Return `config`, a registered dataclass, with the fields that `words` ("--a.b", "value", "--c=value") name.

    A value is JSON where it reads as JSON, a list where it has commas or a list is expected, `none` for nothing, else
    text. Where a kind is expected, its name is enough; its own fields then start from their defaults. Fields apply in
    the order given.
    Raises `InputError` for a field that does not exist, with the nearest, and for a value of the wrong type.
    """
    data = copy.deepcopy(to_config(config))
    for path, text in _pairs(words):
        _set(data, path, text)
    return from_config(data, type(config))


def flatten(config: Any) -> dict[str, Any]:
    """Return every field of `config` by its dotted path, the kinds of nested configurations included."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping) and "kind" in value:
            if path:
                flat[path] = value["kind"]
            for key, inner in value.items():
                if key != "kind":
                    walk(inner, f"{path}.{key}" if path else key)
        else:
            flat[path] = value

    walk(to_config(config), "")
    return flat


def changes(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """Return (path, old value, new value) of every field that differs."""
    before, after = flatten(old), flatten(new)
    paths = [*before, *(p for p in after if p not in before)]
    return [(p, before.get(p), after.get(p)) for p in paths if before.get(p) != after.get(p)]


def _pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise InputError(f"{word!r:.80} is not --field value; fields are listed by --help")
        if not equals:
            if not rest:
                raise InputError(f"--{name} needs a value")
            value = rest.pop(0)
        pairs.append((name.replace("-", "_"), value))
    return pairs


def _set(data: dict[str, Any], path: str, text: str) -> None:
    *parents, last = path.split(".")
    place: Any = data
    for i, key in enumerate(parents):
        where = ".".join(parents[:i])
        place = place[_known(key, place, where)]
        if not isinstance(place, dict) or "kind" not in place:
            raise InputError(f"--{path}: {'.'.join(parents[: i + 1])} is {place!r:.40}, which has no fields")
    _known(last, place, ".".join(parents))
    value = _value(text)
    held = place[last]
    if isinstance(held, list) and value is not None and not isinstance(value, list):
        value = [_value(part) for part in text.split(",")]
    if isinstance(held, dict) and "kind" in held and isinstance(value, str):
        value = held if value == held["kind"] else {"kind": value}
    place[last] = value
    if isinstance(value, dict) and "kind" in value:
        place[last] = to_config(from_config(value))  # with the defaults of its fields, so that they can be set too


def _known(key: str, place: Mapping[str, Any], where: str) -> str:
    names = [name for name in place if name != "kind"]
    if key not in names:
        owner = f"{where} ({place['kind']})" if where else place["kind"]
        raise InputError(f"{owner} has no field {key!r:.60}{nearest(key[:60], names)}")
    return key


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    for attempt in (text, f"[{text}]" if "," in text else text):
        try:
            return json.loads(attempt)
        except (ValueError, RecursionError):
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
