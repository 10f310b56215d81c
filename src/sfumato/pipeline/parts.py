"""What a pipeline's parts are as data and as modules, and how they are switched to evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from torch import nn

from ..core import to_config


def modules(conditioner: Any) -> list[nn.Module]:
    """Return the text models that a conditioner holds."""
    return [tower.model for tower in getattr(conditioner, "towers", {}).values()]


def described(conditioner: Any) -> Any:
    """Return a conditioner as plain data: its settings, without the text models that it holds."""
    own = getattr(conditioner, "config", None)
    return to_config(conditioner if own is None else own)


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Generator[None]:
    """Switch dropout and its like off inside, and each module back to what it was at the end."""
    training = [m for m in net.modules() if m.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
