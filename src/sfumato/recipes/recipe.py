"""What a recipe is: all that decides a trained model, in one configuration; and how it is trained."""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..conditioning import Classes
from ..core import (
    CheckpointError,
    InputError,
    Preconditioned,
    Prediction,
    Scaling,
    Schedule,
    device_of,
    from_config,
    register,
)
from ..data import Dataset
from ..objectives import Objective
from ..pipeline import Defaults, Modality, Pipeline
from ..train import Result, Run, TrainConfig, Trainer
from .start import Start


class NetConfig(Protocol):
    """A registered configuration of a network."""

    def build(self) -> nn.Module:
        """Return the network, freshly initialised."""
        ...


class Training(ABC):
    """A registered configuration of all that decides a training: `sfumato train` runs it, and goes on with its runs."""

    train: TrainConfig

    @abstractmethod
    def fit(self, run: Run | None = None, *, quiet: bool = False) -> tuple[Trainer[Any], Result]:
        """Train, in `run` where one is given (a run that has checkpoints goes on); return (trainer, result)."""


@register
@dataclass(frozen=True, kw_only=True)
class Recipe(Training):
    """Data, network, the algebra around it, the objective, how to train, and how to sample afterwards.

    `prompts`: what the grids of samples ask for, where the data has no classes. `start`: what was trained before, to go
    on from it with other settings or other data.
    Raises `InputError` where the parts do not fit each other, when they are put together.
    """

    data: Dataset
    net: NetConfig
    schedule: Schedule
    prediction: Prediction
    scaling: Scaling
    objective: Objective
    train: TrainConfig
    modality: Modality
    defaults: Defaults = field(default_factory=Defaults)
    references: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    start: Start = field(default_factory=Start)

    def denoiser(self) -> Preconditioned:
        """Return the untrained denoiser; its initial weights follow from `train.seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.train.seed)
            net = self.net.build()
        return Preconditioned(net, self.schedule, self.prediction, self.scaling)

    def pipeline(self, denoiser: Preconditioned) -> Pipeline:
        """Return the pipeline of a denoiser that was trained by this recipe."""
        names, count = self.data.classes, denoiser.cond.get("y")
        if count is not None and names is not None and len(names) != count:
            raise InputError(
                f"the data has {len(names)} classes and the network {count}: give --net.num_classes {len(names)}"
            )
        return Pipeline(
            denoiser=denoiser,
            shape=self.data.shape,
            conditioner=Classes(names=names) if count is not None and names is not None else self.data.conditioner,
            codec=self.data.codec,
            modality=self.modality,
            defaults=self.defaults,
            references=self.references,
        )

    def fit(self, run: Run | None = None, *, quiet: bool = False) -> tuple[Trainer[Preconditioned], Result]:
        """Train, and write grids of samples to the run: the same seeds each time.

        Where there are classes or prompts, one picture of each (at most 64).
        """
        self.data.prepare(lambda done, of: None if quiet else print(f"data: {done} of {of} rows", file=sys.stderr))
        denoiser = self.denoiser()
        if run is None or not any(run.checkpoints.iterdir()):  # a run that goes on has weights of its own
            self.start.give(denoiser.net, _weights)
        pipeline = self.pipeline(denoiser)
        _check(self, pipeline)
        prompts: Sequence[str | None] = (pipeline.classes or self.prompts or (None,) * 16)[:64]
        n = 256 if len(pipeline.shape) == 1 else max(1, 16 // len(prompts))
        asked = list(prompts) if len(pipeline.shape) > 1 else None

        def samples(current: Preconditioned, path: Path) -> None:
            shown = replace(pipeline, denoiser=current, codec=copy.deepcopy(pipeline.codec))  # the data keeps its own
            shown.to(device_of(current))(asked, n=n).grid().save(path)

        drawn = None if run is None else samples
        trainer = Trainer(denoiser, self.objective, self.data, self.train, run, samples=drawn, quiet=quiet)
        return trainer, trainer.train()


def _weights(path: str) -> dict[str, Tensor]:
    from ..pipeline import load  # which knows recipes
    from .reading import ReaderRecipe, weights_of_reader

    if (Path(path) / "checkpoints").is_dir() and isinstance(recipe_of(Run(path)), ReaderRecipe):
        return {name: value for name, value in weights_of_reader(path).items() if name.startswith("text.")}
    return load(path).denoiser.net.state_dict()


def train(recipe: Training, run: Run | None = None, *, quiet: bool = False) -> tuple[Trainer[Any], Result]:
    """Return recipe.fit(run, quiet=quiet)."""
    return recipe.fit(run, quiet=quiet)


def recipe_of(run: Run) -> Training:
    """Return the recipe of a run, with the training settings that it was last continued with.

    Raises `CheckpointError` for a run that was not started from a recipe, or whose config.json is damaged.
    """
    config = run.config
    if "recipe" not in config:
        raise CheckpointError(
            f"{run.path} was not started from a recipe: resume and load it from Python, as it was made"
        )
    try:
        recipe: Any = from_config(config["recipe"], Training)
        return replace(recipe, train=from_config(config["train"], TrainConfig)) if "train" in config else recipe
    except (InputError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{run.path / 'config.json'}: {' '.join(str(error).split())[:300]}") from error


def _check(recipe: Recipe, pipeline: Pipeline) -> None:
    """Refuse, before a step is made, a network that does not take the data."""
    from ..core import Noise

    batch = recipe.data.batch([0], Noise([0]))
    takes: dict[str, Any] = dict(pipeline.denoiser.cond)
    if set(takes) != set(batch.cond):
        raise InputError(
            f"the data has the conditions {sorted(batch.cond) or 'none'}, the network {sorted(takes) or 'none'}: "
            "change --net.num_classes or --data.labels"
        )
    try:
        with torch.no_grad():
            pipeline.denoiser(batch.x0, 0.5, **batch.cond)
    except RuntimeError as error:
        shape = tuple(batch.x0.shape[1:])
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the network does not take data of shape {shape}: {reason}; change --net") from error
