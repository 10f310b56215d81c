"""Networks: each is built from a registered, frozen configuration and keeps it as `net.config`.

The contract: `net(x, c_noise, **cond)` = `net.trunk(x, net.embed(c_noise), **cond)`, and `net.cond` names the
conditions that it takes, each with its null value.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dit import DiT, DiTConfig
    from .mlp import MLP, MLPConfig
    from .unet import UNet, UNetConfig

_NAMES = {
    "DiT": "dit",
    "DiTConfig": "dit",
    "MLP": "mlp",
    "MLPConfig": "mlp",
    "UNet": "unet",
    "UNetConfig": "unet",
}

__all__ = ["MLP", "DiT", "DiTConfig", "MLPConfig", "UNet", "UNetConfig"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'sfumato.nets' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
