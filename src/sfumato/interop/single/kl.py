"""The KL autoencoder as CompVis' latent diffusion names it: Stable Diffusion 1, 2, XL and 3 in one file.

Attention is stored as 1x1 convolutions; the levels of the decoder count from the largest grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from torch import nn

from ...codecs.kl import AutoencoderKL, AutoencoderKLConfig
from ...core.errors import CheckpointError
from ..links import Link, Rules, flat, one, renamed

PREFIX = "first_stage_model."

RULES: Rules = (
    (r"^moments\.", "quant_conv."),
    (r"^decoded\.", "post_quant_conv."),
    (r"\.(down|up)\.(\d+)\.blocks\.(\d+)\.res\.", r".\1.\2.block.\3."),
    (r"\.(down|up)\.(\d+)\.blocks\.(\d+)\.attention\.", r".\1.\2.attn.\3."),
    (r"\.(down|up)\.(\d+)\.sample\.", r".\1.\2.\1sample.conv."),
    (r"\.middle\.0\.attention\.", ".mid.attn_1."),
    (r"\.middle\.0\.res\.", ".mid.block_1."),
    (r"\.middle\.1\.res\.", ".mid.block_2."),
    (r"(attn[._]\d+)\.out\.", r"\1.proj_out."),
    (r"\.step(\d)\.(norm|conv)\.", r".\2\1."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"coder\.out\.(norm|conv)\.", r"coder.\1_out."),
)


def links(net: nn.Module, prefix: str = PREFIX) -> list[Link]:
    """Return the links of an `AutoencoderKL`; a file of the autoencoder alone has the `prefix` ""."""
    levels = len(cast(AutoencoderKL, net).config.widths)

    def theirs(name: str) -> str:
        parts = name.split(".")
        if parts[:2] == ["decoder", "up"]:
            parts[2] = str(levels - 1 - int(parts[2]))
        return prefix + renamed(".".join(parts), RULES)

    def matrix(name: str) -> bool:
        return ".attention." in name and ".norm." not in name and name.endswith(".weight")

    return [(flat if matrix(name) else one)(name, theirs(name)) for name in net.state_dict()]


def config(
    shapes: Mapping[str, Iterable[int]],
    *,
    scale: float,
    shift: float = 0.0,
    upcast: bool = False,
    prefix: str = PREFIX,
) -> AutoencoderKLConfig:
    """Return the configuration that the shapes of a file's tensors say, with 32 groups as in every released file.

    `scale`, `shift` and `upcast` stand nowhere in the file: they follow from the model that the file is of. Raises
    `CheckpointError` for a file that lacks what is asked.
    """

    def shape(name: str) -> tuple[int, ...]:
        if prefix + name not in shapes:
            raise CheckpointError(f"no {prefix}{name} in the file: is it a KL autoencoder?")
        return tuple(shapes[prefix + name])

    def count(stem: str) -> int:
        return next(i for i in range(len(shapes) + 1) if f"{prefix}{stem.format(i)}.conv1.weight" not in shapes)

    levels = count("encoder.down.{}.block.0")
    return AutoencoderKLConfig(
        in_channels=shape("encoder.conv_in.weight")[1],
        out_channels=shape("decoder.conv_out.weight")[0],
        latent=shape("decoder.conv_in.weight")[1],
        widths=tuple(shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)),
        layers=count("encoder.down.0.block.{}"),
        attention=tuple(i for i in range(levels) if f"{prefix}encoder.down.{i}.attn.0.q.weight" in shapes),
        middle=f"{prefix}encoder.mid.attn_1.q.weight" in shapes,
        moments=f"{prefix}quant_conv.weight" in shapes,
        decoded=f"{prefix}post_quant_conv.weight" in shapes,
        scale=scale,
        shift=shift,
        upcast=upcast,
    )
