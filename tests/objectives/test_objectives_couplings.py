"""Couplings against brute force and against what the flow of a Gaussian is; the laws of SD3 against their densities."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import sfumato as sf
from sfumato.core import Batch, InputError, Noise, fold
from sfumato.nets import MLPConfig
from sfumato.objectives import CosMap, Denoising, Given, Independent, LogitNormal, MiniBatchOT, Mode


def rows(n, key, width=2):
    return Noise(fold(key, i) for i in range(n)).normal((n, width), dtype=torch.float64)


def cost(x, z):
    return float((x - z).square().sum())


def test_assignment_is_the_best_of_all_permutations():
    x, z = rows(6, "x"), rows(6, "z")
    batch, eps = MiniBatchOT()(Batch(x, {}), z)
    assert torch.equal(batch.x0, x)
    assert sorted(eps.tolist()) == sorted(z.tolist())
    best = min(cost(x, z[list(p)]) for p in itertools.permutations(range(6)))
    assert cost(x, eps) == pytest.approx(best, abs=1e-12)
    assert cost(x, eps) < cost(x, z) - 0.1


def test_assignment_stays_within_equal_conditions():
    x, z = rows(8, "x"), rows(8, "z")
    y, text = torch.tensor([0, 1, 0, 1, 0, 0, 1, 1]), torch.tensor([[0.0, 1]] * 6 + [[2.0, 3]] * 2)
    _, eps = MiniBatchOT()(Batch(x, {"y": y, "text": text}), z)
    for same in ([0, 2, 4, 5], [1, 3], [6, 7]):
        best = min(cost(x[same], z[list(p)]) for p in itertools.permutations(same))
        assert cost(x[same], eps[same]) == pytest.approx(best, abs=1e-12)


def test_couplings_reach_the_loss():
    """With the pair (x_0, eps) fixed, an untrained flow's loss at x_t is |out - (eps - x_0)|^2 with that very eps."""
    denoiser = sf.Preconditioned(MLPConfig(width=8, layers=1).build(), sf.Rectified(), sf.Flow())
    x0, z = rows(16, "x").float(), rows(16, "z").float()
    noise = Noise(range(16))

    def expected(eps):
        t = noise.uniform("time")
        x = x0 + t.float()[:, None] * (eps - x0)
        out, *_ = denoiser.output(x, t)
        return (out - (eps - x0)).square().mean(1)

    own = noise.like(x0, "eps")
    assert torch.allclose(Denoising()(denoiser, Batch(x0, {}), noise), expected(own), atol=1e-6)
    given = Denoising(coupling=Given())(denoiser, Batch(x0, {"eps": z}), noise)
    assert torch.allclose(given, expected(z), atol=1e-6)
    moved = MiniBatchOT()(Batch(x0, {}), own)[1]
    found = Denoising(coupling=MiniBatchOT())(denoiser, Batch(x0, {}), noise)
    assert torch.allclose(found, expected(moved), atol=1e-6)
    assert not torch.allclose(found, expected(own), atol=1e-2)


def test_couplings_are_configurations():
    for coupling in (Independent(), MiniBatchOT(), Given(key="z")):
        objective = Denoising(coupling=coupling)
        assert sf.from_config(sf.to_config(objective)) == objective


def test_given_refuses_rows_without_noise():
    with pytest.raises(InputError, match=r"data\.pairs"):
        Given()(Batch(torch.zeros(3, 2), {}), torch.zeros(3, 2))
    with pytest.raises(InputError, match="shaped as x_0"):
        Given()(Batch(torch.zeros(3, 2), {"eps": torch.zeros(3)}), torch.zeros(3, 2))


def test_on_a_line_the_best_pairs_are_in_order():
    x, z = 0.7 + 0.4 * rows(300, "x", 1), rows(300, "z", 1)
    _, eps = MiniBatchOT()(Batch(x, {}), z)
    assert torch.equal(x.flatten().argsort(), eps.flatten().argsort())


def mode_density(t, kappa, tries=60):
    """1 / |dt/du| at the u that gives t, by bisection of the paper's formula."""
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(tries):
        u = 0.5 * (low + high)
        above = Mode(kappa=kappa)(u, sf.Rectified()) > t
        low, high = torch.where(above, u, low), torch.where(above, high, u)
    return 1 / (1 + kappa * (1 - math.pi / 2 * torch.sin(math.pi * u)))


def logit_normal(t):
    return torch.exp(-0.5 * torch.logit(t) ** 2) / (math.sqrt(2 * math.pi) * t * (1 - t))


@pytest.mark.parametrize(
    ("law", "density"),
    [
        (Mode(), lambda t: mode_density(t, 1.29)),
        (Mode(kappa=-0.8), lambda t: mode_density(t, -0.8)),
        (Mode(kappa=0.0), torch.ones_like),
        (CosMap(), lambda t: 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t * t)),
        (LogitNormal(), logit_normal),
    ],
    ids=["mode", "ends", "flat", "cosmap", "logit-normal"],
)
def test_histogram_is_the_density(law, density):
    n, bins, fine = 200_000, 10, 400
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    counts = torch.histc(law(u, sf.Rectified()), bins, 0, 1) * bins / n
    t = (torch.arange(bins * fine, dtype=torch.float64) + 0.5) / (bins * fine)
    torch.testing.assert_close(counts, density(t).reshape(bins, fine).mean(1), rtol=0.003, atol=2e-4)


def test_mode_is_monotone_exactly_within_its_bounds():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for kappa in (-1.0, 2 / (math.pi - 2)):
        assert bool((Mode(kappa=kappa)(u, sf.Rectified()).diff() <= 1e-12).all())
    for kappa in (-1.01, 1.76):
        with pytest.raises(InputError, match="kappa"):
            Mode(kappa=kappa)
    peak = torch.tensor([0.5], dtype=torch.float64)
    assert float(mode_density(peak, 1.29)) == pytest.approx(1 / (1 + 1.29 * (1 - math.pi / 2)))


def test_shift_is_a_shift_of_lambda():
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    assert [sf.Rectified(shift=3.0)(v)[1] for v in (0.25, 0.5)] == pytest.approx([0.5, 0.75])
    for shift in (0.5, 3.0):
        torch.testing.assert_close(sf.Rectified(shift=shift).lam(t), sf.Rectified().lam(t) - math.log(shift))
