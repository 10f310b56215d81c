"""A checkpoint in one file as a pipeline: Stable Diffusion of every version, and transformers under their own names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...codecs.codec import Codec
from ...codecs.kl import AutoencoderKLConfig
from ...conditioning import TextConditioner
from ...core import CheckpointError, InputError, Preconditioned, Prediction, Schedule
from ...core.weights import check_header, read_cast, read_weights, specs, stored_as
from ...pipeline import Defaults, Pipeline, load_codec
from ...pipeline.extra import default as default_extra
from ...pipeline.folder import at_most, empty
from ...pipeline.identity import standing
from ...pipeline.origin import Origin, summed
from ..diffusers import kl as theirs
from ..links import Link, check, read
from . import kl
from .contracts import contract_of
from .families import FAMILIES, Family, family_of
from .said import KEY, Said, said_of
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
    network: Any = None,
    prediction: Prediction | None = None,
    schedule: Schedule | None = None,
    codec: Codec | str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Pipeline:
    """Return the pipeline of a `.safetensors` file in the layout of CompVis, SGM, A1111 or ComfyUI, or of the authors
    of a transformer.

    The network's shape follows from those of the tensors, unless its configuration is given as `network`; `tokenizer`
    is a folder with that of its text encoders, which no file holds; `prediction` and `schedule` are for files that do
    not tell; `codec` replaces the file's autoencoder. A file with the network alone gives a pipeline without codec or
    texts. What no part uses is kept in the pipeline's `origin`. Raises `InputError` for what is not read or must be
    given, `CheckpointError` for a file that is damaged, or lacks or has a tensor too many.
    """
    known, metadata = check_header(path)
    shapes = {name: spec.shape for name, spec in known.items()}
    kind, prefix = family_of(shapes, str(path))
    family, said = FAMILIES[kind], said_of(metadata, str(path))
    config = network or (said.net if said else family.net(shapes, prefix))  # before a tensor is read
    if not isinstance(config, family.config):
        raise InputError(f"{path} holds a {family.architecture}: network= must be a {family.config.__name__}")
    tensors = read_weights(path)
    taken = Taken(dtype=dtype)
    contract = contract_of(
        kind,
        config,
        tensors,
        prefix,
        path=str(path),
        prediction=prediction or (said.prediction if said else None),
        schedule=schedule or (said.schedule if said else None),
    )
    if network is None and not said:
        config = _upcast(config, kind, type(contract[1]).__name__)
    net = _built(config, tensors, prefix, family.links, str(path), taken, family.ignored)
    vae = vae_prefix(shapes)
    own = None if vae is None else _codec(tensors, shapes, family, said, vae, str(path), taken)
    conditioner = _texts(kind, config, tensors, family, said, tokenizer, str(path), taken)
    rest = {name: tensor for name, tensor in tensors.items() if name not in taken.used}
    _report(path, (name for name in rest if name not in taken.idle))
    channels = int(getattr(config, "in_channels", None) or config.channels)
    usual = Defaults(
        solver=family.solver,
        grid=family.grid,
        steps=family.steps,
        guidance=family.guidance,
        guided_channels=family.channels,
    )
    side = family.side if getattr(config, "size", None) is None else config.size
    pipe = Pipeline(
        denoiser=Preconditioned(net, *contract),
        shape=said.shape if said else (channels, side, side),
        conditioner=conditioner,
        codec=standing(own if codec is None else _given(codec, family), channels),
        extra=default_extra(int(getattr(config, "extra", 0))),
        defaults=said.defaults if said else usual,
        origin=Origin(
            network=prefix,
            codec=kl.PREFIX if vae is None else vae,
            tensors=rest,
            metadata={k: v for k, v in metadata.items() if k not in (KEY, "format") and "hash" not in k},
        ),
    )
    for target in (device, dtype):
        if target is not None:
            pipe.to(target)
    return pipe


@dataclass(frozen=True)
class Taken:
    """The names of a file's tensors that its parts hold, and of those that are known to be of no use to them; the
    dtype that parts are cast to, None as they are stored.
    """

    used: set[str] = field(default_factory=set[str])
    idle: set[str] = field(default_factory=set[str])
    dtype: torch.dtype | None = None


def read_codec(path: str | Path, *, scale: float, shift: float = 0.0, upcast: bool = False) -> Codec:
    """Return the KL autoencoder of a file, under its authors' names, with a prefix or without, or under diffusers'.

    What else the file holds is left alone.

    `scale`, `shift` and `upcast` stand in no file: 0.18215 for Stable Diffusion 1 and 2, 0.13025 and an upcast for XL,
    1.5305 and 0.0609 for 3 (`sfumato.codecs.kl.sd`, `sdxl`, `sd3`). Raises `CheckpointError` for another file.
    """
    tensors = read_weights(path)
    latents: dict[str, Any] = {"scale": scale, "shift": shift, "upcast": upcast}
    today = theirs.LAYOUT.today(tensors)
    if config := theirs.shaped({name: tuple(t.shape) for name, t in today.items()}, **latents):
        return _built(config, today, "", lambda net, _: theirs.LAYOUT.links(net), str(path), Taken())
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    prefix = vae_prefix(shapes, "")
    if prefix is None:
        raise CheckpointError(f"{path} holds no KL autoencoder")
    config = kl.config(shapes, prefix=prefix, **latents)
    return _decoder(config, tensors, prefix, str(path), Taken())


def _built(
    config: Any,
    tensors: Mapping[str, Tensor],
    prefix: str,
    links: Callable[[nn.Module, str], list[Link]],
    path: str,
    taken: Taken,
    ignored: Callable[[str], bool] = lambda name: False,
) -> Any:
    """Return the network of a configuration with the tensors under `prefix`, all of which it must use."""
    held = {n: t for n, t in tensors.items() if n.startswith(prefix)} if prefix else dict(tensors)
    with at_most(2 * len(held)):
        net = empty(config)
    own = links(net, prefix)
    made = {name for link in own if not link.ours for name in link.theirs}  # what follows from the configuration
    ours, missing, unused = read(own, held, optional=made)
    kind = type(net).__name__
    check(kind, path, specs(net.state_dict()), ours, missing)
    made |= {name for name in unused if ignored(name.removeprefix(prefix))}
    if left := [name for name in unused if name not in made and not QUIET.match(name)] if prefix else []:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise CheckpointError(f"{path} has tensors that {kind} does not use: {', '.join(left[:3])}{more}")
    names = held.keys() - set(unused) - made
    if taken.dtype is not None and not stored_as(ours.values(), taken.dtype):
        ours = read(own, read_cast(path, taken.dtype, names), optional=made)[0]
    net.load_state_dict(ours, assign=True)
    taken.used.update(names)
    taken.idle.update(made)
    return net.eval()


def _decoder(config: AutoencoderKLConfig, tensors: Mapping[str, Tensor], prefix: str, path: str, taken: Taken) -> Codec:
    codec = _built(config, tensors, prefix, kl.links, path, taken)
    assert isinstance(codec, Codec)
    return codec


def _codec(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    family: Family,
    said: Said | None,
    prefix: str,
    path: str,
    taken: Taken,
) -> Codec:
    scales: Mapping[str, Any] = family.vae
    if shapes.get("model.diffusion_model.label_emb.weight") is not None:
        scales = {"scale": 0.08333}  # the up-scaler's
    config = said.codec if said and said.codec else kl.config(shapes, prefix=prefix, **scales)
    return _decoder(config, tensors, prefix, path, taken)


def _texts(
    kind: str,
    net: Any,
    tensors: Mapping[str, Tensor],
    family: Family,
    said: Said | None,
    tokenizer: Given,
    path: str,
    taken: Taken,
) -> TextConditioner | None:
    towers: dict[str, Any] = {}
    for name, part in PARTS.get(kind, {}).items():
        held = [n for n in tensors if n.startswith(part.prefix)]
        if all(QUIET.match(n) for n in held):
            continue
        made = tokenizer_of(name, tokenizer, path=path, zeros=kind == "sd2")
        if said and name in said.towers:
            published = said.towers[name]
            part = replace(part, config=lambda shapes, prefix, heads, published=published: published)
        towers[name], names = read_tower(tensors, part, made, path=path)
        if taken.dtype is not None and not stored_as((tensors[n] for n in names), taken.dtype):
            towers[name], _ = read_tower(read_cast(path, taken.dtype, names), part, made, path=path)
        taken.used.update(names)
        taken.idle.update(held)
    if not towers or family.texts is None:
        return None
    texts = said.family if said and said.family else family.texts(net, towers)
    return TextConditioner(family=texts, towers=towers)


def _given(codec: Codec | str | Path, family: Family) -> Codec:
    if isinstance(codec, Codec):
        return codec
    return read_codec(codec, **family.vae) if Path(codec).is_file() else load_codec(codec)


def _upcast(config: Any, kind: str, prediction: str) -> Any:
    """Logits of version 2.1 overflow in float16: its released configuration says so, 2.0's does not need it."""
    return replace(config, upcast=True) if kind == "sd2" and prediction == "V" else config


def vae_prefix(shapes: Mapping[str, Any], *more: str) -> str | None:
    """Return what stands before the names of a file's autoencoder, None where it has none."""
    return next((p for p in (kl.PREFIX, "vae.", *more) if f"{p}decoder.conv_in.weight" in shapes), None)


def _report(path: Path, left: Iterable[str]) -> None:
    """Say which tensors of no known part were left alone."""
    if unknown := [name for name in left if not QUIET.match(name)]:
        warnings.warn(f"{path}: not used: {summed(unknown)}", UserWarning, stacklevel=3)
