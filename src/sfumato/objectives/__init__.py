"""Objectives: time law x weighting x prediction space, (denoiser, batch, noise) -> loss[B], unreduced."""

from .denoising import Denoising, Objective
from .time_laws import CosMap, Discrete, LogitNormal, LogNormal, TimeLaw, Uniform
from .weightings import P2, SNR, KarrasWeight, MinSNR, Sigmoid, Simple, Weighting

__all__ = [
    "P2",
    "SNR",
    "CosMap",
    "Denoising",
    "Discrete",
    "KarrasWeight",
    "LogNormal",
    "LogitNormal",
    "MinSNR",
    "Objective",
    "Sigmoid",
    "Simple",
    "TimeLaw",
    "Uniform",
    "Weighting",
]
