"""The families of checkpoints in one file: what tells them apart, and what stands in no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ...conditioning import ClipText, RefinerText, SD3Text, Tower, XLText
from ...conditioning.text import Family as Texts
from ...core import CheckpointError, InputError, Solver
from ...core.weights import check_header
from ...nets.diffit import DiffiTConfig
from ...nets.dit import DiTConfig
from ...nets.hunyuan_dit import HunyuanDiTConfig
from ...nets.latent_unet import LatentUNetConfig
from ...nets.lumina import LuminaConfig
from ...nets.mmdit import MMDiTConfig
from ...nets.pixart import PixArtConfig
from ...nets.uvit import UViTConfig
from ...solvers import DDIM, DEIS, DPMpp2M, Euler
from ..links import Link, prefixed
from . import diffit, dit, hunyuan_dit, kl, latent_unet, lumina, mmdit, pixart, unet_shapes, uvit

Shapes = Mapping[str, Sequence[int]]
PREFIX = "model.diffusion_model."
MOST = 256  # blocks of a transformer: six times as many as any released one, soon built and refused


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of files.

    - `config`: the class of its networks' configurations; `net(shapes, prefix)`: that of a file's network.
    - `links(network, prefix)`: its tensors; `prefix` is what stands before their names in files that are written.
      `ignored(name without it)`: tensors that carry nothing.
    - `texts(network's configuration, towers)`: the rule of its texts, None where files hold the network alone.
    - `vae`: scale, shift and upcast of its autoencoder; `side` of its latents; `solver`, `grid`, `steps` and `guidance`
      of its release, `channels` of the latent that guidance is for.
    - `architecture`: its name in the `modelspec` metadata.
    """

    config: type
    net: Callable[[Shapes, str], Any]
    links: Callable[[nn.Module, str], list[Link]]
    prefix: str = PREFIX
    ignored: Callable[[str], bool] = lambda name: False
    texts: Callable[[Any, Mapping[str, Tower]], Texts] | None = None
    vae: Mapping[str, Any] = field(default_factory=lambda: {"scale": 0.18215})
    side: int = 64
    solver: Solver = field(default_factory=DDIM)
    grid: str = "leading"
    steps: int = 50
    guidance: float = 7.5
    channels: int | None = None
    architecture: str


def _version_2(net: LatentUNetConfig, towers: Mapping[str, Tower]) -> ClipText:
    """Version 2 reads the states before the last of OpenCLIP's 24 layers; some files leave that layer out."""
    model: Any = towers["clip"].model
    return ClipText(skip=int(model.config.num_hidden_layers == 24))


def _unet(architecture: str, **more: Any) -> Family:
    return Family(
        config=LatentUNetConfig, net=unet_shapes.config, links=latent_unet.links, architecture=architecture, **more
    )


def _alone(config: type, of: Any, architecture: str, **more: Any) -> Family:
    """Return a family whose files hold the network alone, under its authors' names."""

    def net(shapes: Shapes, prefix: str) -> Any:
        held = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        try:
            found = of.config(held)
        except KeyError as error:
            raise CheckpointError(f"the file lacks {error}, which every {architecture} has: give network=") from error
        if found.layers > MOST:
            raise InputError(f"a {architecture} of {found.layers} blocks is none that is known: give network=")
        return found

    def links(net: nn.Module, prefix: str) -> list[Link]:
        return prefixed(of.links(net), prefix)

    if hasattr(of, "ignored"):
        more["ignored"] = of.ignored
    return Family(config=config, net=net, links=links, prefix="", architecture=architecture, **more)


_XL_VAE = {"scale": 0.13025, "upcast": True}
_XL: dict[str, Any] = {"vae": _XL_VAE, "side": 128, "guidance": 5.0}
_FLOW: dict[str, Any] = {"solver": Euler(), "grid": "flow"}
_DIT: dict[str, Any] = {"grid": "leading-0", "guidance": 4.0}
_PIXART: dict[str, Any] = {"solver": DPMpp2M(), "grid": "linspace-open", "steps": 20, "guidance": 4.5}

FAMILIES: dict[str, Family] = {
    "sd1": _unet("stable-diffusion-v1", texts=lambda net, towers: ClipText()),
    "sd2": _unet("stable-diffusion-v2", texts=_version_2),
    "xl": _unet("stable-diffusion-xl-v1-base", texts=lambda net, towers: XLText(), **_XL),
    "refiner": _unet("stable-diffusion-xl-v1-refiner", texts=lambda net, towers: RefinerText(), **_XL),
    "sd3": Family(
        config=MMDiTConfig,
        net=mmdit.config,
        links=mmdit.links,
        texts=lambda net, towers: SD3Text(width=net.context),
        vae={"scale": 1.5305, "shift": 0.0609, "upcast": True},
        side=128,
        guidance=7.0,
        steps=28,
        architecture="stable-diffusion-v3",
        **_FLOW,
    ),
    "dit": _alone(DiTConfig, dit, "dit", **_DIT, channels=3),
    "diffit": _alone(DiffiTConfig, diffit, "diffit", **_DIT),
    "pixart-alpha": _alone(PixArtConfig, pixart, "pixart-alpha", **_PIXART),
    "pixart-sigma": _alone(PixArtConfig, pixart, "pixart-sigma", **_PIXART, vae={"scale": 0.13025}),
    "hunyuan": _alone(HunyuanDiTConfig, hunyuan_dit, "hunyuan-dit", **_XL),
    "lumina": _alone(LuminaConfig, lumina, "lumina-next", **_XL | _FLOW, steps=30, channels=3),
    "uvit": _alone(UViTConfig, uvit, "u-vit", solver=DEIS(), grid="logistic", guidance=1.4),
}

TELLTALES: dict[str, tuple[str, ...]] = {
    "sd3": ("joint_blocks.0.x_block.attn.qkv.weight",),
    "unet": ("input_blocks.0.0.weight",),
    "diffit": ("blocks.0.attn.relative_position_bias_table",),
    "pixart": ("t_block.1.weight", "y_embedder.y_proj.fc1.weight"),
    "hunyuan": ("text_embedding_padding", "pooler.positional_embedding"),
    "lumina": ("cap_embedder.1.weight", "layers.0.attention.wk_y.weight"),
    "uvit": ("decoder_pred.weight", "mid_block.attn.qkv.weight"),
    "dit": ("y_embedder.embedding_table.weight", "blocks.0.adaLN_modulation.1.weight"),
}
"""The tensors that tell a network of a file, in the order that they are looked for."""


def family_of(shapes: Shapes, path: str) -> tuple[str, str]:
    """Return (family, prefix of the network's names); raise `InputError` for a file of none."""
    for prefix in (PREFIX, "diffusion_model.", "module.", ""):
        for kind, names in TELLTALES.items():
            if all(prefix + name in shapes for name in names):
                return _family(kind, shapes, prefix), prefix
    if any(f"{p}decoder.conv_in.weight" in shapes for p in ("", kl.PREFIX, "vae.")):
        raise InputError(f"{path} holds an autoencoder alone: give it as codec= beside a model, or load_codec it")
    if any(name.startswith(("lora_", "unet.", "text_encoder.")) or ".lora_" in name for name in shapes):
        raise InputError(f"{path} holds adapters (LoRA), no model: add it to a model")
    raise InputError(f"{path} is no checkpoint that is known here; its first tensor is {next(iter(shapes), 'none')!r}")


def sized(path: Path, picture: int) -> PixArtConfig:
    """Return the configuration of the PixArt in a file that does not tell its pictures' size; refuse others."""
    shapes = {name: spec.shape for name, spec in check_header(path)[0].items()}
    kind, prefix = family_of(shapes, str(path))
    if not kind.startswith("pixart"):
        raise InputError(f"{path} holds a {FAMILIES[kind].architecture}: the size of pictures is for PixArt's files")
    if picture < 16 or picture % 16:
        raise InputError(f"pictures of {picture} pixels have no whole number of patches of 16")
    return pixart.config({name.removeprefix(prefix): shape for name, shape in shapes.items()}, picture)


def _family(kind: str, shapes: Shapes, prefix: str) -> str:
    if kind == "unet":
        return _unet_family(shapes, prefix)
    if kind == "pixart":  # whose texts have 120 tokens in alpha, 300 in Sigma, which alone compresses keys
        rows = shapes.get(prefix + "y_embedder.y_embedding", (0,))[0]
        sigma = rows == 300 or any(name.endswith(".attn.sr.weight") for name in shapes)
        return "pixart-sigma" if sigma else "pixart-alpha"
    return kind


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
