"""The exact models against what is exact about them: quadrature, Tweedie, the ODE itself, densities by torch."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from sfumato.core import VE, Eps, InputError, Karras, Plain, Preconditioned, Rectified, SubVP, V, VPLinear, prepare
from sfumato.testing import Counted, Empirical, Gaussian, GaussianMixture, exact_network
from sfumato.testing.table import CLASSES, LINE, PICTURES, PLANE

SCHEDULES = [VPLinear(), SubVP(), VE(), Rectified()]
POINTS = Empirical(
    torch.linspace(-1, 1, 60, dtype=torch.float64).sin().reshape(10, 3, 2, 1), labels=[i % 3 for i in range(10)]
)
MODELS = {"PLANE": PLANE, "LINE": LINE, "CLASSES": CLASSES, "PICTURES": PICTURES, "POINTS": POINTS}
by_name = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
on_schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def at(schedule, lam):
    return schedule.inverse(lam)


@by_name
@on_schedules
@pytest.mark.parametrize("lam", [-2.0, 0.0, 2.0])
def test_denoiser_is_tweedies_formula(model, schedule, lam):
    """E[x_0 | x] = (x + sigma^2 grad log p_t(x)) / alpha, with autograd's gradient of the marginal's density."""
    t = at(schedule, lam)
    alpha, sigma = schedule(t)
    x = torch.randn(7, *model.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * (alpha + sigma)
    x.requires_grad_()
    (score,) = torch.autograd.grad(model.marginal(schedule, t).log_prob(x).sum(), x)
    exact = (x + sigma**2 * score) / alpha
    torch.testing.assert_close(model.denoiser(schedule)(x, t), exact, atol=1e-10, rtol=1e-10)


@on_schedules
def test_denoiser_is_bayes_rule_by_quadrature(schedule):
    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    density = LINE.log_prob(grid[:, None]).exp()
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = schedule(t)
        for x in (-1.3, 0.2, 2.0):
            weight = density * torch.exp(-((x - alpha * grid) ** 2) / (2 * sigma**2))
            exact = float((weight * grid).sum() / weight.sum())
            made = LINE.denoiser(schedule)(torch.tensor([[x]], dtype=torch.float64), t)
            if float(weight.sum()) > 1e-200 and sigma / alpha > 0.01:
                assert float(made) == pytest.approx(exact, abs=1e-9)


def test_numbers_are_kept_in_float64():
    assert float(Gaussian([0.7], 0.3).covariance) == 0.3
    assert GaussianMixture([[0.1]], 0.3).covariances.item() == 0.3


def test_log_prob_is_that_of_torch():
    x = torch.randn(9, 2, dtype=torch.float64) * 2
    torch.testing.assert_close(PLANE.log_prob(x), MultivariateNormal(PLANE.mean, PLANE.covariance).log_prob(x))
    parts = MultivariateNormal(CLASSES.means, CLASSES.covariances)
    torch.testing.assert_close(CLASSES.log_prob(x), MixtureSameFamily(Categorical(CLASSES.weights), parts).log_prob(x))


@pytest.mark.parametrize("model", [PLANE, CLASSES, Gaussian([0.2, 0.1, -0.4], 0.7)])
def test_samples_have_the_moments(model):
    n = 40000
    x = model.sample(n, 5, dtype=torch.float64)
    bar = 4.5 * model.covariance.diagonal().max().sqrt() / n**0.5
    assert ((x.mean(0) - model.mean).abs() < bar).all()
    assert ((torch.cov(x.T) - model.covariance).abs() < 4.5 * 2**0.5 * model.covariance.diagonal().max() / n**0.5).all()
    assert torch.equal(model.sample(50, 5, dtype=torch.float64), x[:50])  # a larger draw begins with the smaller
    assert not torch.equal(model.sample(50, 6, dtype=torch.float64), x[:50])


def test_samples_come_from_the_components_that_are_named():
    n = 30000
    k, x = CLASSES.components(n, 2), CLASSES.sample(n, 2, dtype=torch.float64)
    for i in range(3):
        mine = x[k == i]
        assert len(mine) / n == pytest.approx(float(CLASSES.weights[i]), abs=4 * 0.5 / n**0.5)
        assert ((mine.mean(0) - CLASSES.means[i]).abs() < 4.5 * 0.7 / len(mine) ** 0.5).all()
        assert ((torch.cov(mine.T) - CLASSES.covariances[i]).abs() < 0.02).all()


def ode(model, schedule, x, t, s, n=300):
    """The probability-flow ODE by Runge and Kutta's fourth-order method, dy/dlambda = D - y with y = x / alpha."""
    d, (alpha, sigma), (alpha_s, sigma_s) = model.denoiser(schedule), schedule(t), schedule(s)
    lam, h = math.log(alpha / sigma), (math.log(alpha_s / sigma_s) - math.log(alpha / sigma)) / n

    def slope(at, y):
        now = schedule.inverse(at)
        return d(schedule(now)[0] * y, now) - y

    y = x / alpha
    for i in range(n):
        a = lam + i * h
        k1 = slope(a, y)
        k2 = slope(a + h / 2, y + h / 2 * k1)
        k3 = slope(a + h / 2, y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(a + h, y + h * k3))
    return alpha_s * y


@on_schedules
@pytest.mark.parametrize("model", [PLANE, LINE], ids=["PLANE", "LINE"])
def test_flow_solves_the_ode_and_goes_back(model, schedule):
    t, s = at(schedule, -2.2), at(schedule, 3.0)
    x = model.marginal(schedule, t).sample(12, 1, dtype=torch.float64)
    there = model.flow(schedule, x, t, s)
    torch.testing.assert_close(there, ode(model, schedule, x, t, s), atol=2e-8, rtol=0)
    torch.testing.assert_close(model.flow(schedule, there, s, t), x, atol=1e-10, rtol=1e-10)
    ends = model.flow(schedule, model.flow(schedule, x, 1.0, 0.0), 0.0, 1.0)
    torch.testing.assert_close(ends, x, atol=1e-9, rtol=1e-9)


def test_flow_of_a_plane_of_modes_is_refused():
    with pytest.raises(InputError, match="on a line only"):
        CLASSES.flow(VPLinear(), torch.zeros(1, 2), 0.9, 0.1)


@by_name
@on_schedules
def test_both_ends(model, schedule):
    d = model.denoiser(schedule)
    x0 = model.sample(5, 3, dtype=torch.float64)
    torch.testing.assert_close(d(x0, 0.0), x0, atol=1e-12, rtol=1e-12)  # no noise: x_0 itself
    if schedule(1.0)[0] == 0.0:
        mean = model.points.mean(0) if isinstance(model, Empirical) else model.mean
        torch.testing.assert_close(d(x0, 1.0), mean.expand_as(x0), atol=1e-12, rtol=0)  # no data: its mean
    assert d(1e3 * x0, 1.0).isfinite().all()
    assert d(1e3 * x0, 1e-9).isfinite().all()


def test_empirical_at_no_noise_is_the_nearest_point():
    near = POINTS.points + 0.01 * torch.randn_like(POINTS.points, dtype=torch.float64)
    assert torch.equal(POINTS.denoiser(VE())(near, 0.0), POINTS.points)


@by_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_bit_identical_in_any_batch(model, dtype):
    d = model.denoiser(VPLinear())
    x = torch.randn(70, *model.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)
    t = torch.linspace(0.01, 0.99, 70, dtype=torch.float64)
    cond = {"y": torch.arange(70) % (null + 1)} if (null := model.cond.get("y")) else {}
    at_one, at_many = d(x, 0.37, **cond), d(x, t, **cond)
    assert at_one.dtype == dtype
    order = torch.randperm(70, generator=torch.Generator().manual_seed(3))
    for index in [*(torch.arange(b) for b in range(1, 70)), *(torch.arange(b, 70) for b in range(1, 70, 7)), order]:
        some = {k: v[index] for k, v in cond.items()}
        assert torch.equal(d(x[index], 0.37, **some), at_one[index])
        assert torch.equal(d(x[index], t[index], **some), at_many[index])


@pytest.mark.parametrize("model", [CLASSES, POINTS], ids=["CLASSES", "POINTS"])
def test_classes(model):
    d, x, null = model.denoiser(Rectified()), model.sample(6, 1, dtype=torch.float64) * 1.3, model.cond["y"]
    torch.testing.assert_close(d(x, 0.4, y=torch.full((6,), null)), d(x, 0.4), atol=1e-13, rtol=0)
    for y in range(null):
        alone = model.conditional(y) if model is CLASSES else Empirical(POINTS.points[POINTS.labels == y])
        exact = alone.denoiser(Rectified())(x, 0.4)
        torch.testing.assert_close(d(x, 0.4, y=torch.full((6,), y)), exact, atol=1e-13, rtol=0)
    mixed = torch.tensor([0, 1, null, 1, 0, null])
    torch.testing.assert_close(
        d(x, 0.4, y=mixed), torch.cat([d(x[i : i + 1], 0.4, y=mixed[i : i + 1]) for i in range(6)]), atol=0, rtol=0
    )


@pytest.mark.parametrize("prediction", [Eps(), V(), Karras()], ids=lambda p: type(p).__name__)
def test_exact_network_prepared_or_not(prediction):
    t = 0.375
    net, x = exact_network(CLASSES, VPLinear(), prediction), CLASSES.sample(4, 1, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0])
    exact = CLASSES.denoiser(VPLinear())(x, t, y=y)
    for denoiser in (net, prepare(net, [0.75, t])):
        torch.testing.assert_close(denoiser(x, t, y=y), exact, atol=1e-12, rtol=0)
    times = torch.tensor([0.25, 0.5, 0.625, 0.75], dtype=torch.float64)
    torch.testing.assert_close(net(x, times), CLASSES.denoiser(VPLinear())(x, times), atol=1e-12, rtol=0)
    assert isinstance(net, Preconditioned)
    assert net.scaling == Plain(scale=1.0)


def test_counted():
    d = Counted(CLASSES.denoiser(VPLinear()))
    x = CLASSES.sample(5, 1)
    assert torch.equal(d(x, 0.5), CLASSES.denoiser(VPLinear())(x, 0.5))
    d(x[:2], 0.5, y=torch.zeros(2, dtype=torch.int64))
    assert (d.calls, d.rows, d.cond, d.schedule) == (2, 7, {"y": 2}, VPLinear())


def test_models_take_arrays_and_keep_their_own_copy():
    means = np.zeros((2, 1))
    model = GaussianMixture(means, [1.0, 2.0])
    means[:] = 5
    assert float(model.means.abs().max()) == 0
    torch.testing.assert_close(model.mean, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(model.covariance, torch.tensor([[1.5]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gaussian(0.0, 1.0), "give a list"),
        (lambda: Gaussian([0.0, 0.0], [1.0, 2.0]), "a number or a D x D"),
        (lambda: Gaussian([0.0, 0.0], [[1.0]]), "needs 2x2"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "must be positive"),
        (lambda: Gaussian([0.0], 0.0), "must be positive"),
        (lambda: GaussianMixture([0.0, 1.0], 1.0), "one row a component"),
        (lambda: GaussianMixture([[0.0], [1.0]], [1.0, 1.0, 1.0]), "for 2 components"),
        (lambda: GaussianMixture([[0.0], [1.0]], 1.0, [1.0, 0.0]), "2 positive numbers"),
        (lambda: GaussianMixture([[0.0], [1.0]], 1.0, labels=[0]), "2 integers"),
        (lambda: CLASSES.conditional(7), "no component has the label 7"),
        (lambda: Empirical([1.0, 2.0]), "one row a point"),
        (lambda: Empirical([[1.0]], labels=[-1]), "integers from 0"),
        (lambda: POINTS.marginal(VPLinear(), 0.0), "give t > 0"),
        (lambda: PLANE.sample(0), "at least 1"),
        (lambda: PLANE.denoiser(VPLinear())(torch.zeros(2, 3), 0.5), "data point here has shape"),
        (lambda: PLANE.denoiser(VPLinear())(torch.zeros(2, 2), torch.zeros(3)), "one time a row"),
        (lambda: PLANE.denoiser(VPLinear())(torch.zeros(2, 2), 0.5, y=torch.zeros(2)), "takes no condition 'y'"),
        (lambda: CLASSES.denoiser(VPLinear())(torch.zeros(2, 2), 0.5, y=torch.tensor([0, 9])), "y must name a class"),
        (lambda: POINTS.denoiser(VPLinear())(torch.zeros(1, 3, 2, 1), 0.5, y=torch.tensor([9])), "y must name a class"),
    ],
)
def test_refusals_are_one_line_that_names_the_remedy(make, said):
    with pytest.raises(InputError, match=said) as refusal:
        make()
    assert "\n" not in str(refusal.value)
