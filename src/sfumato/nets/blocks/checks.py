"""What the configurations of networks check alike."""

from __future__ import annotations

from typing import Any

from ...core.errors import InputError


def check_counts(config: Any, *names: str) -> None:
    """Raise `InputError` where a field that counts something is not a whole number of at least 1."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{type(config).__name__}.{name} must be a whole number of at least 1, got {value!r:.40}")
