"""A page of pictures over two settings, from `--sheet SETTING=A,B` given twice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..pipeline import Pipeline

Axis = tuple[str, list[Any]]

# what a sheet can be over, and what its values are
AXES: dict[str, type] = {
    **dict.fromkeys(("steps", "seed", "noise_level"), int),
    **dict.fromkeys(("guidance", "rescale", "strength", "image_guidance"), float),
    **dict.fromkeys(("solver", "grid", "prompt", "negative"), str),
}


def axis(text: str) -> Axis:
    """Return (setting, values) of "guidance=1,3,7.5"; values with commas in them are given as a JSON list."""
    from ..core import InputError, nearest
    from ..pipeline.names import GRIDS, by_name, solver_of
    from ..pipeline.request import checked

    name, _, said = text.partition("=")
    name = name.replace("-", "_")
    if name not in AXES:
        raise InputError(f"--sheet {text[:60]!r} must be SETTING=VALUE,VALUE{nearest(name[:40], AXES)}")
    kind = AXES[name]
    try:
        values = _listed(said, kind) if said.startswith("[") else [kind(value) for value in said.split(",")]
        if kind is float and not all(map(math.isfinite, values)):
            raise ValueError("not finite")
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise InputError(f"--sheet {text[:60]!r}: the values of {name} are {kind.__name__}s") from error
    for value in values:  # what a later picture would fail for is said before the first one
        if name in ("steps", "seed"):
            checked(**{name: value})
        elif name == "strength" and not 0 < value <= 1:
            raise InputError(f"--sheet strength={value:g} must be in (0, 1]: the share of the steps that are run")
        elif name == "solver":
            solver_of(value)
        elif name == "grid":
            by_name("grid", value, GRIDS)
    return name, values


def axes_of(texts: Sequence[str], call: Mapping[str, Any]) -> tuple[Axis, Axis]:
    """Return the rows and the columns of a sheet; raise `InputError` for what else of a call it would not use."""
    from ..core import InputError

    if len(texts) != 2:
        raise InputError(
            "a sheet is over two settings: give --sheet twice, as --sheet steps=10,20 --sheet guidance=3,7"
        )
    rows, columns = (axis(text) for text in texts)
    for name in (rows[0], columns[0]):
        if call.get(name) is not None:
            option = "the words after MODEL" if name == "prompt" else f"--{name.replace('_', '-')}"
            raise InputError(f"--sheet {name}=... and {option}: give one of them")
    if len(call["prompt"] or ()) > 1:
        raise InputError(f"a sheet is of one prompt, got {len(call['prompt'])}: give one, or --sheet 'prompt=A,B'")
    return rows, columns


def save_sheet(
    pipe: Pipeline, axes: tuple[Axis, Axis], folder: Path, call: Mapping[str, Any]
) -> tuple[Path, tuple[str, ...]]:
    """Write a sheet under the next free name in `folder`; return its path, and what a person should know of it."""
    from ..core import InputError
    from ..pipeline.metadata import encode_png
    from ..pipeline.sheet import page, sweep

    points = len(pipe.shape) == 1
    if not points and call["n"] not in (None, 1):
        raise InputError(f"-n {call['n']}: a sheet shows one picture for each pair of settings, leave -n out")
    n = 1 if not points else call["n"] or 512
    given = {key: value for key, value in call.items() if value is not None} | {"n": n}
    outs = sweep(pipe, *axes, **given)
    data = encode_png(page(*axes, outs), None)
    notes = tuple(dict.fromkeys(note for line in outs for out in line for note in out.notes))
    for number in range(100_000):
        path = folder / f"sheet-{number:05d}.png"
        try:
            with open(path, "xb") as file:
                file.write(data)
            return path, notes
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; give another folder") from error
    raise InputError(f"{folder} is full of sheets: give another folder")


def _listed(said: str, kind: type) -> list[Any]:
    """Return the values of a JSON list, none of them made of something else: 1.7 steps are not 1, null is no text."""
    values: list[Any] = json.loads(said)
    if not all(type(value) is kind or (kind is float and type(value) is int) for value in values):
        raise ValueError(f"other than {kind.__name__}")
    return [kind(value) for value in values]
