"""Operators through their laws: ours pass, and each fault fails the law that it breaks."""

import dataclasses

import pytest
import torch

from sfumato import testing
from sfumato.core import InputError, Noise, VPLinear
from sfumato.inverse import DDNM, Blur, Downsample, Mask, Matrix
from sfumato.testing.report import ConformanceError

SHAPE = (2, 4, 6)
KERNEL = torch.tensor([[0.0, 1.0, 0.0], [2.0, 5.0, 1.0], [0.0, 0.5, 0.0]]).double() / 9
OURS = {
    "mask": Mask(mask=(torch.arange(24).reshape(4, 6) % 5 < 2).double()),
    "downsample": Downsample(factor=2),
    "blur": Blur(kernel=KERNEL),
    "matrix": Matrix(Noise(range(7)).normal((7, 48), "m").double(), SHAPE),
}


@pytest.mark.parametrize("operator", OURS.values(), ids=OURS)
def test_ours_pass(operator):
    report = testing.check_operator(operator, SHAPE)
    report.raise_for_failures()
    assert len(report.rows) == 7


class Unscaled(Downsample):
    def A_adjoint(self, y):
        return self.A_dagger(y)  # without the 1 / factor^2


class Correlated(Blur):
    def A_adjoint(self, y):
        return self.A(y)  # not flipped


class Halved(Mask):
    def A_dagger(self, y):
        return 0.5 * self.A(y)


class Shifted(Mask):
    def A(self, x):
        return super().A(x) + 1


class Batched(Mask):
    def A(self, x):
        return super().A(x) - super().A(x).mean(0)


class Padded(Mask):
    def A_dagger(self, y):
        return self.A(y) + (1 - self.mask) * y.mean((2, 3), keepdim=True)  # fills what was not seen


class Solved(Downsample):
    def solve(self, y, a, b):
        return y / (a / self.factor + b)


@pytest.mark.parametrize(
    ("operator", "law"),
    [
        (Unscaled(factor=2), "<A x, y> = <x, A_adjoint y>"),
        (Correlated(kernel=KERNEL), "<A x, y> = <x, A_adjoint y>"),
        (Halved(mask=OURS["mask"].mask), "a A_dagger A = A"),
        (Shifted(mask=OURS["mask"].mask), "a, A_adjoint and A_dagger are linear"),
        (Batched(mask=OURS["mask"].mask), "a row depends on itself alone"),
        (Padded(mask=OURS["mask"].mask), "a A_dagger and A_dagger A are symmetric"),
        (Solved(factor=2), "(a A A_adjoint + b) solve(y, a, b) = y, also for b = 0 where A reaches"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_faults_are_seen(operator, law):
    report = testing.check_operator(operator, SHAPE)
    failed = {row.check for row in report.failures}
    assert f"operator: {law}" in failed
    with pytest.raises(ConformanceError):
        report.raise_for_failures()


def test_an_operator_without_solve_has_six_laws():
    @dataclasses.dataclass
    class Bare:
        A: object
        A_adjoint: object
        A_dagger: object

    d = OURS["downsample"]
    report = testing.check_operator(Bare(d.A, d.A_adjoint, d.A_dagger), SHAPE)
    assert report.passed
    assert len(report.rows) == 6


def test_a_denoiser_with_measurements_is_sent_to_its_operator():
    law = testing.Gaussian(torch.zeros(SHAPE), 1.0)
    part = DDNM(denoiser=law.denoiser(VPLinear()), operator=OURS["mask"], y=torch.zeros(1, *SHAPE))
    with pytest.raises(InputError, match="check_operator checks its operator"):
        testing.check(part)
