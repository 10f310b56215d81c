"""The kernel distance against torchmetrics, and its error against the spread that it claims."""

import math

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato.measure import Cubic, kernel_distance, mmd2


def _normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_rows_at_once_is_the_cubic_mmd2():
    x, y = _normal(80, 6, 0), _normal(80, 6, 1) * 1.2
    figure, plain = kernel_distance(x, y, size=80), mmd2(x, y, kernel=Cubic())
    assert figure.value == pytest.approx(plain.value, rel=1e-12)
    assert figure.error == pytest.approx(plain.error, rel=1e-12)
    assert figure.settings == "1 subsets of 80, seed 0"


def test_torchmetrics_agrees():
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = _normal(120, 16, 0), _normal(120, 16, 1) * 1.1 + 0.2
    metric = kid.KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=120)
    metric.update(y, real=True)
    metric.update(x, real=False)
    want = float(metric.compute()[0])
    assert kernel_distance(x, y, size=120).value == pytest.approx(want, rel=1e-9)
    metric = kid.KernelInceptionDistance(feature=torch.nn.Identity(), subsets=200, subset_size=50)
    metric.update(y, real=True)
    metric.update(x, real=False)
    mean, spread = map(float, metric.compute())
    ours = kernel_distance(x, y, subsets=200, size=50)
    assert ours.value == pytest.approx(mean, abs=4 * spread * math.sqrt(2 / 200))


def test_closed_form_between_two_gaussians():
    # z = x . y / d with independent x, y: the mean of (z + 1)^3 is 1 + 3 E z + 3 E z^2 + E z^3
    d, s = 4, 1.5

    def moment(a, b):  # N(0, a^2 I) and N(0, b^2 I): E z = E z^3 = 0, E z^2 = a^2 b^2 / d
        return 1 + 3 * a * a * b * b / d

    want = moment(1, 1) + moment(s, s) - 2 * moment(1, s)
    values = [
        kernel_distance(_normal(400, d, 2 * r), s * _normal(400, d, 2 * r + 1), size=400).value for r in range(80)
    ]
    assert np.mean(values) == pytest.approx(want, abs=3 * np.std(values) / math.sqrt(80))
    assert np.std(values) / math.sqrt(80) < 0.05 * want


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_error_is_the_spread_of_the_figure(scale):
    figures = [
        kernel_distance(_normal(200, 8, 2 * r), scale * _normal(200, 8, 2 * r + 1), subsets=8, size=50)
        for r in range(80)
    ]
    values, errors = np.array([f.value for f in figures]), np.array([f.error for f in figures])
    assert errors.mean() == pytest.approx(values.std(), rel=0.4)
    if scale == 1.0:
        assert abs(values.mean()) < 3 * values.std() / math.sqrt(80)
        assert (np.abs(values) < 3 * errors).mean() > 0.97
    else:
        assert values.mean() > 10 * values.std() / math.sqrt(80)


def test_subsets_follow_the_seed_and_the_bounds():
    x, y = _normal(60, 3, 0), _normal(70, 3, 1)
    first = kernel_distance(x, y, subsets=3, size=20, seed=1)
    assert first == kernel_distance(x, y, subsets=3, size=20, seed=1)
    assert first.value != kernel_distance(x, y, subsets=3, size=20, seed=2).value
    assert kernel_distance(x, y, subsets=1, size=20).error is None
    for options in ({"size": 61}, {"size": 3}):
        with pytest.raises(sf.InputError, match="size"):
            kernel_distance(x, y, **options)
    with pytest.raises(sf.InputError, match="subset"):
        kernel_distance(x, y, size=20, subsets=0)
