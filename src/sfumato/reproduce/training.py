"""Train what a system needs, or take it from an earlier run: the one Trainer, without a run folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..codecs.learning import CodecObjective, Coding
from ..core import Model, Preconditioned, fold, to_config
from ..data import Dataset
from ..objectives import Objective
from ..train import TrainConfig, Trainer
from .runner import Context


def built(config: Any, seed: int) -> nn.Module:
    """Return `config.build()` with initial weights that belong to `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(fold("weights", seed))
        return config.build()


def fit(
    context: Context, name: str, denoiser: Preconditioned, objective: Objective, dataset: Dataset, config: TrainConfig
) -> Preconditioned:
    """Return `denoiser` trained and in evaluation mode, with the averaged weights where `config.ema` has an average.

    What an earlier run with the same network, schedule, prediction, scaling, objective, data and settings kept is
    taken instead.
    """
    parts = (denoiser.schedule, denoiser.prediction, denoiser.scaling, objective, config)
    settings = {
        "net": to_config(denoiser.net.config),
        "parts": [to_config(part) for part in parts],
        "data": dataset.fingerprint,
    }

    _fitted(context, name, settings, denoiser, objective, dataset, config)
    return denoiser.eval()


def fit_codec(
    context: Context, name: str, codec: Any, objective: CodecObjective, dataset: Dataset, config: TrainConfig
) -> Any:
    """Return the codec of a configuration, trained and in evaluation mode, as `fit` does a denoiser."""
    model = Coding.start(codec, objective, config.seed)
    settings = {
        "codec": to_config(codec),
        "parts": [to_config(part) for part in (objective, config)],
        "data": dataset.fingerprint,
    }

    _fitted(context, name, settings, model, objective, dataset, config)
    return model.codec.eval()


def _fitted(
    context: Context,
    name: str,
    settings: dict[str, Any],
    model: Model,
    objective: Any,
    dataset: Dataset,
    config: TrainConfig,
) -> None:
    """Give `model.net` the weights that were kept under `settings`, or those of a training."""

    def train(net: nn.Module) -> None:
        trainer = Trainer(model, objective, dataset, config, quiet=context.quiet)
        trainer.train()
        if config.ema:
            with trainer.ema_weights():
                averaged = {key: value.clone() for key, value in net.state_dict().items()}
            net.load_state_dict(averaged)

    context.progress(f"training {name}", None)
    context.fitted(name, settings, model.net, train)
