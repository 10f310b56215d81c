"""What peft says beside a LoRA: alphas and ranks, in a file of their own or in the header of the weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from ..core.errors import CheckpointError
from ..core.json_file import read_json

METADATA = "lora_adapter_metadata"  # of a file's header, as diffusers writes it


def _number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and -1e30 <= value <= 1e30


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 1 << 31


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _names(value: Any) -> bool:
    several = isinstance(value, list) and all(isinstance(v, str) for v in cast("list[Any]", value))
    return isinstance(value, str) or several


def _table(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(good(v) for v in cast("dict[str, Any]", value).values())


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "r": ("a whole number", _count),
    "lora_alpha": ("a number", _number),
    "alpha": ("a number", _number),
    "rank_pattern": ("a table of whole numbers", _table(_count)),
    "alpha_pattern": ("a table of numbers", _table(_number)),
    "use_rslora": ("true or false", _truth),
    "target_modules": ("a text or a list of texts", _names),
}


def settings_of(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings beside a file (peft's), or inside its header (those of diffusers), null where not given.

    Raises `CheckpointError` for what is no table, and for a setting of the wrong kind.
    """
    beside = file.with_name("adapter_config.json")
    if file.name == "adapter_model.safetensors" and beside.is_file():
        file, settings = beside, read_json(beside)
    else:
        settings = _of_header(file, metadata)
    for name, value in settings.items():
        kind = KINDS.get(name.rpartition(".")[2])
        if kind is not None and value is not None and not kind[1](value):
            raise CheckpointError(f"{file}: its setting {name!r:.80} is {value!r:.60}, which must be {kind[0]}")
    return settings


def _of_header(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        settings = json.loads(metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: its {METADATA} is not JSON") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file}: its {METADATA} is not a table")
    return cast("dict[str, Any]", settings)
