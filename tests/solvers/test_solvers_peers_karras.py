"""Agreement with k-diffusion's samplers on the same model, levels and noise, at every evaluation and at the end.

Where its sampler is of a lower order than ours, the exact flow of a Gaussian says so, and each step is compared.
k-diffusion wants torchvision, which plays no part in sampling; it is there without it by
`pip install --no-deps k-diffusion==0.1.1.post1 torchdiffeq torchsde trampoline`.
"""

import importlib
import importlib.util
import math
import sys
import types

import pytest
import torch

from sfumato.core import VE, Noise, grids, sample, steps
from sfumato.solvers import (
    DDIM,
    LMS,
    Ancestral,
    DPMAdaptive,
    DPMpp2M,
    DPMpp2MHeunSDE,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp2SSDE,
    DPMpp3MSDE,
    DPMSolver2,
    DPMSolver3,
    Euler,
    Heun,
)
from sfumato.solvers.adams import recall
from sfumato.solvers.churn import Churn
from sfumato.solvers.ddim import renewal
from sfumato.solvers.multistep import History
from sfumato.solvers.phi import between
from sfumato.testing.table import CLASSES, DOT, PLANE

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCHEDULE = VE()
ROWS = 6
LEVELS = grids.karras(SCHEDULE, 12, sigma_min=0.03, sigma_max=40.0)
NOISE = Noise(range(ROWS))


@pytest.fixture(scope="module")
def peer():
    """The module of its samplers alone: the package imports its networks and torchvision too."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not here")
    for name in ("scipy", "torchdiffeq", "torchsde", "tqdm"):
        pytest.importorskip(name)
    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional", "k_diffusion"]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["torchvision.transforms"].functional = types.ModuleType("functional")
        sys.modules["k_diffusion"].__path__ = list(spec.submodule_search_locations)
        module = importlib.import_module("k_diffusion.sampling")
        for name in [name for name in sys.modules if name.startswith("k_diffusion.")]:
            del sys.modules[name]
    return module


class Seen:
    """A denoiser that keeps each x it is asked about, and answers both libraries' calls."""

    schedule, cond = SCHEDULE, {}

    def __init__(self, model=CLASSES):
        self.inner, self.x, self.s = model.denoiser(SCHEDULE), [], []

    def __call__(self, x, t):
        t = float(torch.as_tensor(t, dtype=torch.float64).flatten()[0])  # no sampler here has rows at different times
        self.x.append(x.clone())
        self.s.append(SCHEDULE(t)[1])
        return self.inner(x, t)

    def at_level(self, x, sigma):
        return self(x, SCHEDULE.inverse(-math.log(float(sigma[0]))))


class Polynomial(Seen):
    """x0_hat for an eps_hat that is a function of the level alone."""

    def __init__(self, eps):
        super().__init__()
        self.inner = lambda x, t: x - SCHEDULE(t)[1] * eps(SCHEDULE(t)[1])


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def time_of(grid, level):
    """The time of the grid's level that is `level` but for float32."""
    return float(grid[(SCHEDULE(grid)[1] - float(level)).abs().argmin()])


def start(grid, dtype=torch.float32):
    return NOISE.normal((ROWS, 2), "start", dtype=dtype) * float(SCHEDULE(grid[0])[1])


def ours(solver, grid, x, denoiser):
    return sample(denoiser, solver=solver, grid=grid, seeds=NOISE, x=x)


def theirs(peer, name, grid, x, denoiser, **more):
    if name in ("dpmpp_2m_sde", "dpmpp_3m_sde", "euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"):
        more["noise_sampler"] = lambda a, b: NOISE.increment(x, time_of(grid, a), time_of(grid, b))
    levels = SCHEDULE(grid)[1].to(x.dtype)
    return getattr(peer, f"sample_{name}")(denoiser.at_level, x.clone(), levels, disable=True, **more)


def gap(peer, solver, name, grid=LEVELS, **more):
    """The largest relative difference of any x that the model is asked about, and of the end."""
    a, b, x = Seen(), Seen(), start(grid)
    ends = ours(solver, grid, x, a), theirs(peer, name, grid, x, b, **more)
    return compared(a, b, *ends)


def compared(a, b, *ends):
    assert a.s == pytest.approx(b.s, rel=1e-5)  # evaluated as often, at the same levels
    return max(relative(*pair) for pair in zip([*a.x, ends[0]], [*b.x, ends[1]], strict=True))


@pytest.mark.parametrize("last", [slice(None), slice(-1)], ids=["to the data", "above them"])
@pytest.mark.parametrize(
    ("solver", "name", "more"),
    [
        (Euler(), "euler", {}),
        (DDIM(eta=1.0), "euler_ancestral", {}),
        (DDIM(eta=0.4), "euler_ancestral", {"eta": 0.4}),
        (Heun(), "heun", {}),
        (DPMSolver2(), "dpm_2", {}),
        (Ancestral(), "dpm_2_ancestral", {}),
        (Ancestral(eta=0.4), "dpm_2_ancestral", {"eta": 0.4}),
        (LMS(order=1), "lms", {"order": 1}),
        (Ancestral(solver=DPMpp2S()), "dpmpp_2s_ancestral", {}),
        (DPMpp2S(), "dpmpp_2s_ancestral", {"eta": 0.0}),
        (DPMpp2S(), "dpmpp_sde", {"eta": 0.0}),
        (DPMpp2S(r=0.4), "dpmpp_sde", {"eta": 0.0, "r": 0.4}),
        (DPMpp2M(), "dpmpp_2m", {}),
        (DPMpp2MSDE(), "dpmpp_2m_sde", {}),
        (DPMpp2MSDE(eta=0.4), "dpmpp_2m_sde", {"eta": 0.4}),
        (DPMpp2MHeunSDE(), "dpmpp_2m_sde", {"solver_type": "heun"}),
        (DPMpp2MHeunSDE(eta=0.0), "dpmpp_2m_sde", {"solver_type": "heun", "eta": 0.0}),
    ],
    ids=str,
)
def test_a_run_agrees(peer, solver, name, more, last):
    assert gap(peer, solver, name, LEVELS[last], **more) < 1e-4


@pytest.mark.parametrize(("solver", "name"), [(Euler, "euler"), (Heun, "heun")])
def test_a_run_with_churn_agrees(peer, monkeypatch, solver, name):
    """Its noise is drawn at every step, whether it is used or not; ours is keyed by the step's time."""
    plan = iter(steps(SCHEDULE, LEVELS))
    monkeypatch.setattr(torch, "randn_like", lambda x: NOISE.like(x, "churn", f"{next(plan).t:.17g}"))
    churn = {"amount": 4.0, "low": 0.1, "high": 10.0, "noise": 1.01}
    more = {"s_churn": 4.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.01}
    assert gap(peer, solver(churn=Churn(**churn)), name, **more) < 1e-4


@pytest.mark.parametrize("n", [12, 13, 14])
def test_dpm_fast_is_our_singlestep_solvers_one_after_the_other(peer, n):
    """Third order on equal steps of lambda, and what is left of the evaluations at the end."""
    m = n // 3 + 1
    grid = SCHEDULE.inverse(torch.linspace(-math.log(40.0), -math.log(0.03), m + 1, dtype=torch.float64))
    orders = [3] * (m - 2) + [2, 1] if n % 3 == 0 else [3] * (m - 1) + [n % 3]
    a, b, x = Seen(), Seen(), start(grid)
    end, place = x, 0
    for order, solver in ((3, DPMSolver3()), (2, DPMSolver2()), (1, DDIM())):
        if order in orders:
            end = ours(solver, grid[place : place + orders.count(order) + 1], end, a)
            place += orders.count(order)
    assert compared(a, b, end, peer.sample_dpm_fast(b.at_level, x.clone(), 0.03, 40.0, n, disable=True)) < 1e-4


@pytest.mark.parametrize("order", [2, 3])
def test_a_step_of_dpm_adaptive_agrees(peer, order):
    """Any step of its pair of orders is ours: here one step that its tolerance lets through. The sizes are not the
    same: it has one step for the whole batch, of a norm over all of it; ours go row by row."""
    grid = SCHEDULE.inverse(torch.tensor([-math.log(3.0), -math.log(0.5)], dtype=torch.float64))
    a, b, x = Seen(), Seen(), start(grid)
    k, first = steps(SCHEDULE, grid)[0], torch.full((ROWS,), 9.0, dtype=torch.float64)
    end, _ = DPMAdaptive(order=order, atol=1e9).step(a, x.clone(), k, first, NOISE, {})
    its, info = peer.sample_dpm_adaptive(
        b.at_level, x.clone(), 0.5, 3.0, disable=True, order=order, atol=1e9, h_init=9.0, return_info=True
    )
    assert info["n_accept"] == 1
    assert relative(end, its) < 1e-4


@pytest.mark.parametrize("order", [2, 3, 4])
def test_each_step_of_lms_agrees(peer, order):
    """Given the past, all steps are the same. Its start is of lower orders, so whole runs agree for order 2 alone; and
    its last step, to the data, goes on with the polynomial where ours takes x0_hat."""
    grid, seen = LEVELS[:-1], Seen()
    end, past = theirs(peer, "lms", grid, start(grid), seen, order=order), []
    for k, x, after in zip(steps(SCHEDULE, grid), seen.x, [*seen.x[1:], end], strict=True):
        past.insert(0, recall(x, seen.inner(x, k.t), k))
        state = (tuple(past[1:order]), () if k.i else (0.0,))  # the plain start
        made, _ = LMS(order=order).step(seen.inner, x.clone(), k, state, NOISE, {})
        assert relative(made, after) < 1e-4
    assert (gap(peer, LMS(order=order), "lms", grid, order=order) < 1e-4) == (order == 2)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_third_order_sde_form_differs_by_the_factor_of_two(peer, eta):
    """And only by that: half of the quadratic term of int e^-(a h - v) P dv, v = a (lambda - lambda_t), a = 1 + eta."""
    grid, seen, a = LEVELS[:-1], Seen(), 1 + eta
    end = theirs(peer, "dpmpp_3m_sde", grid, start(grid), seen, eta=eta)
    x0 = [seen.inner(x, SCHEDULE.inverse(-math.log(s))) for x, s in zip(seen.x, seen.s)]
    plan = steps(SCHEDULE, grid)
    for k in plan[2:]:
        past = History((x0[k.i - 1], x0[k.i - 2]), (plan[k.i - 1].lam_t, plan[k.i - 2].lam_t))
        made, _ = DPMpp3MSDE(eta=eta).step(seen.inner, seen.x[k.i].clone(), k, past, NOISE, {})
        h, u, v = a * (k.lam_s - k.lam_t), a * (past.lams[0] - k.lam_t), a * (past.lams[1] - k.lam_t)
        divided = x0[k.i] / (u * v) + past.values[0] / (u * (u - v)) + past.values[1] / (v * (v - u))
        second = 2 * (h * h / 2 - h + 1 - math.exp(-h))  # int_0^h e^-(h-v) v^2 dv
        assert relative(made - 0.5 * second * divided, [*seen.x, end][k.i + 1]) < 1e-4


def missed(run, n):
    """The mean distance from the exact flow of a Gaussian, over four places of a run of n steps."""
    whole = grids.karras(SCHEDULE, n + 1, sigma_min=0.03, sigma_max=40.0)[:-1]
    x = PLANE.marginal(SCHEDULE, float(whole[0])).sample(ROWS, 11, dtype=torch.float64)
    errors = []
    for place in range(n // 4, n + 1, n // 4):
        end = run(whole[: place + 1], x.clone(), Seen(PLANE))
        errors.append((end - PLANE.flow(SCHEDULE, x, float(whole[0]), float(whole[place]))).abs().mean())
    return float(sum(errors)) / 4


@pytest.mark.parametrize(
    ("name", "more", "order", "solver", "own"),
    [
        ("euler", {}, 1, Euler(), 1),
        ("heun", {}, 2, Heun(), 2),
        ("dpm_2", {}, 2, DPMSolver2(), 2),
        ("lms", {"order": 2}, 2, LMS(order=2), 2),
        ("dpmpp_2s_ancestral", {"eta": 0.0}, 2, DPMpp2S(), 2),
        ("dpmpp_2m", {}, 2, DPMpp2M(), 2),
        ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, 2, DPMpp2MHeunSDE(eta=0.0), 2),
        ("dpmpp_3m_sde", {"eta": 0.0}, 2, DPMpp3MSDE(eta=0.0), 3),
    ],
    ids=str,
)
def test_who_is_right_by_the_exact_flow(peer, name, more, order, solver, own):
    """The orders with which the error falls."""
    runs = (lambda g, x, d: theirs(peer, name, g, x, d, **more)), (lambda g, x, d: ours(solver, g, x, d))
    for run, expected in zip(runs, (order, own), strict=True):
        coarse, fine = missed(run, 160), missed(run, 640)
        assert math.log2(coarse / fine) / 2 == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("order", [3, 4])
def test_lms_starts_at_lower_orders(peer, order):
    """On eps_hat that is a polynomial in s, which the rule integrates exactly, only ours does from the start on."""

    def eps(s):
        return (s / 40.0) ** (order - 1)

    grid = SCHEDULE.inverse(-torch.linspace(40.0, 20.0, 13, dtype=torch.float64).log())
    x = start(grid, torch.float64)
    exact = x + 40.0 / order * ((20.0 / 40.0) ** order - 1)
    a, b = Polynomial(eps), Polynomial(eps)
    assert relative(ours(LMS(order=order), grid, x, a), exact) < 1e-9
    assert relative(theirs(peer, "lms", grid, x, b, order=order), exact) > 1e-5


class Path:
    """Brownian increments over a grid of levels and their middles, each in a row of its own: `of` says its clock."""

    def __init__(self, levels, clock):
        middles = (levels[:-1] * levels[1:]).sqrt()
        self.levels = torch.cat([levels, middles]).sort(descending=True).values
        self.clock, self.rows = clock, len(self.levels) + 1

    def __call__(self, a, b):
        i, j = (int((self.levels - v).abs().argmin()) for v in (a, b))
        x, ticks = torch.zeros(self.rows, 1, dtype=torch.float64), self.clock(self.levels)
        x[i + 2 : j + 2, 0] = (ticks[i:j] - ticks[i + 1 : j + 1]).sqrt() / (ticks[i] - ticks[j]).sqrt()
        return x


def variance(peer, n):
    grid = grids.karras(SCHEDULE, n + 1, sigma_min=0.03, sigma_max=40.0)[:-1]
    levels = SCHEDULE(grid)[1]
    begin, end = (DOT.marginal(SCHEDULE, float(t)) for t in grid[[0, -1]])
    path, seen = Path(levels, lambda s: s), Seen(DOT)
    x = torch.full((path.rows, 1), float(begin.mean), dtype=torch.float64)
    x[1] += float(begin.covariance) ** 0.5
    made = peer.sample_dpmpp_sde(seen.at_level, x, levels, disable=True, noise_sampler=path)
    return float((made[1:] - made[0]).square().sum() / end.covariance) - 1


def test_dpmpp_sde_is_of_second_order_too(peer):
    """Its two noises of a step share a Brownian path with sigma for a clock, ours are what the SDE would have them."""
    errors = [variance(peer, n) for n in (80, 320)]
    assert errors[1] == pytest.approx(0.0, abs=2e-4)
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(("eta", "r"), [(1.0, 0.5), (0.5, 0.4)])
def test_dpmpp_sde_agrees_on_the_same_noise(peer, eta, r):
    plan = steps(SCHEDULE, LEVELS[:-1])

    def given(high, low):
        t, s = time_of(LEVELS, high), time_of(LEVELS, low)
        k = next(k for k in plan if k.t == t)
        u, *there = between(SCHEDULE, k, r)
        z = NOISE.increment(x, t, u)
        if abs(float(low) / there[1] - 1) < 1e-5:
            return z
        (_, a), (kept, b) = (renewal(k._replace(**more), eta) for more in (
            {"s": u, "sigma_s": there[1]}, {"t": u, "sigma_t": there[1]}))  # fmt: skip
        return (kept * a * z + b * NOISE.increment(x, u, s)) / math.hypot(kept * a, b)

    a, b, x = Seen(), Seen(), start(LEVELS)
    levels = SCHEDULE(LEVELS)[1].float()
    end = peer.sample_dpmpp_sde(b.at_level, x.clone(), levels, disable=True, eta=eta, r=r, noise_sampler=given)
    assert compared(a, b, ours(DPMpp2SSDE(eta=eta, r=r), LEVELS, x, a), end) < 1e-4
