"""Schedules against their papers' own numbers; their laws are in the conformance suite."""

import math

import pytest
import torch

from sfumato.core import (
    VE,
    InputError,
    Rectified,
    SubVP,
    Table,
    VPCosine,
    VPLinear,
    VPScaledLinear,
    VPSigmoid,
    ZeroTerminalSNR,
)


def alpha_bar(betas):
    return torch.cumprod(1 - betas, 0)


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        (VPLinear(), lambda T: torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)),
        (VPScaledLinear(), lambda T: torch.linspace((0.85 / T) ** 0.5, (12 / T) ** 0.5, T, dtype=torch.float64) ** 2),
    ],
    ids=["VPLinear", "VPScaledLinear"],
)
def test_continuous_limits_of_the_discrete_schedules(schedule, betas):
    """T = 1000 are the published betas; with T of them, T beta fixed, alpha-bar tends to alpha^2 like 1 / T."""
    gaps = []
    for T in (1000, 8000):
        t = torch.arange(1, T + 1, dtype=torch.float64) / T
        gaps.append(float((schedule(t)[0] ** 2 / alpha_bar(betas(T)) - 1).abs().max()))
    assert gaps[0] < 0.08
    assert gaps[1] == pytest.approx(gaps[0] / 8, rel=0.05)


def test_table_holds_the_published_values():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    table = Table.from_betas(betas)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha, sigma = table(t)
    torch.testing.assert_close(alpha**2, alpha_bar(betas), atol=1e-13, rtol=1e-11)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000, dtype=torch.float64), atol=1e-13, rtol=0)
    assert alpha_bar(betas)[-1] == pytest.approx(4.0358e-5, rel=1e-4)  # DDPM's published end


def test_cosine_is_equation_17():
    def f(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0.0, 0.1, 0.5, 0.9, 0.99):
        # the end is 5e-5 and not 0, which stretches the angle by 3e-5
        assert VPCosine()(t)[0] ** 2 == pytest.approx(f(t) / f(0), abs=2e-4)
    assert VPCosine()(1.0)[0] == pytest.approx(5e-5, rel=1e-9)


def test_sigmoid_is_section_3_4():
    def gamma(t, start=-3.0, end=3.0):
        low, high, here = (1 / (1 + math.exp(-v)) for v in (start, end, t * (end - start) + start))
        return (high - here) / (high - low)

    for t in (0.1, 0.5, 0.9):
        assert VPSigmoid()(t)[0] ** 2 == pytest.approx(gamma(t), abs=2e-9)


def test_score_sde_family():
    beta = lambda t: 0.1 * t + 0.5 * 19.9 * t * t
    for t in (0.1, 0.5, 1.0):
        alpha = math.exp(-0.5 * beta(t))
        assert VPLinear()(t) == pytest.approx((alpha, math.sqrt(1 - alpha**2)), rel=1e-12)
        assert SubVP()(t) == pytest.approx((alpha, 1 - alpha**2), rel=1e-12)
    r = 80 / 0.002
    for t in (0.3, 0.6, 1.0):
        # the transition kernel from the data: sigma^2(t) - sigma^2(0) of the ladder
        assert VE()(t) == pytest.approx((1.0, math.sqrt((0.002 * r**t) ** 2 - 0.002**2)), rel=1e-9)


def test_rectified_shift_is_sd3s():
    for t in (0.2, 0.5, 0.9):
        u = 3 * t / (1 + 2 * t)
        assert Rectified(shift=3.0)(t) == pytest.approx((1 - u, u), rel=1e-12)
        # it divides SNR: a shift of m / n in noise level
        assert Rectified(shift=3.0).lam(t) == pytest.approx(Rectified().lam(t) - math.log(3), rel=1e-12)


def test_zero_terminal_snr_is_algorithm_1():
    base = VPScaledLinear()
    first, last = base(0.0)[0], base(1.0)[0]
    for t in (0.05, 0.3, 0.8):
        rescaled = (base(t)[0] - last) * first / (first - last)
        assert ZeroTerminalSNR(base=base)(t) == pytest.approx((rescaled, math.sqrt(1 - rescaled**2)), rel=1e-12)


@pytest.mark.parametrize(
    "base", [VPLinear(), VPScaledLinear(), VPCosine(), VPSigmoid()], ids=lambda s: type(s).__name__
)
def test_the_zero_end_is_exactly_zero(base):
    schedule = ZeroTerminalSNR(base=base)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert schedule(1.0)[0] == 0.0
    assert float(schedule(times)[0][2]) == 0.0
    assert schedule.lam(1.0) == -math.inf


def test_derivatives_are_those_of_the_formulas():
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    d_alpha, d_sigma = VPLinear().derivatives(t)
    alpha, sigma = VPLinear()(t)
    beta = 0.1 + 19.9 * t
    torch.testing.assert_close(d_alpha, -0.5 * beta * alpha, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(d_sigma, 0.5 * beta * alpha**2 / sigma, atol=1e-13, rtol=1e-12)
    with torch.no_grad():
        d_alpha, d_sigma = Rectified().derivatives(t)
    torch.testing.assert_close(d_alpha, -torch.ones_like(t))
    torch.testing.assert_close(d_sigma, torch.ones_like(t))


def test_refusals():
    for values in ((0.9, 0.95), (1.0, 0.5), (0.5,), (0.5, 0.0)):
        with pytest.raises(InputError, match="must fall strictly inside"):
            Table(alphas_cumprod=values)
    with pytest.raises(InputError, match="variance-preserving base, got VE"):
        ZeroTerminalSNR(base=VE())
