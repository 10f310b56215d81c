"""Half precision on a CPU without arithmetic in it: weights stay as they are stored, each layer widens its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels import inference, patched

Net = TypeVar("Net", bound=nn.Module)

HALVES = (torch.bfloat16, torch.float16)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


@cache
def emulated(dtype: torch.dtype) -> bool:
    """Return whether `dtype` is a half precision that oneDNN has no kernels for on this processor.

    PyTorch's own go number by number: with AVX2 alone 1 GFLOP/s for a convolution in either of the two, 3 to 8 for a
    matrix product, where float32 has 50 to 90 (Zen 3, one thread).
    """
    if dtype not in HALVES:
        return False
    asks = "_is_mkldnn_bf16_supported" if dtype == torch.bfloat16 else "_is_mkldnn_fp16_supported"
    ops: Any = torch.ops.mkldnn
    return not (torch.backends.mkldnn.is_available() and hasattr(ops, asks) and bool(getattr(ops, asks)()))


def native(net: Net) -> Net:
    """Return what is fastest for a run of inference: `widened(net)` on a CPU that emulates its dtype, else `net`.

    A network that is more than its classes' code (`patched`) is not copied.
    """
    halves = {t.dtype for t in net.parameters() if t.dtype in HALVES and t.device.type == "cpu"}
    wanted = inference() and any(emulated(dtype) for dtype in halves) and not patched(net)
    return widened(net) if wanted else net


def widened(net: Net) -> Net:
    """Return a copy of `net` that computes in float32 and shares its weights, which stay in half precision.

    Linear layers and convolutions widen their weight at each call, embeddings what they look up; all other tensors of
    half precision, few numbers, are copied in float32. So it gives what `net.float()` would, in the memory of `net` and
    once that of its largest weight in float32. It is for inference, and no file has a place for it.
    """
    tensors = {id(t): t for t in chain(net.parameters(), net.buffers())}
    kept = {id(m._parameters["weight"]): m._parameters["weight"] for m in net.modules() if _widens(m)}
    shared: dict[int, Any] = {key: t if key in kept else _wide(t) for key, t in tensors.items()}
    made = copy.deepcopy(net, shared)
    with torch.inference_mode(mode=False):  # else it could not be written to outside of that mode
        room = torch.empty(max((t.numel() for t in kept.values() if t is not None), default=0))
    for module in made.modules():
        if _widens(module):
            held: Any = module._parameters.pop("weight")
            module.__dict__["held"] = _Held(held.detach(), room)
            module.__class__ = _class(type(module))
    return made


def _widens(module: nn.Module) -> bool:
    """Return whether `module` is a layer with a weight of its own in half precision."""
    weight = module._parameters.get("weight") if isinstance(module, _LAYERS) else None
    return weight is not None and weight.dtype in HALVES and getattr(module, "max_norm", None) is None


def _wide(tensor: Tensor) -> Tensor:
    if tensor.dtype not in HALVES:
        return tensor
    wide = tensor.detach().float()
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide


class _Held:
    """A weight of half precision, which copies of its layer share, and the memory of all layers to widen it into.

    Fresh memory for each weight takes eight times as long as the cast.
    """

    def __init__(self, stored: Tensor, room: Tensor) -> None:
        self.stored, self.room = stored, room

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self

    def wide(self) -> Tensor:
        """Return the weight in float32, good until the next one is asked for; fresh where a graph may keep it."""
        stored = self.stored
        extent = 1 + sum((n - 1) * step for n, step in zip(stored.shape, stored.stride(), strict=True))
        if stored.device.type != "cpu" or extent != stored.numel() or not inference():
            return stored.float()
        return self.room.as_strided(stored.shape, stored.stride()).copy_(stored)  # laid out as it is


class _Layer(nn.Module):
    """What wide layers have instead of a parameter: a tensor of half precision that is no part of their state."""

    held: _Held

    @property
    def weight(self) -> Tensor:
        """The weight in float32, made at each call."""
        return self.held.stored.float()


class _Linear(_Layer):
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] of `input` [..., in]."""
        return F.linear(input, self.held.wide(), self.bias)


class _Conv(_Layer):
    bias: Tensor | None
    _conv_forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolved `input`."""
        return self._conv_forward(input, self.held.wide(), self.bias)


class _Embedding(_Layer):
    padding_idx: int | None

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of `input`."""
        return F.embedding(input, self.held.stored, self.padding_idx).float()


@cache
def _class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of layers of a `kind` that widen their weights; `packed` knows it by its `widens`.

    A kind with a way of its own to compute keeps it, and finds the weight in float32.
    """
    base = _Layer
    if kind.forward is nn.Linear.forward:
        base = _Linear
    elif kind.forward is nn.Embedding.forward:
        base = _Embedding
    elif kind.forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward):
        base = _Conv
    made: Any = type(f"Wide{kind.__name__}", (base, kind), {"widens": kind, "__module__": __name__})
    return made
