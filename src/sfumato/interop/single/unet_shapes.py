"""The configuration of a Stable Diffusion U-Net, read off the shapes of a file's tensors: pruned ones need no name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...core.errors import CheckpointError, InputError
from ...nets.latent_unet import LatentUNetConfig
from .latent_unet import PREFIX

HEADS = 8  # of every level of version 1 and of the up-scaler; all later networks have heads that are 64 wide
LATENT = 4
SIZE = 256  # of a number as sinusoids


class Level(NamedTuple):
    """The residual blocks of a level: channels of each, and the depth of the transformer after each."""

    widths: list[int]
    depths: list[int]


def config(shapes: Mapping[str, Sequence[int]], prefix: str = PREFIX, *, upcast: bool = False) -> LatentUNetConfig:
    """Return the configuration that the shapes of a file's tensors say; `upcast` stands in no file.

    Heads: 8 a level where matrices are stored as 1x1 convolutions (version 1) and beside a table of noise levels (the
    up-scaler), else 64 wide. Raises `CheckpointError` for a file that lacks what is asked, `InputError` for a network
    of another kind.
    """
    held = {name.removeprefix(prefix): tuple(s) for name, s in shapes.items() if name.startswith(prefix)}
    inputs = _pair(held, "input_blocks.0.0.weight")[1]
    levels = _levels(held)
    for level in levels:
        if len(set(level.widths)) != 1 or len(set(level.depths)) != 1 or len(level.widths) != len(levels[0].widths):
            raise InputError("a U-Net whose blocks differ inside a level, or in number between levels, is not read")
    depths = [level.depths[0] for level in levels]
    middle = _depth(held, "middle_block.1.") if "middle_block.0.in_layers.0.weight" in held else None
    tables = [s for name, s in held.items() if name.endswith(".attn2.to_k.weight") and len(s) == 2]
    if not tables:
        raise InputError("a U-Net without attention to a text is not read from a single file")
    context = tables[0][1]
    convolved = any(len(s) == 4 for name, s in held.items() if name.endswith(".proj_in.weight"))
    noise_levels = held.get("label_emb.weight", (0,))[0]
    vector = held.get("label_emb.0.0.weight", (0, 0))[1]
    sizes = 0 if not vector else 5 if vector == 1280 + 5 * SIZE else 6
    if vector and vector <= sizes * SIZE:
        raise InputError(f"a U-Net with a vector of {vector} beside the time (an unCLIP) is not read")
    wide = [level.widths[0] for level in levels]
    eight = convolved or bool(noise_levels)
    if not eight and (odd := [w for w in wide if w % 64]):
        raise InputError(f"a U-Net of {odd[0]} channels has no heads of width 64: its file does not tell them")
    return LatentUNetConfig(
        in_channels=min(inputs, LATENT),
        extra=max(inputs - LATENT, 0),
        out_channels=_pair(held, "out.2.weight")[0],
        widths=tuple(wide),
        layers=len(levels[0].widths),
        transformers=tuple(depths),
        middle=middle,
        heads=tuple(HEADS if eight else w // 64 for w in wide),
        context=context,
        cross_only=_cross_only(held, levels, context),
        upcast=upcast,
        vector=vector,
        sizes=sizes,
        noise_levels=noise_levels,
        guidance_width=held.get("time_embed.cond_proj.weight", (0, 0))[1],
        convolved=convolved,
    )


def _levels(held: Mapping[str, tuple[int, ...]]) -> list[Level]:
    found = [Level([], [])]
    for i in range(1, len(held) + 1):
        if f"input_blocks.{i}.0.op.weight" in held:
            found.append(Level([], []))
        elif (shape := held.get(f"input_blocks.{i}.0.out_layers.3.weight")) is not None and shape:
            found[-1].widths.append(shape[0])
            found[-1].depths.append(_depth(held, f"input_blocks.{i}.1."))
        else:
            break
    if not all(level.widths for level in found):
        raise CheckpointError("the file has a level without residual blocks: is it a U-Net of Stable Diffusion?")
    return found


def _depth(held: Mapping[str, tuple[int, ...]], stem: str) -> int:
    pattern = re.compile(re.escape(stem) + r"transformer_blocks\.(\d+)\.norm1\.weight")
    return len([1 for name in held if pattern.fullmatch(name)])


def _cross_only(held: Mapping[str, tuple[int, ...]], levels: Sequence[Level], context: int) -> tuple[bool, ...]:
    """Return the levels whose first attention reads the text: its keys are as wide as the text, not as the level."""
    only: list[bool] = []
    at = 1
    for level in levels:
        shape = held.get(f"input_blocks.{at}.1.transformer_blocks.0.attn1.to_k.weight", (0, 0))
        only.append(shape[-1] == context != level.widths[0])
        at += len(level.widths) + 1
    return tuple(only) if any(only) else ()


def _pair(held: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int]:
    shape = held.get(name, ())
    if len(shape) != 4:
        raise CheckpointError(f"the file has no convolution {name}: is it a U-Net of Stable Diffusion?")
    return shape[0], shape[1]
