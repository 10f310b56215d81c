"""IP-Adapter files: `image_proj...` and `ip_adapter.N...`, N over all attentions: the way down, up, then the middle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..control.ip_adapter import (
    IPAdapter,
    IPAdapterConfig,
    LinearTokens,
    MLPTokens,
    ResampledTokens,
    Tokens,
    reads_text,
)
from ..control.lora import Adapter, LoRA
from ..core.errors import CheckpointError, InputError
from ..core.weights import read_weights, specs, write_weights
from ..nets.hooks import sites
from .links import Link, Rules, check, one, read, renamed, write

RULES: dict[type, Rules] = {
    LinearTokens: ((r"^matrix\.", "proj."),),
    MLPTokens: ((r"^fc1\.", "proj.0."), (r"^fc2\.", "proj.2.")),
    ResampledTokens: (
        (r"\.norm_x\.", ".0.norm1."),
        (r"\.norm_l\.", ".0.norm2."),
        (r"\.(q|kv|out)\.", r".0.to_\1."),
        (r"\.norm_ff\.", ".1.0."),
        (r"\.fc1\.", ".1.1."),
        (r"\.fc2\.", ".1.3."),
    ),
}


class Loaded(NamedTuple):
    """An adapter, and the low-rank changes of the host that it was trained with (those of faces have some)."""

    adapter: IPAdapter
    lora: LoRA | None


def links(adapter: IPAdapter, net: nn.Module) -> list[Link]:
    """Return the links of an adapter for the host `net`."""
    kind, numbers = type(adapter.config.tokens), _numbers(net)
    tokens: Any = adapter.config.tokens
    many = kind is MLPTokens and tokens.count == 1  # "full": its norm is counted in one sequence
    found: list[Link] = []
    for name in adapter.state_dict():
        part, _, rest = name.partition(".")
        if part == "project":
            theirs = renamed(rest, RULES[kind])
            found.append(one(name, "image_proj." + (theirs.replace("norm.", "proj.3.") if many else theirs)))
        else:
            place = numbers[int(rest.split(".")[0])]
            found.append(one(name, f"ip_adapter.{place}.to_{part}_ip.weight"))
    return found


def read_ip_adapter(path: str | Path, net: nn.Module) -> Loaded:
    """Return the adapter in a safetensors file for the host `net`, of the kind that its tensors say.

    Raises `InputError` for a pickle, a kind that is not read and an adapter of another model, `CheckpointError` for a
    damaged file.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path} is not a safetensors file, and pickles are never read: convert it")
    tensors = read_weights(path)
    try:
        tokens = _tokens(tensors, str(path))
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: the shapes of image_proj... are those of no adapter") from error
    known = [s for s in sites(net) if reads_text(s)]
    widths = tuple(len(net.get_submodule(s.name).q.weight) for s in known)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    numbers = _numbers(net)
    for number, width in zip(numbers, widths, strict=True):
        held = tensors.get(f"ip_adapter.{number}.to_k_ip.weight")
        if held is None or tuple(held.shape) != (width, tokens.outputs):
            got = "missing" if held is None else str(list(held.shape))
            raise InputError(
                f"{path}: ip_adapter.{number}.to_k_ip.weight is {got}, {type(net).__name__} needs "
                f"{[width, tokens.outputs]}: the adapter was made for another model"
            )
    with torch.device("meta"):
        adapter = IPAdapterConfig(tokens=tokens, widths=widths).build()
    ours, missing, unused = read(links(adapter, net), tensors)
    check("IPAdapter", str(path), specs(adapter.state_dict()), ours, missing)
    lora = _lora({name: tensors[name] for name in unused if "_lora." in name}, net)
    if left := [name for name in unused if "_lora." not in name]:
        raise CheckpointError(f"{path} has tensors that the adapter does not use, such as {left[0]!r:.80}")
    adapter.load_state_dict(ours, assign=True)
    return Loaded(adapter.eval(), lora)


def write_ip_adapter(path: str | Path, adapter: IPAdapter, net: nn.Module) -> None:
    """Write an adapter for the host `net` to a new safetensors file that other tools read."""
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} is there already; nothing is overwritten, give a new name")
    write_weights(path, write(links(adapter, net), adapter.state_dict()), {"format": "pt"})


def _tokens(tensors: Mapping[str, Tensor], path: str) -> Tokens:
    """Return the configuration of the projection that the tensors' names and shapes say."""
    held = {name.removeprefix("image_proj."): t for name, t in tensors.items() if name.startswith("image_proj.")}

    def shape(name: str) -> tuple[int, ...]:
        if name not in held or held[name].ndim < 1:
            raise CheckpointError(f"{path} lacks image_proj.{name}: is it an IP-Adapter?")
        return tuple(held[name].shape)

    if any(name.startswith("perceiver_resampler.") for name in held):
        raise InputError(f"{path} is an adapter of a face and a picture together, which is not read")
    if "proj.weight" in held:
        (rows, inputs), outputs = shape("proj.weight"), shape("norm.weight")[0]
        return LinearTokens(inputs=inputs, outputs=outputs, count=rows // outputs)
    if "proj.0.weight" in held:
        (hidden, inputs), rows = shape("proj.0.weight"), shape("proj.2.weight")[0]
        outputs = shape("proj.3.weight" if "proj.3.weight" in held else "norm.weight")[0]
        return MLPTokens(inputs=inputs, hidden=hidden, outputs=outputs, count=rows // outputs)
    _, count, width = shape("latents")
    depth = 1 + max((int(m[1]) for name in held if (m := re.match(r"layers\.(\d{1,3})\.", name))), default=-1)
    return ResampledTokens(
        inputs=shape("proj_in.weight")[1],
        width=width,
        heads=shape("layers.0.0.to_q.weight")[0] // 64,
        depth=depth,
        outputs=shape("proj_out.weight")[0],
        count=count,
    )


def _numbers(net: nn.Module) -> list[int]:
    """Return the number in files of each of the host's cross-attentions, in the order in which they run."""
    return [_places(net).index(s.name) for s in sites(net) if reads_text(s)]


def _places(net: nn.Module) -> list[str]:
    """Return the paths of all attentions as files count them."""
    known = [s for s in sites(net) if s.kind in ("self", "cross")]
    return [s.name for stage in ("down", "up", "middle") for s in known if s.stage == stage]


def _lora(tensors: Mapping[str, Tensor], net: nn.Module) -> LoRA | None:
    """Return the low-rank changes of queries, keys, values and outputs beside an adapter of faces."""
    paths, found = _places(net), dict[str, tuple[Adapter, ...]]()
    for name, down in tensors.items():
        hit = re.fullmatch(r"ip_adapter\.(\d{1,3})\.to_(q|k|v|out)_lora\.down\.weight", name)
        up: Any = tensors.get(name.replace(".down.", ".up."))
        if hit is not None and up is not None and int(hit[1]) < len(paths):
            found[f"{paths[int(hit[1])]}.{hit[2]}"] = (Adapter(down=down, up=up),)
    if 2 * len(found) != len(tensors):
        raise CheckpointError(f"{min(tensors)!r:.80} and others beside the adapter do not go together")
    return LoRA(found) if found else None
