"""How codecs are trained: objectives for the one Trainer, and what they take beside the codec."""

from .adversary import Adversary
from .codebook import Follower
from .critic import PatchCritic, PatchCriticConfig
from .distilled import Distilling
from .elbo import ELBO, evidence
from .kl import KLAutoencoding
from .learner import CodecConfig, CodecObjective, Coding, Learner
from .perceptual import Perceptual, PerceptualConfig
from .quantised import Quantising, usage
from .relaxed import Relaxing
from .statistics import latent_statistics, normalised
from .stepped import Ramp, Stepped

__all__ = [
    "ELBO",
    "Adversary",
    "CodecConfig",
    "CodecObjective",
    "Coding",
    "Distilling",
    "Follower",
    "KLAutoencoding",
    "Learner",
    "PatchCritic",
    "PatchCriticConfig",
    "Perceptual",
    "PerceptualConfig",
    "Quantising",
    "Ramp",
    "Relaxing",
    "Stepped",
    "evidence",
    "latent_statistics",
    "normalised",
    "usage",
]
