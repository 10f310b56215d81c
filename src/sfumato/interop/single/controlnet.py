"""ControlNets of Stable Diffusion 1 and 2 as their authors' files name them: `control_model...`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ...control.controlnet import ControlNet, ControlNetConfig
from ...core.errors import CheckpointError, InputError
from ...core.weights import read_weights, specs
from ..links import Link, check, one, read
from . import latent_unet, unet_shapes

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


def config(shapes: Mapping[str, Sequence[int]], prefix: str = PREFIX, *, averaged: bool = False) -> ControlNetConfig:
    """Return the configuration that the shapes of a file's tensors say; `averaged` stands in no file.

    Raises `CheckpointError` for a file that lacks what is asked.
    """
    stem = prefix + "input_hint_block."
    convolutions = [n for n in shapes if n.startswith(stem) and n.endswith(".weight")]
    kept = [f"{stem}{2 * place}.weight" for place in range(0, len(convolutions) - 1, 2)]  # the first, those that halve
    if len(kept) < 2 or any(len(shapes.get(name, ())) != 4 for name in kept):
        raise CheckpointError(f"the file has no {stem}0.weight...: is it a ControlNet?")
    # the way up is not there: its last convolution gives what the first one takes
    inputs = tuple(shapes.get(prefix + "input_blocks.0.0.weight", ()))
    unet = unet_shapes.config({**shapes, prefix + "out.2.weight": (inputs[1:2] or (4,)) + (1, 3, 3)}, prefix)
    hints = tuple(shapes[name][0] for name in kept)
    return ControlNetConfig(unet=unet, hints=hints, hint_channels=shapes[kept[0]][1], averaged=averaged)


def read_controlnet(path: str | Path, *, averaged: bool = False) -> ControlNet:
    """Return the ControlNet in one safetensors file of its authors' layout; `averaged`: that of shuffled pictures.

    Raises `InputError` for a pickle and for files that hold differences to a U-Net, `CheckpointError` for a damaged
    one and for what is no ControlNet.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path} is not a safetensors file, and pickles are never read: convert it")
    tensors = read_weights(path)
    if "difference" in tensors:
        raise InputError(f"{path} holds differences to the weights of Stable Diffusion 1, which are not read")
    prefix = PREFIX if any(name.startswith(PREFIX) for name in tensors) else ""
    with torch.device("meta"):
        net = config({name: tuple(t.shape) for name, t in tensors.items()}, prefix, averaged=averaged).build()
    ours, missing, unused = read(links(net, prefix), tensors)
    check("ControlNet", str(path), specs(net.state_dict()), ours, missing)
    if unused:
        raise CheckpointError(f"{path} has tensors that a ControlNet does not use, such as {unused[0]!r:.80}")
    net.load_state_dict(ours, assign=True)
    return net.eval()
