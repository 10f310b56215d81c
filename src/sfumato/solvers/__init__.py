"""Solvers: each a frozen dataclass in a file of its own, written in (alpha, sigma), for any schedule and prediction."""

from .ancestral import Ancestral
from .annealed_langevin import AnnealedLangevin
from .ddim import DDIM
from .ddpm import DDPM
from .ddpm_learned import DDPMLearned
from .deis import DEIS
from .dpm_adaptive import DPMAdaptive
from .dpm_solver import DPMSolver2, DPMSolver3
from .dpmpp_2m import DPMpp2M
from .dpmpp_2m_sde import DPMpp2MHeunSDE, DPMpp2MSDE
from .dpmpp_2s import DPMpp2S
from .dpmpp_2s_sde import DPMpp2SSDE
from .dpmpp_3m import DPMpp3M, DPMpp3MShipped
from .dpmpp_3m_sde import DPMpp3MSDE
from .dpmpp_3s import DPMpp3S
from .euler import Euler
from .heun import Heun
from .ipndm import IPNDM
from .langevin_corrector import PredictorCorrector
from .lcm import LCM
from .lms import LMS
from .plms import PLMS
from .pndm import PNDM
from .restart import Restart
from .rk45 import RK45
from .sa_solver import SASolver
from .tcd import TCD
from .unipc import BH1, BH2, UniP, UniPC

__all__ = [
    "BH1",
    "BH2",
    "DDIM",
    "DDPM",
    "DEIS",
    "IPNDM",
    "LCM",
    "LMS",
    "PLMS",
    "PNDM",
    "RK45",
    "TCD",
    "Ancestral",
    "AnnealedLangevin",
    "DDPMLearned",
    "DPMAdaptive",
    "DPMSolver2",
    "DPMSolver3",
    "DPMpp2M",
    "DPMpp2MHeunSDE",
    "DPMpp2MSDE",
    "DPMpp2S",
    "DPMpp2SSDE",
    "DPMpp3M",
    "DPMpp3MSDE",
    "DPMpp3MShipped",
    "DPMpp3S",
    "Euler",
    "Heun",
    "PredictorCorrector",
    "Restart",
    "SASolver",
    "UniP",
    "UniPC",
]
