"""DiT in one file, as its authors released it (arXiv 2212.09748): the links, and the configuration from the shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ...core.errors import CheckpointError, InputError
from ...nets.blocks.embedding import sincos_2d
from ...nets.dit import AdaLNZero, DiT, DiTConfig
from ..links import Link, Rules, convolved, one, renamed

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # the paper's table 1: a file does not tell

RULES: Rules = (
    (r"^patches\.", "x_embedder.proj."),
    (r"^time\.", "t_embedder."),
    (r"^label\.table\.", "y_embedder.embedding_table."),
    (r"^norm_out\.modulation\.", "final_layer.adaLN_modulation.1."),
    (r"^out\.", "final_layer.linear."),
    (r"\.attention\.", ".attn."),
    (r"\.modulation\.", ".adaLN_modulation.1."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `DiT`; their file also has the table of positions, which is checked."""
    k = cast(DiT, net).config
    names = ((name, renamed(name, RULES)) for name in net.state_dict())
    found = [convolved(*pair, k.patch) if pair[0] == "patches.weight" else one(*pair) for pair in names]
    return [*found, positions(k.width, k.size // k.patch)]


def positions(width: int, side: int) -> Link:
    """Return the link of no tensor of ours to `pos_embed` [1, side side, width]; a trained one is refused."""

    def table() -> Tensor:
        return sincos_2d(width, side, side)[None]

    def read(tensors: list[Tensor]) -> list[Tensor]:
        if not tensors[0].is_meta and not torch.allclose(tensors[0].float(), table(), atol=1e-2):
            raise CheckpointError("pos_embed is not the table of sinusoids of DiT: trained positions are not supported")
        return []

    return Link((), ("pos_embed",), read, lambda _: [table()])


def config(shapes: Mapping[str, Sequence[int]]) -> DiTConfig:
    """Return the configuration that a file's tensors of these shapes have, of a size of the paper.

    Raises `InputError` for another width than the paper's four, whose number of heads the shapes do not tell.
    """
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    if width not in HEADS:
        raise InputError(f"a DiT of width {width} is none of the paper's, whose heads are known: give network=")
    tokens = shapes["pos_embed"][1]
    return DiTConfig(
        size=round(tokens**0.5) * patch,
        channels=channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch**2,
        patch=patch,
        width=width,
        layers=sum(name.endswith(".attn.qkv.weight") for name in shapes),
        heads=HEADS[width],
        mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] / width,
        num_classes=shapes["y_embedder.embedding_table.weight"][0] - 1,
        conditioning=AdaLNZero(),
    )
