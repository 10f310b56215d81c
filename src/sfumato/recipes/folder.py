"""Your own pictures: a folder of them, with class sub-folders or without."""

from __future__ import annotations

from ..core import Plain, V, VPCosine
from ..data import ImageFolder
from ..nets import UNetConfig
from ..objectives import Denoising
from ..pipeline import Defaults, Pixels
from ..train import Constant, TrainConfig
from .recipe import Recipe


def folder() -> Recipe:
    """Return the recipe for pictures of 32 x 32 below `--data.path`: a U-Net of 9 M parameters, meant for a GPU.

    With class sub-folders: `--data.labels ClassFolders --net.num_classes K`.
    """
    return Recipe(
        data=ImageFolder(path=".", size=32, flip=0.5),
        net=UNetConfig(),
        schedule=VPCosine(),
        prediction=V(),
        scaling=Plain(),
        objective=Denoising(drop=0.1),
        train=TrainConfig(steps=100_000, batch_size=128, lr=2e-4, rate=Constant(warmup=500), workers=2),
        modality=Pixels(),
        defaults=Defaults(),
    )
