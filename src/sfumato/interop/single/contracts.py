"""What the numbers of a file's network mean: its schedule and its prediction, as far as the file tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core import (
    Eps,
    Flow,
    FlowTime,
    InputError,
    LearnedVariance,
    Plain,
    Prediction,
    Rectified,
    Scaling,
    Schedule,
    Table,
    V,
    VPLinear,
    ZeroTerminalSNR,
)
from ..diffusers.scheduler import betas

SHIFT = 3.0  # of the rectified flows of version 3 and 3.5, in their released configurations
# a bias whose spread tells version 2's predictions apart: above it is v (a rule of thumb of the field's tools)
TELLTALE, SPREAD = "output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09

# the betas of networks that predict on a table, whose files hold none; Hunyuan-DiT's are those of 1.0 and 1.1
LINEAR, LATENT = ("linear", 0.0001, 0.02), ("scaled_linear", 0.00085, 0.012)
BETAS = {
    "dit": LINEAR,
    "diffit": LINEAR,
    "pixart-alpha": LINEAR,
    "pixart-sigma": LINEAR,
    "hunyuan": ("scaled_linear", 0.00085, 0.03),
}

Contract = tuple[Schedule, Prediction, Scaling]


def contract_of(
    family: str,
    config: Any,
    tensors: Mapping[str, Tensor],
    prefix: str,
    *,
    path: str,
    prediction: Prediction | None = None,
    schedule: Schedule | None = None,
) -> Contract:
    """Return (schedule, prediction, scaling) of a file's network of this `config`; what is given comes first.

    Version 1, XL and the refiner predict the noise, unless the file has the marker tensor `v_pred`; version 2 is told
    by the spread of one bias. The schedule is the file's `alphas_cumprod` where it has one, with `ztsnr` the zero
    terminal SNR of it. Transformers have those of their release; twice the channels are a learned variance. Raises
    `InputError` with the keyword for what the file does not tell.
    """
    if family == "sd3":
        return schedule or Rectified(shift=SHIFT), prediction or Flow(), FlowTime()
    if family == "lumina":  # it counts from noise to data
        return schedule or Rectified(), prediction or Flow(), FlowTime(scale=-1.0, shift=1.0)
    if family == "uvit":
        return _of_uvit(config, path, prediction, schedule)
    if family in BETAS:
        said = prediction or (V() if family == "hunyuan" else Eps())
        if config.out_channels == 2 * config.channels and not isinstance(said, LearnedVariance):
            said = LearnedVariance(prediction=said)
        kind, first, last = BETAS[family]
        last = 0.018 if family == "hunyuan" and not config.styles else last  # version 1.2
        return _on_a_table(schedule or Table.from_betas(betas(kind, first, last, 1000)), said)
    if "edm_mean" in tensors or "edm_vpred.sigma_max" in tensors:
        raise InputError(f"{path} is of an EDM formulation (edm_mean, sigma_max), which is not read yet")
    upscaler = f"{prefix}label_emb.weight" in tensors
    if prediction is None:
        prediction = V() if "v_pred" in tensors or upscaler else Eps()
        if family == "sd2" and "v_pred" not in tensors and not upscaler:
            prediction = _of_version_2(tensors, prefix, path)
    if schedule is None:
        schedule = _schedule(tensors, path, (0.0001, 0.02) if upscaler else LATENT[1:])
    return _on_a_table(schedule, prediction)


def _on_a_table(schedule: Schedule, prediction: Prediction) -> Contract:
    count = float(len(schedule.alphas_cumprod)) if isinstance(schedule, Table) else 1000.0
    return schedule, prediction, Plain(scale=count, shift=-1.0)


def _of_uvit(config: Any, path: str, prediction: Prediction | None, schedule: Schedule | None) -> Contract:
    """U-ViT-H and those that read a text were trained on Stable Diffusion's table, with labels from 1; those on pixels
    and U-ViT-L on score SDE's linear VP, with the label 999 t, as in its code.
    """
    said = prediction or Eps()
    if schedule is None:
        if config.channels == 4 and config.width not in (1024, 1152) and not config.context:
            raise InputError(f"{path} does not tell the schedule of its U-ViT: give schedule=")
        table = config.channels == 4 and (config.width == 1152 or config.context > 0)
        schedule = Table.from_betas(betas(*LATENT, 1000)) if table else VPLinear()
    return schedule, said, Plain(scale=1000.0 if isinstance(schedule, Table) else 999.0)


def _of_version_2(tensors: Mapping[str, Tensor], prefix: str, path: str) -> Prediction:
    if tensors[f"{prefix}input_blocks.0.0.weight"].shape[1] != 4:
        return Eps()  # in-painting and depth of version 2 were trained from its base
    bias = tensors.get(prefix + TELLTALE)
    if bias is None:
        raise InputError(f"{path} does not tell what its network predicts: give prediction=, sf.Eps() or sf.V()")
    return V() if float(bias.float().std()) > SPREAD else Eps()


def _schedule(tensors: Mapping[str, Tensor], path: str, ends: tuple[float, float]) -> Schedule:
    usual = Table.from_betas(betas("scaled_linear", *ends, 1000))
    zero = ZeroTerminalSNR(base=usual)
    if "ztsnr" in tensors:
        return zero
    held = tensors.get("alphas_cumprod")
    if held is None:
        return usual
    bars = held.double().flatten()
    for known in (usual, zero):
        times = torch.arange(1, 1001, dtype=torch.float64) / 1000
        if len(bars) == 1000 and torch.allclose(bars, torch.as_tensor(known(times)[0]) ** 2, atol=1e-4):
            return known
    try:
        return Table(alphas_cumprod=tuple(bars.tolist()))
    except InputError as error:
        raise InputError(f"{path}: its alphas_cumprod is no schedule ({error}): give schedule=") from error
