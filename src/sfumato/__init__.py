"""Sfumato: one small algebra of diffusion models, from which every published system is assembled.

Everything loads on first use: `import sfumato` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import (
        align as align,
    )
    from . import (
        codecs as codecs,
    )
    from . import (
        cold as cold,
    )
    from . import (
        core as core,
    )
    from . import (
        data as data,
    )
    from . import (
        guidance as guidance,
    )
    from . import (
        inverse as inverse,
    )
    from . import (
        measure as measure,
    )
    from . import (
        nets as nets,
    )
    from . import (
        objectives as objectives,
    )
    from . import (
        pipeline as pipeline,
    )
    from . import (
        recipes as recipes,
    )
    from . import (
        reproduce as reproduce,
    )
    from . import (
        solvers as solvers,
    )
    from . import (
        testing as testing,
    )
    from . import (
        train as train,
    )
    from .core import (
        EDM as EDM,
    )
    from .core import (
        VE as VE,
    )
    from .core import (
        VP as VP,
    )
    from .core import (
        X0 as X0,
    )
    from .core import (
        Batch as Batch,
    )
    from .core import (
        CheckpointError as CheckpointError,
    )
    from .core import (
        Denoiser as Denoiser,
    )
    from .core import (
        Diverged as Diverged,
    )
    from .core import (
        Eps as Eps,
    )
    from .core import (
        Flow as Flow,
    )
    from .core import (
        FlowTime as FlowTime,
    )
    from .core import (
        InputError as InputError,
    )
    from .core import (
        Karras as Karras,
    )
    from .core import (
        Noise as Noise,
    )
    from .core import (
        Plain as Plain,
    )
    from .core import (
        Preconditioned as Preconditioned,
    )
    from .core import (
        Prediction as Prediction,
    )
    from .core import (
        Rectified as Rectified,
    )
    from .core import (
        Schedule as Schedule,
    )
    from .core import (
        Score as Score,
    )
    from .core import (
        SfumatoError as SfumatoError,
    )
    from .core import (
        Solver as Solver,
    )
    from .core import (
        Step as Step,
    )
    from .core import (
        SubVP as SubVP,
    )
    from .core import (
        Table as Table,
    )
    from .core import (
        V as V,
    )
    from .core import (
        VPCosine as VPCosine,
    )
    from .core import (
        VPLinear as VPLinear,
    )
    from .core import (
        VPScaledLinear as VPScaledLinear,
    )
    from .core import (
        VPSigmoid as VPSigmoid,
    )
    from .core import (
        ZeroTerminalSNR as ZeroTerminalSNR,
    )
    from .core import (
        evaluations as evaluations,
    )
    from .core import (
        from_config as from_config,
    )
    from .core import (
        grids as grids,
    )
    from .core import (
        invert as invert,
    )
    from .core import (
        register as register,
    )
    from .core import (
        round_trip as round_trip,
    )
    from .core import (
        sample as sample,
    )
    from .core import (
        sde as sde,
    )
    from .core import (
        to_config as to_config,
    )
    from .pipeline import (
        Pipeline as Pipeline,
    )
    from .pipeline import (
        cite as cite,
    )
    from .pipeline import (
        load as load,
    )
    from .pipeline import (
        load_codec as load_codec,
    )

_ROOMS = (
    "align",
    "codecs",
    "cold",
    "control",
    "core",
    "data",
    "guidance",
    "inverse",
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
    "FlowTime",
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
    "invert",
    "register",
    "round_trip",
    "sample",
    "sde",
    "to_config",
)
_PIPELINE = ("Pipeline", "cite", "load", "load_codec")
_NAMES = {name: "sfumato.core" for name in _CORE} | {name: "sfumato.pipeline" for name in _PIPELINE}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"sfumato.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_ROOMS, *_NAMES, "__version__"])
