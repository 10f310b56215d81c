"""The names in LoRA files: what a tensor is for its module, and the links that say what a module is called."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, InputError
from .links import Link
from .lycoris import LOHA, LOKR, complete

DIFFUSERS = {
    "DiT": "dit",
    "HunyuanDiT": "hunyuan_dit",
    "LatentUNet": "latent_unet",
    "Lumina": "lumina",
    "MMDiT": "mmdit",
    "PixArt": "pixart",
    "UNet": "unet",
}
AUTHORS = {name: of for name, of in DIFFUSERS.items() if name != "UNet"}

_HALF = r"(?:\.lora_%s(?:\.\w+)?|\.lora_%s|\.lora\.%s|\.lora_linear_layer\.%s|(?P<old>_lora)\.%s)\.weight"
ROLES = {
    "down": _HALF % ("A", "down", "down", "down", "down"),
    "up": _HALF % ("B", "up", "up", "up", "up"),
    "mid": r"\.lora_mid\.weight",
    "alpha": r"(?:\.lora|\.lora_linear_layer|(?P<old>_lora))?\.alpha",
    "magnitude": r"\.(?:dora_scale|lora_magnitude_vector(?:\.\w+)*)",
    **{name: rf"\.{name}" for name in (*LOHA, *LOKR)},
}
_ROLES = [(role, re.compile(rf"(?P<path>.+?){end}")) for role, end in ROLES.items()]
# other kinds of adapters, and parts of LoRA that we do not know
_OTHER = re.compile(
    r"\.(oft_\w+|glora_\w+|a1|b1|a2|b2|on_input|w_norm|b_norm|diff|diff_b|set_weight|reshape_weight"
    r"|lora_B(\.\w+)?\.bias|lora_up\.bias|lora_embedding_[AB])$"
)
_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


class Parsed(NamedTuple):
    """The tensors of one module by their role, and their names in the file."""

    tensors: dict[str, Tensor]
    names: dict[str, str]


def gathered(tensors: Mapping[str, Tensor], file: str) -> dict[str, Parsed]:
    """Return module -> its tensors; names that are no part of a LoRA stand for modules of their own.

    Raises `InputError` for another kind of adapter, `CheckpointError` for halves without the other one, and for
    tensors that are of another kind or not finite.
    """
    found: dict[str, Parsed] = {}
    for name, tensor in tensors.items():
        if _OTHER.search(name):
            raise InputError(f"{file}: {name!r:.120} is of another kind: LoRA, LoCon, DoRA, LoHa and LoKr are read")
        module, role = _split(name)
        held = found.setdefault(module, Parsed({}, {}))
        least = {"alpha": 0, "magnitude": 0, "mid": 4, "hada_t1": 4, "hada_t2": 4, "lokr_t2": 4}.get(role, 2)
        if role in held.tensors:
            raise CheckpointError(f"{file}: {name!r:.120} stands there twice, under another of its names")
        kind = tensor.is_floating_point() or (role == "alpha" and tensor.dtype != torch.bool)
        if role in ROLES and (tensor.ndim < least or not tensor.numel() or not kind):
            said = f"{tensor.dtype} {list(tensor.shape)}"
            raise CheckpointError(f"{file}: {name!r:.120} is {said}, which is no {role} of a LoRA")
        if role in ROLES and role != "alpha" and not math.isfinite(float(tensor.sum(dtype=torch.float64))):
            raise CheckpointError(f"{file}: {name!r:.120} has numbers that are not finite: the file is damaged")
        held.tensors[role], held.names[role] = tensor, name
    for held in found.values():
        roles = held.tensors.keys()
        whole = roles >= {"down", "up"} and not roles & {*LOHA, *LOKR}
        if roles & set(ROLES) and not whole and not complete(held.tensors):
            raise CheckpointError(f"{file}: {next(iter(held.names.values()))!r:.120} stands without its other half")
    return found


def _split(name: str) -> tuple[str, str]:
    """Return (module, role) of a tensor's name, as it is today: to_q_lora was once a part of a processor."""
    bare = name.removeprefix("base_model.model.")
    for role, pattern in _ROLES:
        hit = pattern.fullmatch(bare)
        if hit is None:
            continue
        path = hit["path"].replace(".processor.", ".")
        stem, _, last = path.rpartition(".")
        if stem.endswith("self_attn") and last in _TEXT:
            path = f"{stem}.{_TEXT[last]}"
        elif last == "to_out":
            path += ".0"
        return path, role
    return name, name


def their_links(net: nn.Module) -> list[Link]:
    """Return the links of a network's layout in diffusers; `InputError` where it has none."""
    name = DIFFUSERS.get(type(net).__name__)
    if name is None:
        raise InputError(f"{type(net).__name__} is in no other library, so no LoRA file is for it")
    return importlib.import_module(f"{__package__}.diffusers.{name}").LAYOUT.links(net)


def original_links(net: nn.Module) -> list[Link]:
    """Return the links of a network's layout as its authors wrote it, without a prefix; none where it has no other."""
    name = AUTHORS.get(type(net).__name__)
    if name is None:
        return []
    links = importlib.import_module(f"{__package__}.single.{name}").links
    return links(net, "") if name in ("latent_unet", "mmdit") else links(net)
