"""The training of a judge: a contrastive model of pictures and captions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..core import X0, InputError, Preconditioned, Rectified, register
from ..data import Worded
from ..data.tableau import EVALUATION, paint
from ..data.tableau.contrasted import Contrasted
from ..measure import Figure, alignment
from ..measure.judge import Judge, retrieval
from ..nets import ContrastConfig
from ..objectives import Contrasting
from ..train import Result, Run, TrainConfig, Trainer
from .recipe import Training, recipe_of
from .run import averaged


@register
@dataclass(frozen=True, kw_only=True)
class JudgeRecipe(Training):
    """Captioned pictures, the network that compares them, the objective, how to train.

    Raises `InputError` where the network reads other words than the data's, or pictures of another size.
    """

    data: Worded
    net: ContrastConfig
    train: TrainConfig
    objective: Contrasting = field(default_factory=Contrasting)

    def __post_init__(self) -> None:
        k, words = self.net, self.data.words
        if (k.text.words, k.text.length) != (words.count, words.length):
            raise InputError(
                f"the data has {words.count} numbers of words, {words.length} a text: give --net.text these"
            )

    def fit(self, run: Run | None = None, *, quiet: bool = False) -> tuple[Trainer[Preconditioned], Result]:
        """Train; return (trainer, result)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.train.seed)
            net = self.net.build()
        model = Preconditioned(net, Rectified(), X0())
        trainer: Trainer[Any] = Trainer(model, self.objective, self.data, self.train, run, quiet=quiet)
        return trainer, trainer.train()


def told_apart(judge: Judge, data: Contrasted, n: int, seed: int = EVALUATION) -> list[Figure]:
    """Return how well a judge finds what belongs together among `n` rows of `data` under another seed.

    The share of pictures that fit their own caption better than the wrong one beside it (chance: one half), then the
    recalls of `retrieval` in batches of 100, and those among as many wrong captions besides. Raises `InputError` for
    the seed that the judge was trained on.
    """
    if seed == data.data.seed:
        raise InputError(f"seed={seed} is what the judge was trained on: give another")
    world = replace(data.data, seed=seed, size=n, dequantise=0.0)
    x = paint(world.scenes(range(n)), world.side)
    captions, wrong = [c.text for c in world.captions(range(n))], Contrasted(data=world).wrong(range(n))
    right = judge.cosines(x, captions) > judge.cosines(x, wrong)
    own = replace(alignment(right), name="own_before_wrong", network=judge.id)
    besides = [replace(f, name=f"{f.name}_besides") for f in retrieval(judge, x, captions, wrong)]
    return [own, *retrieval(judge, x, captions), *besides]


def contrasted(recipe: JudgeRecipe) -> Contrasted:
    """Return the data of a recipe; raise `InputError` for data of which no wrong captions are known."""
    data = recipe.data.data
    if not isinstance(data, Contrasted):
        raise InputError(f"{type(data).__name__} knows no wrong captions: a judge is measured on `Contrasted` data")
    return data


def judge_of_run(path: str | Path) -> Judge:
    """Return the judge of a training run, averaged weights where the run keeps them.

    Raises `CheckpointError` where there is no whole checkpoint, `InputError` for the run of something else.
    """
    run = Run(path)
    recipe = recipe_of(run)
    if not isinstance(recipe, JudgeRecipe):
        raise InputError(f"{run.path} is the run of a {type(recipe).__name__}, which is no judge")
    net = recipe.net.build()
    net.load_state_dict(averaged(run, net, recipe.train))
    return Judge(net=net.requires_grad_(False), words=recipe.data.words)
