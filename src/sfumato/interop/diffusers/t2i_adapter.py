"""`T2IAdapter`: full, light, and those of SDXL."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...control.t2i_adapter import LightT2IAdapterConfig, T2IAdapterConfig
from ...core.errors import InputError
from ..links import Link, Rules, one, renamed
from .layout import Fields, Layout

RULES: Rules = (
    (r"^first\.", "conv_in."),
    (r"^levels\.", "body."),
    (r"\.(in|out)ward\.", r".\1_conv."),
    (r"\.blocks\.(\d+)\.conv", r".resnets.\1.block"),
    (r"^", "adapter."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `T2IAdapter`."""
    return [one(name, renamed(name, RULES)) for name in net.state_dict()]


def read(fields: Fields) -> T2IAdapterConfig | LightT2IAdapterConfig:
    """Return our configuration of theirs."""
    take = fields.take
    kind = take("adapter_type", "full_adapter")
    widths = tuple(take("channels", (320, 640, 1280, 1280)))
    blocks, patch = int(take("num_res_blocks", 2)), int(take("downscale_factor", 8))
    channels = int(take("in_channels", 3))
    if kind == "light_adapter":  # whose last level is not in their list
        return LightT2IAdapterConfig(widths=(*widths, widths[-1]), blocks=blocks, patch=patch, hint_channels=channels)
    halved = {"full_adapter": tuple(range(1, len(widths))), "full_adapter_xl": (2,)}
    if kind not in halved or (kind == "full_adapter_xl" and (len(widths) < 3 or len(set(widths[2:])) > 1)):
        raise InputError(f"{fields.kind} with adapter_type={kind!r:.60} and channels={widths} is not supported")
    return T2IAdapterConfig(widths=widths, blocks=blocks, halved=halved[kind], patch=patch, hint_channels=channels)


def write(config: T2IAdapterConfig | LightT2IAdapterConfig) -> dict[str, Any]:
    """Return their configuration of ours; `InputError` for levels halved in a way that they do not have."""
    k = config
    fields: dict[str, Any] = {
        "in_channels": k.hint_channels,
        "num_res_blocks": k.blocks,
        "downscale_factor": k.patch,
    }
    if isinstance(k, LightT2IAdapterConfig):
        if k.widths[-1] != k.widths[-2]:
            raise InputError(f"T2IAdapter: the last two widths of a light adapter are equal there, got {k.widths}")
        return fields | {"adapter_type": "light_adapter", "channels": list(k.widths[:-1])}
    kinds = {tuple(range(1, len(k.widths))): "full_adapter", (2,): "full_adapter_xl"}
    if k.halved not in kinds:
        raise InputError(f"T2IAdapter has no kind with the levels {k.halved} halved")
    return fields | {"adapter_type": kinds[k.halved], "channels": list(k.widths)}


LAYOUT = Layout("T2IAdapter", read, write, links)
