"""The families of checkpoints in one file: what tells them apart, and what stands in no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...conditioning import ClipText, RefinerText, SD3Text, XLText
from ...conditioning.text import Family as Texts
from ...core.errors import InputError
from ...nets.mmdit import MMDiTConfig
from . import kl, mmdit, unet_shapes

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of files.

    - `net(shapes, prefix)`: the network's configuration; `texts(net's configuration)`: the rule of its texts.
    - `vae`: scale, shift and upcast of its autoencoder; `side` of its latents; `guidance` and `steps` of its release.
    - `architecture`: its name in the `modelspec` metadata.
    """

    net: Callable[[Shapes, str], Any]
    texts: Callable[[Any], Texts]
    vae: Mapping[str, Any] = field(default_factory=lambda: {"scale": 0.18215})
    side: int = 64
    guidance: float = 7.5
    steps: int = 50
    architecture: str


def _sd3_texts(net: MMDiTConfig) -> SD3Text:
    return SD3Text(width=net.context)


_XL_VAE = {"scale": 0.13025, "upcast": True}

FAMILIES: dict[str, Family] = {
    "sd1": Family(net=unet_shapes.config, texts=lambda net: ClipText(), architecture="stable-diffusion-v1"),
    "sd2": Family(net=unet_shapes.config, texts=lambda net: ClipText(), architecture="stable-diffusion-v2"),
    "xl": Family(
        net=unet_shapes.config,
        texts=lambda net: XLText(),
        vae=_XL_VAE,
        side=128,
        guidance=5.0,
        architecture="stable-diffusion-xl-v1-base",
    ),
    "refiner": Family(
        net=unet_shapes.config,
        texts=lambda net: RefinerText(),
        vae=_XL_VAE,
        side=128,
        guidance=5.0,
        architecture="stable-diffusion-xl-v1-refiner",
    ),
    "sd3": Family(
        net=mmdit.config,
        texts=_sd3_texts,
        vae={"scale": 1.5305, "shift": 0.0609, "upcast": True},
        side=128,
        guidance=7.0,
        steps=28,
        architecture="stable-diffusion-v3",
    ),
}


def family_of(shapes: Shapes, path: str) -> tuple[str, str]:
    """Return (family, prefix of the network's names); raise `InputError` for a file of none."""
    for prefix in ("model.diffusion_model.", "diffusion_model.", ""):
        if f"{prefix}joint_blocks.0.x_block.attn.qkv.weight" in shapes:
            return "sd3", prefix
        if f"{prefix}input_blocks.0.0.weight" in shapes:
            return _unet_family(shapes, prefix), prefix
    if any(f"{p}decoder.conv_in.weight" in shapes for p in ("", kl.PREFIX, "vae.")):
        raise InputError(f"{path} holds an autoencoder alone: give it as codec= beside a model, or read_codec it")
    if any(name.startswith(("lora_", "unet.", "text_encoder.")) or ".lora_" in name for name in shapes):
        raise InputError(f"{path} holds adapters (LoRA), no model: add it to a model")
    raise InputError(f"{path} is no checkpoint that is known here; its first tensor is {next(iter(shapes), 'none')!r}")


def _unet_family(shapes: Shapes, prefix: str) -> str:
    if any(name.startswith("conditioner.embedders.1.") for name in shapes):
        return "xl"
    if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        return "refiner"
    if (vector := shapes.get(f"{prefix}label_emb.0.0.weight")) is not None:
        return "refiner" if vector[1] == 2560 else "xl"
    if any(name.startswith("cond_stage_model.model.") for name in shapes):
        return "sd2"
    if any(name.startswith("cond_stage_model.") for name in shapes):
        return "sd1"
    convolved = any(len(s) == 4 for name, s in shapes.items() if name.endswith(".proj_in.weight"))
    return "sd1" if convolved else "sd2"
