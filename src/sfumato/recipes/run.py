"""From a run on disk to a pipeline: the newest whole checkpoint with its longest average of the weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ..core import CheckpointError, Preconditioned
from ..core.weights import specs
from ..pipeline import Pipeline
from ..pipeline.folder import empty, fill
from ..train import Run, latest_checkpoint
from .recipe import recipe_of


def pipeline_of_run(path: str | Path) -> Pipeline:
    """Return the pipeline of a training run, averaged weights where the run keeps them, memory-mapped.

    Raises `CheckpointError` where there is no whole checkpoint, or one of another network.
    """
    run = Run(path)
    recipe = recipe_of(run)
    found = latest_checkpoint(run.checkpoints, lambda line: print(line, file=sys.stderr))
    if found is None:
        raise CheckpointError(f"{run.path} has no checkpoint yet; wait for the first one")
    net = empty(recipe.net, torch.float32)
    expected = specs(net.state_dict())
    weights = found.read("model", expected)
    if recipe.train.ema:
        named = dict(net.named_parameters())
        names = {f"{h:g}/{n}": expected[n] for h in recipe.train.ema for n in named}
        averages = found.read("ema", names)
        longest = f"{max(recipe.train.ema):g}"
        weights |= {n: averages[f"{longest}/{n}"] for n in named}
    denoiser = Preconditioned(net, recipe.schedule, recipe.prediction, recipe.scaling)
    fill(denoiser, weights)
    return recipe.pipeline(denoiser)
