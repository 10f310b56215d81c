"""The training of a reader: an encoder of words that knows what captions say before it sees a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import InputError, Model, Noise, register
from ..data import Worded
from ..data.tableau import EVALUATION
from ..data.tableau.claims import ATTRIBUTES
from ..data.tableau.examined import EACH, PAIRS, WHOLE, Examined
from ..data.tableau.scene import MAX_OBJECTS
from ..measure import Figure, alignment
from ..nets import ExamConfig, WordEncoderConfig
from ..objectives import Examining
from ..train import Result, Run, TrainConfig, Trainer
from .recipe import Training, recipe_of
from .run import averaged

NAMES = (*ATTRIBUTES, "number", "relation", "count", "ground", "ground_colour", "second_colour")


@register
@dataclass(frozen=True, kw_only=True)
class ReaderRecipe(Training):
    """Captions with what they say, the reader that is asked, the objective, how to train.

    Raises `InputError` where the network reads other words than the data's.
    """

    data: Worded
    net: ExamConfig
    train: TrainConfig
    objective: Examining = field(default_factory=Examining)

    def __post_init__(self) -> None:
        k, words = self.net, self.data.words
        if (k.text.words, k.text.length) != (words.count, words.length):
            raise InputError(
                f"the data has {words.count} numbers of words, {words.length} a text: give --net.text these"
            )

    def fit(self, run: Run | None = None, *, quiet: bool = False) -> tuple[Trainer[Model], Result]:
        """Train; return (trainer, result)."""
        trainer: Trainer[Any] = Trainer(self.model(), self.objective, self.data, self.train, run, quiet=quiet)
        return trainer, trainer.train()

    def model(self) -> Model:
        """Return the untrained model; its initial weights follow from `train.seed`."""
        model = Model()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.train.seed)
            model.net = self.net.build()
        return model


def weights_of_reader(path: str | Path) -> Mapping[str, Tensor]:
    """Return the weights of the run of a reader, averaged where it keeps averages.

    Raises `CheckpointError` where there is no whole checkpoint, `InputError` for the run of something else.
    """
    run = Run(path)
    recipe = recipe_of(run)
    if not isinstance(recipe, ReaderRecipe):
        raise InputError(f"{run.path} is the run of a {type(recipe).__name__}, which is no reader")
    return averaged(run, recipe.net.build(), recipe.train)


@torch.no_grad()
def examined(path: str | Path, n: int, seed: int = EVALUATION) -> list[Figure]:
    """Return how much of what `n` captions of another seed say the reader of a run gets right: of each kind, and all.

    A kind is right where its answers about all things of a caption are. Raises `InputError` for the training's seed.
    """
    recipe = recipe_of(Run(path))
    weights = weights_of_reader(path)
    if not isinstance(recipe, ReaderRecipe) or not isinstance(recipe.data.data, Examined):
        raise InputError(f"{path} is not the run of a reader of the tableau world's captions")
    world = recipe.data.data.data
    if seed == world.seed:
        raise InputError(f"seed={seed} is what the reader was trained on: give another")
    net = recipe.net.build()
    net.load_state_dict(dict(weights))
    data = replace(recipe.data, data=Examined(data=replace(world, seed=seed, size=n)))
    batch = data.batch(range(n), Noise(range(n)))
    kinds = net(batch.cond["tokens"])
    own = batch.x0.split([logits.shape[1] for logits in kinds], 1)
    right = [(logits.argmax(-1) == answer).all(1) for logits, answer in zip(kinds, own, strict=True)]
    figures = [replace(alignment(r), name=f"read_{name}") for name, r in zip(NAMES, right, strict=True)]
    return [*figures, replace(alignment(torch.stack(right).all(0)), name="read_all")]


def exam(text: WordEncoderConfig) -> ExamConfig:
    """Return the questions about captions of the tableau world to an encoder of words."""
    return ExamConfig(text=text, things=MAX_OBJECTS, each=EACH, pairs=PAIRS, whole=WHOLE)
