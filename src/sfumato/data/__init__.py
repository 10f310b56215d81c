"""Data sets, and the loader that makes batch k a pure function of (seed, k)."""

from .dataset import Dataset, InMemory, Tensors, split
from .digits import Digits, digits
from .points import (
    Checkerboard,
    Datasaurus,
    Moons,
    Rings,
    Spirals,
    checkerboard,
    datasaurus,
    moons,
    rings,
    spirals,
)

__all__ = [
    "Checkerboard",
    "Datasaurus",
    "Dataset",
    "Digits",
    "InMemory",
    "Moons",
    "Rings",
    "Spirals",
    "Tensors",
    "checkerboard",
    "datasaurus",
    "digits",
    "moons",
    "rings",
    "spirals",
    "split",
]
