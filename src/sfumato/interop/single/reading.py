"""A checkpoint in one file as a pipeline: Stable Diffusion 1, 2, XL, its refiner, 3 and 3.5, and their variants."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...codecs.codec import Codec
from ...codecs.kl import AutoencoderKLConfig
from ...conditioning import TextConditioner
from ...core import CheckpointError, Preconditioned, Prediction, Schedule
from ...core.weights import check_header, read_weights, specs
from ...nets.mmdit import MMDiT
from ...pipeline import Defaults, Pipeline, load_codec
from ...pipeline.extra import default as default_extra
from ...pipeline.folder import at_most, empty
from ...solvers import DDIM, Euler
from ..links import Link, check, read
from . import kl, latent_unet, mmdit
from .contracts import contract_of
from .families import FAMILIES, Family, family_of
from .said import Said, said_of
from .text import PARTS, read_tower
from .tokenizers import Given, tokenizer_of

# names that carry nothing of the model: averages of training, buffers of schedules, losses, markers, a depth estimator
QUIET = re.compile(
    r"model_ema\.|(alphas_cumprod|betas|log_one_minus_|sqrt_|posterior_|lvlb_|logvar|global_step|v_pred|ztsnr)|"
    r"(denoiser|denoiser_sigmas|edm_\w+)|(first_stage_model|vae)\.(loss|model_ema)\.|depth_model\.|embedding_manager\.|"
    r"cond_stage_model\.(logit_scale|model\.logit_scale)$|text_encoders\.\w+\.logit_scale$|loss\.|low_scale_model\."
)


def read_single(
    path: Path,
    *,
    tokenizer: Given = None,
    prediction: Prediction | None = None,
    schedule: Schedule | None = None,
    codec: Codec | str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Pipeline:
    """Return the pipeline of a `.safetensors` file in the layout of CompVis, SGM, A1111 or ComfyUI.

    The network's shape follows from those of the tensors; `tokenizer` is a folder with that of its text encoders, which
    no file holds; `prediction` and `schedule` are for files that do not tell; `codec` replaces the file's autoencoder.
    A file with the network alone gives a pipeline without codec or texts. Raises `InputError` for what is not read or
    must be given, `CheckpointError` for a file that is damaged, or lacks or has a tensor too many.
    """
    known, metadata = check_header(path)
    shapes = {name: spec.shape for name, spec in known.items()}
    kind, prefix = family_of(shapes, str(path))
    family, said = FAMILIES[kind], said_of(metadata, str(path))
    config = said.net if said else family.net(shapes, prefix)  # before a tensor is read
    tensors = read_weights(path)
    used: set[str] = set()
    contract = contract_of(
        kind,
        tensors,
        prefix,
        path=str(path),
        prediction=prediction or (said.prediction if said else None),
        schedule=schedule or (said.schedule if said else None),
    )
    config = config if said else _upcast(config, kind, type(contract[1]).__name__)
    own = mmdit.links if kind == "sd3" else latent_unet.links
    net = _built(config, tensors, prefix, own, str(path), used)
    vae = _codec(tensors, shapes, family, said, str(path), used)
    conditioner = _texts(kind, config, tensors, family, said, tokenizer, str(path), used)
    _report(path, (name for name in tensors if name not in used))
    channels = int(getattr(config, "in_channels", None) or config.channels)
    flow = isinstance(net, MMDiT)
    usual = Defaults(
        solver=Euler() if flow else DDIM(),
        grid="flow" if flow else "leading",
        steps=family.steps,
        guidance=family.guidance,
    )
    pipe = Pipeline(
        denoiser=Preconditioned(net, *contract),
        shape=said.shape if said else (channels, family.side, family.side),
        conditioner=conditioner,
        codec=vae if codec is None else _given(codec, family),
        extra=default_extra(int(getattr(config, "extra", 0))),
        defaults=said.defaults if said else usual,
    )
    for target in (device, dtype):
        if target is not None:
            pipe.to(target)
    return pipe


def read_codec(path: str | Path, *, scale: float, shift: float = 0.0, upcast: bool = False) -> Codec:
    """Return the KL autoencoder of a file, with or without a prefix; what else the file holds is left alone.

    `scale`, `shift` and `upcast` stand in no file: 0.18215 for Stable Diffusion 1 and 2, 0.13025 and an upcast for XL,
    1.5305 and 0.0609 for 3 (`sfumato.codecs.kl.sd`, `sdxl`, `sd3`). Raises `CheckpointError` for another file.
    """
    tensors = read_weights(path)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    prefix = _vae_prefix(shapes)
    if prefix is None:
        raise CheckpointError(f"{path} holds no KL autoencoder")
    config = kl.config(shapes, scale=scale, shift=shift, upcast=upcast, prefix=prefix)
    return _decoder(config, tensors, prefix, str(path), set())


def _built(
    config: Any,
    tensors: Mapping[str, Tensor],
    prefix: str,
    links: Callable[[nn.Module, str], list[Link]],
    path: str,
    used: set[str],
) -> Any:
    """Return the network of a configuration with the tensors under `prefix`, all of which it must use."""
    held = {n: t for n, t in tensors.items() if n.startswith(prefix)} if prefix else dict(tensors)
    with at_most(2 * len(held)):
        net = empty(config)
    ours, missing, unused = read(links(net, prefix), held)
    kind = type(net).__name__
    check(kind, path, specs(net.state_dict()), ours, missing)
    if left := [name for name in unused if not QUIET.match(name)] if prefix else []:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise CheckpointError(f"{path} has tensors that {kind} does not use: {', '.join(left[:3])}{more}")
    net.load_state_dict(ours, assign=True)
    used.update(held.keys() - set(unused) if not prefix else held)
    return net.eval()


def _decoder(
    config: AutoencoderKLConfig, tensors: Mapping[str, Tensor], prefix: str, path: str, used: set[str]
) -> Codec:
    codec = _built(config, tensors, prefix, kl.links, path, used)
    assert isinstance(codec, Codec)
    return codec


def _codec(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    family: Family,
    said: Said | None,
    path: str,
    used: set[str],
) -> Codec | None:
    prefix = next((p for p in (kl.PREFIX, "vae.") if f"{p}decoder.conv_in.weight" in shapes), None)
    if prefix is None:
        return None
    scales: Mapping[str, Any] = family.vae
    if shapes.get("model.diffusion_model.label_emb.weight") is not None:
        scales = {"scale": 0.08333}  # the up-scaler's
    config = said.codec if said and said.codec else kl.config(shapes, prefix=prefix, **scales)
    return _decoder(config, tensors, prefix, path, used)


def _texts(
    kind: str,
    net: Any,
    tensors: Mapping[str, Tensor],
    family: Family,
    said: Said | None,
    tokenizer: Given,
    path: str,
    used: set[str],
) -> TextConditioner | None:
    towers: dict[str, Any] = {}
    for name, part in PARTS[kind].items():
        if not any(n.startswith(part.prefix) and not QUIET.match(n) for n in tensors):
            continue
        made = tokenizer_of(name, tokenizer, path=path, zeros=kind == "sd2")
        if said and name in said.towers:
            published = said.towers[name]
            part = replace(part, config=lambda shapes, prefix, heads, published=published: published)
        towers[name], names = read_tower(tensors, part, made, path=path)
        used |= names
    if not towers:
        return None
    return TextConditioner(family=said.family if said and said.family else family.texts(net), towers=towers)


def _given(codec: Codec | str | Path, family: Family) -> Codec:
    if isinstance(codec, Codec):
        return codec
    return read_codec(codec, **family.vae) if Path(codec).is_file() else load_codec(codec)


def _upcast(config: Any, kind: str, prediction: str) -> Any:
    """Logits of version 2.1 overflow in float16: its released configuration says so, 2.0's does not need it."""
    return replace(config, upcast=True) if kind == "sd2" and prediction == "V" else config


def _vae_prefix(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    return next((p for p in (kl.PREFIX, "vae.", "") if f"{p}decoder.conv_in.weight" in shapes), None)


def _report(path: Path, left: Iterable[str]) -> None:
    """Say which tensors of no known part were left alone."""
    unknown = sorted(name for name in left if not QUIET.match(name))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        warnings.warn(f"{path}: not used: {', '.join(unknown[:3])}{more}", UserWarning, stacklevel=3)
