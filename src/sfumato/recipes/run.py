"""From a run on disk to what it trained: the newest whole checkpoint with its longest average of the weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core import CheckpointError, InputError, Preconditioned
from ..core.weights import specs
from ..pipeline import Pipeline
from ..pipeline.folder import empty, fill
from ..train import Run, TrainConfig, latest_checkpoint
from .recipe import Recipe, recipe_of


def pipeline_of_run(path: str | Path) -> Pipeline:
    """Return the pipeline of a training run, averaged weights where the run keeps them, memory-mapped.

    Raises `CheckpointError` where there is no whole checkpoint, or one of another network, `InputError` where what the
    run trained makes no pictures.
    """
    run = Run(path)
    recipe = recipe_of(run)
    if not isinstance(recipe, Recipe):
        raise InputError(f"{run.path} is the run of a {type(recipe).__name__}, which makes no pictures by itself")
    net = empty(recipe.net, torch.float32)
    denoiser = Preconditioned(net, recipe.schedule, recipe.prediction, recipe.scaling)
    fill(denoiser, averaged(run, net, recipe.train))
    return recipe.pipeline(denoiser)


def averaged(run: Run, net: nn.Module, config: TrainConfig) -> dict[str, Tensor]:
    """Return the weights of the newest whole checkpoint of `run`, the longest average of them where it keeps any."""
    found = latest_checkpoint(run.checkpoints, lambda line: print(line, file=sys.stderr))
    if found is None:
        raise CheckpointError(f"{run.path} has no checkpoint yet; wait for the first one")
    expected = specs(net.state_dict())
    weights = found.read("model", expected)
    if config.ema:
        named = dict(net.named_parameters())
        names = {f"{h:g}/{n}": expected[n] for h in config.ema for n in named}
        averages = found.read("ema", names)
        longest = f"{max(config.ema):g}"
        weights |= {n: averages[f"{longest}/{n}"] for n in named}
    return weights
