"""Handwritten digits, 8 x 8: the class-conditional U-Net of the demo."""

from __future__ import annotations

from ..core import Plain, V, VPCosine
from ..data import Digits
from ..nets.unet import digits as digits_net
from ..objectives import Denoising
from ..pipeline import Defaults, Pixels
from ..train import Cosine, TrainConfig
from .recipe import Recipe


def digits() -> Recipe:
    """Return the recipe: 0.29 M parameters; 2000 steps are about five minutes of processor time."""
    return Recipe(
        data=Digits(),
        net=digits_net(),
        schedule=VPCosine(),
        prediction=V(),
        scaling=Plain(),
        objective=Denoising(drop=0.1),
        train=TrainConfig(
            steps=2000,
            batch_size=128,
            lr=2e-3,
            rate=Cosine(warmup=50, end=0.02),
            ema=(20_000.0,),
            checkpoint_every=500,
            sample_every=500,
        ),
        modality=Pixels(),
        defaults=Defaults(guidance=1.3),
        references=("alpaydin1998digits",),
    )
