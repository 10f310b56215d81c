"""Pipelines: a denoiser with what it takes to ask it for pictures, and the folder that holds one."""

from .cite import cite
from .controls import read_control, read_image_prompt
from .enlarge import enlarged
from .images import Modality, Pixels, Points
from .loading import load, load_codec
from .metadata import Settings, read_settings
from .names import GRIDS, SOLVERS, Defaults
from .output import Output
from .pipeline import Pipeline
from .refine import refined
from .sheet import sheet, sweep
from .watching import watching

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
    "enlarged",
    "load",
    "load_codec",
    "read_control",
    "read_image_prompt",
    "read_settings",
    "refined",
    "sheet",
    "sweep",
    "watching",
]
