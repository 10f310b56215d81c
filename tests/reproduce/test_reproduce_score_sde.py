"""The cheap claims of score-sde, and what its checks rest on."""

import math

import pytest
import torch

from sfumato.core import VE
from sfumato.data import Digits
from sfumato.measure import HEUN, RK4, Exact
from sfumato.reproduce import beds, score_sde


def bar(key):
    return next(claim for claim in score_sde.SYSTEM.claims if claim.key == key)


def test_sdes():
    assert bar("sdes").judge(score_sde.Measured("sdes", score_sde.closed_forms())).status == "pass"


def test_likelihood_of_few_points():
    found = float(score_sde.values(100, HEUN, 200, Exact()).mean())
    assert bar("likelihood").judge(score_sde.Measured("likelihood", abs(found))).status == "pass"
    assert abs(float(score_sde.values(50, RK4, 200, Exact(), VE()).mean())) < abs(found) + 1e-3


def test_reverse_sde_samples_the_plane():
    law = beds.plane()
    truth = law.sample(1000, 1, dtype=torch.float64)
    samples = score_sde.backwards(law.denoiser(VE()), 1000, 100, "test")
    assert beds.distance(samples, truth) < 2 * beds.floor(law, truth, 0)


def test_baseline_is_the_best_gaussian():
    """On the scans that it is fitted to, -log p of a Gaussian is its own entropy, to the noise of dequantisation."""
    x = score_sde.dequantise(Digits().rows.x0, 1 / 8, beds.seeds(1437, "fit"))
    cov = torch.cov(x.flatten(1).T)
    entropy = 0.5 * float(torch.logdet(2 * math.pi * math.e * cov)) / (64 * math.log(2)) + 3
    assert score_sde.gaussian_bits(x, 1 / 8) == pytest.approx(entropy, abs=1e-3)
