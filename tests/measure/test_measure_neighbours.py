"""Precision, recall, density and coverage on cases that a hand can compute, and on equal laws."""

import math

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato.measure import coverage, density, precision, recall

# reference on a line: radii to the nearest other row are 1, 1, 2, 6
REAL = torch.tensor([[0.0], [1.0], [3.0], [9.0]])
# balls: [-1, 1], [0, 2], [1, 5], [3, 15]
FAKE = torch.tensor([[-1.5], [0.5], [1.5], [4.0], [20.0]])
# radii of FAKE: 2, 1, 1, 2.5, 16; balls: [-3.5, 0.5], [-0.5, 1.5], [0.5, 2.5], [1.5, 6.5], [4, 36]


def test_a_line_computed_by_hand():
    assert precision(FAKE, REAL, k=1).value == pytest.approx(3 / 5)  # 0.5, 1.5, 4
    assert recall(FAKE, REAL, k=1).value == pytest.approx(4 / 4)  # 0, 1, 3 and 9 in the outlier's ball
    # balls that hold each sample: 0, 2, 2, 2, 0
    assert density(FAKE, REAL, k=1).value == pytest.approx(6 / 5)
    assert coverage(FAKE, REAL, k=1).value == pytest.approx(4 / 4)
    assert coverage(FAKE[1:2], REAL, k=1).value == pytest.approx(2 / 4)
    # k = 2: radii 3, 2, 3, 8; balls [-3, 3], [-1, 3], [0, 6], [1, 17]; holding each sample: 1, 3, 4, 2, 0
    assert density(FAKE, REAL, k=2).value == pytest.approx(10 / (2 * 5))
    assert precision(FAKE, REAL, k=2).value == pytest.approx(4 / 5)
    assert recall(FAKE[:4], REAL, k=1).value == pytest.approx(3 / 4)


def test_balls_are_closed():
    assert precision(torch.tensor([[-1.0]]), REAL, k=1).value == 1
    assert precision(torch.tensor([[-1.0001]]), REAL, k=1).value == 0


def test_duplicates_count_as_neighbours_of_radius_zero():
    real = torch.tensor([[0.0], [0.0], [5.0], [5.5]])
    assert precision(torch.tensor([[0.0]]), real, k=1).value == 1
    assert precision(torch.tensor([[1e-6]]), real, k=1).value == 0
    assert recall(torch.zeros(6, 1), real, k=1).value == 0.5


@pytest.mark.parametrize("k", [1, 3, 5])
def test_beyond_one_block_they_are_the_brute_force_counts(k):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1300, 3, generator=g, dtype=torch.float64) * 0.8 + 1e3
    y = torch.randn(1100, 3, generator=g, dtype=torch.float64) + 1e3
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}

    def radius(s):
        return torch.cdist(s, s, **exact).sort(1).values[:, k]  # the first is the row itself

    d = torch.cdist(x, y, **exact)
    in_real, in_fake = d <= radius(y), (d <= radius(x)[:, None]).T
    assert precision(x, y, k=k).value == pytest.approx(float(in_real.any(1).double().mean()), abs=1e-12)
    assert recall(x, y, k=k).value == pytest.approx(float(in_fake.any(1).double().mean()), abs=1e-12)
    assert density(x, y, k=k).value == pytest.approx(in_real.sum().item() / (k * 1300), abs=1e-12)
    assert coverage(x, y, k=k).value == pytest.approx(float(in_real.any(0).double().mean()), abs=1e-12)


def test_equal_laws_score_what_the_papers_say():
    def pair(r):
        g = torch.Generator().manual_seed(r)
        return torch.randn(200, 2, generator=g), torch.randn(200, 2, generator=g)

    densities = np.array([density(*pair(r)).value for r in range(60)])
    assert densities.mean() == pytest.approx(1, abs=3 * densities.std() / math.sqrt(60))
    n, k = 200, 5
    # the k nearest of n - 1 + n exchangeable rows are all real with the chance of drawing them so: near 2^-k
    miss = math.prod((n - 1 - i) / (2 * n - 1 - i) for i in range(k))
    covered = np.array([coverage(*pair(r)).value for r in range(60)])
    assert covered.mean() == pytest.approx(1 - miss, abs=3 * covered.std() / math.sqrt(60))


def test_collapse_and_strays_are_told_apart():
    g = torch.Generator().manual_seed(0)
    real = torch.randn(500, 2, generator=g)
    collapsed = 0.05 * torch.randn(500, 2, generator=g)
    assert precision(collapsed, real).value > 0.95
    assert recall(collapsed, real).value < 0.05
    assert coverage(collapsed, real).value < 0.15
    far = real + 100
    for metric in (precision, recall, density, coverage):
        assert metric(far, real).value == 0
        assert metric(real, real).value >= 1


def test_errors_are_binomial_and_k_is_part_of_the_figure():
    figure = precision(FAKE, REAL, k=1)
    assert figure.error == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    assert (figure.better, figure.settings, figure.n, figure.n_reference) == ("higher", "k=1", 5, 4)
    with pytest.raises(sf.InputError, match="settings"):
        figure.ratio(precision(FAKE, REAL, k=2))
    with pytest.raises(sf.InputError, match="k=4 and 4 rows"):
        precision(FAKE, REAL, k=4)
    with pytest.raises(sf.InputError, match="k=0"):
        density(FAKE, REAL, k=0)
