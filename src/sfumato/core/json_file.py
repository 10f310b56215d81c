"""Tables in JSON files that somebody else wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .weights import reason


def read_json(path: Path, *, most: int = 1 << 20) -> dict[str, Any]:
    """Return the table in a JSON file of at most `most` bytes (1 MiB); a key given twice is refused.

    Raises `CheckpointError` for a file that cannot be read, or holds something else.
    """
    try:
        if not path.is_file() and path.exists():  # a folder, or a pipe that would be read without an end
            raise CheckpointError(f"{path} is not a file")
        if path.stat().st_size > most:
            raise CheckpointError(f"{path} is above {most >> 20} MiB, which no configuration is")
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {str(error)[:120]}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold a table")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is given twice")
    return table
