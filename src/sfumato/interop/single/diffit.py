"""Latent DiffiT in one file, as its authors published it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ...core.errors import CheckpointError
from ...nets.blocks.tmsa import differences
from ...nets.diffit import DiffiT, DiffiTConfig
from ..diffusers.mmdit import convolution
from ..links import Link, Rules, one, renamed

RULES: Rules = (
    (r"^patches\.", "x_embedder.proj."),
    (r"^time\.", "t_embedder."),
    (r"^label\.table\.", "y_embedder.embedding_table."),
    (r"^positions$", "pos_embed"),
    (r"^out\.", "final_layer.linear."),
    (r"\.attn\.time\.", ".attn.qkv_temb."),
    (r"\.attn\.out\.", ".attn.proj."),
    (r"\.attn\.bias$", ".attn.relative_position_bias_table"),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `DiffiT`; the tables of differences that the file also holds are computed."""
    k = cast(DiffiT, net).config

    def table(tensors: list[Tensor]) -> list[Tensor]:
        return [differences(k.size // k.patch, torch.device("cpu"))]

    found: list[Link] = []
    for name in net.state_dict():
        theirs = renamed(name, RULES)
        if name == "patches.weight":
            found.append(convolution(name, theirs, k.patch))
        elif name == "positions":
            found.append(Link((name,), (theirs,), lambda t: [t[0][0]], lambda t: [t[0][None]]))
        else:
            found.append(one(name, theirs))
    for i in range(k.layers):
        found.append(Link((), (f"blocks.{i}.attn.relative_position_index",), lambda t: [], table))
    return found


def config(shapes: Mapping[str, Iterable[int]]) -> DiffiTConfig:
    """Return the configuration that the shapes of a file's tensors say.

    Raises `CheckpointError` for a file that lacks what is asked.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise CheckpointError(f"{name} is missing: this is not a DiffiT file")
        return tuple(shapes[name])

    width, channels, patch, _ = shape("x_embedder.proj.weight")
    differing, heads = shape("blocks.0.attn.relative_position_bias_table")
    blocks = [int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")]
    return DiffiTConfig(
        size=(round(differing**0.5) + 1) // 2 * patch,
        channels=channels,
        out_channels=shape("final_layer.linear.weight")[0] // patch**2,
        patch=patch,
        width=width,
        layers=1 + max(blocks),
        heads=heads,
        mlp_ratio=shape("blocks.0.mlp.fc1.weight")[0] / width,
        num_classes=shape("y_embedder.embedding_table.weight")[0] - 1,
    )
