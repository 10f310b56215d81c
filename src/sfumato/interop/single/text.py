"""Text encoders in checkpoints of one file: CLIP under its port's names or OpenCLIP's, T5 under its port's.

The configuration follows from the shapes of the tensors; the tokenizer is in no such file and is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...conditioning.published import Published, clip, t5_xxl
from ...conditioning.tower import Tower
from ...conditioning.tower_files import blank, tower_of
from ...core.errors import CheckpointError
from ..links import Link, one, read, renamed, write
from . import open_clip

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """A text encoder in a file: the `prefix` of its tensors, and in what names.

    `config(shapes, prefix, heads)` is its class and configuration; `links(names, prefix)` lead from the names of
    `transformers` to those of the file; `ignored(name)`: tensors of the file that carry nothing.
    """

    prefix: str
    config: Callable[[Shapes, str, int | None], Published]
    links: Callable[[list[str], str], list[Link]]
    ignored: Callable[[str], bool]


def ported(names: list[str], prefix: str) -> list[Link]:
    """Return the links of tensors that have the names of `transformers`, with `text_model.` in CLIP's."""
    return [one(name, prefix + _full(name)) for name in names if name != "encoder.embed_tokens.weight"]


def ported_clip(shapes: Shapes, prefix: str, heads: int | None = None) -> Published:
    """Return the CLIP that the shapes under `prefix` say, in the names of `transformers`."""
    table = _shape(shapes, f"{prefix}text_model.embeddings.token_embedding.weight")
    layers = _count(shapes, f"{prefix}text_model.encoder.layers.", ".layer_norm1.weight")
    inner = _shape(shapes, f"{prefix}text_model.encoder.layers.0.mlp.fc1.weight")[0]
    projection = shapes.get(f"{prefix}text_projection.weight")
    # OpenAI's encoder is 768 wide and has the quick GELU, those of OpenCLIP are wider and have the exact one
    act = "quick_gelu" if table[1] <= 768 else "gelu"
    width = projection[0] if projection else None
    return clip(table[1], layers, act=act, heads=heads, projection=width, vocab_size=table[0], intermediate_size=inner)


def open_clip_text(shapes: Shapes, prefix: str, heads: int | None = None) -> Published:
    """Return the OpenCLIP that the shapes under `prefix` say."""
    table = _shape(shapes, f"{prefix}token_embedding.weight")
    return clip(
        table[1],
        _count(shapes, f"{prefix}transformer.resblocks.", ".ln_1.weight"),
        act="gelu",
        heads=heads,
        projection=shapes.get(f"{prefix}text_projection", (0, 0))[1] or None,
        vocab_size=table[0],
        intermediate_size=_shape(shapes, f"{prefix}transformer.resblocks.0.mlp.c_fc.weight")[0],
    )


def ported_t5(shapes: Shapes, prefix: str, heads: int | None = None) -> Published:
    """Return the T5 encoder that the shapes under `prefix` say."""
    vocab, width = _shape(shapes, f"{prefix}shared.weight")
    found = _shape(shapes, f"{prefix}encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    inner = _shape(shapes, f"{prefix}encoder.block.0.layer.0.SelfAttention.q.weight")[0]
    kind, config = t5_xxl()
    return kind, config | {
        "vocab_size": vocab,
        "d_model": width,
        "d_kv": inner // found[1],
        "d_ff": _shape(shapes, f"{prefix}encoder.block.0.layer.1.DenseReluDense.wi_0.weight")[0],
        "num_layers": _count(shapes, f"{prefix}encoder.block.", ".layer.0.layer_norm.weight"),
        "num_heads": found[1],
        "relative_attention_num_buckets": found[0],
    }


def _quiet(name: str) -> bool:
    return name.endswith(("position_ids", "logit_scale", "encoder.embed_tokens.weight"))


def _clip(prefix: str) -> Part:
    return Part(prefix, ported_clip, ported, _quiet)


def _open(prefix: str) -> Part:
    return Part(prefix, open_clip_text, open_clip.links, open_clip.ignored)


PARTS: dict[str, dict[str, Part]] = {
    "sd1": {"clip": _clip("cond_stage_model.transformer.")},
    "sd2": {"clip": _open("cond_stage_model.model.")},
    "xl": {"clip_l": _clip("conditioner.embedders.0.transformer."), "clip_g": _open("conditioner.embedders.1.model.")},
    "refiner": {"clip_g": _open("conditioner.embedders.0.model.")},
    "sd3": {
        "clip_l": _clip("text_encoders.clip_l.transformer."),
        "clip_g": _clip("text_encoders.clip_g.transformer."),
        "t5": Part("text_encoders.t5xxl.transformer.", ported_t5, ported, _quiet),
    },
}
"""The towers of each family of files, by the names that `sfumato.conditioning` gives them."""


def read_tower(
    tensors: Mapping[str, Tensor], part: Part, tokenizer: Any, *, path: str, heads: int | None = None
) -> tuple[Tower, set[str]]:
    """Return a tower of the tensors under a part's prefix, which it keeps as they are or as views, and their names.

    `heads`, where they are not 64 wide. CLIP-L's projection of version 3 is the identity where a file lacks it. Raises
    `CheckpointError` for tensors that are missing, of another shape, or not known.
    """
    held = {name: tensor for name, tensor in tensors.items() if name.startswith(part.prefix)}
    kind, config = part.config({name: tuple(t.shape) for name, t in held.items()}, part.prefix, heads)
    if part.prefix.startswith("text_encoders.clip") and kind == "CLIPTextModel":
        kind, width = "CLIPTextModelWithProjection", config["hidden_size"]
        held[f"{part.prefix}text_projection.weight"] = torch.eye(width, dtype=next(iter(held.values())).dtype)
        config = config | {"projection_dim": width}
    links = part.links(list(blank(kind, config).state_dict()), part.prefix)
    ours, missing, unused = read(links, held)
    if missing:
        raise CheckpointError(f"{path} lacks {missing[0]} and {len(missing) - 1} more, which {kind} needs")
    if unknown := [name for name in unused if not part.ignored(name)]:
        raise CheckpointError(f"{path} holds {unknown[0]!r:.80}, which {kind} does not have: is it another model?")
    used = {name for name in held if name in tensors} - set(unused)
    return tower_of(kind, config, ours, tokenizer, path=path), used


def write_tower(tower: Tower, part: Part) -> dict[str, Tensor]:
    """Return a tower's tensors under the names of a file."""
    state = tower.model.state_dict()
    return write(part.links(list(state), part.prefix), state)


def _full(name: str) -> str:
    """Return the name that released files give to a tensor: CLIP's all have `text_model.`."""
    clip_names = (r"^(?=embeddings\.(token|position)_embedding|encoder\.layers\.|final_layer_norm)", "text_model.")
    return renamed(name, [clip_names])


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes or len(shapes[name]) != 2:
        raise CheckpointError(f"the file has no matrix {name}: its text encoder is another")
    return shapes[name]


def _count(shapes: Shapes, start: str, end: str) -> int:
    return sum(name.startswith(start) and name.endswith(end) for name in shapes)
