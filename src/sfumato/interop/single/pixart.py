"""PixArt in one file, as its authors released it: the links, and the configuration from the shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from ...core.errors import InputError
from ...nets.pixart import KVCompression, PixArt, PixArtConfig
from ..links import Link, Rules, convolved, one, renamed, split

HEADS = 16  # of all released networks, whose width is 1152: a file does not tell
FACTOR = 8  # of their autoencoders: pixels to latents

RULES: Rules = (
    (r"^patches\.", "x_embedder.proj."),
    (r"^time\.", "t_embedder."),
    (r"^resolution\.", "csize_embedder."),
    (r"^ratio\.", "ar_embedder."),
    (r"^modulation\.", "t_block.1."),
    (r"^text\.", "y_embedder.y_proj."),
    (r"^null$", "y_embedder.y_embedding"),
    (r"^table$", "final_layer.table"),
    (r"^out\.", "final_layer.linear."),
    (r"\.table$", ".scale_shift_table"),
    (r"\.attention\.q\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.compression\.windows\.", ".attn.sr."),
    (r"\.compression\.norm\.", ".attn.norm."),
    (r"\.cross\.q\.", ".cross_attn.q_linear."),
    (r"\.cross\.k\.", ".cross_attn.kv_linear."),
    (r"\.cross\.out\.", ".cross_attn.proj."),
)


def links(net: nn.Module) -> list[Link]:
    """Return the links of a `PixArt`, whose separate queries, keys and values are parts of one matrix there."""
    patch = cast(PixArt, net).config.patch
    found: list[Link] = []
    for name in net.state_dict():
        theirs = renamed(name, RULES)
        if name == "patches.weight":
            found.append(convolved(name, theirs, patch))
        elif ".attention.q." in name:
            found.append(split([name.replace(".q.", f".{part}.") for part in "qkv"], theirs))
        elif ".cross.k." in name:
            found.append(split([name, name.replace(".k.", ".v.")], theirs))
        elif not any(part in name for part in (".attention.k.", ".attention.v.", ".cross.v.")):
            found.append(one(name, theirs))
    return found


def ignored(name: str) -> bool:
    """Return whether a tensor of theirs carries nothing: positions, which are made for each size."""
    return name == "pos_embed"


def config(shapes: Mapping[str, Sequence[int]], picture: int | None = None, scale: float | None = None) -> PixArtConfig:
    """Return the configuration that a file's tensors of these shapes have.

    `picture`: the side of the pictures that the positions are made for, told by their table where the file has it, and
    1024 for networks that are told sizes. `scale` of the positions: `picture` / 512, but 1 for alpha's 256. Raises
    `InputError` for a size that nothing tells, and for a network of another width than the released ones, whose heads
    the shapes do not tell.
    """
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    if width != 1152:
        raise InputError(f"a PixArt of width {width} is none of the released: give network=, its configuration")
    windows = {int(n.split(".")[1]): s for n, s in shapes.items() if n.endswith(".attn.sr.weight")}
    factor = next(iter(windows.values()))[-1] if windows else 0
    null_tokens = shapes["y_embedder.y_embedding"][0] if "y_embedder.y_embedding" in shapes else 0
    sizes = "csize_embedder.mlp.0.weight" in shapes
    if picture is None and "pos_embed" in shapes:
        picture = round(shapes["pos_embed"][1] ** 0.5) * patch * FACTOR
    elif picture is None and not sizes:
        kind = "sigma" if null_tokens == 300 else "alpha"
        raise InputError(
            "this PixArt does not tell the size of its pictures: give network=, such as "
            f"replace(pixart_{kind}(512), null_tokens={null_tokens}), or --picture"
        )
    picture = picture or 1024
    least = 0.0 if null_tokens == 300 or windows else 1.0
    return PixArtConfig(
        size=picture // FACTOR,
        scale=max(picture / 512, least) if scale is None else scale,
        channels=channels,
        out_channels=shapes["final_layer.linear.weight"][0] // patch**2,
        patch=patch,
        width=width,
        layers=sum(name.endswith(".attn.qkv.weight") for name in shapes),
        heads=HEADS,
        context=shapes["y_embedder.y_proj.fc1.weight"][1],
        null_tokens=null_tokens,
        sizes=sizes,
        compression=KVCompression(layers=tuple(sorted(windows)), factor=factor) if windows else None,
    )
