"""What a network means that stands in a folder without a scheduler: as its release says, or as it is given."""

from __future__ import annotations

from torch import nn

from ...core import InputError, LearnedVariance, Plain, Prediction, Schedule, Table
from ..single.contracts import contract_of
from .scheduler import Contract, betas

FAMILIES = {"MMDiT": "sd3", "Lumina": "lumina", "DiT": "dit", "PixArt": "pixart-alpha", "HunyuanDiT": "hunyuan"}


def given(net: nn.Module, path: str, prediction: Prediction | None, schedule: Schedule | None) -> Contract:
    """Return the contract of a network at `path`; what is given comes first.

    Transformers have those of their releases; a U-Net does not tell: its schedule is that of Stable Diffusion unless it
    is given. Raises `InputError` where it needs a prediction.
    """
    kind = type(net).__name__
    if kind in FAMILIES:
        config = getattr(net, "config", None)
        said = contract_of(FAMILIES[kind], config, {}, "", path=path, prediction=prediction, schedule=schedule)
        inner = said[1].prediction if isinstance(said[1], LearnedVariance) else said[1]
        return Contract(schedule=said[0], prediction=inner, scaling=said[2])
    if prediction is None:
        raise InputError(f"{path} does not tell what its {kind} predicts: give prediction=, sf.Eps() or sf.V()")
    table = schedule or Table.from_betas(betas("scaled_linear", 0.00085, 0.012, 1000))
    count = float(len(table.alphas_cumprod)) if isinstance(table, Table) else 1000.0
    return Contract(schedule=table, prediction=prediction, scaling=Plain(scale=count, shift=-1.0))
