"""Faster kernels for the same formulas, taken where no gradient of any kind is asked for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


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


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return GELU(x W^T + b), GELU(u) = u/2 (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) (arXiv 1606.08415, section 2).

    On the CPU one oneDNN kernel applies the activation while a block of the product is still in registers: the
    separate pass costs more than the product itself in bf16.
    """
    if _ONEDNN and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and inference():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")
