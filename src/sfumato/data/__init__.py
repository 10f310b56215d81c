"""Data sets, and the loader that makes batch k a pure function of (seed, k)."""

from .crops import CenterCrop, Crop, RandomCrop
from .dataset import Dataset, InMemory, Tensors, split
from .digits import Digits, digits
from .folder import ImageFolder, Report
from .glimpses import Glimpses
from .images import decode
from .labels import Captions, Labels, SubFolders, Unlabelled, text
from .latents import Latents
from .loader import Loader
from .pairs import pairs
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
from .tableau import Tableau
from .worded import Worded

__all__ = [
    "Captions",
    "CenterCrop",
    "Checkerboard",
    "Crop",
    "Datasaurus",
    "Dataset",
    "Digits",
    "Glimpses",
    "ImageFolder",
    "InMemory",
    "Labels",
    "Latents",
    "Loader",
    "Moons",
    "RandomCrop",
    "Report",
    "Rings",
    "Spirals",
    "SubFolders",
    "Tableau",
    "Tensors",
    "Unlabelled",
    "Worded",
    "checkerboard",
    "datasaurus",
    "decode",
    "digits",
    "moons",
    "pairs",
    "rings",
    "spirals",
    "split",
    "text",
]
