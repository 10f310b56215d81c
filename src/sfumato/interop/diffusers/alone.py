"""A network by itself in a folder, `config.json` and weights: what a pipeline says beside it must be known or given."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...codecs.codec import Codec
from ...core import InputError, LearnedVariance, Plain, Prediction, Schedule, Table
from ...pipeline import Pipeline
from ..single.contracts import contract_of
from .folder import NETWORKS, Kind, assembled, read_network
from .scheduler import Contract, betas

FAMILIES = {"MMDiT": "sd3", "Lumina": "lumina", "DiT": "dit", "PixArt": "pixart-alpha", "HunyuanDiT": "hunyuan"}


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
    return assembled(net, None, None, _contract(net, folder, prediction, schedule), Kind(), side_of(net))


def side_of(net: nn.Module) -> int:
    """Return the side of latents that a configuration names, 64 where it names none."""
    config = getattr(net, "config", None)
    base, patch = getattr(config, "base", None), getattr(config, "patch", None)
    size = getattr(config, "size", None)
    return base * patch if base and patch else size if isinstance(size, int) else 64


def _contract(net: nn.Module, folder: Path, prediction: Prediction | None, schedule: Schedule | None) -> Contract:
    kind = type(net).__name__
    if kind in FAMILIES:
        config = getattr(net, "config", None)
        said = contract_of(FAMILIES[kind], config, {}, "", path=str(folder), prediction=prediction, schedule=schedule)
        inner = said[1].prediction if isinstance(said[1], LearnedVariance) else said[1]
        return Contract(schedule=said[0], prediction=inner, scaling=said[2])
    if prediction is None:
        raise InputError(f"{folder} does not tell what its {kind} predicts: give prediction=, sf.Eps() or sf.V()")
    table = schedule or Table.from_betas(betas("scaled_linear", 0.00085, 0.012, 1000))
    count = float(len(table.alphas_cumprod)) if isinstance(table, Table) else 1000.0
    return Contract(schedule=table, prediction=prediction, scaling=Plain(scale=count, shift=-1.0))
