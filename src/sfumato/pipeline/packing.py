"""The network of one run on the CPU, its weights laid out as the processor multiplies fastest, where that pays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..core import Preconditioned, device_of
from ..nets.blocks.kernels import inference, multiplied, packable, packed, patched
from ..nets.blocks.wide import native

EVALUATIONS = 10
"""Laying out costs less than an evaluation's half, and saves 5 to 17 % of each."""
NUMBERS = 1 << 24
"""Below so many weights a network waits for Python, not for its products."""
SHARE = 4
"""A run's copy takes at most one part in so many of the machine's memory."""


def quick(denoiser: Preconditioned, evaluations: int | None, memory: Sequence[str]) -> Preconditioned:
    """Return `denoiser` with its network as this processor multiplies fastest, for a run of that many evaluations
    (None: the solver chooses), or `denoiser` itself where that does not pay, or would not be the same.

    A half precision that the CPU emulates is widened (`sfumato.nets.widened`) in every run; in a long one, weights are
    packed (`sfumato.nets.packed`). It is of this run: made of the weights as they are now, gone at its end. What
    decides is the run and the machine, never how much of its memory is free, so that the same call gives the same bits.
    A network that somebody listens to (hooks of modules), that was compiled or patched, and one under autocast or a
    transform, run as they are.
    """
    if device_of(denoiser).type != "cpu" or not inference():
        return denoiser
    if torch.is_autocast_enabled("cpu") or patched(denoiser.net):
        return denoiser
    net = native(denoiser.net)
    long = evaluations is None or evaluations >= EVALUATIONS
    if long and "unpacked" not in memory and _pays(net):
        net = packed(net)
    return denoiser if net is denoiser.net else Preconditioned(net, **denoiser.around())


def _pays(net: nn.Module) -> bool:
    """Return whether `net` is large enough to be packed, and its copy small enough."""
    layers = [multiplied(layer) for layer in packable(net)]
    count = sum(weight.numel() for weight, _ in layers)
    return count >= NUMBERS and sum(w.numel() * dtype.itemsize for w, dtype in layers) <= total_memory() // SHARE


def total_memory() -> int:
    """Return the bytes of memory that this machine has, or that the container of this process may use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 34
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            said = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if said.isdecimal():
            whole = min(whole, int(said))
    return whole
