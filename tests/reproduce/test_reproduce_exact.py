"""The parts of the systems that rest on closed forms: each check is itself checked against something exact."""

import math
from types import MappingProxyType

import pytest
import torch

from sfumato.core import VE, Noise, Step, VPLinear, grids, steps
from sfumato.reproduce import beds, cfg, datasaurus, ddim, ddpm, edm
from sfumato.solvers import DDIM
from sfumato.testing import Gaussian


def bar(system, key):
    return next(claim for claim in system.claims if claim.key == key)


@pytest.mark.parametrize("T", [3, 25])
def test_bound_is_tight_for_a_standard_gaussian(T):
    """For data N(0, I) every reverse step is Gaussian with variance beta, so the bound is the entropy at any T."""
    law, n = Gaussian([0.0, 0.0], 1.0), 20_000
    x0 = law.sample(n, 1, dtype=torch.float64)
    noise = beds.seeds(n, "test")
    found = ddpm.bound(law.denoiser(ddpm.chain(T)), x0, T, 1.0, noise)[:, 0] + law.log_prob(x0)
    assert abs(float(found.mean())) < 4 * float(found.std()) / n**0.5
    assert float(found.std()) / n**0.5 < 0.02
    wrong = ddpm.bound(law.denoiser(ddpm.chain(T)), x0, T, 0.0, noise)[:, 0] + law.log_prob(x0)
    assert float(wrong.mean()) > 0.1, "beta-tilde is the variance of point data, not of this"


def test_bound_of_a_narrow_gaussian_in_closed_form():
    """For data N(0, c^2 I): E|x_0 - D|^2 = d c^2 sigma^2 / (alpha^2 c^2 + sigma^2), so the bound is a sum of logs."""
    c2, T, n, d = 0.09, 12, 20_000, 2
    law = Gaussian([0.0, 0.0], c2)
    schedule = ddpm.chain(T)
    plan = steps(schedule, grids.uniform(schedule, T))
    exact = 0.5 * d * (plan[0].alpha_t ** 2 * c2 + plan[0].sigma_t ** 2 - 1 - 2 * math.log(plan[0].sigma_t))
    for k in plan:
        error = d * c2 * k.sigma_t**2 / (k.alpha_t**2 * c2 + k.sigma_t**2)
        beta = 1 - (k.alpha_t / k.alpha_s) ** 2
        if k.s == 0.0:
            exact += 0.5 * (error / beta + d * math.log(2 * math.pi * beta))
        else:
            tilde = beta * (1 - k.alpha_s**2) / (1 - k.alpha_t**2)
            gain = k.alpha_s**2 * beta**2 / (1 - k.alpha_t**2) ** 2
            exact += 0.5 * (d * (tilde / beta - 1 + math.log(beta / tilde)) + gain * error / beta)
    x0 = law.sample(n, 1, dtype=torch.float64)
    found = ddpm.bound(law.denoiser(schedule), x0, T, 1.0, beds.seeds(n, "test"))
    total = found[:, 0]
    assert abs(float(total.mean()) - exact) < 4 * float(total.std()) / n**0.5


def test_bound_does_not_depend_on_the_variance_reduction():
    x0 = beds.plane().sample(20_000, 3, dtype=torch.float64)
    denoiser = beds.plane().denoiser(ddpm.chain(10))
    noise = beds.seeds(len(x0), "test")
    with_it, without = (ddpm.bound(denoiser, x0, 10, 1.0, noise, width=w)[:, 0] for w in (0.07, 1e-9))
    assert float(with_it.mean() - without.mean()) == pytest.approx(0, abs=4 * float((with_it - without).std()) / 141)
    assert with_it.std() < without.std()


def test_ddpm_mean_and_gap_rows():
    assert bar(ddpm.SYSTEM, "mean").judge(ddpm.Measured("mean", ddpm.mean_by_noise())).status == "pass"
    wide, narrow = ddpm.gap(10, 1.0), ddpm.gap(100, 1.0)
    assert 0.75 < wide[0] < 1.05
    assert 0.05 < narrow[0] < 0.2
    assert ddpm.gap(100, 0.0)[0] > 1.0, "with beta-tilde the decoder is far too narrow"


def test_ddim_rows_that_are_exact():
    assert bar(ddim.SYSTEM, "eta-one").judge(ddim.Measured("eta-one", ddim.eta_one())).status == "pass"


def test_inversion_walks_ddim_backwards():
    """On a Gaussian the exact flow is known: inversion reaches it to first order, and undoes one step to rounding."""
    law, schedule = Gaussian([0.3, -0.2], [[0.5, 0.1], [0.1, 0.2]]), VPLinear()
    x = law.sample(64, 1, dtype=torch.float64)
    errors = []
    for n in (40, 80, 160):
        grid = grids.log_snr(schedule, n, sigma_min=0.01)[:-1]
        low, high = float(grid[-1]), float(grid[0])
        exact = law.flow(schedule, x, low, high)
        errors.append(beds.rms(ddim.invert(law.denoiser(schedule), x, grid) - exact))
    assert 0.85 < beds.slope((40, 80, 160), errors) < 1.15
    grid = grids.log_snr(schedule, 3, sigma_min=0.01)[:2]
    (t, s) = grid.flip(0).tolist()
    (a, b), (c, d) = schedule(t), schedule(s)
    clean = law.denoiser(schedule)(x, t)
    up = ddim.invert(law.denoiser(schedule), x, grid)
    torch.testing.assert_close(up, c * clean + d * (x - a * clean) / b, rtol=0, atol=1e-12)
    once, _ = DDIM().step(law.denoiser(schedule), x.clone(), Step(0, 1, t, s, a, b, c, d), None, Noise([0]), {})
    torch.testing.assert_close(up, once, rtol=0, atol=0)


def test_edm_variances():
    for key, value in zip(("inputs", "targets", "weight"), edm.variances(), strict=True):
        assert bar(edm.SYSTEM, key).judge(edm.Measured(key, value)).status == "pass", key


def test_cfg_off_and_one_step():
    denoiser = cfg.exact()
    only = cfg.guided(denoiser, 5, 64)
    off = cfg.guided(cfg.ClassifierFree(denoiser=denoiser, scale=1.0), 5, 64)
    assert torch.equal(only, off)
    once = cfg.guided(cfg.ClassifierFree(denoiser=denoiser, scale=4.0), 1, 64)
    assert float(once[:, 1].mean()) == pytest.approx(4.0, rel=0.01)


def test_tilted_law_is_what_it_says():
    """Its share at a point is that of p(x) p(y|x)^w: checked through the mean of y = class 0 responsibilities."""
    w, points = 3.0, cfg.tilted(3.0, 4000)
    pool = cfg.classes().sample(40_000, 11, dtype=torch.float64)
    ours, other = (cfg.classes().conditional(c).log_prob(pool) for c in (0, 1))
    weight = torch.sigmoid(ours - other) ** w
    for axis in (0, 1):
        for power in (1, 2):
            expected = float((weight * pool[:, axis] ** power).sum() / weight.sum())
            assert float((points[:, axis] ** power).mean()) == pytest.approx(expected, abs=0.06)


def test_slope_is_the_order():
    assert beds.slope((10, 20, 40), (1.0, 0.25, 0.0625)) == pytest.approx(2.0)
    assert beds.typical(torch.tensor([[3.0, 4.0], [0.0, 1.0], [100.0, 0.0]])) == 5.0
    assert beds.rms(torch.tensor([[3.0, 4.0], [0.0, 5.0]])) == pytest.approx(5.0)


def test_test_bed_has_the_stated_spread():
    assert float(beds.plane().covariance.diagonal().mean().sqrt()) == pytest.approx(1.006, abs=0.001)
    assert VE().sigma_max == 80.0


def test_bound_weight_is_the_papers():
    """w_t = beta_t^2 / (2 v alpha_t (1 - alpha-bar_t)), v = beta_t, of the discrete chain (eq. 12), mean 1."""
    T = 1000
    betas = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)
    exact = betas / (2 * (1 - betas) * (1 - kept))
    exact = exact / exact.mean()
    t = torch.arange(1, T + 1, dtype=torch.float64) / T
    alpha, sigma = VPLinear()(t)
    found = ddpm.BoundWeight(T=T)(alpha, sigma, -sigma / alpha)
    assert float(found.mean()) == pytest.approx(1.0)
    # the first few steps of the chain and of its continuous limit differ: beta_1 is 1e-4 in one, 1.1e-4 in the other
    torch.testing.assert_close(found[10:], exact[10:], rtol=0.12, atol=0)


def test_unscaled_shows_the_network_x_itself():
    x, t = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), 0.5
    alpha, sigma = VE()(t)
    assert edm.Unscaled()(t, alpha, sigma) == (1.0, edm.EDM()(t, alpha, sigma)[1])
    net = torch.nn.Module()
    net.forward = lambda x, label: x
    for name in ("x_0, unscaled input", "eps, unscaled input"):
        prediction, scaling = edm.ABLATION[name]
        seen = edm.Preconditioned(net, VE(), prediction, scaling).output(x, t)[0]
        assert torch.equal(seen, x), name


def test_datasaurus_schedules_are_the_essays():
    for stage, last in zip(datasaurus.STAGES, (0.95, 0.95, 0.95, 0.98), strict=True):
        product = 1.0
        for i in range(50):
            product *= 0.9999 + (last - 0.9999) * i / 49
        assert stage.schedule()(1.0)[0] ** 2 == pytest.approx(product, rel=1e-9)
    alpha, sigma = datasaurus.STAGES[-1].schedule()(1.0)
    start = datasaurus.noised(datasaurus.STAGES[-1].schedule(), 0)
    assert float(start.var()) == pytest.approx(alpha**2 + sigma**2, rel=0.1)


def test_datasaurus_sampling_begins_at_unit_noise():
    seen = []

    class Watching:
        schedule = datasaurus.STAGES[-1].schedule()
        cond = MappingProxyType({})

        def __call__(self, x, t):
            seen.append(float(x.var()))
            return torch.zeros_like(x)

    datasaurus.samples(Watching(), 0)
    assert seen[0] == pytest.approx(1.0, abs=0.06)
    assert len(seen) == 50
