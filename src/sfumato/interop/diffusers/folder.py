"""A diffusers folder as a pipeline: `model_index.json`, its networks, text encoders, autoencoder and scheduler."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...codecs.codec import Codec
from ...conditioning import Classes, Conditioner
from ...conditioning.clip import ClipText
from ...conditioning.depth import read_depth_model
from ...conditioning.hunyuan import HunyuanText
from ...conditioning.lumina import LuminaText
from ...conditioning.pixart import PixArtText
from ...conditioning.sd3 import SD3Text
from ...conditioning.text import Family, TextConditioner
from ...conditioning.tower import Tower
from ...conditioning.tower_files import read_tower
from ...conditioning.xl import RefinerText, XLText
from ...core import (
    CheckpointError,
    FlowTime,
    InputError,
    LearnedVariance,
    Preconditioned,
    Prediction,
    Schedule,
    nearest,
)
from ...core.json_file import read_json
from ...core.weights import read_cast, specs, stored_as
from ...pipeline import Defaults, Pipeline
from ...pipeline.extra import Depth, Upscale
from ...pipeline.extra import default as default_extra
from ...pipeline.folder import at_most, bounded, empty
from ...pipeline.identity import standing
from ..files import holds, weights_in
from ..links import check, read
from .given import given
from .layout import Layout
from .scheduler import Contract, contract, known

LAYOUTS = {
    "UNet2DConditionModel": "latent_unet",
    "UNet2DModel": "unet",
    "DiTTransformer2DModel": "dit",
    "SD3Transformer2DModel": "mmdit",
    "PixArtTransformer2DModel": "pixart",
    "HunyuanDiT2DModel": "hunyuan_dit",
    "LuminaNextDiT2DModel": "lumina",
    "AutoencoderKL": "kl",
    "AutoencoderTiny": "tiny",
    "VQModel": "vq",
    "ConsistencyDecoderVAE": "consistency_decoder",
    "ControlNetModel": "controlnet",
    "SD3ControlNetModel": "sd3_controlnet",
    "T2IAdapter": "t2i_adapter",
}
ALIASES = {"Transformer2DModel": "PixArtTransformer2DModel", "ControlNetSD3Model": "SD3ControlNetModel"}
NETWORKS = ("unet", "transformer")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a pipeline class of theirs needs beside its parts.

    `family(folder's index, towers, network's configuration) -> the rule of its texts`; `towers`: our name -> their
    component; `guidance`, `steps`, `channels` (`guided_channels`): the published pipeline's defaults;
    `scheduler`: what its class sets in the scheduler's configuration, whatever the file says.
    """

    family: Callable[[Mapping[str, Any], Mapping[str, Tower], Any], Family] | None = None
    towers: Mapping[str, str] = field(default_factory=dict[str, str])
    guidance: float = 7.5
    steps: int = 50
    channels: int | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _xl(index: Mapping[str, Any], towers: Mapping[str, Tower], config: Any) -> Family:
    return XLText(zeros=bool(index.get("force_zeros_for_empty_prompt", True)))


def _sd3(index: Mapping[str, Any], towers: Mapping[str, Tower], config: Any) -> Family:
    known = SD3Text()
    configs: dict[str, Any] = {name: tower.model.config for name, tower in towers.items()}
    widths = [int(configs[n].projection_dim) if n in configs else w for n, w in zip(("clip_l", "clip_g"), known.pooled)]
    return SD3Text(pooled=(widths[0], widths[1]), width=int(getattr(config, "context", known.width)))


_SD = Kind(family=lambda index, towers, config: ClipText(), towers={"clip": "text_encoder"})
_SD_1 = replace(_SD, scheduler={"steps_offset": 1, "clip_sample": False})
_XL = Kind(family=_xl, towers={"clip_l": "text_encoder", "clip_g": "text_encoder_2"}, guidance=5.0)
_REFINER = Kind(
    family=lambda index, towers, config: RefinerText(zeros=bool(index.get("force_zeros_for_empty_prompt", False))),
    towers={"clip_g": "text_encoder_2"},
    guidance=5.0,
)
_SD3 = Kind(
    family=_sd3,
    towers={"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5": "text_encoder_3"},
    guidance=7.0,
    steps=28,
)

_LUMINA = Kind(
    family=lambda index, towers, config: LuminaText(),
    towers={"gemma": "text_encoder"},
    guidance=4.0,
    steps=30,
    channels=3,
)

KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        (
            "StableDiffusionInstructPix2PixPipeline",
            "StableDiffusionDepth2ImgPipeline",
            "StableDiffusionControlNetPipeline",
        ),
        _SD,
    ),
    **dict.fromkeys(("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"), _SD_1),
    "StableDiffusionInpaintPipeline": replace(_SD, scheduler={"steps_offset": 1, "skip_prk_steps": True}),
    "StableDiffusionUpscalePipeline": replace(_SD, guidance=9.0, steps=75),
    "LatentConsistencyModelPipeline": replace(_SD, guidance=8.5, steps=4),
    **dict.fromkeys(
        (
            "StableDiffusionXLPipeline",
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusionXLControlNetPipeline",
        ),
        _XL,
    ),
    "StableDiffusionXLImg2ImgPipeline": _REFINER,
    "StableDiffusion3Pipeline": _SD3,
    "PixArtAlphaPipeline": Kind(
        family=lambda index, towers, config: PixArtText(sizes=config.sizes),
        towers={"t5": "text_encoder"},
        guidance=4.5,
        steps=20,
    ),
    "PixArtSigmaPipeline": Kind(
        family=lambda index, towers, config: PixArtText(length=300, sizes=config.sizes),
        towers={"t5": "text_encoder"},
        guidance=4.5,
        steps=20,
    ),
    "HunyuanDiTPipeline": Kind(
        family=lambda index, towers, config: HunyuanText(sizes=config.styles > 0),
        towers={"bert": "text_encoder", "t5": "text_encoder_2"},
        guidance=5.0,
    ),
    "LuminaPipeline": _LUMINA,
    "LuminaText2ImgPipeline": _LUMINA,
    "DiTPipeline": Kind(guidance=4.0),
    "DDPMPipeline": Kind(guidance=1.0, steps=1000),
    "DDIMPipeline": Kind(guidance=1.0),
}


def layout(kind: str) -> Layout:
    """Return the layout of a class of theirs; raise `InputError` for one that is not read."""
    name = ALIASES.get(kind, kind)
    if name not in LAYOUTS:
        raise InputError(f"the class {kind!r:.60} is not read{nearest(kind, LAYOUTS)}")
    return importlib.import_module(f"{__package__}.{LAYOUTS[name]}").LAYOUT


def read_network(
    folder: Path,
    *,
    variant: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Return the network or the codec of a folder with `config.json` and `diffusion_pytorch_model.safetensors`.

    Its weights stay mapped where device and dtype are those of the file. Raises `InputError` for a class or a setting
    that is not read, `CheckpointError` for a folder that is damaged, or lacks or has a tensor too many.
    """
    data = read_json(folder / "config.json")
    bounded(data)
    of = layout(str(data.get("_class_name")))
    config = of.config(data)
    tensors, files = weights_in(folder, "diffusion_pytorch_model", variant)
    with at_most(2 * len(tensors)):
        net = empty(config)
    links = of.links(net)
    ours, missing, unused = read(links, of.today(tensors))
    kind = type(net).__name__
    check(kind, str(folder), specs(net.state_dict()), ours, missing)
    if left := [name for name in unused if not of.ignored(name)]:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise CheckpointError(f"{folder} has tensors that {kind} does not use: {', '.join(left[:3])}{more}")
    if dtype is not None and not stored_as(tensors.values(), dtype):
        held = {name: t for file in files for name, t in read_cast(file, dtype).items()}
        ours = read(links, of.today(held))[0]
    net.load_state_dict(ours, assign=True)
    return net.to(device=device, dtype=dtype).eval()


def read_pipeline(
    folder: Path,
    *,
    variant: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    prediction: Prediction | None = None,
    schedule: Schedule | None = None,
    bare: bool = False,
) -> Pipeline:
    """Return the pipeline of a folder with `model_index.json`.

    Sub-folders may be absent where a model works without them (a text encoder of Stable Diffusion 3; with `bare`, the
    autoencoder, whose place another takes). A safety checker, a feature extractor and an image encoder are left alone.
    A part without the `variant` has its plain weights. `prediction` and `schedule` come before what the scheduler says;
    a warning names what is not read of its sampler. Raises as `read_network`.
    """
    index = read_json(folder / "model_index.json")
    name = str(index.get("_class_name"))
    if name not in KINDS:
        raise InputError(f"{folder}: the pipeline {name!r:.60} is not read{_close(name)}")
    kind = KINDS[name]
    part = next((n for n in NETWORKS if (folder / n / "config.json").is_file()), None)
    if part is None:
        raise CheckpointError(f"{folder} has none of the folders {', '.join(NETWORKS)}")
    has_codec = (folder / "vae" / "config.json").is_file()
    if not has_codec and not bare and _listed(index, "vae"):
        raise CheckpointError(
            f"{folder / 'vae'} is missing, which model_index.json names: fetch it, or give codec= (--codec)"
        )
    variants = _variants(folder, (part, *(["vae"] if has_codec else []), *kind.towers.values()), variant)
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    net = read_network(folder / part, variant=variants[part], **place)
    codec = read_network(folder / "vae", variant=variants["vae"], **place) if has_codec else None
    if codec is not None and not isinstance(codec, Codec):
        raise InputError(f"{folder / 'vae'} holds a {type(codec).__name__}, which is no codec")
    said = _said(folder, net, kind, prediction, schedule)
    conditioner = _conditioner(folder, index, kind, net, variants, place)
    side = read_json(folder / part / "config.json").get("sample_size")
    pipe = assembled(net, codec, conditioner, said, kind, side if isinstance(side, int) else 64)
    return _beside(pipe, folder, index)


def _close(name: str) -> str:
    """Return what `nearest` says of a pipeline's class, by what tells the names apart: all end alike."""
    end = "Pipeline"
    return nearest(name.removesuffix(end), [k.removesuffix(end) for k in KINDS])


def _listed(index: Mapping[str, Any], part: str) -> bool:
    """Return whether a folder's index names a class for a part: [null, null] is one that the model has not."""
    said = index.get(part)
    return isinstance(said, list) and len(said) == 2 and said[0] is not None


def _variants(folder: Path, parts: Iterable[str], variant: str | None) -> dict[str, str | None]:
    """Return the variant of each part's weights: `variant`, None for those that have plain ones alone."""
    here = {
        p: "model" if p.startswith("text_encoder") else "diffusion_pytorch_model"
        for p in parts
        if (folder / p).is_dir()
    }
    if variant is None:
        return dict.fromkeys(here)
    having = [p for p, stem in here.items() if holds(folder / p, stem, variant)]
    if not having:
        raise CheckpointError(
            f"{folder} has the variant {variant!r:.60} of none of its parts {', '.join(here)}: leave variant= out"
        )
    return {p: None if p not in having and holds(folder / p, stem) else variant for p, stem in here.items()}


def _said(
    folder: Path, net: nn.Module, kind: Kind, prediction: Prediction | None, schedule: Schedule | None
) -> Contract:
    """Return the contract of a folder's scheduler, whose sampler is a default: a warning names what is not read."""
    file = folder / "scheduler" / "scheduler_config.json"
    told = prediction is not None and schedule is not None
    if not file.is_file():
        if not told:
            raise InputError(
                f"{file} is missing, which says what the network means: "
                "give both prediction= (--prediction) and schedule=, or fetch it"
            )
        return given(net, str(folder), prediction, schedule)
    config = {**read_json(file), **kind.scheduler}
    name = str(config.get("_class_name"))
    if told and not known(name):
        warnings.warn(f"{file}: the scheduler {name!r:.60} is not known, nothing of it is read", stacklevel=4)
        return given(net, str(folder), prediction, schedule)
    try:
        said = contract(config, prediction=prediction, schedule=schedule)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    for what in said.untaken:
        warnings.warn(f"{file}: {what}", stacklevel=4)
    return said


def _beside(pipe: Pipeline, folder: Path, index: Mapping[str, Any]) -> Pipeline:
    """Return `pipe` with what a folder says of what stands beside the latent: a depth model, a second schedule."""
    if isinstance(pipe.extra, Depth) and (folder / "depth_estimator" / "config.json").is_file():
        model = read_depth_model(folder / "depth_estimator", folder / "feature_extractor")
        place = next(pipe.denoiser.parameters()).device
        model.model.to(place)
        return replace(pipe, depth_model=model)
    low = folder / "low_res_scheduler" / "scheduler_config.json"
    if isinstance(pipe.extra, Upscale) and low.is_file():
        most = int(index.get("max_noise_level", pipe.extra.most))
        return replace(pipe, extra=replace(pipe.extra, schedule=contract(read_json(low)).schedule, most=most))
    return pipe


def assembled(
    net: nn.Module, codec: Codec | None, conditioner: Conditioner | None, said: Contract, kind: Kind, side: int
) -> Pipeline:
    """Return the pipeline of its parts, for latents of `side`; twice the channels are a learned variance."""
    config: Any = getattr(net, "config", None)
    channels = int(getattr(config, "in_channels", None) or config.channels)
    out = getattr(config, "out_channels", None) or channels
    prediction = said.prediction
    if out == 2 * channels and not isinstance(prediction, LearnedVariance):
        prediction = LearnedVariance(prediction=prediction)
    scaling: Any = said.scaling
    if isinstance(scaling, FlowTime) and type(net).__name__ == "Lumina":
        scaling = FlowTime(scale=-1.0, shift=1.0)  # it counts from noise to data
    return Pipeline(
        denoiser=Preconditioned(net, said.schedule, prediction, scaling),
        shape=(channels, side, side),
        conditioner=conditioner,
        codec=standing(codec, channels),
        extra=default_extra(int(getattr(config, "extra", 0))),
        defaults=Defaults(
            solver=said.solver,
            grid=said.grid,
            steps=kind.steps,
            guidance=kind.guidance,
            guided_channels=kind.channels,
            clip=said.clip,
        ),
    )


def _conditioner(
    folder: Path,
    index: Mapping[str, Any],
    kind: Kind,
    net: nn.Module,
    variants: Mapping[str, str | None],
    place: Mapping[str, Any],
) -> Conditioner | None:
    if kind.family is None:
        labels = index.get("id2label")
        if isinstance(labels, dict) and isinstance(getattr(net, "cond", {}).get("y"), int):
            whole = [str(labels[k]) for k in sorted(labels, key=int)]
            short = [name.split(",")[0].strip() for name in whole]
            names = [s if short.count(s) == 1 else w for s, w in zip(short, whole, strict=True)]
            if len(set(names)) == len(names) == getattr(net, "cond")["y"]:  # noqa: B009
                return Classes(names=tuple(names))
        return None
    towers: dict[str, Tower] = {}
    for ours, theirs in kind.towers.items():
        said = index.get(theirs)
        if not (folder / theirs / "config.json").is_file():
            continue
        named = str(said[1]) if isinstance(said, list) and len(said) == 2 else None
        tokenizer = folder / theirs.replace("text_encoder", "tokenizer")
        towers[ours] = read_tower(folder / theirs, tokenizer, kind=named, variant=variants[theirs], **place)
    family = kind.family(index, towers, getattr(net, "config", None))
    for ours, theirs in kind.towers.items():
        if ours not in towers and ours not in family.may_lack and _listed(index, theirs):
            raise CheckpointError(
                f"{folder / theirs} is missing, which model_index.json names: fetch it, the network reads its states"
            )
    return TextConditioner(family=family, towers=towers)
