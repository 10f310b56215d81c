"""Training: one Trainer for every Objective, checkpoints that a crash cannot lose, averages of the weights."""

from .checkpoint import Checkpoint
from .checkpoint import latest as latest_checkpoint
from .config import TrainConfig
from .distributed import DDP, FSDP, Parallel
from .ema import EMA
from .loop import Result, Trainer
from .lr import Constant, Cosine, InverseSqrt, Rate
from .optimisers import AdamW, Muon, Optimiser
from .posthoc import PostHoc, reconstruct
from .runs import Run, read_metrics

__all__ = [
    "DDP",
    "EMA",
    "FSDP",
    "AdamW",
    "Checkpoint",
    "Constant",
    "Cosine",
    "InverseSqrt",
    "Muon",
    "Optimiser",
    "Parallel",
    "PostHoc",
    "Rate",
    "Result",
    "Run",
    "TrainConfig",
    "Trainer",
    "latest_checkpoint",
    "read_metrics",
    "reconstruct",
]
