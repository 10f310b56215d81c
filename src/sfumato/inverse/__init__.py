"""Inverse problems: denoisers that know measurements y = A x_0 + noise, for linear A. Each nests like a guidance."""

from .ddnm import DDNM
from .dps import DPS
from .measured import Measured
from .moment_matching import MomentMatching
from .operators import Blur, Downsample, LinearOperator, Mask, Matrix, Solvable
from .pigdm import PiGDM
from .replacement import Replacement

__all__ = [
    "DDNM",
    "DPS",
    "Blur",
    "Downsample",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Measured",
    "MomentMatching",
    "PiGDM",
    "Replacement",
    "Solvable",
]
