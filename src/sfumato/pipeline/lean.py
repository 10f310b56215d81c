"""The same pictures in less memory: each saver is asked for by name, and says what it costs."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..codecs.codec import Codec
from ..codecs.tiled import Sliced, Strips, Tiled
from ..core import Denoiser, InputError, Schedule, nearest, prepare
from ..core.ahead import remembered

SAVERS = {
    "strips": "the codec works along strips of rows: the same pictures, a little more work",
    "tiles": "the codec works tile by tile: the least memory; what normalises over the whole picture differs a little",
    "slices": "network and codec take one row of a batch at a time: the same pictures, as many passes as rows",
    "unpacked": "the network's weights stay as they lie: no second copy of them during a run, whose steps are slower",
    "offload": "each part is on the device only while it runs: its weights travel at every use",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class InParts:
    """The denoiser asked about `rows` rows of a batch at a time: guidance alone doubles a batch.

    The same values, up to what a kernel makes of another batch size; as many passes as parts.
    """

    denoiser: Denoiser
    rows: int = 1
    times: tuple[float, ...] = ()
    _ready: dict[int, Denoiser] = field(default_factory=dict[int, Denoiser], init=False, repr=False)

    @property
    def schedule(self) -> Schedule:
        """The denoiser's schedule."""
        return self.denoiser.schedule

    @property
    def cond(self) -> Mapping[str, Any]:
        """The denoiser's condition keys."""
        return self.denoiser.cond

    def prepare(self, times: Sequence[float]) -> InParts:
        """Return this for the times of one run, in which each part is prepared for itself."""
        return replace(self, times=tuple(times))

    def __call__(self, x: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """Return x0_hat, part by part."""
        parts: list[Tensor] = []
        for first in range(0, len(x), self.rows):
            some = slice(first, first + self.rows)

            def taken(some: slice = some) -> dict[str, Any]:
                return {k: v[some] if isinstance(v, Tensor) and len(v) == len(x) else v for k, v in cond.items()}

            inner = self._ready[first] if first in self._ready else prepare(self.denoiser, self.times)
            self._ready[first] = inner
            given = remembered(inner, f"part of {len(x)}", cond, taken)
            parts.append(inner(x[some], t[some] if isinstance(t, Tensor) else t, **given))
        return torch.cat(parts)


def checked_savers(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names; raise `InputError` for one that is no saver, and for strips of tiles."""
    known = tuple(names)
    for name in known:
        if name not in SAVERS:
            raise InputError(f"unknown memory saver {name!r:.40}{nearest(name, SAVERS)}")
    if {"strips", "tiles"} <= set(known):
        raise InputError("strips and tiles are two ways of the codec: choose one")
    return known


def lean_codec(codec: Codec, savers: Sequence[str]) -> Codec:
    """Return `codec` as the savers run it."""
    if "strips" in savers:
        codec = Strips(codec)
    elif "tiles" in savers:
        codec = Tiled(codec)
    return Sliced(codec) if "slices" in savers else codec


def lean_denoiser(denoiser: Denoiser, savers: Sequence[str]) -> Denoiser:
    """Return `denoiser` as the savers run it."""
    return InParts(denoiser=denoiser) if "slices" in savers else denoiser


@contextmanager
def on(device: torch.device | None, *parts: nn.Module | None) -> Generator[None]:
    """Have `parts` on `device` inside, and on the CPU afterwards; nothing happens without a device."""
    held = [] if device is None else [part for part in parts if part is not None]
    try:
        for part in held:
            part.to(device)
        yield
    finally:
        for part in held:
            part.to("cpu")
