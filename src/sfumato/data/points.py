"""Points in the plane: the Datasaurus as published, and four laws that can be drawn at any size.

Point i of a law is drawn from (seed, i) alone, so that a larger set begins with the smaller one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from ..core import Batch, InputError, Noise, register
from .dataset import InMemory


def datasaurus() -> Tensor:
    """Return the 142 published points of the Datasaurus, float64[142, 2], x and y in [0, 100].

    Drawn by Alberto Cairo (2016); set "dino" of Matejka and Fitzmaurice 2017, doi 10.1145/3025453.3025912.
    """
    with resources.files("sfumato.data").joinpath("datasaurus.csv").open(encoding="ascii") as file:
        return torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float64))


def moons(n: int, seed: int = 0, noise: float = 0.05) -> Tensor:
    """Return float32[n, 2] on two interleaved half circles of radius 1, (cos a, sin a) and (1 - cos a, 1/2 - sin a).

    a is uniform in (0, pi) and each coordinate carries a normal error of standard deviation `noise` (0.05: the moons
    stay apart by ten of them).
    """
    rows = _rows(n)
    angle = math.pi * rows.uniform("moons", seed, "angle")
    lower = rows.uniform("moons", seed, "which") < 0.5
    x, y = angle.cos(), angle.sin()
    points = torch.stack([torch.where(lower, 1 - x, x), torch.where(lower, 0.5 - y, y)], 1)
    return _blur(points, noise, rows, "moons", seed)


def spirals(n: int, seed: int = 0, noise: float = 0.02, arms: int = 2, turns: float = 1.5) -> Tensor:
    """Return float32[n, 2] on Archimedean spirals r (cos a, sin a), a = 2 pi (turns r / 2 + arm / arms), r in (0, 2).

    r = 2 sqrt(u), so that each coordinate has a variance near 1; the normal error has standard deviation `noise`.
    """
    rows = _rows(n)
    r = 2 * rows.uniform("spirals", seed, "radius").sqrt()
    arm = (arms * rows.uniform("spirals", seed, "which")).floor()
    angle = 2 * math.pi * (turns * r / 2 + arm / arms)
    return _blur(torch.stack([r * angle.cos(), r * angle.sin()], 1), noise, rows, "spirals", seed)


def checkerboard(n: int, seed: int = 0) -> Tensor:
    """Return float32[n, 2] uniform on the 8 cells of a 4 x 4 board over [-2, 2]^2 whose column + row is even."""
    rows = _rows(n)
    cell = (8 * rows.uniform("checkerboard", seed, "cell")).floor()
    row = (cell / 2).floor()
    column = 2 * (cell % 2) + row % 2
    inside = [rows.uniform("checkerboard", seed, axis) for axis in ("x", "y")]
    points = torch.stack([column + inside[0], row + inside[1]], 1) - 2
    return points.float()


def rings(n: int, seed: int = 0, noise: float = 0.02, radii: tuple[float, ...] = (0.5, 1.0, 1.5)) -> Tensor:
    """Return float32[n, 2] on circles of the given `radii`, each equally likely, with a normal error `noise`."""
    rows = _rows(n)
    which = (len(radii) * rows.uniform("rings", seed, "which")).long()
    r = torch.tensor(radii, dtype=torch.float64)[which]
    angle = 2 * math.pi * rows.uniform("rings", seed, "angle")
    return _blur(torch.stack([r * angle.cos(), r * angle.sin()], 1), noise, rows, "rings", seed)


def _rows(n: int) -> Noise:
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    return Noise(range(n))


def _blur(points: Tensor, noise: float, rows: Noise, *key: int | str) -> Tensor:
    return (points + noise * rows.normal(points.shape, *key, "blur", dtype=torch.float64)).float()


@register
@dataclass(frozen=True, kw_only=True)
class Datasaurus(InMemory):
    """The Datasaurus standardised by the mean and standard deviation of all 284 coordinates together.

    One scale for both axes keeps its shape. `points * scale + centre` are the published units.
    """

    def _load(self) -> Batch:
        return Batch(((datasaurus() - self.centre) / self.scale).float(), {})

    @property
    def centre(self) -> float:
        """The mean of all published coordinates."""
        return datasaurus().mean().item()

    @property
    def scale(self) -> float:
        """The standard deviation of all published coordinates (divided by their number)."""
        return datasaurus().std(correction=0).item()


@register
@dataclass(frozen=True, kw_only=True)
class Moons(InMemory):
    """`n` points of `moons`."""

    n: int = 2000
    seed: int = 0
    noise: float = 0.05

    def _load(self) -> Batch:
        return Batch(moons(self.n, self.seed, self.noise), {})


@register
@dataclass(frozen=True, kw_only=True)
class Spirals(InMemory):
    """`n` points of `spirals`."""

    n: int = 2000
    seed: int = 0
    noise: float = 0.02
    arms: int = 2
    turns: float = 1.5

    def _load(self) -> Batch:
        return Batch(spirals(self.n, self.seed, self.noise, self.arms, self.turns), {})


@register
@dataclass(frozen=True, kw_only=True)
class Checkerboard(InMemory):
    """`n` points of `checkerboard`."""

    n: int = 2000
    seed: int = 0

    def _load(self) -> Batch:
        return Batch(checkerboard(self.n, self.seed), {})


@register
@dataclass(frozen=True, kw_only=True)
class Rings(InMemory):
    """`n` points of `rings`."""

    n: int = 2000
    seed: int = 0
    noise: float = 0.02
    radii: tuple[float, ...] = (0.5, 1.0, 1.5)

    def _load(self) -> Batch:
        return Batch(rings(self.n, self.seed, self.noise, self.radii), {})
