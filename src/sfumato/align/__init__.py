"""Align Your Steps: search the grid that suits a model and a solver, from the denoiser and some of its data."""

from .file import read_levels, write_grid
from .klub import KLUB, Cost
from .optimise import SampleDistance, optimise
from .search import Aligned, HeldOut, Search, align, guesses, refined, times, total

__all__ = [
    "KLUB",
    "Aligned",
    "Cost",
    "HeldOut",
    "SampleDistance",
    "Search",
    "align",
    "guesses",
    "optimise",
    "read_levels",
    "refined",
    "times",
    "total",
    "write_grid",
]
