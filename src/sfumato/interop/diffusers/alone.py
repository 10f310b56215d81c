"""A network by itself in a folder, `config.json` and weights: what a pipeline says beside it must be known or given."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...codecs.codec import Codec
from ...core import Eps, Flow, FlowTime, InputError, Plain, Prediction, Rectified, Schedule, Table
from ...pipeline import Pipeline
from .folder import NETWORKS, Kind, assembled, read_network
from .scheduler import Contract, betas

LINEAR = ("DiT", "PixArt")  # the noise on linear betas, of every released one


def read_alone(
    folder: Path, *, variant: str | None = None, prediction: Prediction | None = None, schedule: Schedule | None = None
) -> Pipeline:
    """Return a pipeline of the network in `folder`, without codec and texts.

    MMDiT is a flow, DiT and PixArt predict the noise on linear betas; a U-Net does not tell: `prediction` is asked for,
    and the schedule is that of Stable Diffusion unless it is given. Raises `InputError` for what must be given.
    """
    if (folder.parent / "model_index.json").is_file() and folder.name in NETWORKS and prediction is schedule is None:
        raise InputError(f"{folder} is a part of the model in {folder.parent}: load that, or give prediction=")
    net = read_network(folder, variant=variant)
    if isinstance(net, Codec):
        raise InputError(f"{folder} holds an autoencoder alone: give it as codec= beside a model, or load_codec it")
    return assembled(net, None, None, _contract(net, folder, prediction, schedule), Kind(), side_of(net))


def side_of(net: nn.Module) -> int:
    """Return the side of latents that a configuration names, 64 where it names none."""
    config = getattr(net, "config", None)
    base, patch = getattr(config, "base", None), getattr(config, "patch", None)
    size = getattr(config, "size", None)
    return base * patch if base and patch else size if isinstance(size, int) else 64


def _contract(net: nn.Module, folder: Path, prediction: Prediction | None, schedule: Schedule | None) -> Contract:
    kind = type(net).__name__
    if kind in ("MMDiT", "Lumina"):
        return Contract(schedule=schedule or Rectified(), prediction=prediction or Flow(), scaling=FlowTime())
    if prediction is None and kind not in LINEAR:
        raise InputError(f"{folder} does not tell what its {kind} predicts: give prediction=, sf.Eps() or sf.V()")
    ends = ("linear", 0.0001, 0.02) if kind in LINEAR else ("scaled_linear", 0.00085, 0.012)
    table = schedule or Table.from_betas(betas(*ends, 1000))
    count = float(len(table.alphas_cumprod)) if isinstance(table, Table) else 1000.0
    return Contract(schedule=table, prediction=prediction or Eps(), scaling=Plain(scale=count, shift=-1.0))
