"""The judge of the tableau world: a contrastive model of its pictures and captions."""

from __future__ import annotations

from ..conditioning import Words
from ..data import Worded
from ..data.tableau import WORDS, Tableau
from ..data.tableau.contrasted import Contrasted
from ..nets import ContrastConfig, WordEncoderConfig
from ..train import Cosine, TrainConfig
from .judging import JudgeRecipe

LENGTH = 64  # words; the longest captions have about 60


def tableau_words() -> Words:
    """Return the words of the world, English and Chinese."""
    return Words(vocabulary=WORDS, length=LENGTH)


def tableau_clip() -> JudgeRecipe:
    """Return the recipe: 0.41 M parameters, about ten minutes on one core; a wrong caption beside each true one."""
    words = tableau_words()
    return JudgeRecipe(
        data=Worded(data=Contrasted(data=Tableau(size=1_000_000, dequantise=0.02)), words=words),
        net=ContrastConfig(
            text=WordEncoderConfig(words=words.count, length=words.length, width=64, layers=2, heads=2),
            widths=(24, 48, 96),
            heads=3,
        ),
        train=TrainConfig(
            steps=1500,
            batch_size=128,
            lr=1e-3,
            rate=Cosine(warmup=100, end=0.02),
            ema=(20_000.0,),
            precision="bf16",
            checkpoint_every=100,
            log_every=25,
        ),
    )
