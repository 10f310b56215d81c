"""Stable Diffusion 3 and 3.5 in one file: `joint_blocks...`, queries, keys and values fused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

from torch import nn

from ...core.errors import CheckpointError
from ...nets.mmdit import MMDiT, MMDiTConfig
from ..diffusers.mmdit import convolution, table
from ..links import Link, Rules, one, renamed, split

PREFIX = "model.diffusion_model."

RULES: Rules = (
    (r"^patches\.matrix\.", "x_embedder.proj."),
    (r"^patches\.table$", "pos_embed"),
    (r"^time\.", "t_embedder."),
    (r"^vector\.", "y_embedder.mlp."),
    (r"^text\.", "context_embedder."),
    (r"^modulation\.", "final_layer.adaLN_modulation.1."),
    (r"^out\.", "final_layer.linear."),
    (r"^blocks\.(\d+)\.text_", r"joint_blocks.\1.context_block."),
    (r"^blocks\.(\d+)\.(attn2?)\.text\.", r"joint_blocks.\1.context_block.\2."),
    (r"^blocks\.(\d+)\.(attn2?)\.image\.", r"joint_blocks.\1.x_block.\2."),
    (r"^blocks\.(\d+)\.", r"joint_blocks.\1.x_block."),
    (r"_block\.modulation\.", "_block.adaLN_modulation.1."),
    (r"\.out\.", ".proj."),
    (r"\.norm_(q|k)\.", r".ln_\1."),
    (r"\.q\.", ".qkv."),
)


def links(net: nn.Module, prefix: str = PREFIX) -> list[Link]:
    """Return the links of an `MMDiT`; some files have no `prefix`."""
    found: list[Link] = []
    for name in net.state_dict():
        theirs = prefix + renamed(name, RULES)
        if name == "patches.matrix.weight":
            found.append(convolution(name, theirs, cast(MMDiT, net).config.patch))
        elif name == "patches.table":
            found.append(table(name, theirs))
        elif re.search(r"\.q\.(weight|bias)$", name):
            found.append(split([re.sub(r"\.q\.(\w+)$", rf".{which}.\1", name) for which in "qkv"], theirs))
        elif not re.search(r"\.(k|v)\.(weight|bias)$", name):
            found.append(one(name, theirs))
    return found


def config(shapes: Mapping[str, Iterable[int]], prefix: str = PREFIX) -> MMDiTConfig:
    """Return the configuration that the shapes of a file's tensors say; heads are 64 wide in every released model.

    Raises `CheckpointError` for a file that lacks what is asked.
    """

    def shape(name: str) -> tuple[int, ...]:
        if prefix + name not in shapes:
            raise CheckpointError(f"{prefix}{name} is missing: this is not a Stable Diffusion 3 file")
        return tuple(shapes[prefix + name])

    width, channels, patch, _ = shape("x_embedder.proj.weight")
    blocks = [re.fullmatch(re.escape(prefix) + r"joint_blocks\.(\d+)\.x_block\.(.*)", name) for name in shapes]
    inside = [(int(found[1]), found[2]) for found in blocks if found]
    return MMDiTConfig(
        channels=channels,
        out_channels=shape("final_layer.linear.weight")[0] // patch**2,
        patch=patch,
        layers=1 + max((i for i, _ in inside), default=-1),
        heads=width // 64,
        context=shape("context_embedder.weight")[1],
        pooled=shape("y_embedder.mlp.0.weight")[1],
        positions=round(shape("pos_embed")[1] ** 0.5),
        normed=any(rest == "attn.ln_q.weight" for _, rest in inside),
        dual=tuple(sorted(i for i, rest in inside if rest == "attn2.qkv.weight")),
    )
