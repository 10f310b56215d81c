"""Exponential moving averages of the weights, several half-lives at once."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core import InputError


class EMA:
    """ema <- b ema + (1 - b) w after each step, b = 2^(-n / h) for n images a step and a half-life of h images.

    With `ramp`, h is at most ramp times the images seen before the step, so that the start is forgotten soon (the
    reference implementation of Karras et al. 2022, arXiv 2206.00364, whose ramp is 0.05). One pass a half-life.
    """

    def __init__(self, net: nn.Module, half_lives: Sequence[float], ramp: float | None = None) -> None:
        if any(h <= 0 for h in half_lives) or len(set(half_lives)) < len(half_lives):
            raise InputError(f"EMA half-lives {list(half_lives)} must differ and be positive numbers of images")
        named = dict(net.named_parameters())
        self.names = list(named)
        self.ramp = ramp
        self._weights = [p.detach() for p in named.values()]
        self.averages = {float(h): [p.clone() for p in self._weights] for h in half_lives}

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """Take in the weights after a step of `images`, with `seen` images before it."""
        for half_life, average in self.averages.items():
            life = half_life if self.ramp is None else min(half_life, seen * self.ramp)
            torch._foreach_lerp_(average, self._weights, 1 - 0.5 ** (images / life) if life else 1.0)  # pyright: ignore[reportPrivateImportUsage]

    def of(self, half_life: float | None = None) -> dict[str, Tensor]:
        """Return the averages of a half-life (the longest by default) by parameter name, not copied."""
        if not self.averages:
            raise InputError("this run keeps no EMA: give TrainConfig.ema at least one half-life")
        key = max(self.averages) if half_life is None else float(half_life)
        if key not in self.averages:
            raise InputError(f"no EMA of half-life {half_life}; kept: {', '.join(map(label, self.averages))}")
        return dict(zip(self.names, self.averages[key], strict=True))

    def state(self) -> dict[str, Tensor]:
        """Return all averages as `half-life/parameter`, not copied."""
        return {
            f"{label(half_life)}/{name}": tensor
            for half_life, average in self.averages.items()
            for name, tensor in zip(self.names, average, strict=True)
        }


def label(half_life: float) -> str:
    """Return how a half-life is written in tensor names: `50000`, or `0.5`."""
    return str(int(half_life)) if float(half_life).is_integer() else repr(float(half_life))


@contextlib.contextmanager
def swapped(net: nn.Module, weights: Mapping[str, Tensor]) -> Generator[None, None, None]:
    """Give `net` other values for the parameters named in `weights`, and its own back at the end; nothing is lost."""
    named = dict(net.named_parameters())
    own = {name: named[name].detach().clone() for name in weights}
    try:
        with torch.no_grad():
            torch._foreach_copy_([named[n] for n in weights], list(weights.values()))  # pyright: ignore[reportPrivateImportUsage]
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_([named[n] for n in own], list(own.values()))  # pyright: ignore[reportPrivateImportUsage]
