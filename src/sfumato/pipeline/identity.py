"""The weights that decide a pipeline's samples: the network's, the codec's and the text encoders'."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..codecs.codec import Codec, Identity, IdentityConfig
from ..codecs.tiled import Wrapped
from ..conditioning.depth import DepthModel
from ..conditioning.text import TextConditioner

TIED = "encoder.embed_tokens.weight"  # T5's table, which its `shared.weight` is


def bare(codec: Codec | None) -> Codec | None:
    """Return a codec without what runs it in strips or tiles."""
    while isinstance(codec, Wrapped):
        codec = codec.codec
    return codec


def standing(codec: Codec | None, channels: int) -> Codec | None:
    """Return a codec, or for a network alone on latents that no picture is (16 channels) one that hands them on."""
    return codec if codec is not None or channels in (1, 3, 4) else Identity(IdentityConfig(channels=channels))


def own(codec: Codec | None) -> Codec | None:
    """Return a codec without what runs it in strips or tiles, None for one that only hands latents on."""
    found = bare(codec)
    return None if isinstance(found, Identity) else found


def weights_of(
    net: torch.nn.Module, codec: Codec | None, conditioner: Any, depth: DepthModel | None = None
) -> dict[str, Tensor]:
    """Return the tensors of all parts, each under a name of its own; the network's have no prefix."""
    tensors: dict[str, Tensor] = dict(net.state_dict(keep_vars=True))
    own = bare(codec)
    if own is not None:
        tensors |= {f"codec:{name}": t for name, t in own.state_dict(keep_vars=True).items()}
    if isinstance(conditioner, TextConditioner):
        for tower, encoder in conditioner.towers.items():
            state = encoder.model.state_dict(keep_vars=True)
            tensors |= {f"{tower}:{name}": t for name, t in state.items() if name != TIED}
    if depth is not None:
        tensors |= {f"depth:{name}": t for name, t in depth.model.state_dict(keep_vars=True).items()}
    return tensors


def digest(identity: bytes, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a configuration and of tensors with their names, dtypes and shapes."""
    found = hashlib.sha256()
    found.update(identity)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
