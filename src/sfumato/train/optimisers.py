"""How the weights follow the gradients: each optimiser with what it remembers of every parameter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ..core import InputError, register

Memory = dict[str, Tensor]  # of one parameter: what a checkpoint keeps
Live = tuple[str, nn.Parameter, Memory]  # a parameter with a gradient, its name before and its memory behind it

# of p(s) = a s + b s^3 + c s^5, steep at 0 and between 0.7 and 1.2 from 0.1 on after five rounds (K. Jordan 2024)
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Optimiser(ABC):
    """Turns gradients into steps; its memory is kept by who calls."""

    whole = False  # whether it needs whole parameters, not slices of them

    @abstractmethod
    def memories(self, trained: Mapping[str, Tensor]) -> dict[str, Memory]:
        """Return what is remembered of each of the `trained` parameters, as it is before the first step."""

    @abstractmethod
    def step(self, live: Sequence[Live], lr: float) -> None:
        """Move the parameters against their `grad` at the rate `lr`, and remember."""


@register
@dataclass(frozen=True, kw_only=True)
class AdamW(Optimiser):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv 1711.05101, alg. 2), in PyTorch's fused form.

    Defaults: betas (0.9, 0.999) and eps 1e-8, Adam's own (arXiv 1412.6980, alg. 1); no weight decay, as DDPM
    (arXiv 2006.11239, app. B), EDM and DiT train.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= b < 1 for b in self.betas) or self.eps <= 0 or self.weight_decay < 0:
            raise InputError(f"{self} needs betas in [0, 1), eps above 0 and a weight decay of 0 or more")

    def memories(self, trained: Mapping[str, Tensor]) -> dict[str, Memory]:
        """Return both moments of each, and the count of steps: float32, where the parameter is."""
        moments = lambda p: {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        return {name: moments(p) | {"step": torch.zeros((), device=p.device)} for name, p in trained.items()}

    @torch.no_grad()
    def step(self, live: Sequence[Live], lr: float) -> None:
        """Step by Adam's rule; the functional form takes lists as they are, and costs half of the object's step."""
        adamw(
            [p for _, p, _ in live],
            [cast(Tensor, p.grad) for _, p, _ in live],
            [m["exp_avg"] for _, _, m in live],
            [m["exp_avg_sq"] for _, _, m in live],
            [],
            [m["step"] for _, _, m in live],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
            maximize=False,
        )


@register
@dataclass(frozen=True, kw_only=True)
class Muon(Optimiser):
    """Steps of orthogonal matrices: B <- m B + (1 - m) g, W <- (1 - lr decay) W - 0.2 sqrt(max(W's sides)) lr U V^T.

    U S V^T is the singular value decomposition of m B + (1 - m) g (Nesterov's form), and U V^T is found by five rounds
    of X <- a X + (b X X^T + c (X X^T)^2) X, to within 0.7 and 1.2 of it in every direction (K. Jordan 2024). The factor
    0.2 sqrt(max) gives steps the size of Adam's, so that one `lr` serves both (Liu et al. 2025, arXiv 2502.16982,
    eq. 4). This is for the `matrices`: parameters whose names fit one of these patterns, a kernel of a convolution as a
    row for each output. `rest` moves all others, as it should tables of words, and the first and last layer.

    Defaults: momentum 0.95, Jordan's; every matrix in a list of `blocks`. Refuses slices of parameters (`FSDP`), and
    networks of which no matrix fits.
    """

    whole = True

    matrices: tuple[str, ...] = ("*blocks.*.weight",)
    momentum: float = 0.95
    weight_decay: float = 0.0
    rest: AdamW = field(default_factory=AdamW)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1 or self.weight_decay < 0 or not self.matrices:
            raise InputError(f"{self} needs a momentum in [0, 1), a weight decay of 0 or more, and names of matrices")

    def memories(self, trained: Mapping[str, Tensor]) -> dict[str, Memory]:
        """Return the mean gradients of the matrices, and what `rest` remembers of others."""
        fits = lambda name: trained[name].ndim >= 2 and any(fnmatch(name, pattern) for pattern in self.matrices)
        ours = {name: {"momentum": torch.zeros_like(p)} for name, p in trained.items() if fits(name)}
        if not ours:
            raise InputError(f"no matrix that is trained is named like {list(self.matrices)}: use AdamW, or name some")
        return ours | self.rest.memories({name: p for name, p in trained.items() if name not in ours})

    @torch.no_grad()
    def step(self, live: Sequence[Live], lr: float) -> None:
        """Step matrix by matrix, those of one shape at once, then the rest."""
        shapes: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = {}
        others: list[Live] = []
        for name, p, memory in live:
            if "momentum" not in memory or p.grad is None:
                others.append((name, p, memory))
                continue
            mean = memory["momentum"].lerp_(p.grad, 1 - self.momentum)
            step = p.grad.lerp(mean, self.momentum).flatten(1)
            shapes.setdefault(tuple(step.shape), []).append((p, step))
        for shape, pairs in shapes.items():
            steps = orthogonal(torch.stack([step for _, step in pairs]))
            for (p, _), step in zip(pairs, steps, strict=True):
                p.mul_(1 - lr * self.weight_decay).sub_(step.view_as(p), alpha=0.2 * math.sqrt(max(shape)) * lr)
        if others:
            self.rest.step(others, lr)


def orthogonal(x: Tensor, rounds: int = 5) -> Tensor:
    """Return about U V^T of matrices x = U S V^T [B, m, n]: singular values of 0.7 to 1.2 for those above a thousandth
    of the norm.
    """
    a, b, c = _QUINTIC
    tall = x.shape[-2] > x.shape[-1]  # half precision rounds far below the 0.3, and is slow on most processors
    x = (x.mT if tall else x).to(torch.bfloat16 if x.is_cuda else torch.float32)
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
