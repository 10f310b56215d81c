"""Randomness that belongs to a sample: row i of everything random depends on `seeds[i]` alone.

Counter-based: value j of a draw is a hash of (seed, key, j), so nothing is carried from call to call, and a row is
the same alone or in a batch of 64, on any device, in any order of calls. The hash is SplitMix64's finaliser
(Steele et al. 2014, doi 10.1145/2660193.2660195), the normals are Box and Muller's (1958), drawn in float32 on the
CPU and then moved, so that every device and dtype sees the same bits.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

_Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
_Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1
_LEVELS = 30  # dyadic levels of the Brownian path: steps of t down to 2^-30 are resolved
_BLOCK = 1 << 15  # words hashed at a time: stays in the cache


def _mix(words: _Words) -> _Words:
    """Scramble 64-bit words in place (SplitMix64's finaliser) and return them."""
    tmp = words >> np.uint64(30)
    words ^= tmp
    words *= _MIX1
    np.right_shift(words, np.uint64(27), out=tmp)
    words ^= tmp
    words *= _MIX2
    np.right_shift(words, np.uint64(31), out=tmp)
    words ^= tmp
    return words


def fold(*parts: int | str) -> int:
    """Return a 64-bit hash of `parts`: the way to derive a seed or a stream from others."""
    # NumPy's whole numbers are those of Python, and a separator inside a part is doubled: no part can pass for two
    parts = tuple(int(p) if isinstance(p, np.integer) else p for p in parts)
    text = "\x1f".join(f"{type(p).__name__}:{p}".replace("\x1f", "\x1f\x1f") for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Noise:
    """Everything random of a batch: `Noise(seeds)` draws row i from `seeds[i]` alone.

    `key` names a draw ("start", step 7, ...): the same key gives the same values, another key independent ones.
    """

    def __init__(self, seeds: Iterable[int]) -> None:
        try:
            self.seeds: tuple[int, ...] = tuple(map(operator.index, seeds))
        except TypeError as error:
            raise InputError(f"seeds must be whole numbers, one for each sample: {error}") from error
        if not self.seeds:
            raise InputError("seeds is empty: give one seed for each sample")

    @cached_property
    def _rows(self) -> _Words:
        return _mix(np.array([s & _MASK for s in self.seeds], dtype=np.uint64) * _GAMMA + _GAMMA)

    def __len__(self) -> int:
        return len(self.seeds)

    def rows(self, index: slice | Sequence[int]) -> Noise:
        """Return the noise of some of the rows."""
        return Noise(self.seeds[index] if isinstance(index, slice) else [self.seeds[i] for i in index])

    def uniform(self, *key: int | str) -> Tensor:
        """Return float64[B], one uniform number in (0, 1) a row."""
        words = _mix(self._keys(key) + _GAMMA)
        return torch.from_numpy(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)

    def normal(
        self,
        shape: Sequence[int],
        *key: int | str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return standard normal values of `shape` [B, ...]; the values do not depend on `dtype` or `device`."""
        self._check(shape)
        draws = self._normals(self._keys(key), math.prod(shape[1:]))
        return torch.from_numpy(draws).reshape(tuple(shape)).to(device=device, dtype=dtype)

    def like(self, x: Tensor, *key: int | str) -> Tensor:
        """Return standard normal values with the shape, dtype and device of `x`."""
        return self.normal(x.shape, *key, dtype=x.dtype, device=x.device)

    def increment(self, x: Tensor, t: float, s: float, *key: int | str) -> Tensor:
        """Return (W(t) - W(s)) / sd, a standard normal shaped like `x`, of one Brownian path W on [0, 1] a seed.

        The path does not depend on the steps that are asked for, so a finer grid refines the same sample:
        increments of neighbouring intervals are independent and add up. W is Levy's construction,
        W(t) = t Z_0 + sum_n 2^-(n/2+1) hat(2^n t mod 1) Z_(n, floor(2^n t)), to 30 levels; sd is exactly the
        standard deviation of that sum.
        """
        self._check(x.shape)
        weights: dict[tuple[int, int], float] = {}
        for time, sign in ((t, 1.0), (s, -1.0)):
            for node, weight in _levy(time).items():
                weights[node] = weights.get(node, 0.0) + sign * weight
        total = math.sqrt(sum(w * w for w in weights.values()))
        if total == 0.0:
            raise InputError(f"a Brownian increment needs two different times in [0, 1], got t={t} and s={s}")
        size = math.prod(x.shape[1:])
        out = np.zeros((len(self), size), dtype=np.float32)
        for (level, place), weight in weights.items():
            if weight != 0.0:
                out += np.float32(weight / total) * self._normals(self._keys((*key, "W", level, place)), size)
        return torch.from_numpy(out).reshape(x.shape).to(device=x.device, dtype=x.dtype)

    def _check(self, shape: Sequence[int]) -> None:
        if len(shape) < 1 or shape[0] != len(self):
            raise InputError(f"{len(self)} seeds for a batch of shape {tuple(shape)}: give one seed for each row")

    def _keys(self, key: tuple[int | str, ...]) -> _Words:
        return _mix(self._rows ^ np.uint64(fold(*key)))

    @staticmethod
    def _normals(keys: _Words, size: int) -> _Floats:
        """Return float32[len(keys), size], hashing block by block; value j of a row depends on (key, j) alone."""
        half = (size + 1) // 2
        out = np.empty((len(keys), 2, half), dtype=np.float32)
        rows = max(1, _BLOCK // half)
        steps = np.arange(1, half + 1, dtype=np.uint64) * _GAMMA
        for r in range(0, len(keys), rows):
            for c in range(0, half, _BLOCK):
                words = _mix(keys[r : r + rows, None] + steps[None, c : c + _BLOCK])
                radius = ((words >> np.uint64(32)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
                np.log(radius, out=radius)
                radius *= np.float32(-2)
                np.sqrt(radius, out=radius)
                angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2 * math.pi * 2.0**-32)
                np.multiply(radius, np.cos(angle), out=out[r : r + rows, 0, c : c + _BLOCK])
                np.multiply(radius, np.sin(angle), out=out[r : r + rows, 1, c : c + _BLOCK])
        return out.reshape(len(keys), 2 * half)[:, :size]


def _levy(t: float) -> dict[tuple[int, int], float]:
    """Return the nodes (level, place) whose hats cover `t`, with their weights; (-1, 0) is the straight line."""
    weights = {(-1, 0): t}
    for level in range(_LEVELS):
        scaled = t * (1 << level)
        place = math.floor(scaled)
        height = 1 - abs(2 * (scaled - place) - 1)
        if height > 0.0:
            weights[level, place] = height * 2.0 ** (-level / 2 - 1)
    return weights
