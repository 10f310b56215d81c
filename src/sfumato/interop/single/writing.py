"""A pipeline as one `.safetensors` file, under the names that web interfaces and their authors' code read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ... import __version__
from ...codecs.kl import AutoencoderKL
from ...conditioning import ClipText, RefinerText, SD3Text, TextConditioner, XLText
from ...conditioning.inversions import learned_words
from ...control.lora import refuse_live
from ...core import Eps, InputError, Plain, Prediction, Rectified, Scaling, Schedule, Table, V, ZeroTerminalSNR
from ...core.weights import write_weights
from ...nets.latent_unet import LatentUNet, LatentUNetConfig
from ...nets.pixart import PixArtConfig
from ...pipeline import Pipeline
from ...pipeline.identity import own
from ...pipeline.origin import Origin, warn_of
from ...pipeline.parts import modules
from ..diffusers.scheduler import betas
from ..links import write
from . import kl
from .contracts import Contract, contract_of
from .families import FAMILIES
from .said import KEY, told
from .text import PARTS, write_tower

# buffers and markers of a contract, which say what is wrong where the contract is another by now
SCHEDULE = re.compile(r"(alphas_cumprod|betas|log_one_minus_|sqrt_|posterior_|lvlb_)|(v_pred|ztsnr)$")
UNTOLD = ("size", "scale", "base", "watershed")  # settings of positions, which files leave to those who run them


def write_single(pipe: Pipeline, path: str | Path) -> Path:
    """Write a pipeline as one new file; return its path.

    Tensors have the names of the authors' releases, those of no part of the file that a pipeline was read from as well.
    The markers `v_pred` and `ztsnr` and the table `alphas_cumprod` say what the other tensors do not tell of the
    contract, and the metadata what shapes cannot. Tokenizers have no place in such a file; those of DiT and other
    transformers hold the network alone, and a warning names what is left out. Raises `InputError` for a pipeline of no
    family that has one, and a path that exists.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors")
    if path.exists():
        raise InputError(f"{path} exists; nothing is overwritten, give a new name")
    refuse_live(pipe.denoiser.net, *modules(pipe.conditioner))
    kind, net = kind_of(pipe), pipe.denoiser.net
    family, origin = FAMILIES[kind], pipe.origin or Origin(network=FAMILIES[kind].prefix, codec=kl.PREFIX)
    links = family.links(net, origin.network)
    made = {name for link in links if not link.ours for name in link.theirs}  # tables that follow from a configuration
    tensors = write(links, net.state_dict())
    codec = own(pipe.codec)
    texts = pipe.conditioner if isinstance(pipe.conditioner, TextConditioner) else None
    if family.texts is None:
        _told_by_shapes(net, kind, tensors, origin.network)
        lost = {"the autoencoder": codec} | (dict(texts.towers) if texts else {})
        warn_of((name for name, part in lost.items() if part is not None), "this layout holds the network alone")
        pipe = replace(pipe, codec=None, conditioner=None if texts else pipe.conditioner)
    else:
        if codec is not None:
            if not isinstance(codec, AutoencoderKL):
                raise InputError(f"a {type(codec).__name__} has no place in a single file: write a folder")
            tensors |= write(kl.links(codec, origin.codec), codec.state_dict())
        for name, tower in (texts.towers if texts else {}).items():
            warn_of((f"the word {w!r} of {name}" for w in learned_words(tower)), "this layout holds no tokenizer")
            tensors |= write_tower(tower, PARTS[kind][name])
    tensors |= {name: tensor for name, tensor in origin.tensors.items() if name not in tensors or name in made}
    tensors = _marked(pipe, kind, tensors, origin.network)
    said = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": family.architecture,
        "modelspec.implementation": f"sfumato {__version__}",
        **origin.metadata,
        KEY: told(pipe),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, tensors, said)
    return path


def kind_of(pipe: Pipeline) -> str:
    """Return the family of files that a pipeline's parts belong to; raise `InputError` for one of none."""
    net: Any = pipe.denoiser.net
    texts = pipe.conditioner.family if isinstance(pipe.conditioner, TextConditioner) else None
    config = getattr(net, "config", None)
    if isinstance(config, PixArtConfig):
        return "pixart-sigma" if config.null_tokens == 300 or config.compression else "pixart-alpha"
    for kind, family in FAMILIES.items():
        if isinstance(config, family.config) and (family.texts is None or kind == "sd3"):
            if kind == "sd3" and not isinstance(texts, SD3Text | None):
                break
            return kind
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


def _told_by_shapes(net: Any, kind: str, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Raise `InputError` for a transformer whose authors' code would make another network of the file."""
    said, shapes = net.config, {name: tuple(t.shape) for name, t in tensors.items()}
    if isinstance(said, PixArtConfig):  # whose table of positions is in some files and not in others
        shapes[prefix + "pos_embed"] = (1, (said.size // said.patch) ** 2, said.width)
    found = FAMILIES[kind].net(shapes, prefix)
    for name in (f.name for f in fields(found)):
        if getattr(found, name) != getattr(said, name) and name not in UNTOLD:
            raise InputError(
                f"a file of {FAMILIES[kind].architecture} is read with {name}={getattr(found, name)}, and this network "
                f"has {getattr(said, name)}: write a folder"
            )


def _marked(pipe: Pipeline, kind: str, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors with those that say how the network's output and labels are meant, where others do not."""
    denoiser, config = pipe.denoiser, cast(Any, pipe.denoiser.net).config
    wanted = (denoiser.schedule, denoiser.prediction, denoiser.scaling)
    if _tells(kind, config, tensors, prefix, wanted):
        return tensors
    if FAMILIES[kind].config is not LatentUNetConfig:
        raise InputError(
            f"a single file of {FAMILIES[kind].architecture} cannot say {type(wanted[0]).__name__} with "
            f"{type(wanted[1]).__name__} and {type(wanted[2]).__name__}: write a folder"
        )
    marks = _marks(*wanted)
    if _tells(kind, config, tensors | marks, prefix, wanted):
        return tensors | marks
    stale = {name for name in tensors if SCHEDULE.match(name)} - marks.keys()
    warn_of(stale, "they are of another schedule or prediction than this pipeline's")
    return {name: tensor for name, tensor in tensors.items() if name not in stale} | marks


def _tells(kind: str, config: Any, tensors: Mapping[str, Tensor], prefix: str, wanted: Contract) -> bool:
    """Return whether a reader finds this contract in a file of these tensors."""
    try:
        schedule, *rest = contract_of(kind, config, tensors, prefix, path="the file")
    except InputError:
        return False
    flow = isinstance(schedule, Rectified) and isinstance(wanted[0], Rectified)  # whose shift is a matter of grids
    return tuple(rest) == wanted[1:] and (flow or schedule == wanted[0])


def _marks(schedule: Schedule, prediction: Prediction, scaling: Scaling) -> dict[str, Tensor]:
    """Return the tensors that say a contract on a table."""
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
