"""Objectives: time law x weighting x prediction space, (denoiser, batch, noise) -> loss[B], unreduced."""

from .bound import VLB, Hybrid, Importance, Remembering, Stepwise
from .classifying import Classifying
from .contrasting import Contrasting
from .couplings import Coupling, Given, Independent, MiniBatchOT
from .denoising import Denoising, Objective
from .examining import Examining
from .time_laws import CosMap, Discrete, Ladder, LogitNormal, LogNormal, Mode, TimeLaw, Uniform
from .weightings import P2, SNR, KarrasWeight, MinSNR, Sigmoid, Simple, Weighting

__all__ = [
    "P2",
    "SNR",
    "VLB",
    "Classifying",
    "Contrasting",
    "CosMap",
    "Coupling",
    "Denoising",
    "Discrete",
    "Examining",
    "Given",
    "Hybrid",
    "Importance",
    "Independent",
    "KarrasWeight",
    "Ladder",
    "LogNormal",
    "LogitNormal",
    "MinSNR",
    "MiniBatchOT",
    "Mode",
    "Objective",
    "Remembering",
    "Sigmoid",
    "Simple",
    "Stepwise",
    "TimeLaw",
    "Uniform",
    "Weighting",
]
