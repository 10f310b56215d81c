"""A pipeline as one `.safetensors` file, under the names that web interfaces and their authors' code read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import __version__
from ...codecs.kl import AutoencoderKL
from ...conditioning import ClipText, RefinerText, SD3Text, TextConditioner, XLText
from ...core import Eps, Flow, FlowTime, InputError, Plain, Rectified, Table, V, ZeroTerminalSNR
from ...core.weights import write_weights
from ...nets.latent_unet import LatentUNet
from ...nets.mmdit import MMDiT
from ...pipeline import Pipeline
from ...pipeline.identity import bare
from ..diffusers.scheduler import betas
from ..links import write
from . import kl, latent_unet, mmdit
from .families import FAMILIES
from .said import KEY, told
from .text import PARTS, write_tower


def write_single(pipe: Pipeline, path: str | Path) -> Path:
    """Write a pipeline as one new file; return its path.

    Tensors have the names of CompVis' and Stability's releases; the markers `v_pred` and `ztsnr` and the table
    `alphas_cumprod` say what differs from a family's usual contract, and the metadata what shapes cannot. Tokenizers
    have no place in such a file. Raises `InputError` for a pipeline of no family that has one, and a path that exists.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors")
    if path.exists():
        raise InputError(f"{path} exists; nothing is overwritten, give a new name")
    kind, net = kind_of(pipe), pipe.denoiser.net
    tensors = write((mmdit.links if kind == "sd3" else latent_unet.links)(net), net.state_dict())
    codec = bare(pipe.codec)
    if codec is not None:
        if not isinstance(codec, AutoencoderKL):
            raise InputError(f"a {type(codec).__name__} has no place in a single file: write a folder")
        tensors |= write(kl.links(codec), codec.state_dict())
    if isinstance(pipe.conditioner, TextConditioner):
        for name, tower in pipe.conditioner.towers.items():
            tensors |= write_tower(tower, PARTS[kind][name])
    tensors |= _marks(pipe, kind)
    said = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": FAMILIES[kind].architecture,
        "modelspec.implementation": f"sfumato {__version__}",
        KEY: told(pipe),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, tensors, said)
    return path


def kind_of(pipe: Pipeline) -> str:
    """Return the family of files that a pipeline's parts belong to; raise `InputError` for one of none."""
    net: Any = pipe.denoiser.net
    texts = pipe.conditioner.family if isinstance(pipe.conditioner, TextConditioner) else None
    if isinstance(net, MMDiT) and isinstance(texts, SD3Text | None):
        return "sd3"
    if isinstance(net, LatentUNet):
        if isinstance(texts, XLText | RefinerText):
            return "xl" if isinstance(texts, XLText) else "refiner"
        if texts is None and net.config.vector:
            return "refiner" if net.config.vector == 2560 else "xl"
        if isinstance(texts, ClipText | None):
            return _version(pipe, net.config.convolved)
    reads = "no text" if texts is None else type(texts).__name__
    raise InputError(f"{type(net).__name__} with {reads} has no layout in one file: write a folder")


def _version(pipe: Pipeline, convolved: bool) -> str:
    """Version 1 has OpenAI's encoder (quick GELU), version 2 OpenCLIP's, which has the exact one."""
    if not isinstance(pipe.conditioner, TextConditioner):
        return "sd1" if convolved else "sd2"
    model: Any = pipe.conditioner.towers["clip"].model
    return "sd1" if model.config.hidden_act == "quick_gelu" else "sd2"


def _marks(pipe: Pipeline, kind: str) -> dict[str, Tensor]:
    """Return the tensors that say how the network's output and labels are meant."""
    denoiser = pipe.denoiser
    schedule, prediction, scaling = denoiser.schedule, denoiser.prediction, denoiser.scaling
    if kind == "sd3":
        if not (isinstance(schedule, Rectified) and isinstance(prediction, Flow) and isinstance(scaling, FlowTime)):
            raise InputError(f"a single file of version 3 is a flow; this one predicts {type(prediction).__name__}")
        return {}
    base = schedule.base if isinstance(schedule, ZeroTerminalSNR) else schedule
    if not isinstance(base, Table) or not isinstance(prediction, Eps | V) or not isinstance(scaling, Plain):
        raise InputError(
            f"{type(base).__name__} with {type(prediction).__name__} cannot be written in a single file: "
            "those of version 1, 2 and XL are tables with Eps or V"
        )
    marks: dict[str, Tensor] = {"v_pred": torch.zeros(0)} if isinstance(prediction, V) else {}
    if isinstance(schedule, ZeroTerminalSNR):
        marks["ztsnr"] = torch.zeros(0)
    bars = torch.tensor(base.alphas_cumprod, dtype=torch.float64)
    usual = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000), 0)
    if len(bars) != 1000 or not torch.allclose(bars, usual, rtol=1e-9, atol=0):
        marks["alphas_cumprod"] = bars.float()
    return marks
