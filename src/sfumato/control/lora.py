"""LoRA: low-rank changes of a network's matrices and convolutions (arXiv 2106.09685), merged or beside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import InputError

Net = TypeVar("Net", bound=nn.Module)
KINDS = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter:
    """Delta W = scale up down, for down [r, ...] shaped like a row of W [out, ...] and up [out, r].

    `scale` is alpha / r. With a `magnitude` m [out] it is DoRA's change (arXiv 2402.09353, eq. 5, the norms over rows):
    Delta W = m (W + scale up down) / |W + scale up down| - W. `rows`: the rows of W that this is about, all by default;
    `up` and `magnitude` have as many.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0
    magnitude: Tensor | None = None
    rows: Tensor | None = None

    def change(self, weight: Tensor) -> Tensor:
        """Return Delta W, float32 and shaped like `weight`."""
        whole = torch.zeros(weight.shape, device=weight.device)
        rows = slice(None) if self.rows is None else self.rows.to(weight.device)
        part = weight.detach()[rows].float()
        delta = self._product(weight.device).view_as(part)
        if self.magnitude is not None:
            delta = delta + part
            delta = delta * self._gain(delta).view(-1, *(1 for _ in part.shape[1:])) - part
        whole[rows] = delta
        return whole

    def branch(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (down [r, ...], up [out, r], gain [out]) with Delta W x = up (down x) + gain (W x), float32."""
        rows = slice(None) if self.rows is None else self.rows.to(weight.device)
        up = torch.zeros(len(weight), self.up.shape[1], device=weight.device)
        gain = torch.zeros(len(weight), device=weight.device)
        up[rows] = self.up.to(up) * self.scale
        if self.magnitude is not None:
            part = weight.detach()[rows].float()
            factor = self._gain(part + self._product(weight.device).view_as(part))
            up[rows] *= factor[:, None]
            gain[rows] = factor - 1
        return self.down.to(up), up, gain

    @property
    def idle(self) -> bool:
        """Whether it changes nothing."""
        return self.magnitude is None and not (bool(self.up.any()) and bool(self.down.any()) and self.scale != 0.0)

    def _product(self, device: torch.device) -> Tensor:
        up, down = (t.to(device, torch.float32) for t in (self.up, self.down))
        return self.scale * (up @ down.flatten(1))

    def _gain(self, weight: Tensor) -> Tensor:
        """Return m / |weight|, one a row."""
        return cast(Tensor, self.magnitude).to(weight) / weight.flatten(1).norm(dim=1)


@dataclass(frozen=True, eq=False)
class LoRA:
    """The adapters of one network: the path of a linear layer or convolution in it -> its adapters."""

    adapters: Mapping[str, tuple[Adapter, ...]]


Loras = Sequence[tuple[LoRA, float]]


def merged(net: Net, loras: Loras) -> Net:
    """Return `net` with W + sum_i strength_i Delta_i W: weights that no adapter is about are shared with `net`.

    Sums are taken in float32 and rounded once. `net` is unchanged: to unmerge is to use it again. A strength of 0
    changes nothing, bit for bit. Raises `InputError` for layers that are not there or of another shape.
    """
    copied = sharing(net)
    for layer, given in _layers(copied, loras):
        weight = layer.weight
        total = sum((s * adapter.change(weight) for adapter, s in given), torch.zeros(()))
        value = (weight.detach().float() + total).to(weight.dtype)
        layer.weight = nn.Parameter(value, requires_grad=weight.requires_grad)
    return copied


def attached(net: Net, loras: Loras) -> Net:
    """Return `net` with sum_i strength_i Delta_i W x beside each W x: all of its tensors are shared with `net`.

    For other strengths attach again: nothing is read or copied but the adapters. `net` is unchanged. A strength of 0
    changes nothing, bit for bit. Raises `InputError` as `merged`.
    """
    copied = sharing(net)
    for layer, given in _layers(copied, loras):
        live = cast(Any, layer)
        live.__class__ = LiveConv2d if isinstance(layer, nn.Conv2d) else LiveLinear
        live.follow([(*a.branch(layer.weight), s) for a, s in given])
    return copied


def refuse_live(*nets: nn.Module) -> None:
    """Raise `InputError` for networks with adapters beside their weights: files have no place for them."""
    for net in nets:
        if any(isinstance(module, _Live) for module in net.modules()):
            raise InputError(
                f"{type(net).__name__} has live LoRA adapters, for which no file has a place: merge them into its "
                "weights, pipe.with_lora(file, strength, apply=sfumato.control.merged), and write that"
            )


def sharing(net: Net) -> Net:
    """Return a copy of `net` whose structure is its own and whose tensors are those of `net`."""
    memo: dict[int, Any] = {id(t): t for t in (*net.parameters(), *net.buffers())}
    return copy.deepcopy(net, memo)


class _Live(nn.Module):
    """What live layers share: the branches of all adapters, joined into one."""

    weight: Tensor
    bias: Tensor | None
    lora_down: Tensor
    lora_up: Tensor
    lora_gain: Tensor

    def follow(self, branches: Sequence[tuple[Tensor, Tensor, Tensor, float]]) -> None:
        """Take (down, up, gain, strength) of some adapters, on top of those that are there."""
        held = [(self.lora_down, self.lora_up, self.lora_gain, 1.0)] if "lora_up" in self._buffers else []
        every = [*held, *branches]
        parts = {
            "lora_down": torch.cat([down.to(self.weight.dtype) for down, *_ in every]),
            "lora_up": torch.cat([(up.float() * s).to(self.weight.dtype) for _, up, _, s in every], dim=1),
            "lora_gain": sum((gain.float() * s for *_, gain, s in every), torch.zeros(())).to(self.weight.dtype),
        }
        for name, value in parts.items():
            self.register_buffer(name, value)
        self.stretches = bool(parts["lora_gain"].any())


class LiveLinear(_Live, nn.Linear):
    """W x + b + up (down x) + gain (W x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] of `input` [..., in]."""
        y = F.linear(input, self.weight, self.bias)
        more = F.linear(F.linear(input, self.lora_down), self.lora_up)
        if self.stretches:
            more = more + self.lora_gain * (y if self.bias is None else y - self.bias)
        return y + more


class LiveConv2d(_Live, nn.Conv2d):
    """W * x + b + up (down * x) + gain (W * x): `down` is a convolution like W, `up` a 1x1 one."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [B, out, H', W'] of `input` [B, in, H, W]."""
        y = self._conv_forward(input, self.weight, self.bias)
        more = F.conv2d(self._conv_forward(input, self.lora_down, None), self.lora_up[:, :, None, None])
        if self.stretches:
            bias = 0 if self.bias is None else self.bias[:, None, None]
            more = more + self.lora_gain[:, None, None] * (y - bias)
        return y + more


def _layers(net: nn.Module, loras: Loras) -> list[tuple[nn.Linear | nn.Conv2d, list[tuple[Adapter, float]]]]:
    """Return (layer, [(adapter, strength)]) of all that are not of strength 0."""
    found: dict[str, list[tuple[Adapter, float]]] = {}
    for lora, strength in loras:
        for path, adapters in lora.adapters.items():
            if strength != 0.0:
                found.setdefault(path, []).extend((adapter, strength) for adapter in adapters)
    known = dict(net.named_modules())
    for path, given in found.items():
        layer = known.get(path)
        if not isinstance(layer, KINDS) or (isinstance(layer, nn.Conv2d) and layer.groups != 1):
            raise InputError(f"{type(net).__name__} has no linear layer or convolution {path!r:.80} for an adapter")
        for adapter, _ in given:
            rows = len(layer.weight) if adapter.rows is None else len(adapter.rows)
            if adapter.down.shape[1:] != layer.weight.shape[1:] or len(adapter.up) != rows:
                raise InputError(
                    f"the adapter of {path} is {list(adapter.up.shape)} x {list(adapter.down.shape)}, the layer "
                    f"{list(layer.weight.shape)}: it was made for another model"
                )
    return [(cast("nn.Linear | nn.Conv2d", known[path]), given) for path, given in found.items()]
