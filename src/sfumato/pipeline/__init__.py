"""Pipelines: a denoiser with what it takes to ask it for pictures, and the folder that holds one."""

from .cite import cite
from .images import Modality, Pixels, Points
from .loading import load, load_codec
from .metadata import Settings, read_settings
from .names import GRIDS, SOLVERS, Defaults
from .output import Output
from .pipeline import Pipeline

__all__ = [
    "GRIDS",
    "SOLVERS",
    "Defaults",
    "Modality",
    "Output",
    "Pipeline",
    "Pixels",
    "Points",
    "Settings",
    "cite",
    "load",
    "load_codec",
    "read_settings",
]
