"""The bound against closed forms: a Gaussian's, the fall of the posterior variance, and the drawing of s itself."""

import pytest
import torch
from scipy.integrate import quad

import sfumato as sf
from sfumato.align import KLUB, times
from sfumato.align.klub import density
from sfumato.core import InputError
from sfumato.reproduce.beds import plane
from sfumato.testing import Gaussian


def closed(high, low, c, d):
    """Integrate s^-3 d c^4 (1/(s^2 + c^2) - 1/(u^2 + c^2)): D is a martingale, so the variance left is what falls."""
    change = lambda s: s**-3 * d * c**4 * (1 / (s * s + c * c) - 1 / (high * high + c * c))
    return quad(change, low, high, epsabs=0, epsrel=1e-10, limit=500)[0]


@pytest.mark.parametrize("schedule", [sf.VE(), sf.VPLinear(), sf.Rectified()], ids=lambda s: type(s).__name__)
def test_klub_of_a_gaussian(schedule):
    c, d, n = 0.4, 3, 4000
    law = Gaussian([0.0] * d, c * c)
    data = sf.Batch(law.sample(50_000, 1, dtype=torch.float64), {})
    klub = KLUB(denoiser=law.denoiser(schedule), data=data, draws=n)
    steps = [(20.0, 3.0), (3.0, 0.9), (0.9, 0.85), (0.85, 0.1), (0.1, 0.01)]
    high, low = torch.tensor(steps, dtype=torch.float64).T
    terms = klub.terms(high, low)
    exact = torch.tensor([closed(u, a, c, d) for u, a in steps], dtype=torch.float64)
    error = terms.std(1) / n**0.5
    assert bool(((terms.mean(1) - exact).abs() < 4 * error).all()), terms.mean(1) / exact
    assert bool((error < 0.02 * exact).all())


def test_klub_of_a_mixture_is_the_fall_of_its_posterior_variance():
    """D(x_s) is a martingale in falling s, so E|D(x_s) - D(x_u)|^2 = E|x_0 - D(x_u)|^2 - E|x_0 - D(x_s)|^2."""
    law, n = plane(), 8000
    x0 = law.sample(n, 3, dtype=torch.float64)
    noise = sf.Noise(range(n)).normal((n, 2), "eps", dtype=torch.float64)
    denoiser, u, a = law.denoiser(sf.VE()), 1.2, 0.3

    def left(s):
        t = sf.VE().inverse(-torch.tensor(s, dtype=torch.float64).log())
        return (x0 - denoiser(x0 + s * noise, float(t))).square().sum(1).mean()

    nodes, weights = torch.linspace(a, u, 41, dtype=torch.float64), torch.ones(41, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    values = torch.stack([s**-3 * (left(u) - left(float(s))) for s in nodes])
    exact = float((weights * values).sum() * (u - a) / 120)
    klub = KLUB(denoiser=denoiser, data=sf.Batch(law.sample(n, 4, dtype=torch.float64), {}), draws=4000)
    found = klub.terms(torch.tensor([u]).double(), torch.tensor([a]).double())[0]
    assert float(found.mean()) == pytest.approx(exact, abs=5 * float(found.std()) / 4000**0.5)


@pytest.mark.parametrize(("high", "low", "c"), [(80.0, 0.002, 0.5), (1.0, 0.9, 0.5), (0.05, 0.01, 1.0)])
def test_density_is_drawn_from_what_it_says(high, low, c):
    """Its mass is the integral, and u is the share of the mass below s."""
    weigh = lambda s: s**-3 * (1 / (s * s + c * c) - 1 / (high * high + c * c))
    u = torch.tensor([0.03, 0.3, 0.7, 0.97], dtype=torch.float64)
    s, mass = density(*torch.tensor([high, low], dtype=torch.float64), c, u)
    whole = quad(weigh, low, high, epsabs=0, epsrel=1e-10, limit=1000)[0]
    assert float(mass) == pytest.approx(whole, rel=1e-7)
    for level, share in zip(s.tolist(), u.tolist(), strict=True):
        below = quad(weigh, low, level, epsabs=0, epsrel=1e-10, limit=1000)[0]
        assert below / whole == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("c", [0.2, 1.0, 5.0])
def test_importance_sampling_is_unbiased(c, monkeypatch):
    """Whatever deviation c the density is built for, the estimate is that of the same integral."""
    law = Gaussian([0.0, 0.0], 0.25)
    data = sf.Batch(law.sample(20_000, 1, dtype=torch.float64), {})
    klub = KLUB(denoiser=law.denoiser(sf.VE()), data=data, draws=4000)
    monkeypatch.setitem(klub.__dict__, "c", c)
    terms = klub.terms(torch.tensor([2.0]).double(), torch.tensor([0.1]).double())[0]
    assert float(terms.mean()) == pytest.approx(closed(2.0, 0.1, 0.5, 2), abs=4 * float(terms.std()) / 4000**0.5)


def test_costs_of_a_grid_fall_when_it_is_refined():
    law = plane()
    klub = KLUB(denoiser=law.denoiser(sf.VE()), data=sf.Batch(law.sample(500, 1), {}), draws=500)
    coarse = klub(torch.tensor([2.0]).double(), torch.tensor([0.2]).double()).sum()
    fine = klub(torch.tensor([2.0, 0.6]).double(), torch.tensor([0.6, 0.2]).double()).sum()
    assert fine < coarse


def test_klub_is_a_pure_function_of_its_seed():
    law = plane()
    data = sf.Batch(law.sample(50, 1), {})
    high, low = torch.tensor([2.0, 1.0]).double(), torch.tensor([1.0, 0.5]).double()
    costs = [
        KLUB(denoiser=law.denoiser(sf.VE()), data=data, draws=40, seed=s, chunk=c)(high, low)
        for s, c in ((0, 7), (0, 1024), (1, 1024))
    ]
    assert torch.equal(costs[0], costs[1])
    assert not torch.equal(costs[1], costs[2])


def test_klub_shows_the_denoiser_each_rows_own_condition():
    seen = {}

    class Watching:
        schedule = sf.VE()
        cond = {"y": 9}  # noqa: RUF012

        def __call__(self, x, t, **cond):
            seen.setdefault("y", []).append(cond["y"])
            return torch.zeros_like(x)

    y = torch.arange(5)
    data = sf.Batch(y[:, None].double() * 100, {"y": y})
    klub = KLUB(denoiser=Watching(), data=data, draws=8)
    klub(torch.tensor([1.0]).double(), torch.tensor([0.5]).double())
    rows = klub._drawn[0]
    assert torch.equal(rows.x0[:, 0], 100.0 * rows.cond["y"])
    assert torch.equal(seen["y"][0], rows.cond["y"])


def test_what_makes_no_sense_is_refused():
    law = plane()
    klub = KLUB(denoiser=law.denoiser(sf.VE()), data=sf.Batch(law.sample(5), {}), draws=4)
    with pytest.raises(InputError, match="lower one above 0"):
        klub(torch.tensor([1.0]).double(), torch.tensor([2.0]).double())
    with pytest.raises(InputError, match="draws=0"):
        KLUB(denoiser=law.denoiser(sf.VE()), data=sf.Batch(law.sample(5), {}), draws=0)
    for wrong in ([1.0], [1.0, 2.0], [1.0, 0.0]):
        with pytest.raises(InputError, match="levels"):
            times(sf.VE(), wrong)
