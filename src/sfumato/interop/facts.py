"""What a `.safetensors` file is, from its header: kind, sizes, network, contract, and what is left over."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..conditioning import read_inversion
from ..core import CheckpointError, InputError, SfumatoError, to_config
from ..core.weights import Spec, check_header
from ..pipeline.folder import at_most, empty
from ..pipeline.origin import summed
from .single.contracts import TELLTALE, contract_of
from .single.families import FAMILIES, family_of
from .single.reading import QUIET, vae_prefix
from .single.said import KEY, Said, said_of
from .single.text import PARTS

DOWN = re.compile(r"\.lora_(down|A)(\.\w+)?\.weight$|[._]lora\.down\.weight$|\.(hada_w1_b|lokr_w1)$")
UNSAID = "the scale of its latents is in no file: 0.18215 (1, 2), 0.13025 (XL), 1.5305 with shift 0.0609 (3)"
READ = ("alphas_cumprod", TELLTALE, "v_pred", "ztsnr", "edm_mean", "input_blocks.0.0.weight", "label_emb.weight")


def facts(path: Path) -> dict[str, Any]:
    """Return what a file is, without reading more of it than its header, a few small tensors, and its hash.

    Raises `CheckpointError` for a file that is damaged.
    """
    try:
        known, metadata = check_header(path)
    except CheckpointError:
        if (word := _word(path)) is None:
            raise
        return word
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
        said |= _checkpoint(path, known, metadata)
    elif said["kind"] in ("LoRA", "LyCORIS"):
        said |= _adapters(known)
    elif said["kind"] == "textual inversion":
        said |= {k: v for k, v in (_word(path) or {}).items() if k in ("word", "vectors")}
    elif said["kind"] == "autoencoder":
        said |= {"contract": UNSAID}
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
        "IP-Adapter": ("ip_adapter.", "image_proj."),
        "T2I-Adapter": ("body.0.",),
        "textual inversion": ("emb_params", "clip_l", "clip_g", "string_to_param"),
        "autoencoder": ("decoder.conv_in.", "decoder.mid_block."),
        "network of a diffusers folder": ("down_blocks.", "transformer_blocks."),
        "text encoder": ("text_model.", "encoder.block.", "resblocks."),
    }
    found = (kind for kind, parts in tests.items() if any(part in name for name in names for part in parts))
    return next(found, "tensors of no kind that is known here")


def _checkpoint(path: Path, known: Mapping[str, Spec], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the parts of a checkpoint, its contract, and the names of what no part uses."""
    shapes = {name: s.shape for name, s in known.items()}
    kind, prefix = family_of(shapes, str(path))
    family, own = FAMILIES[kind], said_of(metadata, str(path))
    try:
        config = own.net if own else family.net(shapes, prefix)
    except InputError as error:
        return {"network": str(error)}
    with at_most(2 * len(known)):
        net = empty(config)
    used = {name for link in family.links(net, prefix) if link.ours for name in link.theirs}
    idle = {name for name in known if QUIET.match(name) or family.ignored(name.removeprefix(prefix))}
    idle |= {name for link in family.links(net, prefix) if not link.ours for name in link.theirs}
    parts = {"network": sum(p.numel() for p in net.parameters())}
    groups: dict[str, tuple[str | None, Callable[[str], bool]]] = {
        "autoencoder": (vae_prefix(shapes), lambda name: False)
    }
    groups |= {name: (part.prefix, part.ignored) for name, part in PARTS.get(kind, {}).items()}
    for name, (start, ignored) in groups.items():
        held = {n for n in known if start and n.startswith(start)} - idle
        idle |= (aside := {n for n in held if ignored(n)})
        used |= (held := held - aside)
        if held:
            parts[name] = sum(_count(known[n]) for n in held)
    left = sorted(known.keys() - used - idle)
    said = {"parts": parts, "network": to_config(config), "contract": _contract(path, kind, config, prefix, known, own)}
    return said | {"carried along": summed(known.keys() & idle) or "nothing", "not used": left[:20] or "nothing"}


def _contract(
    path: Path, kind: str, config: Any, prefix: str, known: Mapping[str, Spec], own: Said | None
) -> dict[str, Any] | str:
    wanted = [n for name in READ for n in (name, prefix + name) if n in known]
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in wanted}
    given: dict[str, Any] = {"schedule": own.schedule, "prediction": own.prediction} if own else {}
    try:
        schedule, prediction, scaling = contract_of(kind, config, tensors, prefix, path=str(path), **given)
    except SfumatoError as error:
        return str(error)
    return {"schedule": _short(to_config(schedule)), "prediction": to_config(prediction), "label": to_config(scaling)}


def _word(path: Path) -> dict[str, Any] | None:
    """Return what a learned word's file is, whose tensor may have any name; None where it is none."""
    try:
        found = read_inversion(path)
    except SfumatoError:
        return None
    vectors = {name or "clip": f"{len(t)} of width {t.shape[-1]}" for name, t in found.vectors.items()}
    return {
        "kind": "textual inversion",
        "word": found.token,
        "vectors": vectors,
        "bytes": path.stat().st_size,
        "dtype": str(next(iter(found.vectors.values())).dtype).removeprefix("torch."),
        "sha256": _hash(path),
    }


def _adapters(known: Mapping[str, Spec]) -> dict[str, Any]:
    """Return how many modules of what parts a file of adapters is for, and their ranks."""
    parts = Counter(re.split(r"_(?=unet|te\d?_|transformer)|[._]", name.removeprefix("lora_"))[0] for name in known)
    ranks = Counter(s.shape[0] for name, s in known.items() if DOWN.search(name) and len(s.shape) > 1)
    counted = ", ".join(f"{rank} ({count})" for rank, count in sorted(ranks.items()))
    return {"modules": sum(ranks.values()), "ranks": counted or "none", "of": ", ".join(sorted(parts))}


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
