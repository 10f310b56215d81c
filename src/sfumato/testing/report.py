"""What a check says: rows of (check, subject, measured, bar, passed), printed as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..core import SfumatoError


class ConformanceError(SfumatoError, AssertionError):
    """A part failed the conformance suite; the message holds the failing rows."""


class Row(NamedTuple):
    """One check of one subject: what was measured, the bar that it has to meet, and whether it does."""

    check: str
    subject: str
    measured: str
    bar: str
    passed: bool


class Case(NamedTuple):
    """A check that is ready to run."""

    check: str
    subject: str
    run: Callable[[], tuple[object, str, bool]]

    @property
    def name(self) -> str:
        """`check[subject]`."""
        return f"{self.check}[{self.subject}]"

    def row(self) -> Row:
        """Run the check; an exception is a failure like any other."""
        try:
            measured, bar, passed = self.run()
        except Exception as error:
            line = next(iter(str(error).splitlines()), "")
            return Row(self.check, self.subject, f"{type(error).__name__}: {line}"[:160], "no error", False)
        text = f"{measured:.3g}" if isinstance(measured, float) else str(measured)
        return Row(self.check, self.subject, text, bar, bool(passed))


@dataclass(frozen=True)
class Report:
    """The rows of a run of the suite."""

    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether there are rows and all of them passed."""
        return bool(self.rows) and not self.failures

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that failed."""
        return tuple(row for row in self.rows if not row.passed)

    def raise_for_failures(self) -> None:
        """Raise `ConformanceError` with the failing rows, if any."""
        if not self.passed:
            raise ConformanceError(f"{len(self.failures)} of {len(self.rows)} checks failed\n{_table(self.failures)}")

    def __str__(self) -> str:
        summary = f"{len(self.rows) - len(self.failures)} of {len(self.rows)} checks passed"
        return f"{_table(self.rows)}\n{summary}"


def title_of(check: Callable[..., object]) -> str:
    """Return the first line of a check's docstring, as the name of the check."""
    text = (check.__doc__ or check.__name__).strip().splitlines()[0].rstrip(".")
    return text[0].lower() + text[1:]


def run(cases: Iterable[Case]) -> Report:
    """Run the cases and return their report."""
    return Report(tuple(case.row() for case in cases))


def _table(rows: Iterable[Row]) -> str:
    cells = [("check", "subject", "measured", "bar", "")]
    cells += [(r.check, r.subject, r.measured, r.bar, "ok" if r.passed else "FAILED") for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells)
