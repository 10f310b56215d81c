"""A sheet of pictures over any two settings, so that what a setting does can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from ..core import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from .output import Output
    from .pipeline import Pipeline

Axis = tuple[str, Sequence[Any]]
MARGIN = 16  # pixels for a label


def sweep(pipe: Pipeline, rows: Axis, columns: Axis, **call: Any) -> list[list[Output]]:
    """Return one output for each pair of values: `rows` and `columns` are (an argument of the call, its values).

    `call` holds the other arguments. All start from the same seeds, so differences are the settings' own. Raises
    `InputError` for an axis without values, the same one twice, or one that `call` sets too.
    """
    for name, values in (rows, columns):
        if not values or name in call or rows[0] == columns[0]:
            raise InputError(f"the axis {name!r} needs values of its own, given nowhere else")
    return [[pipe(**call, **{rows[0]: a, columns[0]: b}) for b in columns[1]] for a in rows[1]]


def sheet(pipe: Pipeline, rows: Axis, columns: Axis, **call: Any) -> Image:
    """Return the first pictures of a `sweep` on one sheet, each row and column with its setting."""
    return page(rows, columns, sweep(pipe, rows, columns, **call))


def page(rows: Axis, columns: Axis, outs: Sequence[Sequence[Output]]) -> Image:
    """Return the first pictures of what a `sweep` over `rows` and `columns` gave, on one sheet."""
    from PIL import Image, ImageDraw

    found = [[out.images[0].convert("RGB") for out in line] for line in outs]
    width, height = found[0][0].size
    factor = max(1, -(-64 // max(width, height)))
    wide, high = width * factor, height * factor
    names = [_said(*rows, i) for i in range(len(rows[1]))]
    left = 8 + 6 * max(map(len, names))
    drawn = Image.new("RGB", (left + len(columns[1]) * (wide + 4), MARGIN + len(found) * (high + 4)), "white")
    draw = ImageDraw.Draw(drawn)
    for j in range(len(columns[1])):
        draw.text((left + j * (wide + 4), 2), _said(*columns, j), fill="black")
    for i, line in enumerate(found):
        draw.text((4, MARGIN + i * (high + 4) + high // 2 - 6), names[i], fill="black")
        for j, picture in enumerate(line):
            large = picture.resize((wide, high), Image.Resampling.NEAREST)
            drawn.paste(large, (left + j * (wide + 4), MARGIN + i * (high + 4)))
    return drawn


def _said(name: str, values: Sequence[Any], index: int) -> str:
    value = values[index]
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{f.name}={getattr(value, f.name)}" for f in fields(value))
        return f"{type(value).__name__}({inner})"[:40]
    return f"{name}={value}"[:40]
