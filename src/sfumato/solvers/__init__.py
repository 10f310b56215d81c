"""Solvers: each a frozen dataclass in a file of its own, written in (alpha, sigma), for any schedule and prediction."""

from .ddim import DDIM
from .ddpm import DDPM
from .dpmpp_2m import DPMpp2M
from .euler import Euler
from .heun import Heun

__all__ = ["DDIM", "DDPM", "DPMpp2M", "Euler", "Heun"]
