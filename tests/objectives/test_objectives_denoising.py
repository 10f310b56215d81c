"""The denoising objective against closed forms: conversions, densities, and a Gaussian's own loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sfumato as sf
from sfumato.core import Batch, InputError, Noise, fold
from sfumato.objectives import (
    P2,
    SNR,
    CosMap,
    Denoising,
    Discrete,
    KarrasWeight,
    LogitNormal,
    LogNormal,
    MinSNR,
    Sigmoid,
    Simple,
    Uniform,
)

T = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
PREDICTIONS = [sf.X0(), sf.Eps(), sf.V(), sf.Flow(), sf.Score(), sf.Karras(sigma_data=0.7)]


class Says(nn.Module):
    """A network that says what the exact denoiser of N(0, variance) implies, in any prediction."""

    def __init__(self, schedule, prediction, variance):
        super().__init__()
        self.cond = {}
        self.schedule, self.prediction, self.variance = schedule, prediction, variance

    def forward(self, x, c_noise):
        alpha, sigma = (v.reshape(-1, 1) for v in self.schedule(c_noise.double() / 1000))
        x0 = alpha * self.variance / (alpha**2 * self.variance + sigma**2) * x
        return self.prediction.target(x0, (x - alpha * x0) / sigma, alpha, sigma)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "schedule", [sf.VPCosine(), sf.VPLinear(), sf.Rectified(), sf.SubVP()], ids=lambda s: type(s).__name__
)
def test_loss_of_the_exact_gaussian_is_the_posterior_variance(schedule, prediction):
    """E (x_0 - E[x_0 | x_t])^2 = v sigma^2 / (alpha^2 v + sigma^2), times the weight, times gain^-2 on the output."""
    v, t, n = 0.4, 0.37, 4000
    alpha, sigma = schedule(t)
    x0 = v**0.5 * Noise(range(n)).normal((n, 4), "data", dtype=torch.float64)
    denoiser = sf.Preconditioned(Says(schedule, prediction, v), schedule, prediction)
    denoiser.net.dtype_holder = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    objective = Denoising(time=Uniform(low=t - 1e-9, high=t + 1e-9), weighting=SNR())
    loss = objective(denoiser, Batch(x0, {}), Noise(fold("loss", i) for i in range(n)))
    exact = alpha**2 / sigma**2 * v * sigma**2 / (alpha**2 * v + sigma**2)  # SNR-weighted x_0 error
    error = float(loss.std()) / math.sqrt(n)
    assert abs(float(loss.mean()) - exact) < 4 * error
    assert error < 0.02 * exact


@pytest.mark.parametrize(
    "weighting", [SNR(), MinSNR(), P2(), KarrasWeight(), Sigmoid()], ids=lambda w: type(w).__name__
)
def test_a_weighting_means_the_same_for_every_prediction(weighting):
    """The weighted error does not depend on the prediction, for one and the same x0_hat."""
    schedule = sf.VPCosine()
    alpha, sigma = schedule(T)
    x0, wrong, eps = (Noise([i]).normal((1, 25), "v", dtype=torch.float64)[0] for i in range(3))
    x = alpha * x0 + sigma * eps
    values = []
    for p in PREDICTIONS:
        # what p reads as `wrong` is the target of a world in which x_0 were `wrong`
        out = p.target(wrong, (x - alpha * wrong) / sigma, alpha, sigma)
        assert torch.allclose(p.to_x0(out, x, alpha, sigma), wrong, atol=1e-10)
        weight = weighting(alpha, sigma, p.gain(alpha, sigma))
        values.append(weight * (out - p.target(x0, eps, alpha, sigma)) ** 2)
    for other in values[1:]:
        assert torch.allclose(other, values[0], rtol=1e-9)


def test_published_forms_of_the_weightings():
    alpha, sigma = sf.VPCosine()(T)
    snr = (alpha / sigma) ** 2
    eps, v = sf.Eps().gain(alpha, sigma), sf.V().gain(alpha, sigma)
    close = lambda a, b: torch.allclose(a, b, rtol=1e-10)
    assert close(MinSNR(gamma=5.0)(alpha, sigma, eps), snr.clamp(max=5) / snr)  # Hang et al., on the eps loss
    assert close(MinSNR(gamma=5.0)(alpha, sigma, v), snr.clamp(max=5) / (snr + 1))  # and on the v loss
    assert close(SNR()(alpha, sigma, eps), torch.ones_like(T))
    assert close(P2(k=1.0, gamma=0.5)(alpha, sigma, eps), (1 + snr) ** -0.5)
    assert close(Sigmoid(bias=2.0)(alpha, sigma, eps), 1 / (1 + torch.exp(snr.log() - 2.0)))
    karras = sf.Karras(sigma_data=0.7)
    assert close(KarrasWeight(sigma_data=0.7)(alpha, sigma, karras.gain(alpha, sigma)), torch.ones_like(T))
    assert close(Simple()(alpha, sigma, eps), torch.ones_like(T))


def density(law, low, high, schedule=None):
    """Return the share of a law's draws in [low, high], from 200,000 midpoints of (0, 1): exact to 1e-5."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = law(u, schedule)
    return float(((t >= low) & (t < high)).double().mean())


def test_cosmap_has_its_published_density():
    for low, high in [(0.0, 0.1), (0.1, 0.3), (0.45, 0.55), (0.8, 1.0)]:
        grid = torch.linspace(low, high, 20_001, dtype=torch.float64)
        exact = torch.trapezoid(2 / (math.pi - 2 * math.pi * grid + 2 * math.pi * grid**2), grid)
        assert density(CosMap(), low, high) == pytest.approx(float(exact), abs=2e-5)


@pytest.mark.parametrize("law", [LogitNormal(), LogitNormal(mean=-0.5, std=0.7)])
def test_logit_normal_has_its_published_density(law):
    for low, high in [(0.05, 0.2), (0.4, 0.6), (0.7, 0.95)]:
        t = torch.linspace(low, high, 20_001, dtype=torch.float64)
        z = (torch.logit(t) - law.mean) / law.std
        pdf = torch.exp(-0.5 * z**2) / (law.std * math.sqrt(2 * math.pi) * t * (1 - t))
        assert density(law, low, high) == pytest.approx(float(torch.trapezoid(pdf, t)), abs=2e-5)


@pytest.mark.parametrize("schedule", [sf.VE(), sf.VPCosine(), sf.Rectified()], ids=lambda s: type(s).__name__)
def test_log_normal_is_normal_in_the_log_noise_level(schedule):
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    t = LogNormal(mean=-1.2, std=1.2)(u, schedule)
    log_s = -schedule.lam(t)
    inside = t < 1
    assert torch.allclose(torch.special.ndtr((log_s + 1.2) / 1.2)[inside], u[inside], atol=1e-6)


def test_uniform_and_discrete():
    u = torch.tensor([1e-12, 0.0999, 0.1001, 0.5, 1 - 1e-12], dtype=torch.float64)
    assert torch.allclose(
        Discrete(count=10)(u, sf.VPLinear()), torch.tensor([0.1, 0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
    )
    assert torch.allclose(Uniform(low=0.2, high=0.4)(u, sf.VPLinear()), 0.2 + 0.2 * u)
    with pytest.raises(InputError, match="low"):
        Uniform(low=0.5, high=0.5)


class Linear(nn.Module):
    """A network with a class, whose output shows what it was given."""

    def __init__(self):
        super().__init__()
        self.cond = {"y": 3, "size": None}
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x, c_noise, y, size):
        return self.w * x + y.to(x).reshape(-1, 1) + 100 * size.to(x).reshape(-1, 1)


def test_a_row_is_a_function_of_its_own_seed():
    denoiser = sf.Preconditioned(Linear(), sf.VPCosine(), sf.V())
    x0 = Noise(range(6)).normal((6, 2), "x")
    cond = {"y": torch.arange(6) % 3, "size": torch.arange(6)}
    objective = Denoising(drop=0.5)
    whole = objective(denoiser, Batch(x0, cond), Noise(range(6)))
    order = [4, 1, 5]
    part = objective(denoiser, Batch(x0[order], {k: v[order] for k, v in cond.items()}), Noise(order))
    assert torch.equal(part, whole[order])
    assert not torch.equal(whole, objective(denoiser, Batch(x0, cond), Noise(range(1, 7))))


def test_dropped_conditions():
    denoiser = sf.Preconditioned(Linear(), sf.VPCosine(), sf.V())
    n = 5000
    cond = {"y": torch.zeros(n, dtype=torch.long), "size": torch.ones(n, dtype=torch.long)}
    batch, noise = Batch(torch.zeros(n, 2), cond), Noise(range(n))
    dropped = Denoising(drop=0.15).dropped(denoiser, batch, noise)
    share = float((dropped["y"] == 3).double().mean())
    assert abs(share - 0.15) < 4 * math.sqrt(0.15 * 0.85 / n)
    assert set(dropped["y"].tolist()) == {0, 3}
    assert torch.equal(dropped["size"], cond["size"])  # it has no null value
    assert Denoising().dropped(denoiser, batch, noise)["y"] is cond["y"]
    assert bool((Denoising(drop=1.0).dropped(denoiser, batch, noise)["y"] == 3).all())


def test_every_field_changes_the_loss():
    denoiser = sf.Preconditioned(Linear(), sf.VPCosine(), sf.V())
    batch = Batch(
        Noise(range(16)).normal((16, 2), "x"), {"y": torch.zeros(16, dtype=torch.long), "size": torch.zeros(16)}
    )
    base = Denoising()(denoiser, batch, Noise(range(16)))
    for other in (Denoising(time=LogitNormal()), Denoising(weighting=MinSNR()), Denoising(drop=0.5)):
        assert not torch.equal(other(denoiser, batch, Noise(range(16))), base)
        assert sf.from_config(sf.to_config(other)) == other


def test_a_weight_that_is_not_finite_is_refused():
    schedule = sf.ZeroTerminalSNR(base=sf.VPCosine())
    denoiser = sf.Preconditioned(Linear(), schedule, sf.Eps())
    batch = Batch(torch.zeros(2, 2), {"y": torch.zeros(2, dtype=torch.long), "size": torch.zeros(2)})
    with pytest.raises(InputError, match="MinSNR is not finite"):
        Denoising(time=Discrete(count=1), weighting=MinSNR())(denoiser, batch, Noise(range(2)))
    with pytest.raises(InputError, match="probability"):
        Denoising(drop=1.5)
