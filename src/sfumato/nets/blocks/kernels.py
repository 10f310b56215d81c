"""Faster kernels for the same formulas, taken where no gradient of any kind is asked for."""

from __future__ import annotations

import copy
from functools import cache
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

Net = TypeVar("Net", bound=nn.Module)

_ops: Any = torch.ops.mkldnn


@cache
def _onednn(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's fused linear layers are in this build and made for `dtype` on this processor."""
    if not (torch.backends.mkldnn.is_available() and hasattr(_ops, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(_ops._is_mkldnn_bf16_supported()))


def inference() -> bool:
    """Return whether nothing differentiates, maps or traces the pass, so that a kernel may be opaque or in place."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and forward_ad._current_level < 0
        and torch._C._functorch.maybe_current_level() is None  # pyright: ignore[reportAttributeAccessIssue]
    )


def gated_add(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """Return x + gate y, written over `x` in inference: `x` must not be used again."""
    return x.addcmul_(gate, y) if inference() else torch.addcmul(x, gate, y)


def linear_gelu(layer: nn.Linear | PackedLinear, x: Tensor) -> Tensor:
    """Return GELU(layer(x)), GELU(u) = u/2 (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) (arXiv 1606.08415, section 2).

    On the CPU one oneDNN kernel applies the activation while a block of the product is still in registers: the
    separate pass costs more than the product itself in bf16.
    """
    if isinstance(layer, PackedLinear):
        return layer.fused(x, "gelu", "tanh")
    plain = type(layer) is nn.Linear  # a layer with more in it (a low-rank adapter) is called
    if plain and inference() and x.device.type == "cpu" and _onednn(x.dtype):
        return _ops._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "tanh")
    return F.gelu(layer(x), approximate="tanh")


class PackedLinear(nn.Module):
    """x W^T + b of an `nn.Linear`, with W copied into oneDNN's blocked layout: inference on the CPU alone."""

    def __init__(self, layer: nn.Linear, rows: int) -> None:
        super().__init__()
        self.weight: Tensor = _ops._reorder_linear_weight(layer.weight.detach(), rows)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] of `x` [..., in]."""
        return self.fused(x, "none", "")

    def fused(self, x: Tensor, activation: str, form: str) -> Tensor:
        """Return `activation` of the product, computed with it."""
        if not inference():
            raise RuntimeError("a packed network has no derivatives: use the network that it was made from")
        return _ops._linear_pointwise(x, self.weight, self.bias, activation, [], form)


def packed(net: Net, *, rows: int = 4096) -> Net:
    """Return a copy of `net` for a run of inference on the CPU: its linear layers packed, all other tensors shared.

    The packed weights are a snapshot: they do not follow later changes of the network's. `rows` is how many rows
    (batch times tokens) the layout is tuned for; any number may come. A network elsewhere, or of another dtype than
    float32 and bfloat16, is returned as it is.
    """
    linears = [m for m in net.modules() if type(m) is nn.Linear and m.weight.device.type == "cpu"]
    replaced: dict[int, Any] = {id(m): PackedLinear(m, rows) for m in linears if _onednn(m.weight.dtype)}
    if not replaced:
        return net
    shared = {id(tensor): tensor for tensor in chain(net.parameters(), net.buffers())}
    return copy.deepcopy(net, shared | replaced)  # deepcopy takes what its memo holds instead of copying it
