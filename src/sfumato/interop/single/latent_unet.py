"""The U-Net of Stable Diffusion 1, 2 and XL as its authors' files name it: `input_blocks`, `output_blocks`."""

from __future__ import annotations

from typing import cast

from torch import nn

from ...nets.latent_unet import LatentUNet
from ..links import Link, Rules, flat, one, renamed

PREFIX = "model.diffusion_model."

INNER: Rules = (
    (r"^noise\.mlp\.", "time_embed."),
    (r"^guidance\.", "time_embed.cond_proj."),
    (r"^vector\.", "label_emb.0."),
    (r"^noise_level\.", "label_emb."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^middle\.0\.transformer\.", "middle_block.1."),
    (r"^middle\.0\.", "middle_block.0."),
    (r"^middle\.1\.", "middle_block.2."),
    (r"\.res\.norm1\.", ".in_layers.0."),
    (r"\.res\.conv1\.", ".in_layers.2."),
    (r"\.time\.", ".emb_layers.1."),
    (r"\.res\.norm2\.", ".out_layers.0."),
    (r"\.res\.conv2\.", ".out_layers.3."),
    (r"\.res\.shortcut\.", ".skip_connection."),
    (r"\.blocks\.", ".transformer_blocks."),
    (r"\.attn(\d)\.(q|k|v)\.", r".attn\1.to_\2."),
    (r"\.attn(\d)\.out\.", r".attn\1.to_out.0."),
    (r"\.ff\.fc1\.", ".ff.net.0.proj."),
    (r"\.ff\.fc2\.", ".ff.net.2."),
)


def links(net: nn.Module, prefix: str = PREFIX) -> list[Link]:
    """Return the links of a `LatentUNet`: a level's blocks are numbered through, and what leads to the next is one."""
    unet = cast(LatentUNet, net)
    each = unet.config.layers + 1

    def theirs(name: str) -> str:
        parts = name.split(".")
        if parts[0] not in ("down", "up"):
            return prefix + renamed(name, INNER)
        level, down = int(parts[1]), parts[0] == "down"
        if parts[2] == "sample":
            if down:
                return f"{prefix}input_blocks.{(level + 1) * each}.0.op.{parts[-1]}"
            depth = unet.config.transformers[::-1][level]
            return f"{prefix}output_blocks.{(level + 1) * each - 1}.{2 if depth else 1}.conv.{parts[-1]}"
        block = level * each + int(parts[3]) + down
        at, rest = (1, parts[5:]) if parts[4] == "transformer" else (0, parts[4:])
        inside = renamed("." + ".".join(rest), INNER)
        return f"{prefix}{'input' if down else 'output'}_blocks.{block}.{at}{inside}"

    def matrix(name: str) -> bool:
        return unet.config.convolved and name.endswith(("proj_in.weight", "proj_out.weight"))

    return [(flat if matrix(name) else one)(name, theirs(name)) for name in net.state_dict()]
