"""Which module first gave values that are not finite: a black picture says nothing, this says where to look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..conditioning.text import TextConditioner
from ..core import Preconditioned
from ..core.denoiser import net_dtype
from ..nets.blocks.wide import native

if TYPE_CHECKING:
    from .pipeline import Pipeline


class _Found(Exception):
    """Carries the name of the first bad module out of the forward pass, and the dtype of what it gave."""


def culprit(pipe: Pipeline, control: Sequence[Any], again: Callable[[Pipeline, Sequence[Any]], object]) -> str:
    """Return one line that names the first module whose output is not finite though its inputs are.

    `again` makes the call once more, with a pipeline of the same weights to all of whose modules this listens: the text
    encoders, the codec, the depth model, what steers, the network. Nothing is compiled, packed or cut into strips.
    """
    pipe, control = _audible(pipe, control)
    handles = [
        module.register_forward_hook(_looking(f"{name}.{path}" if path else name))
        for name, part in _parts(pipe, control).items()
        for path, module in part.named_modules()
    ]
    try:
        again(pipe, control)
    except _Found as found:
        name, dtype = found.args
        remedy = "load it in bfloat16 or float32 (dtype=)" if dtype == torch.float16 else "check its weights"
        return f"{name} gave values that are not finite, in {_said(dtype)}: {remedy} and the guidance"
    finally:
        for handle in handles:
            handle.remove()
    dtype = net_dtype(pipe.denoiser.net)
    return f"the run left the finite numbers between evaluations, in {_said(dtype)}: fewer guidance or more steps"


@torch.no_grad()
def _audible(pipe: Pipeline, control: Sequence[Any]) -> tuple[Pipeline, list[Any]]:
    """Return the pipeline and what steers with the very networks that a run asks: a network with listeners would run
    in the precision that the processor emulates.
    """
    words, codec = pipe.conditioner, None if pipe.codec is None else native(pipe.codec)
    if isinstance(words, TextConditioner):
        towers = {name: replace(tower, model=native(tower.model)) for name, tower in words.towers.items()}
        words = replace(words, towers=towers)
    net = Preconditioned(native(pipe.denoiser.net), **pipe.denoiser.around())
    memory = tuple(name for name in pipe.memory if name == "offload")
    steering: list[Any] = []
    for one in control:
        held = {name: part for name in ("net", "adapter") if isinstance(part := getattr(one, name, None), nn.Module)}
        steering.append(replace(one, **{name: native(part) for name, part in held.items()}) if held else one)
    return replace(pipe, denoiser=net, codec=codec, conditioner=words, memory=memory), steering


def _parts(pipe: Pipeline, control: Sequence[Any]) -> dict[str, nn.Module]:
    """Return all networks that a call asks, by the names that a message gives them."""
    towers = getattr(pipe.conditioner, "towers", {})
    found: dict[str, Any] = {f"text encoder {name}": tower.model for name, tower in towers.items()}
    found |= {"denoiser": pipe.denoiser.net, "codec": pipe.codec}
    found["depth_model"] = getattr(pipe.depth_model, "model", None)
    for i, one in enumerate(control):
        found[f"control[{i}]"] = getattr(one, "net", None) or getattr(one, "adapter", None)
        found[f"control[{i}].tower"] = getattr(getattr(one, "tower", None), "model", None)
    return {name: part for name, part in found.items() if isinstance(part, nn.Module)}


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _looking(name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        values = [v for v in (output if isinstance(output, (tuple, list)) else (output,)) if isinstance(v, Tensor)]
        given = [v for v in inputs if isinstance(v, Tensor) and v.is_floating_point()]
        if all(bool(v.isfinite().all()) for v in given) and not all(bool(v.isfinite().all()) for v in values):
            raise _Found(name, next(v.dtype for v in values if not bool(v.isfinite().all())))

    return hook
