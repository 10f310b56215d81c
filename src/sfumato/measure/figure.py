"""A measured figure with everything that decides which other figures it may be held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core import InputError, register

_MUST_AGREE = ("name", "settings", "n", "n_reference", "network", "resize", "reference")


@register
@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value and how it was measured.

    `name` is the metric and `settings` its options; `value` the result with its standard `error` (None where it has
    none) and `better`, the direction of improvement; `n` and `n_reference` the numbers of rows on the two sides;
    `network` the identity of the feature network, `resize` the filter before it, `reference` the sha256 of the
    reference's features; `note` what a reader should know.

    `a < b`, `a - b` and `a.ratio(b)` compare values. They raise `InputError` unless both figures agree in everything
    but value, error and note: a Frechet distance at 1,000 samples says nothing about one at 50,000.
    `to_config` and `from_config` write and read it as JSON data.
    """

    name: str
    value: float
    better: Literal["lower", "higher"]
    n: int
    n_reference: int
    network: str
    resize: str
    reference: str
    settings: str = ""
    error: float | None = None
    note: str = ""

    def check(self, other: Figure) -> None:
        """Raise `InputError`, naming the first field that differs and both values, unless `other` is comparable."""
        for field in _MUST_AGREE:
            mine, its = getattr(self, field), getattr(other, field)
            if mine != its:
                raise InputError(
                    f"{self.name} {self.value:.6g} and {other.name} {other.value:.6g} are not comparable: {field} is "
                    f"{mine!r} in one and {its!r} in the other; measure both in the same way"
                )

    def ratio(self, other: Figure) -> float:
        """Return value / other.value of two comparable figures."""
        self.check(other)
        if other.value == 0:
            raise InputError(f"no ratio to a {self.name} of 0: compare the difference instead")
        return self.value / other.value

    def is_better(self, other: Figure) -> bool:
        """Return whether this value improves on a comparable figure's."""
        return self < other if self.better == "lower" else self > other

    def __sub__(self, other: Figure) -> float:
        self.check(other)
        return self.value - other.value

    def __lt__(self, other: Figure) -> bool:
        return self - other < 0

    def __gt__(self, other: Figure) -> bool:
        return self - other > 0

    def __le__(self, other: Figure) -> bool:
        return self - other <= 0

    def __ge__(self, other: Figure) -> bool:
        return self - other >= 0

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.2g}"
        arrow = "↓" if self.better == "lower" else "↑"
        settings = f" ({self.settings})" if self.settings else ""
        against = f" against {self.n_reference} of {self.reference[:8]}" if self.n_reference else ""
        resize = "" if self.resize == "none" else f", resize {self.resize}"
        note = f"; {self.note}" if self.note else ""
        value = f"{self.name}{settings} {arrow} {self.value:.6g}{error}"
        return f"{value}, {self.n} samples{against}, {self.network}{resize}{note}"
