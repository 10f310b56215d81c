"""What a published system claims, how a claim is judged here, and what a system's file must give. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .catalogue import Entry

if TYPE_CHECKING:
    from .runner import Context


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper and the bar that the number measured here must meet: low <= value <= high.

    `says` is the claim in our words, `reported` the paper's own figure, `measure` the number that is taken here. The
    bar is stated before anything runs, and depends on nothing that is measured. `unshown` is the reason why the claim
    cannot be shown at this scale; such a claim is listed, and never counted as passed.
    """

    key: str
    says: str
    reported: str = ""
    measure: str = ""
    low: float = -math.inf
    high: float = math.inf
    unshown: str = ""

    def __post_init__(self) -> None:
        if bool(self.unshown) == (math.isfinite(self.low) or math.isfinite(self.high)):
            raise ValueError(f"claim {self.key!r} needs either a bar or a reason why it cannot be shown")

    @property
    def bar(self) -> str:
        """The bar in words."""
        if math.isinf(self.low):
            return "" if math.isinf(self.high) else f"≤ {self.high:.4g}"
        return f"≥ {self.low:.4g}" if math.isinf(self.high) else f"{self.low:.4g} to {self.high:.4g}"

    def judge(self, measured: Measured | None) -> Row:
        """Return the row of this claim; without a number, or with a NaN, it fails (unless it cannot be shown)."""
        value = None if measured is None else float(measured.value)
        note = self.unshown if measured is None else measured.note
        passed = None if self.unshown else value is not None and self.low <= value <= self.high
        status = "not shown" if passed is None else "pass" if passed else "fail"
        return Row(self.key, self.says, self.reported, self.measure, value, self.bar, status, note)


@dataclass(frozen=True)
class Measured:
    """The number taken for the claim `key`; `note` says what else was seen (the figures behind it)."""

    key: str
    value: float
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A claim with what was measured; `status` is "pass", "fail" or "not shown"."""

    key: str
    says: str
    reported: str
    measure: str
    value: float | None
    bar: str
    status: str
    note: str

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain JSON data (a NaN or an infinity becomes text: JSON has neither)."""
        finite = self.value is None or math.isfinite(self.value)
        return asdict(self) | {"value": self.value if finite else str(self.value)}


@dataclass(frozen=True, kw_only=True)
class System:
    """A published system: the paper, its claims, how they are checked here, and the check itself.

    `run(context)` yields a `Measured` for each claim that can be shown, as soon as it is known. Everything random
    comes from `context.seed`, which is `seed` unless another is asked for.
    """

    entry: Entry
    claims: tuple[Claim, ...]
    protocol: str
    seed: int
    run: Callable[[Context], Iterator[Measured]]

    def judge(self, measured: list[Measured]) -> list[Row]:
        """Return one row for each claim, in the order of the claims."""
        found = {m.key: m for m in measured}
        unknown = set(found) - {c.key for c in self.claims}
        if unknown or len(found) != len(measured):
            raise ValueError(f"{self.entry.id} measured what it does not claim, or twice: {sorted(found)}")
        return [claim.judge(found.get(claim.key)) for claim in self.claims]
