"""The exponential integrators: exact on polynomials, equal to the papers' formulas as printed, and their identities."""

import math
from decimal import Decimal, getcontext

import pytest
import torch

from sfumato.core import (
    VE,
    InputError,
    Noise,
    Rectified,
    SubVP,
    VPCosine,
    VPLinear,
    ZeroTerminalSNR,
    grids,
    sample,
    steps,
)
from sfumato.solvers import (
    BH1,
    BH2,
    DDIM,
    DDPM,
    DEIS,
    DPMpp2M,
    DPMpp2MHeunSDE,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp3M,
    DPMpp3MSDE,
    DPMpp3MShipped,
    DPMpp3S,
    DPMSolver2,
    DPMSolver3,
    SASolver,
    UniP,
    UniPC,
)
from sfumato.solvers.adams_moulton import Ahead, corrector, predictor
from sfumato.solvers.phi import adams, integrals
from sfumato.testing import GaussianMixture
from sfumato.testing.grids import uneven
from sfumato.testing.solver_checks import convergence
from sfumato.testing.table import CLASSES

SCHEDULES = [VPLinear(), VPCosine(), SubVP(), VE(), Rectified(shift=3.0), ZeroTerminalSNR(base=VPLinear())]
by_name = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


# The coefficients


def exact_integrals(h):
    """I_1, I_2 and I_3 by the recursion, which loses all of float64's digits but not all of 120."""
    getcontext().prec = 120
    exact, value = [], 1 - (-Decimal(h)).exp()
    for k in (1, 2, 3):
        value = Decimal(h) ** k - k * value
        exact.append(float(value))
    return exact


@pytest.mark.parametrize("h", [1e-9, 1e-4, 0.03, 0.3, 0.99, 1.0, 1.01, 3.0, 12.0, -1e-6, -0.2, -0.99, -1.5, -4.0])
def test_integrals_are_exact_to_rounding(h):
    for n in (1, 2, 3):
        assert integrals(h, n) == pytest.approx(exact_integrals(h)[:n], rel=4e-15, abs=4e-15 if abs(h) >= 0.1 else 0)


def integral(coefficients, a, b, rate=1.0):
    """The integral of e^(rate u) P(u) from a to b, P = sum_k c_k u^k, by parts."""
    p, total = list(coefficients), 0.0
    for i in range(len(coefficients)):
        at = [sum(c * u**k for k, c in enumerate(p)) * math.exp(rate * u) for u in (a, b)]
        total += (-1) ** i * (at[1] - at[0]) / rate ** (i + 1)
        p = [k * c for k, c in enumerate(p)][1:]
    return total


@pytest.mark.parametrize("h", [0.05, 0.7, 2.5, -0.6])
@pytest.mark.parametrize("nodes", [(-0.4,), (-0.4, -1.1), (0.7, -0.4), (-0.3, -0.8, -1.9), (0.6, -0.4, -1.1)])
def test_adams_is_exact_for_polynomials_through_its_nodes(h, nodes):
    c = [0.7, -1.3, 0.8, 0.45][: len(nodes) + 1]
    values = [sum(a * u**k for k, a in enumerate(c)) for u in (0.0, *nodes)]
    made = -math.expm1(-h) * values[0] + sum(w * (v - values[0]) for w, v in zip(adams(h, nodes), values[1:]))
    assert made == pytest.approx(math.exp(-h) * integral(c, 0.0, h), rel=1e-12, abs=1e-14)
    short = -math.expm1(-h) + sum(w * u ** (len(nodes) + 1) for w, u in zip(adams(h, nodes), nodes))
    assert short != pytest.approx(math.exp(-h) * integral([1.0] + [0.0] * len(nodes) + [1.0], 0.0, h), rel=1e-4)


# Denoisers whose flow is known: x0_hat, or eps_hat, is a polynomial of lambda


class Polynomial:
    """x0_hat = sum_k c_k lambda^k, or eps_hat is that, whatever x is."""

    cond = {}  # noqa: RUF012

    def __init__(self, schedule, coefficients, eps=False):
        self.schedule, self.c, self.eps = schedule, coefficients, eps

    def value(self, lam):
        return sum(c * lam**k for k, c in enumerate(self.c))

    def __call__(self, x, t):
        alpha, sigma = self.schedule(t)
        value = self.value(math.log(alpha / sigma))
        return (x - sigma * value) / alpha if self.eps else torch.full_like(x, value)

    def flow(self, x, t, s, eta=0.0):
        """x_s of the exact flow; with eta, the mean of the SDE's solution."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule(t), self.schedule(s)
        lam_t, lam_s = math.log(alpha_t / sigma_t), math.log(alpha_s / sigma_s)
        if self.eps:
            return alpha_s * (x / alpha_t - integral(self.c, lam_t, lam_s, -1.0))
        a = 1 + eta
        kept = sigma_s / sigma_t * math.exp(-eta * (lam_s - lam_t))
        return kept * x + sigma_s * math.exp(-eta * lam_s) * a * integral(self.c, lam_t, lam_s, a)


class Silent(Noise):
    """Noise that is 0: what is left of a stochastic run is its mean."""

    def increment(self, x, t, s, *key):
        return torch.zeros_like(x)


def gap_to_flow(solver, schedule, degree, eps=False, eta=0.0):
    d = Polynomial(schedule, [0.4, -0.7, 0.35, 0.12, 0.08][: degree + 1], eps)
    grid = uneven(schedule, 8, low=-2.0, high=2.5)
    x = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    end = sample(d, solver=solver, grid=grid, seeds=Silent(range(2)), x=x)
    return float((end - d.flow(x, float(grid[0]), float(grid[-1]), eta)).abs().max())


EXACT = [
    (DPMpp3M(), 2, {}),
    (DPMpp3MSDE(eta=0.7), 2, {"eta": 0.7}),
    (DEIS(order=3), 2, {"eps": True}),
    (DEIS(order=4), 3, {"eps": True}),
    (SASolver(p=2, tau=0.0), 1, {}),
    (SASolver(p=3, tau=0.9), 1, {"eta": 0.81}),
    (DPMpp2S(), 0, {}),
    (DPMpp2S(r=0.3), 0, {}),
    (DPMpp3S(), 1, {}),
    (DPMSolver2(), 0, {"eps": True}),
    (DPMSolver3(), 1, {"eps": True}),
    (DPMpp2MSDE(eta=1.0), 0, {"eta": 1.0}),
    (UniPC(), 0, {}),
]


@pytest.mark.parametrize("schedule", [VPLinear(), VE(), Rectified()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("solver", "degree", "kind"), EXACT, ids=lambda v: str(v) if not isinstance(v, dict) else "")
def test_a_run_is_exact_on_polynomials_of_its_degree_and_on_no_higher(solver, degree, kind, schedule):
    size = float(schedule(1.0)[1])
    assert gap_to_flow(solver, schedule, degree, **kind) < 3e-13 * max(size, 1.0)
    assert gap_to_flow(solver, schedule, degree + 1, **kind) > 1e-7


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("rate", [1.0, 1.6])
def test_predictor_and_corrector_are_exact_one_degree_apart(p, rate):
    schedule = VPLinear()
    times = [schedule.inverse(lam) for lam in (0.9, 0.3, -0.4, -0.9)]
    (*_, k) = steps(schedule, torch.tensor(times[::-1], dtype=torch.float64))
    lams = (k.lam_t, -0.4, -0.9)[:p]
    for weights, nodes, degree in (
        (predictor(k.lam_s, lams, rate, None), lams[1:], p - 1),
        (corrector(k.lam_s, lams, rate, None), (k.lam_s, *lams[1:]), p),
    ):
        for top in range(degree + 2):
            d = Polynomial(schedule, [0.2] + [0.0] * (top - 1) + [1.0] if top else [1.0])
            made = -math.expm1(rate * (lams[0] - k.lam_s)) * d.value(lams[0])
            made += sum(w * (d.value(u) - d.value(lams[0])) for w, u in zip(weights, nodes, strict=True))
            exact = d.flow(0.0, k.t, k.s, rate - 1)
            assert (abs(k.alpha_s * made - exact) < 1e-13) == (top <= degree)


def test_the_heun_form_is_exact_on_lines_once_it_has_two_values():
    schedule, grid = VPLinear(), uneven(VPLinear(), 4, low=-1.0, high=1.0)
    d = Polynomial(schedule, [0.4, -0.7])
    first, k = steps(schedule, grid)[:2]
    x = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    for kind, exact in ((DPMpp2MHeunSDE, True), (DPMpp2MSDE, False)):
        state = (d(x, first.t), first.lam_t)
        made, _ = kind(eta=0.6).step(d, x.clone(), k, state, Silent(range(2)), {})
        gap = float((made - d.flow(x, k.t, k.s, 0.6)).abs().max())
        assert (gap < 1e-14) == exact


class FromNoise(Polynomial):
    """x0_hat = sum_k c_k e^(k lambda): smooth where alpha = 0."""

    def __call__(self, x, t):
        alpha, sigma = self.schedule(t)
        return torch.full_like(x, self.value(alpha / sigma))

    def from_noise(self, x, k):
        u = k.alpha_s / k.sigma_s
        return k.sigma_s / k.sigma_t * x + k.sigma_s * sum(c * u ** (i + 1) / (i + 1) for i, c in enumerate(self.c))


@pytest.mark.parametrize("schedule", [Rectified(), ZeroTerminalSNR(base=VPLinear())], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    ("solver", "degree"),
    [(DPMpp2S(), 1), (DPMpp2S(r=0.3), 1), (DPMSolver2(), 1), (DPMpp3S(), 2), (DPMSolver3(), 2), (DPMpp3M(), 0)],
    ids=str,
)
def test_the_first_step_from_alpha_zero(solver, degree, schedule):
    """h is infinite: exact for polynomials of e^lambda."""
    k = steps(schedule, torch.tensor([1.0, 0.6, 0.1], dtype=torch.float64))[0]
    assert k.alpha_t == 0.0
    x = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    for top in (degree, degree + 1):
        d = FromNoise(schedule, [0.4, -0.7, 0.5, 0.6][: top + 1])
        made, _ = solver.step(d, x.clone(), k, solver.init(x), Noise(range(2)), {})
        assert (float((made - d.from_noise(x, k)).abs().max()) < 1e-14) == (top == degree)


@pytest.mark.parametrize("solver", [UniPC(), UniPC(b=BH1()), SASolver(p=1, tau=0.0), SASolver(p=3, tau=0.8)], ids=str)
def test_the_corrector_of_the_step_from_alpha_zero(solver):
    """It integrates the line in e^lambda exactly; seen in the second step, whose predictor is of first order."""
    schedule = Rectified()
    first, k, _ = steps(schedule, torch.tensor([1.0, 0.6, 0.3, 0.1], dtype=torch.float64))
    d, x, noise = FromNoise(schedule, [0.4, -0.7]), torch.tensor([[0.3], [-1.2]], dtype=torch.float64), Silent(range(2))
    y, state = solver.step(d, x.clone(), first, solver.init(x), noise, {})
    made, _ = solver.step(d, y, k, state, noise, {})
    eta = getattr(solver, "tau", 0.0) ** 2
    a, u = 1 + eta, first.alpha_s / first.sigma_s
    x_1 = (first.sigma_s * x if eta == 0 else 0) + first.alpha_s * (0.4 - 0.7 * u * a / (a + 1))
    kept = k.sigma_s / k.sigma_t * math.exp(-eta * (k.lam_s - k.lam_t))
    assert torch.allclose(made, kept * x_1 + (k.alpha_s - k.alpha_t * kept) * d(x, k.t), atol=1e-14, rtol=0)


# The papers' formulas as printed


expm1 = math.expm1


def at(schedule, lam):
    t = schedule.inverse(lam)
    return t, *schedule(t)


def eps_of(d, x, t):
    alpha, sigma = d.schedule(t)
    return (x - alpha * d(x, t)) / sigma


def printed_2s(d, x, k, r):
    """DPM-Solver++ (2S), algorithm 1."""
    h = k.lam_s - k.lam_t
    u, alpha_u, sigma_u = at(d.schedule, k.lam_t + r * h)
    x0 = d(x, k.t)
    mid = d(sigma_u / k.sigma_t * x - alpha_u * expm1(-r * h) * x0, u)
    mixed = (1 - 1 / (2 * r)) * x0 + 1 / (2 * r) * mid
    return k.sigma_s / k.sigma_t * x - k.alpha_s * expm1(-h) * mixed


def printed_3s(d, x, k, r1=1 / 3, r2=2 / 3):
    """The singlestep third-order form in x0_hat."""
    h, x0 = k.lam_s - k.lam_t, d(x, k.t)
    t1, alpha_1, sigma_1 = at(d.schedule, k.lam_t + r1 * h)
    t2, alpha_2, sigma_2 = at(d.schedule, k.lam_t + r2 * h)
    d1 = d(sigma_1 / k.sigma_t * x - alpha_1 * expm1(-r1 * h) * x0, t1) - x0
    slope = expm1(-r2 * h) / (r2 * h) + 1
    d2 = d(sigma_2 / k.sigma_t * x - alpha_2 * expm1(-r2 * h) * x0 + r2 / r1 * alpha_2 * slope * d1, t2) - x0
    slope = expm1(-h) / h + 1
    return k.sigma_s / k.sigma_t * x - k.alpha_s * expm1(-h) * x0 + k.alpha_s / r2 * slope * d2


def printed_dpm_solver_2(d, x, k, r):
    """DPM-Solver-2, algorithm 1 (there r = 1/2)."""
    h = k.lam_s - k.lam_t
    u, alpha_u, sigma_u = at(d.schedule, k.lam_t + r * h)
    eps = eps_of(d, x, k.t)
    mid = eps_of(d, alpha_u / k.alpha_t * x - sigma_u * expm1(r * h) * eps, u)
    return k.alpha_s / k.alpha_t * x - k.sigma_s * expm1(h) * (eps + (mid - eps) / (2 * r))


def printed_dpm_solver_3(d, x, k, r1=1 / 3, r2=2 / 3):
    """DPM-Solver-3, algorithm 2."""
    h = k.lam_s - k.lam_t
    t1, alpha_1, sigma_1 = at(d.schedule, k.lam_t + r1 * h)
    t2, alpha_2, sigma_2 = at(d.schedule, k.lam_t + r2 * h)
    eps = eps_of(d, x, k.t)
    d1 = eps_of(d, alpha_1 / k.alpha_t * x - sigma_1 * expm1(r1 * h) * eps, t1) - eps
    u2 = alpha_2 / k.alpha_t * x - sigma_2 * expm1(r2 * h) * eps
    d2 = eps_of(d, u2 - sigma_2 * r2 / r1 * (expm1(r2 * h) / (r2 * h) - 1) * d1, t2) - eps
    return k.alpha_s / k.alpha_t * x - k.sigma_s * expm1(h) * eps - k.sigma_s / r2 * (expm1(h) / h - 1) * d2


SINGLE = [
    (DPMpp2S(), lambda d, x, k: printed_2s(d, x, k, 0.5)),
    (DPMpp2S(r=0.3), lambda d, x, k: printed_2s(d, x, k, 0.3)),
    (DPMpp3S(), printed_3s),
    (DPMSolver2(), lambda d, x, k: printed_dpm_solver_2(d, x, k, 0.5)),
    (DPMSolver2(r=0.7), lambda d, x, k: printed_dpm_solver_2(d, x, k, 0.7)),
    (DPMSolver3(), printed_dpm_solver_3),
]


def gap_to_printed_step(solver, printed, schedule):
    d, worst = CLASSES.denoiser(schedule), 0.0
    for k in steps(schedule, grids.karras(schedule, 7, sigma_max=30.0, sigma_min=0.02))[:-1]:
        x = CLASSES.marginal(schedule, k.t).sample(6, k.i, dtype=torch.float64)
        made, _ = solver.step(d, x.clone(), k, None, Noise(range(6)), {})
        worst = max(worst, float((made - printed(d, x, k)).abs().max()) / max(1.0, k.sigma_s))
    return worst


@by_name
@pytest.mark.parametrize(("solver", "printed"), SINGLE, ids=lambda v: str(v) if not callable(v) else "")
def test_a_single_step_is_the_papers(solver, printed, schedule):
    assert gap_to_printed_step(solver, printed, schedule) < 1e-11


def gap_far_out(solver, bounded):
    """A step over which sigma / alpha falls more than a hundredfold has the weights in x0_hat, which are bounded."""
    schedule = VPCosine()
    d, k = CLASSES.denoiser(schedule), steps(schedule, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))[0]
    x = CLASSES.sample(6, 1, dtype=torch.float64)
    made, other = (s.step(d, x.clone(), k, None, Noise(range(6)), {})[0] for s in (solver, bounded))
    return float((made - other).abs().max())


@pytest.mark.parametrize(("solver", "bounded"), [(DPMSolver2(), DPMpp2S()), (DPMSolver3(), DPMpp3S())], ids=str)
def test_far_out_the_weights_are_bounded(solver, bounded):
    assert gap_far_out(solver, bounded) == 0.0


def printed_shipped_3m(d, x, plan):
    """The update with phi_1, phi_2 and phi_3 (here the last should have a factor of 2)."""
    seen = []
    for k in plan:
        h, x0 = k.lam_s - k.lam_t, d(x, k.t)
        seen = [(x0, k.lam_t), *seen[:2]]
        phi_1 = expm1(-h)
        phi_2 = phi_1 / h + 1
        phi_3 = phi_2 / h - 0.5
        x = k.sigma_s / k.sigma_t * x - k.alpha_s * phi_1 * x0
        if len(seen) == 2:
            x = x - 0.5 * k.alpha_s * phi_1 * (x0 - seen[1][0]) / ((k.lam_t - seen[1][1]) / h)
        elif len(seen) == 3:
            r0, r1 = (k.lam_t - seen[1][1]) / h, (seen[1][1] - seen[2][1]) / h
            a0, a1 = (x0 - seen[1][0]) / r0, (seen[1][0] - seen[2][0]) / r1
            d1, d2 = a0 + r0 / (r0 + r1) * (a0 - a1), (a0 - a1) / (r0 + r1)
            x = x + k.alpha_s * phi_2 * d1 - k.alpha_s * phi_3 * d2
    return x


def printed_unipc(d, x, plan, p, b):
    """UniPC with its linear systems R a = phi / B(h) solved by torch, the corrector from the state before the step."""
    seen, before = [], None
    for k in plan:
        x0 = d(x, k.t)
        if before is not None:
            last, x_last, known = before
            x = unified(last, x_last, [*known, (x0, k.lam_t)], b, corrector=True)
        seen = [(x0, k.lam_t), *seen[: p - 1]]
        known = list(seen)
        before = (k, x, known)
        x = unified(k, x, known, b, corrector=False)
    return x


def unified(k, x, known, b, corrector):
    (x0, lam), others = known[0], known[1:]
    h = k.lam_s - lam
    r = torch.tensor([(v - lam) / h for _, v in others], dtype=torch.float64)
    x = k.sigma_s / k.sigma_t * x - k.alpha_s * expm1(-h) * x0
    if not others:
        return x
    scale = -h if isinstance(b, BH1) else expm1(-h)
    phi, rows, right, factorial = expm1(-h) / -h - 1, [], [], 1
    for i in range(1, len(others) + 1):
        rows.append(r ** (i - 1))
        right.append(phi * factorial / scale)
        factorial *= i + 1
        phi = phi / -h - 1 / factorial
    if len(others) == 1:
        a = torch.tensor([0.5], dtype=torch.float64)  # of the same order, and without B's equation
    else:
        a = torch.linalg.solve(torch.stack(rows), torch.tensor(right, dtype=torch.float64))
    return x - k.alpha_s * scale * sum(w / q * (v - x0) for w, q, (v, _) in zip(a, r, others))


WHOLE = [
    (DPMpp3MShipped(), printed_shipped_3m),
    *(
        (UniPC(p=p, b=b), lambda d, x, plan, p=p, b=b: printed_unipc(d, x, plan, p, b))
        for p in (2, 3)
        for b in (BH1(), BH2())
    ),
]


def gap_to_printed_run(solver, printed, schedule):
    d, grid = CLASSES.denoiser(schedule), grids.karras(schedule, 9, sigma_max=30.0, sigma_min=0.02)[:-1]
    x = CLASSES.marginal(schedule, float(grid[0])).sample(6, 1, dtype=torch.float64)
    made = sample(d, solver=solver, grid=grid, seeds=range(6), x=x)
    return float((made - printed(d, x, steps(schedule, grid))).abs().max())


@by_name
@pytest.mark.parametrize(("solver", "printed"), WHOLE, ids=lambda v: str(v) if not callable(v) else "")
def test_a_run_is_the_papers(solver, printed, schedule):
    assert gap_to_printed_run(solver, printed, schedule) < 1e-11


# Identities


def run(solver, schedule, n=12, seeds=range(8), **grid):
    times = grids.uniform(schedule, n, **grid)
    return sample(CLASSES.denoiser(schedule), (8, 2), solver=solver, grid=times, seeds=seeds, dtype=torch.float64)


@by_name
class TestIdentities:
    @pytest.mark.parametrize(
        ("noisy", "plain"),
        [(DPMpp2MSDE(eta=0.0), DPMpp2M()), (DPMpp3MSDE(eta=0.0), DPMpp3M()), (UniP(), DPMpp2M())],
        ids=["2M", "3M", "UniP"],
    )
    def test_eta_zero_is_the_ode_and_unip_2_with_bh2_is_2m(self, noisy, plain, schedule):
        torch.testing.assert_close(run(noisy, schedule), run(plain, schedule), atol=1e-13, rtol=0)

    def test_unip_with_bh1_is_another_method(self, schedule):
        assert float((run(UniP(b=BH1()), schedule) - run(DPMpp2M(), schedule)).abs().max()) > 1e-4

    @pytest.mark.parametrize("solver", [DPMpp2MSDE(), DPMpp2MHeunSDE(), DPMpp3MSDE(), SASolver()], ids=str)
    def test_the_first_step_of_the_sde_forms_is_ddpm(self, solver, schedule):
        """First order with eta = 1 is the ancestral step."""
        one = {"n": 1, "start": 0.9, "end": 0.5}
        torch.testing.assert_close(run(solver, schedule, **one), run(DDPM(), schedule, **one), atol=1e-12, rtol=0)

    @pytest.mark.parametrize("solver", [DPMpp3M(), DEIS(), UniPC(), UniP(), SASolver(tau=0.0)], ids=str)
    def test_the_first_step_is_ddim(self, solver, schedule):
        one = {"n": 1, "start": 0.9, "end": 0.5}
        torch.testing.assert_close(run(solver, schedule, **one), run(DDIM(), schedule, **one), atol=1e-12, rtol=0)

    def test_tau_outside_of_its_range_is_zero(self, schedule):
        off = SASolver(tau=1.3, low=1e6, high=1e7)
        if schedule(1.0)[0] > 0:
            torch.testing.assert_close(run(off, schedule), run(SASolver(tau=0.0), schedule), atol=1e-13, rtol=0)


@pytest.mark.parametrize("n", [4, 5, 6])
@pytest.mark.parametrize("order", [3, 4])
def test_deis_keeps_its_head_in_a_few_long_steps(order, n):
    """Were the start made good over such steps, DEIS would be up to fifteen times further off than DDIM."""
    schedule, plane = (
        VPCosine(),
        GaussianMixture([[-1.2, -0.6], [0.9, 1.0], [1.1, -1.1]], [0.06, 0.12, 0.04], [0.3, 0.4, 0.3]),
    )
    d, x = plane.denoiser(schedule), plane.marginal(schedule, 1.0).sample(100, 3, dtype=torch.float64)

    def end(solver, grid):
        return sample(d, solver=solver, grid=grid, seeds=range(100), x=x)

    grid, exact = grids.logistic(schedule, n), end(DPMpp3M(), grids.log_snr(schedule, 300))
    deis, ddim = ((end(s, grid) - exact).square().mean() for s in (DEIS(order=order), DDIM()))
    assert deis < ddim


def test_dpm_solver_1_is_ddim_by_name():
    from sfumato.pipeline.names import SOLVERS

    assert SOLVERS["dpm-solver-1"] == DDIM()


@pytest.mark.parametrize("p", [1, 2, 3])
def test_sa_solver_without_noise_is_of_order_p_plus_one(p):
    solver, rows = SASolver(tau=0.0, p=p), []
    for schedule in (VPLinear(), Rectified()):
        rows += [case.row() for case in convergence("SASolver", solver, schedule)]
    assert len(rows) == 6
    assert [row for row in rows if not row.passed] == []


def test_the_state_of_a_predictor_corrector_is_predicted():
    """A first step is DDIM's; at the next one the slope between its ends is added to where it starts from."""
    schedule, d = VPLinear(), CLASSES.denoiser(VPLinear())
    first, k = steps(schedule, uneven(schedule, 4))[1:3]
    x, old = CLASSES.sample(5, 1, dtype=torch.float64), CLASSES.sample(5, 2, dtype=torch.float64)
    made, state = UniPC().step(d, x.clone(), k, Ahead((old,), (first.lam_t,)), Noise(range(5)), {})
    half = 0.5 * k.alpha_t * -math.expm1(first.lam_t - k.lam_t)
    start = x + half * (d(x, k.t) - old)
    predicted, _ = UniP().step(d, start.clone(), k, (old, first.lam_t), Noise(range(5)), {})
    # UniP sees x0_hat at the corrected x: the predictor-corrector has it at the predicted one
    r = (k.lam_t - first.lam_t) / (k.lam_s - k.lam_t)
    c = k.alpha_s - k.alpha_t * k.sigma_s / k.sigma_t
    predicted = predicted + c * (1 + 0.5 / r) * (d(x, k.t) - d(start, k.t))
    torch.testing.assert_close(made, predicted, atol=1e-13, rtol=0)
    assert state.lams == (k.lam_t, first.lam_t)


@pytest.mark.parametrize("solver", [DPMpp2MSDE(), DPMpp3MSDE(), SASolver(p=2)], ids=str)
def test_a_finer_grid_refines_the_same_sample(solver):
    schedule = VE()
    d = GaussianMixture([[-1.0], [1.0]], [0.1, 0.1]).denoiser(schedule)
    x = torch.full((60, 1), 1.0, dtype=torch.float64)
    ends = [
        sample(d, solver=solver, grid=grids.log_snr(schedule, n, sigma_max=1.0)[:-1], seeds=seeds, x=x)
        for n, seeds in ((30, range(60)), (60, range(60)), (60, range(1000, 1060)))
    ]
    assert (ends[0] - ends[1]).abs().mean() < 0.35 * (ends[2] - ends[1]).abs().mean()


def test_options_out_of_range_are_refused_in_one_line():
    for make in (
        lambda: DPMpp2S(r=0.0),
        lambda: DPMSolver2(r=1.0),
        lambda: DPMpp2MSDE(eta=-0.1),
        lambda: DPMpp3MSDE(eta=math.inf),
        lambda: DEIS(order=1),
        lambda: DEIS(order=5),
        lambda: UniPC(p=4),
        lambda: SASolver(p=0),
        lambda: SASolver(tau=-1.0),
        lambda: SASolver(low=2.0, high=1.0),
    ):
        with pytest.raises(InputError) as refusal:
            make()
        assert "\n" not in str(refusal.value)
