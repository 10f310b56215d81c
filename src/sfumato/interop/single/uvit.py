"""U-ViT in one file, as its authors released it: the links, and the configuration from the shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from ...core.errors import InputError
from ...nets.uvit import UViT, UViTConfig
from ..links import Link, Rules, convolved, one, renamed

HEADS = {512: 8, 768: 12, 1024: 16, 1152: 16}  # of the paper's sizes: a file does not tell

RULES: Rules = (
    (r"^patches\.", "patch_embed.proj."),
    (r"^label\.table\.", "label_emb."),
    (r"^text\.", "context_embed."),
    (r"^norm_out\.", "norm."),
    (r"^out\.", "decoder_pred."),
    (r"^smooth\.", "final_layer."),
    (r"\.skip\.", ".skip_linear."),
    (r"\.norm_(\d)\.", r".norm\1."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `UViT`, whose one list of blocks is two lists and a middle there."""
    k = cast(UViT, net).config
    half = k.layers // 2
    found: list[Link] = []
    for name in net.state_dict():
        theirs = renamed(name, RULES)
        if name == "patches.weight":
            found.append(convolved(name, theirs, k.patch))
        elif name == "positions":
            found.append(Link((name,), ("pos_embed",), lambda t: [t[0][0]], lambda t: [t[0][None]]))
        elif name.startswith("blocks."):
            _, index, rest = theirs.split(".", 2)
            i = int(index)
            where = f"in_blocks.{i}" if i < half else "mid_block" if i == half else f"out_blocks.{i - half - 1}"
            found.append(one(name, f"{where}.{rest}"))
        else:
            found.append(one(name, theirs))
    return found


def config(shapes: Mapping[str, Sequence[int]]) -> UViTConfig:
    """Return the configuration that a file's tensors of these shapes have, of a size of the paper.

    The last row of a table of classes is taken for no class. Raises `InputError` for another width than the paper's
    four, whose heads the shapes do not tell, and for what no released network has.
    """
    width, channels, patch, _ = shapes["patch_embed.proj.weight"]
    if width not in HEADS or "time_embed.0.weight" in shapes:
        raise InputError(
            f"a U-ViT of width {width} with these tensors is none of the paper's: give network=, its configuration"
        )
    classes = shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None
    if classes == 1000:
        raise InputError("this U-ViT has 1000 classes and no row for none of them, which is not read")
    context = shapes["context_embed.weight"][1] if "context_embed.weight" in shapes else 0
    extra = 1 + (classes is not None) + (77 if context else 0)
    return UViTConfig(
        size=round((shapes["pos_embed"][1] - extra) ** 0.5) * patch,
        channels=channels,
        patch=patch,
        width=width,
        layers=sum(name.endswith(".attn.qkv.weight") for name in shapes),
        heads=HEADS[width],
        mlp_ratio=shapes["mid_block.mlp.fc1.weight"][0] / width,
        num_classes=None if classes is None else classes - 1,
        context=context,
        smooth="final_layer.weight" in shapes,
    )
