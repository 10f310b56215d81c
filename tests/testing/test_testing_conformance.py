"""Everything registered, through the conformance suite; and the suite's own face."""

import dataclasses

import pytest
import torch

from sfumato import testing
from sfumato.core import InputError, Schedule, register
from sfumato.core.config import REGISTRY
from sfumato.solvers import Heun
from sfumato.solvers.unipc import BH1, BH2
from sfumato.testing import table
from sfumato.testing.report import Case, run


@pytest.mark.parametrize("case", testing.cases(), ids=lambda c: c.name)
def test_conformance(case):
    row = case.row()
    assert row.passed, row


def kinds_of(room):
    return {cls for cls in REGISTRY.values() if cls.__module__.startswith(f"sfumato.{room}")}


def test_everything_registered_has_its_row():
    rows = [*table.SCHEDULES.values(), *table.PREDICTIONS.values(), *table.SCALINGS.values(), *table.SOLVERS.values()]
    asked = kinds_of("core.schedules") | kinds_of("core.predictions") | kinds_of("core.denoiser") | kinds_of("solvers")
    assert asked - {type(table.CHURN), BH1, BH2} == {type(row) for row in rows}


def test_every_guidance_has_its_row():
    from sfumato import guidance

    asked = {v for v in vars(guidance).values() if isinstance(v, type) and dataclasses.is_dataclass(v)}
    assert asked == {type(row) for row in table.GUIDANCE.values()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuarterCircle(Schedule):
    """A reader's own schedule: alpha = cos, sigma = sin."""

    reach: float = 0.99

    def __call__(self, t):
        f = torch if isinstance(t, torch.Tensor) else __import__("math")
        angle = t * (self.reach * 1.5707963267948966)
        return f.cos(angle), f.sin(angle)

    def inverse(self, lam):
        f = torch if isinstance(lam, torch.Tensor) else __import__("math")
        return f.atan(f.exp(-lam)) / (self.reach * 1.5707963267948966)


def test_a_readers_schedule_passes_and_a_report_reads_well():
    try:
        report = testing.check(register(QuarterCircle)())
    finally:
        del REGISTRY["QuarterCircle"]
    report.raise_for_failures()
    assert report.passed
    assert not report.failures
    text = str(report)
    assert f"{len(report.rows)} of {len(report.rows)} checks passed" in text
    assert all(row.check in text and row.measured in text for row in report.rows)


def test_a_failure_is_a_row_and_raises_only_when_asked():
    # it ends at equal parts of data and noise, and is not registered
    report = run(c for c in testing.cases(QuarterCircle(reach=0.5)) if not c.check.startswith("solver"))
    assert not report.passed
    assert {r.check for r in report.failures} >= {"schedule: sigma / alpha at t = 1", "config: JSON and back"}
    with pytest.raises(testing.ConformanceError, match="checks failed"):
        report.raise_for_failures()
    assert "FAILED" in str(report)


def test_an_exception_is_a_failing_row_of_one_line():
    def crash():
        raise ZeroDivisionError("first\nsecond")

    row = Case("check", "subject", crash).row()
    assert (row.passed, row.measured) == (False, "ZeroDivisionError: first")


def test_no_checks_is_not_a_pass():
    assert not testing.Report(()).passed


@pytest.mark.parametrize("part", [Heun, 3.0, "heun", object()])
def test_what_cannot_be_checked_is_refused(part):
    with pytest.raises(InputError, match="cannot be checked"):
        testing.check(part)


def test_the_whole_suite_is_listed_once():
    names = [case.name for case in testing.cases()]
    assert len(names) == len(set(names)) > 500
