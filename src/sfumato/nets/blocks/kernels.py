"""Faster kernels for the same formulas, taken where no gradient of any kind is asked for."""

from __future__ import annotations

import copy
from fnmatch import fnmatch
from functools import cache
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

Net = TypeVar("Net", bound=nn.Module)

_ops: Any = torch.ops.mkldnn


@cache
def _onednn(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's fused layers are in this build and made for `dtype` on this processor."""
    if not (torch.backends.mkldnn.is_available() and hasattr(_ops, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(_ops._is_mkldnn_bf16_supported()))


@cache
def fuses_linear(dtype: torch.dtype) -> bool:
    """Return whether oneDNN is the faster one for linear layers of `dtype` on this processor.

    In float32 it takes AVX-512: with AVX2 alone its products reach 69 to 75 GFLOP/s, MKL's 77 to 89, and with the GELU
    33 to 51, where MKL's and a pass of its own have 40 to 81 (Zen 3).
    """
    return _onednn(dtype) and (dtype != torch.float32 or torch.cpu._is_avx512_supported())


def inference() -> bool:
    """Return whether nothing differentiates, maps or traces the pass, so that a kernel may be opaque or in place."""
    return not torch.is_grad_enabled() and forward_ad._current_level < 0 and eager()


def eager() -> bool:
    """Return whether the pass runs as it is written, mapped and traced by nothing: shapes may depend on values."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0  # nobody writes the run down (`sample(compile=True)`)
        and torch._C._functorch.maybe_current_level() is None  # pyright: ignore[reportAttributeAccessIssue]
    )


def patched(net: nn.Module) -> bool:
    """Return whether calls of its modules are more than the code of their classes: somebody listens, or compiled it."""
    return "trunk" in net.__dict__ or any(
        m._forward_hooks or m._forward_pre_hooks or m._compiled_call_impl is not None or "forward" in m.__dict__
        for m in net.modules()
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
    if plain and inference() and x.device.type == "cpu" and fuses_linear(x.dtype):
        return _ops._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "tanh")
    return F.gelu(layer(x), approximate="tanh")


class Halves(nn.Linear):
    """A linear layer whose outputs are values, then as many gates: what `linear_geglu` and `packed` know it by."""


def linear_geglu(layer: nn.Linear | PackedHalves, x: Tensor) -> Tensor:
    """Return u GELU(g), [u, g] = layer(x), with the exact GELU (GEGLU, arXiv 2002.05202).

    On the CPU the GELU and the product with u are done with the two halves of the matrix product.
    """
    if isinstance(layer, PackedHalves):
        return layer.geglu(x)
    if type(layer) is Halves and inference() and x.device.type == "cpu" and fuses_linear(x.dtype):
        return _geglu(x, *zip(layer.weight.chunk(2), layer.bias.chunk(2), strict=True))
    value, gate = layer(x).chunk(2, dim=-1)
    return value * F.gelu(gate)


def _geglu(x: Tensor, value: tuple[Tensor, Tensor], gate: tuple[Tensor, Tensor]) -> Tensor:
    gates = _ops._linear_pointwise(x, *gate, "gelu", [], "none")
    return _ops._linear_pointwise.binary(x, gates, *value, "mul")


class Conv2d(nn.Conv2d):
    """A convolution that hands large weights to oneDNN, in inference on the CPU, in the order that it reorders fastest.

    Beside an input in channels last, weights in the released order are gone over twice before they are used, beside a
    contiguous one once. That is most of the time where weights are many and places few. Measured (Xeon with AMX, one
    thread) from 2560 to 1280 channels on 2 x 8 x 8 places: 1.9 times faster in bf16, 1.8 in float32; the same in bf16
    for 1280 channels on 2 x 16 x 16, and slower above.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolved `input`, in its memory layout."""
        plain, count = super()._conv_forward, weight.numel()
        if count < 2**22 or count < 8 * input.numel() or input.device.type != "cpu" or not inference():
            return plain(input, weight, bias)
        if input.is_contiguous() or not weight.is_contiguous():
            return plain(input, weight, bias)
        return plain(input.contiguous(), weight, bias).contiguous(memory_format=torch.channels_last)


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
        _refused_to_differentiate()
        return _ops._linear_pointwise(x, self.weight, self.bias, activation, [], form)


class PackedHalves(PackedLinear):
    """Values and gates of a `Halves`, packed each for itself: it gives their GEGLU alone."""

    def __init__(self, layer: Halves, rows: int) -> None:
        nn.Module.__init__(self)
        halves = zip(layer.weight.detach().chunk(2), layer.bias.chunk(2), strict=True)
        self.halves = [(_ops._reorder_linear_weight(w.contiguous(), rows), b) for w, b in halves]

    def geglu(self, x: Tensor) -> Tensor:
        """Return u GELU(g) of x [..., in]."""
        _refused_to_differentiate()
        return _geglu(x, *self.halves)


class PackedConv2d(nn.Module):
    """An `nn.Conv2d` with its weight copied into oneDNN's blocked layout: inference on the CPU alone.

    The layout is that of the grid that is seen first, and made anew for another: one of the wrong grid is many times
    slower on some processors (AVX2, 1280 channels on 16 x 16 places: 11 GFLOP/s in that of 32 x 32, 84 in its own).
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.settings = [list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups]
        self.plain = lambda: layer.weight.detach()
        self.weight = torch.empty(0, dtype=multiplied(layer)[1])  # until there is a grid
        self.bias, self.grid = layer.bias, torch.Size()

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, out, H', W'] of `x` [B, in, H, W], in channels last."""
        _refused_to_differentiate()
        if self.grid != x.shape[2:]:
            self.weight = _ops._reorder_convolution_weight(self.plain(), *self.settings, list(x.shape))
            self.grid = x.shape[2:]
        return _ops._convolution_pointwise(x, self.weight, self.bias, *self.settings, "none", [], "")


def _refused_to_differentiate() -> None:
    if not inference():
        raise RuntimeError("a packed network has no derivatives: use the network that it was made from")


def packable(net: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """Return the layers that `packed` has another form of, but those that a run asks once."""
    once = cast("tuple[str, ...]", getattr(net, "once", ()))
    found: list[nn.Linear | nn.Conv2d] = []
    for name, layer in net.named_modules():
        # a subclass may do more than its class
        kind = getattr(type(layer), "widens", type(layer))
        if kind not in (nn.Linear, Halves, nn.Conv2d, Conv2d) or any(fnmatch(name, part) for part in once):
            continue
        layer = cast("nn.Linear | nn.Conv2d", layer)
        if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or layer.groups != 1):
            continue
        weight, dtype = multiplied(layer)
        pays = _onednn if isinstance(layer, nn.Conv2d) else fuses_linear
        if weight.device.type == "cpu" and pays(dtype):
            found.append(layer)
    return found


def multiplied(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, torch.dtype]:
    """Return the weight of a layer as it is stored, and the dtype that it multiplies in."""
    held = layer.__dict__.get("held")  # by a layer that widens it (`wide`)
    return (layer.weight, layer.weight.dtype) if held is None else (held.stored, torch.float32)


def _pack(layer: nn.Linear | nn.Conv2d, rows: int) -> nn.Module:
    """Return the packed form of a layer."""
    if isinstance(layer, nn.Conv2d):
        return PackedConv2d(layer)
    return PackedHalves(layer, rows) if isinstance(layer, Halves) else PackedLinear(layer, rows)


def packed(net: Net, *, rows: int = 4096) -> Net:
    """Return a copy of `net` for a run of inference on the CPU: linear layers and convolutions packed, the rest shared.

    It takes the memory of those weights a second time, for as long as `net` is kept too. The packed weights are a
    snapshot, convolutions of when they are first called: they do not follow later changes of the network's. `rows` is
    how many rows (batch times tokens) the layout of matrices is tuned for; any number may come. What a run asks once
    (patterns of names in a network's `once`) stays as it is; so does a network elsewhere, or of another dtype than
    float32 and, where the processor has it, bfloat16; so do linear layers where `fuses_linear` says no.
    """
    replaced: dict[int, Any] = {id(layer): _pack(layer, rows) for layer in packable(net)}
    if not replaced:
        return net
    shared = {id(tensor): tensor for tensor in chain(net.parameters(), net.buffers())}
    return copy.deepcopy(net, shared | replaced)  # deepcopy takes what its memo holds instead of copying it
