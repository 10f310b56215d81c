"""What a `.safetensors` file is, from its header: kind, sizes, network, contract, and what is left over."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..core import SfumatoError, to_config
from ..core.weights import Spec, check_header
from ..pipeline.folder import at_most, empty
from .links import Link
from .single import kl, latent_unet, mmdit
from .single.contracts import TELLTALE, contract_of
from .single.families import FAMILIES, family_of
from .single.reading import QUIET
from .single.said import KEY
from .single.text import PARTS

READ = ("alphas_cumprod", TELLTALE, "v_pred", "ztsnr", "edm_mean", "input_blocks.0.0.weight", "label_emb.weight")


def facts(path: Path) -> dict[str, Any]:
    """Return what a file is, without reading more of it than its header, a few small tensors, and its hash.

    Raises `CheckpointError` for a file that is damaged.
    """
    known, metadata = check_header(path)
    floats = Counter(str(s.dtype).removeprefix("torch.") for s in known.values())
    said: dict[str, Any] = {
        "kind": kind_of(known),
        "tensors": len(known),
        "numbers": sum(_count(s) for s in known.values()),
        "bytes": path.stat().st_size,
        "dtype": " and ".join(f"{name} ({count})" if len(floats) > 1 else name for name, count in floats.most_common()),
        "sha256": _hash(path),
    }
    if said["kind"].startswith("checkpoint"):
        said |= _checkpoint(path, known)
    return said | {"metadata": {k: _value(v) for k, v in sorted(metadata.items()) if k not in (KEY, "format")}}


def kind_of(names: Mapping[str, Any]) -> str:
    """Return what the names of a file's tensors say that it is."""
    shapes = {name: s.shape for name, s in names.items()}
    try:
        return f"checkpoint, {FAMILIES[family_of(shapes, 'it')[0]].architecture}"
    except SfumatoError:
        pass
    tests = {
        "LoRA": (".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".lora.up.", "_lora.up.", ".dora_scale"),
        "LyCORIS": (".hada_", ".lokr_"),
        "ControlNet": ("controlnet_", "control_model.", "zero_convs."),
        "textual inversion": ("emb_params", "clip_l", "clip_g", "string_to_param"),
        "autoencoder": ("decoder.conv_in.", "decoder.mid_block."),
        "network of a diffusers folder": ("down_blocks.", "transformer_blocks."),
        "text encoder": ("text_model.", "encoder.block.", "resblocks."),
    }
    found = (kind for kind, parts in tests.items() if any(part in name for name in names for part in parts))
    return next(found, "tensors of no kind that is known here")


def _checkpoint(path: Path, known: Mapping[str, Spec]) -> dict[str, Any]:
    """Return the parts of a checkpoint, its contract, and the names of what no part uses."""
    shapes = {name: s.shape for name, s in known.items()}
    kind, prefix = family_of(shapes, str(path))
    family = FAMILIES[kind]
    config = family.net(shapes, prefix)
    with at_most(2 * len(known)):
        net = empty(config, next(iter(known.values())).dtype)
    links: list[Link] = (mmdit.links if kind == "sd3" else latent_unet.links)(net, prefix)
    used = {name for link in links for name in link.theirs}
    parts = {"network": sum(p.numel() for p in net.parameters())}
    vae = next((p for p in (kl.PREFIX, "vae.") if f"{p}decoder.conv_in.weight" in shapes), None)
    groups = {"autoencoder": vae} | {name: part.prefix for name, part in PARTS[kind].items()}
    for name, start in groups.items():
        held = {n for n in known if start and n.startswith(start) and not QUIET.match(n)}
        used |= held
        if held:
            parts[name] = sum(_count(known[n]) for n in held)
    rest = [name for name in known if name not in used]
    said = {"parts": parts, "network": to_config(config), "contract": _contract(path, kind, prefix, known)}
    quiet = sum(bool(QUIET.match(name)) for name in rest)
    left = sorted(name for name in rest if not QUIET.match(name))
    return said | {"passed over": f"{quiet} averages, buffers and markers", "not used": left[:20] or "nothing"}


def _contract(path: Path, kind: str, prefix: str, known: Mapping[str, Spec]) -> dict[str, Any] | str:
    wanted = [n for name in READ for n in (name, prefix + name) if n in known]
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in wanted}
    try:
        schedule, prediction, scaling = contract_of(kind, tensors, prefix, path=str(path))
    except SfumatoError as error:
        return str(error)
    return {"schedule": _short(to_config(schedule)), "prediction": to_config(prediction), "label": to_config(scaling)}


def _short(data: Any) -> Any:
    """Return a schedule as data, a long table by its length and its ends."""
    if isinstance(data, dict):
        return {k: _short(v) for k, v in data.items()}
    if isinstance(data, list) and len(data) > 8:
        return f"{len(data)} from {data[0]:.6g} to {data[-1]:.6g}"
    return data


def _value(text: str) -> Any:
    """Return a value of metadata: tables that trainers write as JSON are read, long texts cut."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, (int, float, dict, list)) and len(text) <= 2000 else text[:500]


def _count(spec: Spec) -> int:
    total = 1
    for size in spec.shape:
        total *= size
    return total


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
