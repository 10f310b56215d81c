"""Which square of a picture is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ..core import InputError, register

Box = tuple[float, float, float, float]


class Crop(ABC):
    """A square window of a picture, in pixels of that picture; it need not lie on whole pixels."""

    @abstractmethod
    def __call__(self, width: int, height: int, u: tuple[float, float, float]) -> Box:
        """Return (left, top, right, bottom) from three numbers `u`, uniform in (0, 1)."""


@register
@dataclass(frozen=True, kw_only=True)
class CenterCrop(Crop):
    """The largest square, in the middle: nothing is random."""

    def __call__(self, width: int, height: int, u: tuple[float, float, float]) -> Box:
        """Return the box; `u` is not looked at."""
        return _place(width, height, min(width, height), 0.5, 0.5)


@register
@dataclass(frozen=True, kw_only=True)
class RandomCrop(Crop):
    """A square of side min(width, height) / z, z uniform in [1, 1 / min_fraction], anywhere in the picture.

    The default 0.8 is that of guided diffusion's random crop (Dhariwal and Nichol 2021, arXiv 2105.05233, released
    code).
    """

    min_fraction: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.min_fraction <= 1:
            raise InputError(f"RandomCrop.min_fraction must lie in (0, 1], got {self.min_fraction}")

    def __call__(self, width: int, height: int, u: tuple[float, float, float]) -> Box:
        """Return the box of zoom, x and y drawn from `u`."""
        zoom = 1 + u[0] * (1 / self.min_fraction - 1)
        return _place(width, height, min(width, height) / zoom, u[1], u[2])


def _place(width: int, height: int, side: float, x: float, y: float) -> Box:
    left, top = x * (width - side), y * (height - side)
    return left, top, min(left + side, width), min(top + side, height)
