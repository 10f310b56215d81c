"""Grids as files: JSON data with the levels, so that a grid fits any schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core import InputError


def write_grid(path: Path, levels: tuple[float, ...], facts: dict[str, Any]) -> None:
    """Write the levels, n + 1 falling values of s, with `facts` about their making; an existing file is kept.

    Raises `InputError` where the file exists or cannot be written.
    """
    text = json.dumps({"levels": list(levels), **facts}, indent=2) + "\n"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} exists and is not overwritten: give another name") from None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; give another name") from None


def read_levels(path: Path) -> tuple[float, ...]:
    """Return the levels of a grid file. Raises `InputError` for a file that is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        levels = found["levels"]
        if not all(type(v) in (int, float) for v in levels):
            raise TypeError
    except OSError as error:
        raise InputError(f"cannot read the grid {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} is no grid file: give one that optimise-grid wrote") from None
    return tuple(float(v) for v in levels)
