"""Cold diffusion: degradations without noise, the loss that trains their undoing, and the way back step by step."""

from .degradations import Animorph, Blur, Degradation, Desaturate, Downsampling, Masking, Snow
from .restoration import Restoration
from .restoring import Naive, Rule, TACoS, restore

__all__ = [
    "Animorph",
    "Blur",
    "Degradation",
    "Desaturate",
    "Downsampling",
    "Masking",
    "Naive",
    "Restoration",
    "Rule",
    "Snow",
    "TACoS",
    "restore",
]
