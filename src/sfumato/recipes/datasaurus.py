"""The Datasaurus: 142 points in the plane, and a perceptron that learns to draw more of them."""

from __future__ import annotations

from ..core import Eps, Plain, VPLinear
from ..data import Datasaurus
from ..nets import MLPConfig
from ..nets.blocks.embedding import Fourier
from ..objectives import Denoising
from ..pipeline import Defaults, Points
from ..solvers import DDPM
from ..train import Cosine, TrainConfig
from .recipe import Recipe


def datasaurus() -> Recipe:
    """Return the recipe: width 64, Fourier features of position and time, 50 ancestral steps; 20 s on one core."""
    return Recipe(
        data=Datasaurus(),
        net=MLPConfig(width=64, position=Fourier(count=32), time=Fourier(count=16)),
        schedule=VPLinear(),
        prediction=Eps(),
        scaling=Plain(scale=1.0, shift=-0.5),
        objective=Denoising(),
        train=TrainConfig(
            steps=8000,
            batch_size=512,
            lr=2e-3,
            rate=Cosine(end=0.02),
            ema=(100_000.0,),
            checkpoint_every=2000,
            sample_every=2000,
            log_every=200,
        ),
        modality=Points(limit=2.5),
        defaults=Defaults(solver=DDPM(), grid="uniform", steps=50),
        references=("matejka2017datasaurus",),
    )
