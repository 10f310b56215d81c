"""Lumina-Next in one file, as its authors released it (arXiv 2406.18583): links, and the configuration from shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ...core.errors import InputError
from ...nets.lumina import LuminaConfig
from ..links import Link, Rules, one, renamed, shared

HEAD, PATCH = 72, 2  # width of a head, side of a patch in every released network: a file does not tell

RULES: Rules = (
    (r"^patches\.", "x_embedder."),
    (r"^pad$", "pad_token"),
    (r"^time\.", "t_embedder."),
    (r"^vector\.", "cap_embedder."),
    (r"^modulation\.", "final_layer.adaLN_modulation.1."),
    (r"^out\.", "final_layer.linear."),
    (r"^blocks\.", "layers."),
    (r"\.modulation\.", ".adaLN_modulation.1."),
    (r"\.norm([12])\.", r".attention_norm\1."),
    (r"\.norm3\.", ".ffn_norm1."),
    (r"\.norm4\.", ".ffn_norm2."),
    (r"\.norm_text\.", ".attention_y_norm."),
    (r"\.gate$", ".attention.gate"),
    (r"\.attn\.norm_(q|k)\.", r".attention.\1_norm."),
    (r"\.cross\.norm_k\.", ".attention.ky_norm."),
    (r"\.attn\.(q|k|v)\.", r".attention.w\1."),
    (r"\.cross\.(k|v)\.", r".attention.w\1_y."),
    (r"^(layers\.\d+)\.out\.", r"\1.attention.wo."),
    (r"\.mlp\.fc(\d)\.", r".feed_forward.w\1."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `Lumina`, whose two attentions share their queries there."""
    found: list[Link] = []
    for name in net.state_dict():
        if ".cross.q." in name or ".cross.norm_q." in name:
            continue
        theirs = renamed(name, RULES)
        if ".attn.q." in name or ".attn.norm_q." in name:
            found.append(shared((name, name.replace(".attn.", ".cross.")), theirs))
        else:
            found.append(one(name, theirs))
    return found


def config(shapes: Mapping[str, Sequence[int]]) -> LuminaConfig:
    """Return the configuration that a file's tensors of these shapes have; heads are 72 wide, patches of side 2.

    Raises `InputError` for a width that is no multiple of a head's, and for feed-forward layers of another width than
    8/3 of it in steps of 256.
    """
    width, inputs = shapes["x_embedder.weight"]
    if width % HEAD:
        raise InputError(f"a Lumina of width {width} has no heads of width {HEAD}: give network=, its configuration")
    channels = inputs // PATCH**2
    found = LuminaConfig(
        channels=channels,
        variance=shapes["final_layer.linear.weight"][0] == 2 * inputs,
        patch=PATCH,
        width=width,
        layers=sum(name.endswith(".attention.wk_y.weight") for name in shapes),
        heads=width // HEAD,
        kv_heads=shapes["layers.0.attention.wk.weight"][0] // HEAD,
        context=shapes["layers.0.attention.wk_y.weight"][1],
    )
    if (hidden := shapes["layers.0.feed_forward.w1.weight"][0]) != found.hidden:
        raise InputError(f"a Lumina with feed-forward layers {hidden} wide is none of the released: give network=")
    return found
