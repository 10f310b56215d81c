"""Which module first gave values that are not finite: a black picture says nothing, this says where to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core import Preconditioned
from ..nets.blocks.wide import native

if TYPE_CHECKING:
    from .pipeline import Pipeline


class _Found(Exception):
    """Carries the name of the first bad module out of the forward pass."""


@torch.no_grad()
def culprit(pipe: Pipeline, cond: Mapping[str, Any], times: Tensor, x: Tensor) -> str:
    """Return one line that names the first module whose output is not finite though its inputs are.

    The network is asked again at each time of the run, about noise of the right level, and then the codec.
    """
    net, codec = native(pipe.denoiser.net), None if pipe.codec is None else native(pipe.codec)
    denoiser = Preconditioned(net, **pipe.denoiser.around())
    parts: list[tuple[str, nn.Module]] = [("denoiser", net)] + ([] if codec is None else [("codec", codec)])
    dtype = str(next(iter(net.parameters()), x).dtype).removeprefix("torch.")
    remedy = "load it in bfloat16 or float32 (dtype=)" if dtype == "float16" else "check its weights and the guidance"
    for name, part in parts:
        handles = [
            m.register_forward_hook(_looking(f"{name}.{path}" if path else name)) for path, m in part.named_modules()
        ]
        try:
            if name == "denoiser":
                _ask(denoiser, cond, times, x)
            elif codec is not None:
                codec.decode(torch.where(x.isfinite(), x, 0.0))
        except _Found as found:
            return f"{found} gave values that are not finite, in {dtype}: {remedy}"
        finally:
            for handle in handles:
                handle.remove()
    return f"the run left the finite numbers between evaluations, in {dtype}: fewer guidance or more steps"


def _ask(denoiser: Preconditioned, cond: Mapping[str, Any], times: Tensor, x: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(x.shape, generator=generator).to(device=x.device, dtype=x.dtype)
    for t in times.tolist()[:-1]:
        denoiser(eps * denoiser.schedule(t)[1], t, **cond)


def _looking(name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        values = [v for v in (output if isinstance(output, (tuple, list)) else (output,)) if isinstance(v, Tensor)]
        given = [v for v in inputs if isinstance(v, Tensor) and v.is_floating_point()]
        if all(bool(v.isfinite().all()) for v in given) and not all(bool(v.isfinite().all()) for v in values):
            raise _Found(name)

    return hook
