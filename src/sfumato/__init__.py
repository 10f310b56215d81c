"""Sfumato: one small algebra of diffusion models, from which every published system is assembled.

Everything loads on first use: `import sfumato` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import (  # noqa: F401
        core,
        data,
        guidance,
        measure,
        nets,
        objectives,
        pipeline,
        recipes,
        reproduce,
        solvers,
        testing,
        train,
    )
    from .core import *  # noqa: F403
    from .core import grids  # noqa: F401
    from .pipeline import Pipeline, cite, load  # noqa: F401

_ROOMS = (
    "core",
    "data",
    "guidance",
    "measure",
    "nets",
    "objectives",
    "pipeline",
    "recipes",
    "reproduce",
    "solvers",
    "testing",
    "train",
)
_CORE = (
    "EDM",
    "VE",
    "VP",
    "X0",
    "Batch",
    "CheckpointError",
    "Denoiser",
    "Diverged",
    "Eps",
    "Flow",
    "InputError",
    "Karras",
    "Noise",
    "Plain",
    "Preconditioned",
    "Prediction",
    "Rectified",
    "Schedule",
    "Score",
    "SfumatoError",
    "Solver",
    "Step",
    "SubVP",
    "Table",
    "V",
    "VPCosine",
    "VPLinear",
    "VPScaledLinear",
    "VPSigmoid",
    "ZeroTerminalSNR",
    "evaluations",
    "from_config",
    "grids",
    "register",
    "sample",
    "to_config",
)
_PIPELINE = ("Pipeline", "cite", "load")
_NAMES = {name: "sfumato.core" for name in _CORE} | {name: "sfumato.pipeline" for name in _PIPELINE}

__all__ = [*_ROOMS, *_NAMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"sfumato.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
