"""The algebra: schedules, predictions, denoisers, grids, noise and the sampling loop. Needs torch alone."""

from . import grids, sde
from .config import from_config, register, to_config
from .denoiser import EDM, Batch, Denoiser, FlowTime, Plain, Preconditioned, Scaling, check_cond, device_of, per_row, prepare
from .errors import CheckpointError, Diverged, InputError, SfumatoError, nearest
from .inversion import RoundTrip, invert, round_trip
from .noise import Noise, fold
from .predictions import X0, Eps, Flow, Karras, Prediction, Score, V
from .sampling import Solver, Step, evaluations, fit, sample, steps, update
from .schedules import (
    VE,
    VP,
    Rectified,
    Schedule,
    SubVP,
    Table,
    VPCosine,
    VPLinear,
    VPScaledLinear,
    VPSigmoid,
    ZeroTerminalSNR,
)
from .variance import LearnedVariance, Posterior, posterior

__all__ = [
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
    "LearnedVariance",
    "Noise",
    "Plain",
    "Posterior",
    "Preconditioned",
    "Prediction",
    "Rectified",
    "RoundTrip",
    "Scaling",
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
    "check_cond",
    "device_of",
    "evaluations",
    "fit",
    "fold",
    "from_config",
    "grids",
    "invert",
    "nearest",
    "per_row",
    "posterior",
    "prepare",
    "register",
    "round_trip",
    "sample",
    "sde",
    "steps",
    "to_config",
    "update",
]
