"""`ControlNetModel`: ControlNets of Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import nn

from ...control.controlnet import ControlNet, ControlNetConfig
from ..links import Link, one
from . import latent_unet
from .layout import Fields, Layout

HINT = "controlnet_cond_embedding."


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `ControlNet`."""
    own = cast(ControlNet, net)
    last = len(own.outs) - 1
    found = [
        Link(tuple("unet." + name for name in link.ours), link.theirs, link.read, link.write)
        for link in latent_unet.links(own.unet)
    ]
    for name in own.state_dict():
        if name.startswith("hint."):
            found.append(one(name, HINT + name.removeprefix("hint.")))
        elif name.startswith("outs."):
            _, i, rest = name.split(".")
            found.append(one(name, f"controlnet_{'mid_block' if int(i) == last else f'down_blocks.{i}'}.{rest}"))
    return found


def read(fields: Fields) -> ControlNetConfig:
    """Return our configuration of theirs, whose fields are those of a U-Net without the way up."""
    take = fields.take
    hints = tuple(take("conditioning_embedding_out_channels", (16, 32, 96, 256)))
    channels, averaged = int(take("conditioning_channels", 3)), bool(take("global_pool_conditions", False))
    fields.must(controlnet_conditioning_channel_order="rgb")
    down = fields.left.get("down_block_types") or [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"]
    fields.left["up_block_types"] = [name.replace("Down", "Up") for name in reversed(down)]
    unet = latent_unet.read(fields)
    if unet.extra:  # it sees the latent alone, of as many channels as that has
        unet = replace(unet, in_channels=unet.in_channels + unet.extra, extra=0)
    return ControlNetConfig(unet=unet, hints=hints, hint_channels=channels, averaged=averaged)


def write(config: ControlNetConfig) -> dict[str, Any]:
    """Return their configuration of ours."""
    dropped = ("out_channels", "up_block_types", "time_cond_proj_dim", "dropout")
    unet = {k: v for k, v in latent_unet.write(config.unet).items() if k not in dropped}
    return unet | {
        "conditioning_channels": config.hint_channels,
        "conditioning_embedding_out_channels": list(config.hints),
        "global_pool_conditions": config.averaged,
    }


LAYOUT = Layout("ControlNetModel", read, write, links)
