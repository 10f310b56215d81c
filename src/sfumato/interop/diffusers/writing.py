"""A pipeline as a diffusers folder, which diffusers and other readers of that layout load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...conditioning import (
    Classes,
    ClipText,
    HunyuanText,
    LuminaText,
    PixArtText,
    RefinerText,
    SD3Text,
    TextConditioner,
    XLText,
    write_tower,
)
from ...conditioning.depth import write_depth_model
from ...control.lora import refuse_live
from ...core import Eps, FlowTime, InputError, LearnedVariance, Plain, Preconditioned, nearest
from ...pipeline import Pipeline
from ...pipeline.aside import whole
from ...pipeline.extra import Upscale
from ...pipeline.identity import own
from ...pipeline.origin import warn_of
from ...pipeline.parts import modules
from ...solvers import DDIM
from ..files import SHARD, write_shards
from ..links import write
from .folder import KINDS, layout
from .sampler import sampler
from .scheduler import describe
from .shortened import bare_names, shortened

NETS = {
    "LatentUNet": "UNet2DConditionModel",
    "UNet": "UNet2DModel",
    "DiT": "DiTTransformer2DModel",
    "MMDiT": "SD3Transformer2DModel",
    "PixArt": "PixArtTransformer2DModel",
    "HunyuanDiT": "HunyuanDiT2DModel",
    "Lumina": "LuminaNextDiT2DModel",
    "AutoencoderKL": "AutoencoderKL",
    "AutoencoderTiny": "AutoencoderTiny",
    "VQModel": "VQModel",
    "ConsistencyDecoder": "ConsistencyDecoderVAE",
}
SD = {
    0: "StableDiffusionPipeline",
    1: "StableDiffusionDepth2ImgPipeline",
    3: "StableDiffusionUpscalePipeline",
    4: "StableDiffusionInstructPix2PixPipeline",
    5: "StableDiffusionInpaintPipeline",
}
XL = {0: "StableDiffusionXLPipeline", 5: "StableDiffusionXLInpaintPipeline"}
ABSENT = {
    "StableDiffusion": ("safety_checker", "feature_extractor", "image_encoder"),
    "StableDiffusionXL": ("feature_extractor", "image_encoder"),
    "StableDiffusion3": ("feature_extractor", "image_encoder"),
}
VERSION = "0.42.1"  # of the layout that is written; readers of every version ignore it


def write_network(net: nn.Module, folder: Path, *, shard: int = SHARD, **more: Any) -> None:
    """Write a network or a codec as `config.json` and safetensors, in shards of at most `shard` bytes.

    `more` are settings that the layout's configuration does not decide, such as `sample_size`. Raises `InputError` for
    a network that has no class there.
    """
    kind = type(net).__name__
    if kind not in NETS:
        raise InputError(f"{kind} has no class in a diffusers folder{nearest(kind, NETS)}")
    refuse_live(net)
    of = layout(NETS[kind])
    tensors = write(of.links(net), net.state_dict())
    said = {"_class_name": of.kind, "_diffusers_version": VERSION} | more | of.write(net.config)
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / "config.json", said)
    write_shards(folder, "diffusion_pytorch_model", tensors, shard)


def write_pipeline(pipe: Pipeline, folder: str | Path, *, shard: int = SHARD) -> Path:
    """Write a pipeline as a new folder with `model_index.json`, or a network alone with `config.json`; return its path.

    A warning names what the layout has no place for: what no part uses of the file that the pipeline was read from, and
    layers of a text encoder that nobody reads, as the last one of Stable Diffusion 2's. Raises `InputError` for a
    pipeline that the layout cannot say (a schedule, a label, a way to read texts of another kind), and for a folder
    that holds something.
    """
    folder = Path(folder)
    refuse_live(pipe.denoiser.net, *modules(pipe.conditioner))
    if alone(pipe):
        with whole(folder) as aside:
            write_network(pipe.denoiser.net, aside, shard=shard, sample_size=pipe.shape[-1])
        warn_of(["schedule", "prediction", *_left_out(pipe)], "a network alone in a folder does not tell them")
        return folder
    kind, net = class_of(pipe), pipe.denoiser.net
    scheduler = _scheduler(pipe, kind)
    codec = own(pipe.codec)
    part = "unet" if "UNet" in type(net).__name__ else "transformer"
    with whole(folder) as aside:
        index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": VERSION}
        square = pipe.shape[-1] if pipe.shape[-1] == pipe.shape[-2] else list(pipe.shape[-2:])
        write_network(net, aside / part, shard=shard, sample_size=square)
        index[part] = ["diffusers", NETS[type(net).__name__]]
        if codec is not None:
            write_network(codec, aside / "vae", shard=shard)
            index["vae"] = ["diffusers", NETS[type(codec).__name__]]
        (aside / "scheduler").mkdir()
        _json(aside / "scheduler" / "scheduler_config.json", scheduler | {"_diffusers_version": VERSION})
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        index |= _texts(pipe, kind, aside) | _beside(pipe, aside)
        _json(aside / "model_index.json", dict(sorted(index.items())))
    warn_of(_left_out(pipe), "a diffusers folder has no place for it")
    return folder


def _beside(pipe: Pipeline, folder: Path) -> dict[str, Any]:
    """Write what stands beside the latent, and return what the index says of it."""
    if isinstance(pipe.extra, Upscale):
        said = describe(pipe.extra.schedule, Eps()) | {"_class_name": "DDPMScheduler"}
        (folder / "low_res_scheduler").mkdir()
        _json(folder / "low_res_scheduler" / "scheduler_config.json", said | {"_diffusers_version": VERSION})
        return {"low_res_scheduler": ["diffusers", "DDPMScheduler"], "max_noise_level": pipe.extra.most}
    if pipe.depth_model is None:
        return {}
    write_depth_model(pipe.depth_model, folder / "depth_estimator", folder / "feature_extractor")
    return {
        "depth_estimator": ["transformers", "DPTForDepthEstimation"],
        "feature_extractor": ["transformers", "DPTImageProcessor"],
    }


def alone(pipe: Pipeline) -> bool:
    """Return whether a pipeline is a network without codec and texts, of which no pipeline class is made."""
    bound = own(pipe.codec) is not None or isinstance(pipe.conditioner, TextConditioner)
    return not bound and type(pipe.denoiser.net).__name__ in set(NETS) - {"DiT", "UNet"}


def _left_out(pipe: Pipeline) -> list[str]:
    """Return the names of what a folder does not hold."""
    lost = [] if pipe.origin is None else list(pipe.origin.tensors)
    if isinstance(pipe.conditioner, TextConditioner):
        for name, tower in pipe.conditioner.towers.items():
            less = shortened(tower, pipe.conditioner.family)
            lost += [f"{name}.{n}" for n in bare_names(tower.model) - bare_names(less.model)]
    return lost


def class_of(pipe: Pipeline) -> str:
    """Return the pipeline class of theirs; raise `InputError` where there is none."""
    net, texts = type(pipe.denoiser.net).__name__, pipe.conditioner
    family = texts.family if isinstance(texts, TextConditioner) else None
    extra = int(getattr(getattr(pipe.denoiser.net, "config", None), "extra", 0) or 0)
    if isinstance(family, (ClipText, XLText)) and net == "LatentUNet":
        known = SD if isinstance(family, ClipText) else XL
        if extra not in known:
            raise InputError(f"a U-Net with {extra} channels beside the latent has no pipeline class there")
        return known[extra]
    named: dict[tuple[str, type], str] = {
        ("LatentUNet", RefinerText): "StableDiffusionXLImg2ImgPipeline",
        ("MMDiT", SD3Text): "StableDiffusion3Pipeline",
        ("HunyuanDiT", HunyuanText): "HunyuanDiTPipeline",
        ("Lumina", LuminaText): "LuminaPipeline",
    }
    if (found := named.get((net, type(family)))) is not None:
        return found
    if net == "PixArt" and isinstance(family, PixArtText):
        return "PixArtSigmaPipeline" if family.length > 120 else "PixArtAlphaPipeline"
    if family is None and net in ("DiT", "UNet"):
        ddim = isinstance(pipe.defaults.solver, DDIM)  # a class of its own, with other steps by default
        return "DiTPipeline" if net == "DiT" else "DDIMPipeline" if ddim else "DDPMPipeline"
    reads = "no text" if family is None else type(family).__name__
    raise InputError(f"{net} with {reads} has no pipeline class there: write its parts with write_network")


def _scheduler(pipe: Pipeline, kind: str) -> dict[str, Any]:
    denoiser: Preconditioned = pipe.denoiser
    prediction, scaling = denoiser.prediction, denoiser.scaling
    if isinstance(prediction, LearnedVariance):
        prediction = prediction.prediction
    clip = pipe.defaults.clip
    if clip is not None and KINDS[kind].scheduler.get("clip_sample") is False:
        raise InputError(f"{kind} never clips, and clip={clip} would be lost: use with_defaults(clip=None)")
    said = sampler(denoiser.schedule, prediction, pipe.defaults.solver, pipe.defaults.grid, clip)
    if scaling != Plain(scale=float(said["num_train_timesteps"]), shift=-1.0) and not isinstance(scaling, FlowTime):
        raise InputError(f"labels of {type(scaling).__name__} cannot be written there: {scaling}")
    return said


def _texts(pipe: Pipeline, kind: str, folder: Path) -> dict[str, Any]:
    """Write the text encoders, and return what the index says of them."""
    said: dict[str, Any] = {}
    texts = pipe.conditioner
    if isinstance(texts, Classes) and kind == "DiTPipeline":
        return {"id2label": {str(i): name for i, name in enumerate(texts.names)}}
    if not isinstance(texts, TextConditioner):
        return said
    for ours, theirs in KINDS[kind].towers.items():
        tokenizer = theirs.replace("text_encoder", "tokenizer")
        if (tower := texts.towers.get(ours)) is None:
            said[theirs] = said[tokenizer] = [None, None]
            continue
        tower = shortened(tower, texts.family)
        write_tower(tower, folder / theirs, folder / tokenizer)
        said[theirs] = ["transformers", type(tower.model).__name__]
        said[tokenizer] = ["transformers", type(tower.tokenizer).__name__]
    _plain(texts.family, kind)
    if isinstance(texts.family, (XLText, RefinerText)):
        said["force_zeros_for_empty_prompt"] = texts.family.zeros
    if isinstance(texts.family, RefinerText):
        said |= {"text_encoder": [None, None], "tokenizer": [None, None], "requires_aesthetics_score": True}
    if isinstance(texts.family, ClipText):
        said["requires_safety_checker"] = False
    if kind in (SD[1], SD[3]):  # which have none of the parts of the others
        return {key: value for key, value in said.items() if key != "requires_safety_checker"}
    group = next((g for g in ("StableDiffusionXL", "StableDiffusion3", "StableDiffusion") if kind.startswith(g)), "")
    return said | {name: [None, None] for name in ABSENT.get(group, ())}


def _plain(family: Any, kind: str) -> None:
    """Raise `InputError` for a way to read texts that a folder cannot say: it would be lost without a word."""
    if not is_dataclass(family):
        return
    told = {"skip": 0} if not isinstance(family, ClipText) else {}
    for field in fields_of(family):
        if field.name in told and getattr(family, field.name) != told[field.name]:
            raise InputError(
                f"{kind} cannot say {field.name}={getattr(family, field.name)!r} of {type(family).__name__}"
            )


def _json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
