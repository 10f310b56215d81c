"""The reader of the tableau world: it learns what captions say from captions alone, before it is told of pictures."""

from __future__ import annotations

from ..data import Worded
from ..data.tableau import Tableau
from ..data.tableau.examined import Examined
from ..nets import WordEncoderConfig
from ..train import Cosine, Muon, TrainConfig
from .reading import ReaderRecipe, exam
from .tableau_clip import tableau_words


def tableau_reader() -> ReaderRecipe:
    """Return the recipe: 0.36 M parameters, about six minutes on one core.

    `--start.path RUN --start.fresh net.*` gives it to the text-to-image model.
    """
    words = tableau_words()
    text = WordEncoderConfig(words=words.count, length=words.length, width=96, layers=3, heads=3)
    return ReaderRecipe(
        data=Worded(data=Examined(data=Tableau(size=10_000_000)), words=words),
        net=exam(text),
        train=TrainConfig(
            steps=700,
            batch_size=128,
            lr=2e-3,
            rate=Cosine(warmup=50, end=0.02),
            optimiser=Muon(),
            ema=(10_000.0,),
            checkpoint_every=200,
            log_every=25,
        ),
    )
