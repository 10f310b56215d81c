"""ControlNets of Stable Diffusion 1 and 2 as their authors' files name them: `control_model...`."""

from __future__ import annotations

from typing import cast

from torch import nn

from ...control.controlnet import ControlNet
from ..links import Link, one
from . import latent_unet

PREFIX = "control_model."


def links(net: nn.Module, prefix: str = PREFIX) -> list[Link]:
    """Return the links of a `ControlNet`; some files have no `prefix`. Their convolutions stand at even places."""
    own = cast(ControlNet, net)
    last = len(own.outs) - 1
    found = [
        Link(tuple("unet." + name for name in link.ours), link.theirs, link.read, link.write)
        for link in latent_unet.links(own.unet, prefix)
    ]
    for name in own.state_dict():
        parts = name.split(".")
        if parts[0] == "outs":
            stem = "middle_block_out.0" if int(parts[1]) == last else f"zero_convs.{parts[1]}.0"
            found.append(one(name, f"{prefix}{stem}.{parts[2]}"))
        elif parts[0] == "hint":
            inner = {"conv_in": 0, "conv_out": len(own.hint.blocks) + 1}
            place = inner[parts[1]] if parts[1] in inner else int(parts[2]) + 1
            found.append(one(name, f"{prefix}input_hint_block.{2 * place}.{parts[-1]}"))
    return found
