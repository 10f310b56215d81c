"""Likelihoods against closed forms: Gaussians to the integrator's error, mixtures, orders, traces, dequantisation."""

import math

import pytest
import torch
from torch import nn

from sfumato.core import VE, X0, InputError, Noise, Preconditioned, Rectified, VPLinear, from_config, grids, to_config
from sfumato.measure import likelihood as ll
from sfumato.testing import Gaussian, GaussianMixture, exact_network
from sfumato.testing.table import CLASSES, PLANE, PREDICTIONS, SCHEDULES

LAW = GaussianMixture(
    [[-1.2, -0.6], [0.9, 1.0], [1.1, -1.1]], torch.tensor([0.25, 0.35, 0.2]).double() ** 2, [0.3, 0.45, 0.25]
)


def level_grid(schedule, n, low=0.01):
    return grids.log_snr(schedule, n, sigma_min=low)


def model_log_prob(law, schedule, grid, x):
    """log q of the model whose flow is a Gaussian's own: N(0, s_max^2) pulled back through the affine map y -> y'."""
    (a, b), (c, d) = schedule(float(grid[0])), schedule(float(grid[-2]))
    top, low = b / a, d / c
    values, basis = torch.linalg.eigh(law.covariance)
    scale = ((values + top**2) / (values + low**2)).sqrt()
    y = law.mean @ basis + (x - law.mean) @ basis * scale
    prior = -0.5 * (y / top).square().sum(1) - y.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(top))
    return prior + scale.log().sum()


@pytest.mark.parametrize("name", SCHEDULES)
def test_gaussian_is_exact_on_every_schedule(name):
    schedule = SCHEDULES[name]
    x, grid = PLANE.sample(6, 1, dtype=torch.float64), level_grid(schedule, 60)
    found = ll.log_likelihood(PLANE.denoiser(schedule), x, grid=grid, trace=ll.Exact())
    torch.testing.assert_close(found.values, model_log_prob(PLANE, schedule, grid, x), rtol=0, atol=2e-6)
    # the start of Stable Diffusion's table, s = 14.6, is not quite noise: that is the model's own error
    assert float((found.values - PLANE.log_prob(x)).abs().mean()) < 0.03, "and near the data's own density"


@pytest.mark.parametrize("name", PREDICTIONS)
def test_every_prediction_gives_the_same(name):
    schedule = VPLinear()
    x, grid = PLANE.sample(4, 1, dtype=torch.float64), level_grid(schedule, 12)
    grid = grid.float().double()  # the label of the network is t in float32
    exact = ll.log_likelihood(PLANE.denoiser(schedule), x, grid=grid, trace=ll.Exact(), integrator=ll.HEUN)
    network = exact_network(PLANE, schedule, PREDICTIONS[name])
    found = ll.log_likelihood(network, x, grid=grid, trace=ll.Exact(), integrator=ll.HEUN)
    torch.testing.assert_close(found.values, exact.values, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("integrator", "order"), [(ll.HEUN, 2), (ll.RK4, 4)], ids=["HEUN", "RK4"])
def test_order(integrator, order):
    x, schedule, errors = LAW.sample(40, 2, dtype=torch.float64), VE(), []

    def values(steps, integrator):
        grid = level_grid(schedule, steps + 1, 0.05)
        return ll.log_likelihood(LAW.denoiser(schedule), x, grid=grid, trace=ll.Exact(), integrator=integrator).values

    truth = values(160, ll.RK4)
    errors = [float((values(n, integrator) - truth).square().mean().sqrt()) for n in (40, 80)]
    slope = math.log2(errors[0] / errors[1])
    assert abs(slope - order) < 0.5
    assert errors[1] < {2: 2e-2, 4: 2e-4}[order]


def test_mixture_agrees_with_its_density():
    x = LAW.sample(300, 0, dtype=torch.float64)
    grid = level_grid(VE(), 60, 0.001)
    found = ll.log_likelihood(LAW.denoiser(VE()), x, grid=grid, trace=ll.Exact())
    error = found.values - LAW.log_prob(x)
    assert abs(float(error.mean())) < 2e-3
    assert float(error.abs().max()) < 0.05
    one = ll.log_likelihood(LAW.denoiser(VE()), x, grid=grid, seeds=range(300))
    error = one.values - LAW.log_prob(x)
    assert abs(float(error.mean())) < 3 * float(error.std()) / 300**0.5
    assert 0.2 < float(error.std()) < 1.0, "one probe is noisy: unbiased, not exact"
    many = ll.log_likelihood(LAW.denoiser(VE()), x, grid=grid, seeds=range(300), trace=ll.Rademacher(probes=8))
    assert float((many.values - LAW.log_prob(x)).std()) < 0.5 * float(error.std())
    assert abs(many.mean - found.mean) < 3 * many.probe_error
    assert many.probe_error < many.error


def test_conditions_are_passed_on():
    x, y = CLASSES.sample(8, 1, dtype=torch.float64), torch.tensor([0, 1] * 4)
    grid = level_grid(VPLinear(), 60)
    found = ll.log_likelihood(CLASSES.denoiser(VPLinear()), x, grid=grid, trace=ll.Exact(), cond={"y": y})
    for c in (0, 1):
        alone = CLASSES.conditional(c).denoiser(VPLinear())
        mine = ll.log_likelihood(alone, x[y == c], grid=grid, trace=ll.Exact())
        torch.testing.assert_close(found.values[y == c], mine.values, rtol=0, atol=1e-9)


def test_traces():
    """On a linear field the Rademacher probe misses the off-diagonal alone; both are unbiased; Exact is the trace."""
    law = Gaussian([0.0, 0.0], [[0.6, 0.0], [0.0, 0.2]])
    x, grid = law.sample(2000, 3, dtype=torch.float64), level_grid(VE(), 12)
    exact, signs, normal = (
        ll.log_likelihood(law.denoiser(VE()), x, grid=grid, trace=trace, seeds=range(2000))
        for trace in (ll.Exact(), ll.Rademacher(), ll.Normal())
    )
    torch.testing.assert_close(signs.values, exact.values, rtol=0, atol=1e-9)  # diagonal: nothing is missed
    error = normal.values - exact.values
    assert float(error.std()) > 0.1
    assert abs(float(error.mean())) < 4 * float(error.std()) / 2000**0.5


def test_result_does_not_depend_on_sigma_data():
    x, grid = LAW.sample(20, 4, dtype=torch.float64), level_grid(VE(), 80, 0.05)
    a, b = (
        ll.log_likelihood(LAW.denoiser(VE()), x, grid=grid, trace=ll.Exact(), sigma_data=c).values for c in (0.4, 1.7)
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_rows_belong_to_their_seeds():
    x, grid = LAW.sample(5, 1, dtype=torch.float64), level_grid(VPLinear(), 5)
    whole = ll.log_likelihood(LAW.denoiser(VPLinear()), x, grid=grid, seeds=[7, 8, 9, 10, 11], bin=0.1)
    part = ll.log_likelihood(LAW.denoiser(VPLinear()), x[2:4], grid=grid, seeds=[9, 10], bin=0.1)
    assert torch.equal(whole.draws[:, 2:4], part.draws)
    joined = ll.join([whole, part])
    assert joined.draws.shape == (1, 7)
    with pytest.raises(InputError, match="cannot be joined"):
        ll.join([whole, ll.Likelihood(draws=part.draws, dim=2, bin=None)])


def test_uniform_dequantisation_bounds_the_discrete_law():
    """Data on the lattice of a wide Gaussian: log P of a bin is known, and the bound is below it, and near."""
    law, width = Gaussian([0.3], 0.25), 0.25
    lattice = (law.sample(3000, 5, dtype=torch.float64) / width).round() * width
    std = 0.5
    upper, lower = ((lattice + side * width / 2 - 0.3) / std for side in (1, -1))
    exact = -(torch.special.ndtr(upper) - torch.special.ndtr(lower)).log2().mean()
    spread = ll.dequantise(lattice, width, Noise(range(3000)))
    inside = (spread - lattice) / width
    assert float(inside.abs().max()) < 0.5
    assert float(inside.var()) == pytest.approx(1 / 12, rel=0.05)
    grid = level_grid(VE(), 30)
    found = ll.log_likelihood(law.denoiser(VE()), lattice, grid=grid, trace=ll.Exact(), seeds=range(3000), bin=width)
    assert float(exact) < found.bits_per_dim < float(exact) + 0.03
    torch.testing.assert_close(found.values.mean(), law.log_prob(spread).mean(), rtol=0, atol=2e-3)
    assert "at most" in str(found)
    assert "density" in str(ll.Likelihood(draws=found.draws, dim=1, bin=None))


def test_error_bars_cover():
    """Over 40 disjoint sets of rows the mean is within two standard errors of the entropy about 95 times of 100."""
    x, grid = PLANE.sample(4000, 6, dtype=torch.float64), level_grid(VPLinear(), 25)
    found = ll.log_likelihood(PLANE.denoiser(VPLinear()), x, grid=grid, seeds=range(4000))
    entropy = 0.5 * float(torch.logdet(2 * math.pi * math.e * PLANE.covariance))
    inside = 0
    for part in found.draws.chunk(40, 1):
        one = ll.Likelihood(draws=part, dim=2, bin=None)
        inside += abs(one.mean + entropy) < 2 * one.error
    assert 33 <= inside <= 40


def test_what_cannot_be_is_refused():
    x, denoiser = PLANE.sample(3, 1), PLANE.denoiser(Rectified())
    with pytest.raises(InputError, match="give seeds"):
        ll.log_likelihood(denoiser, x, grid=level_grid(Rectified(), 4))
    with pytest.raises(InputError, match="one seed for each row"):
        ll.log_likelihood(denoiser, x, grid=level_grid(Rectified(), 4), seeds=range(2))
    with pytest.raises(InputError, match="alpha = 0"):
        ll.log_likelihood(denoiser, x, grid=grids.uniform(Rectified(), 4), trace=ll.Exact())
    with pytest.raises(InputError, match="no condition"):
        ll.log_likelihood(denoiser, x, grid=level_grid(Rectified(), 4), trace=ll.Exact(), cond={"y": x})
    constant = Preconditioned(_Zero(), VPLinear(), X0())
    with pytest.raises(InputError, match="no derivative"):
        ll.log_likelihood(constant, x, grid=level_grid(VPLinear(), 4), trace=ll.Exact())
    with pytest.raises(InputError, match="positive"):
        ll.dequantise(x, 0.0, Noise(range(3)))


class _Zero(nn.Module):
    def forward(self, x, c_noise):
        return torch.zeros_like(x)


def test_progress_and_cancelling():
    seen = []

    def callback(done, of):
        seen.append((done, of))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ll.log_likelihood(
            PLANE.denoiser(VE()), PLANE.sample(3, 1), grid=level_grid(VE(), 6), trace=ll.Exact(), callback=callback
        )
    assert seen == [(1, 5), (2, 5)]


def test_settings_are_configurations():
    for part in (ll.Exact(), ll.Rademacher(probes=3), ll.Normal(), ll.HEUN, ll.RK4):
        assert from_config(to_config(part)) == part
