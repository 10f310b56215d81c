"""A network by itself in a folder, `config.json` and weights: what a pipeline says beside it must be known or given."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...codecs.codec import Codec
from ...core import InputError, Prediction, Schedule
from ...pipeline import Pipeline
from .folder import NETWORKS, Kind, assembled, read_network
from .given import FAMILIES, given


def read_alone(
    folder: Path, *, variant: str | None = None, prediction: Prediction | None = None, schedule: Schedule | None = None
) -> Pipeline:
    """Return a pipeline of the network in `folder`, without codec and texts.

    Transformers have the contracts of their releases (`sfumato.interop.single.contracts`); a U-Net does not tell:
    `prediction` is asked for, and the schedule is that of Stable Diffusion unless it is given. Raises `InputError` for
    what must be given, and for what is no network that makes pictures.
    """
    if (folder.parent / "model_index.json").is_file() and folder.name in NETWORKS and prediction is schedule is None:
        raise InputError(f"{folder} is a part of the model in {folder.parent}: load that, or give prediction=")
    net = read_network(folder, variant=variant)
    if isinstance(net, Codec):
        raise InputError(f"{folder} holds an autoencoder alone: give it as codec= beside a model, or load_codec it")
    if type(net).__name__ not in (*FAMILIES, "LatentUNet", "UNet"):
        raise InputError(
            f"{folder} holds a {type(net).__name__}, which steers a network: load a model, and it beside it"
        )
    return assembled(net, None, None, given(net, str(folder), prediction, schedule), Kind(), side_of(net))


def side_of(net: nn.Module) -> int:
    """Return the side of latents that a configuration names, 64 where it names none."""
    config = getattr(net, "config", None)
    base, patch = getattr(config, "base", None), getattr(config, "patch", None)
    size = getattr(config, "size", None)
    return base * patch if base and patch else size if isinstance(size, int) else 64
