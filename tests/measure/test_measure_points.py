"""Point-set distances against closed forms, brute force and scipy."""

import math

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato.measure import RBF, Cubic, mmd2, nearest_distance, sliced_wasserstein


def _normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kernel", [RBF(), RBF(bandwidths=(0.7,)), Cubic()])
def test_mmd2_is_the_brute_force_double_sum(kernel):
    x, y = _normal(23, 3, 0), _normal(17, 3, 1) + 0.5

    def k(a, b):
        if isinstance(kernel, Cubic):
            return (sum(p * q for p, q in zip(a, b)) / 3 + 1) ** 3
        d2 = sum((p - q) ** 2 for p, q in zip(a, b))
        return sum(math.exp(-d2 / (2 * s * s)) for s in kernel.bandwidths) / len(kernel.bandwidths)

    xs, ys = x.tolist(), y.tolist()
    xx = sum(k(a, b) for i, a in enumerate(xs) for j, b in enumerate(xs) if i != j) / (23 * 22)
    yy = sum(k(a, b) for i, a in enumerate(ys) for j, b in enumerate(ys) if i != j) / (17 * 16)
    xy = sum(k(a, b) for a in xs for b in ys) / (23 * 17)
    assert mmd2(x, y, kernel=kernel).value == pytest.approx(xx + yy - 2 * xy, rel=1e-10)


def test_mmd2_of_two_gaussians_has_a_closed_form():
    # E k(x, y) = (b^2 / (b^2 + s^2 + t^2))^(d/2) exp(-|m|^2 / (2 (b^2 + s^2 + t^2))) for N(0, s^2) and N(m, t^2)
    d, b, s, t = 2, 0.8, 1.0, 0.6
    shift = torch.tensor([0.3, -0.2]).double()

    def mean(u, v, m2):
        total = b * b + u * u + v * v
        return (b * b / total) ** (d / 2) * math.exp(-m2 / (2 * total))

    want = mean(s, s, 0) + mean(t, t, 0) - 2 * mean(s, t, float(shift.square().sum()))
    figures = [
        mmd2(s * _normal(450, d, 2 * r), t * _normal(400, d, 2 * r + 1) + shift, kernel=RBF(bandwidths=(b,)))
        for r in range(60)
    ]
    values = np.array([f.value for f in figures])
    assert values.mean() == pytest.approx(want, abs=3 * values.std() / math.sqrt(60))
    assert values.std() / math.sqrt(60) < 0.02 * want
    errors = np.array([f.error for f in figures])  # the stated error is the true one, to within its own spread
    assert errors.mean() == pytest.approx(values.std(), rel=0.3)


@pytest.mark.parametrize("kernel", [RBF(), Cubic()])
def test_mmd2_of_equal_laws_is_zero_within_its_error(kernel):
    figures = [mmd2(_normal(150, 3, 2 * r), _normal(100, 3, 2 * r + 1), kernel=kernel) for r in range(100)]
    values = np.array([f.value for f in figures])
    assert abs(values.mean()) < 3 * values.std() / 10
    assert (values < 0).any()
    scores = values / np.array([f.error for f in figures])
    assert np.abs(scores).max() < 5
    assert 0.6 < scores.std() < 1.2


def test_mmd2_beyond_one_tile_equals_the_dense_formula():
    x, y = _normal(1100, 2, 0), _normal(700, 2, 1)
    kernel = RBF(bandwidths=(0.5, 1.0))
    kx, ky, kxy = kernel(x, x), kernel(y, y), kernel(x, y)
    want = (kx.sum() - 1100) / (1100 * 1099) + (ky.sum() - 700) / (700 * 699) - 2 * kxy.mean()
    assert mmd2(x, y, kernel=kernel).value == pytest.approx(float(want), rel=1e-9)


def test_small_bandwidths_see_what_large_ones_do_not():
    # two modes at +-0.1, against one Gaussian of the same mean and variance
    noise = _normal(800, 2, 0)
    x = 0.03 * noise + 0.1 * _normal(800, 2, 1).sgn()
    y = math.sqrt(0.03**2 + 0.1**2) * _normal(800, 2, 2)
    wide, default = mmd2(x, y, kernel=RBF(bandwidths=(3.0,))), mmd2(x, y)
    assert abs(wide.value) < 4 * wide.error
    assert default.value > 10 * default.error


def test_default_bandwidths_are_geometric():
    b = np.array(RBF().bandwidths)
    assert b[0] == pytest.approx(0.05)
    assert b[-1] == pytest.approx(3)
    np.testing.assert_allclose(b[1:] / b[:-1], 60 ** (1 / 5))
    assert sf.from_config(sf.to_config(RBF())) == RBF()
    with pytest.raises(sf.InputError, match="positive"):
        RBF(bandwidths=(0.0,))


@pytest.mark.parametrize("d", [1, 2, 5])
def test_sliced_wasserstein_of_a_shift_is_the_mean_projection(d):
    # W_1 of a shift m along u is |m . u|; E |m . u| = |m| Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))
    x = _normal(40, d, 0)
    shift = torch.arange(1.0, d + 1).double()
    want = float(shift.norm()) * math.gamma(d / 2) / (math.sqrt(math.pi) * math.gamma((d + 1) / 2))
    n = 1 if d == 1 else 4000
    assert sliced_wasserstein(x + shift, x, directions=n).value == pytest.approx(want, rel=0.02)
    if d == 2:
        seeds = [sliced_wasserstein(x + shift, x, seed=s).value / want for s in range(40)]
        assert np.std(seeds) == pytest.approx(math.sqrt((math.pi**2 / 8 - 1) / 128), rel=0.35)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 45), (7, 50), (1, 9), (64, 63)])
def test_sliced_wasserstein_on_a_line_is_wasserstein(n, m):
    stats = pytest.importorskip("scipy.stats")
    x, y = _normal(n, 1, 0), _normal(m, 1, 1) * 1.5
    want = stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert sliced_wasserstein(x, y, directions=1).value == pytest.approx(want, rel=1e-12)


def test_sliced_wasserstein_of_two_widths_is_closed():
    # along any u: W_1(N(0, 1), N(0, s^2)) = |s - 1| sqrt(2 / pi)
    x, y = _normal(10000, 2, 0), 1.5 * _normal(10000, 2, 1)
    assert sliced_wasserstein(x, y).value == pytest.approx(0.5 * math.sqrt(2 / math.pi), rel=0.03)


def test_sliced_wasserstein_directions_follow_the_seed():
    x, y = _normal(50, 3, 0), _normal(60, 3, 1)
    a = sliced_wasserstein(x, y, seed=1)
    assert a == sliced_wasserstein(x, y, seed=1)
    assert a.value != sliced_wasserstein(x, y, seed=2).value
    with pytest.raises(sf.InputError, match="settings"):
        assert a < sliced_wasserstein(x, y, seed=2)
    with pytest.raises(sf.InputError, match="direction"):
        sliced_wasserstein(x, y, directions=0)


def test_nearest_distance_is_the_brute_force_one():
    x, y = _normal(1500, 3, 0), _normal(200, 3, 1)
    want = torch.tensor([min(math.dist(a, b) for b in y.tolist()) for a in x[:100].tolist()], dtype=torch.float64)
    assert nearest_distance(x[:100], y).value == pytest.approx(float(want.mean()), rel=1e-12)
    every = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    figure = nearest_distance(x, y)
    assert figure.value == pytest.approx(float(every.mean()), rel=1e-12)
    assert figure.error == pytest.approx(float(every.std() / math.sqrt(1500)), rel=1e-12)
    assert nearest_distance(1e4 + y, 1e4 + y).value == 0.0


def test_sides_must_fit():
    with pytest.raises(sf.InputError, match="differ in d: 2 and 3"):
        mmd2(_normal(10, 2, 0), _normal(10, 3, 0))
    with pytest.raises(sf.InputError, match="at least 4"):
        mmd2(_normal(3, 2, 0), _normal(10, 2, 0))
    with pytest.raises(sf.InputError, match="finite"):
        nearest_distance(torch.tensor([[torch.inf]]), torch.zeros(2, 1))
