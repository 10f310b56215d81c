"""The Frechet distance against closed forms, its finite-sample bias, torchmetrics and scipy."""

import math

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato.measure import FeatureSet, Moments, frechet_distance


def _set(mean, cov, n=10**6, dtype=torch.float64):
    """A feature set that has exactly these moments."""
    moments = Moments(n, torch.as_tensor(mean).double(), torch.as_tensor(cov).double(), dtype)
    return FeatureSet(n=n, network="exact", resize="none", hash="h", kept=moments)


def _normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _orthogonal(d, seed):
    return torch.linalg.qr(_normal(d, d, seed))[0]


def test_gaussians_on_common_axes_have_a_closed_form():
    q = _orthogonal(30, 0)
    a, b = torch.logspace(-3, 2, 30).double(), torch.logspace(1, -2, 30).double()
    mean = _normal(1, 30, 1)[0]
    got = frechet_distance(_set(mean, q @ a.diag() @ q.T), _set(-mean, q @ b.diag() @ q.T)).value
    want = 4 * mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert got == pytest.approx(float(want), rel=1e-12)


def test_gaussians_that_do_not_commute_have_one_in_the_plane():
    # tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)) for 2 x 2 matrices
    a, b = torch.tensor([[2.0, 0.7], [0.7, 0.5]]).double(), torch.tensor([[1.0, -0.6], [-0.6, 3.0]]).double()
    root = math.sqrt((a @ b).trace() + 2 * math.sqrt(torch.det(a) * torch.det(b)))
    got = frechet_distance(_set([1.0, 2.0], a), _set([0.0, 0.0], b)).value
    assert got == pytest.approx(5 + 6.5 - 2 * root, rel=1e-12)


@pytest.mark.parametrize("d", [10, 300])  # 300: two panels
def test_congruent_gaussians_do_not_depend_on_the_order_or_the_axes(d):
    a, b = (torch.cov(_normal(3 * d, d, s).T) for s in (0, 1))
    q = _orthogonal(d, 2)
    zero = torch.zeros(d)
    first = frechet_distance(_set(zero, a), _set(zero, b)).value
    assert frechet_distance(_set(zero, b), _set(zero, a)).value == pytest.approx(first, rel=1e-10)
    turned = frechet_distance(_set(zero, q @ a @ q.T), _set(zero, q @ b @ q.T)).value
    assert turned == pytest.approx(first, rel=1e-9)
    root = np.linalg.eigvals((a @ b).numpy()).real
    want = float(a.trace() + b.trace()) - 2 * np.sqrt(root).sum()
    assert first == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("n", [200, 500, 1000, 2000])
def test_two_samples_of_one_law_score_the_known_bias(n):
    d = 64
    got = np.mean([frechet_distance(_normal(n, d, 2 * r), _normal(n, d, 2 * r + 1)).value for r in range(4)])
    assert got == pytest.approx(d * d / (2 * n) + 2 * d / n, rel=0.05)


def test_identical_sets_are_at_zero():
    x = _normal(500, 20, 0)
    assert abs(frechet_distance(x, x.clone()).value) < 1e-11
    few = _normal(30, 50, 0)
    assert abs(frechet_distance(few, few.clone()).value) < 1e-11


@pytest.mark.parametrize(("n", "m"), [(40, 60), (300, 60), (40, 300)])
def test_fewer_rows_than_features_is_still_exact_and_says_so(n, m):
    x, y = _normal(n, 100, 0) @ _normal(100, 100, 1), _normal(m, 100, 2)
    # the sum of singular values of centred rows: the same trace, no covariance and no root of a rounded zero
    xc, yc = (x - x.mean(0)) / (n - 1) ** 0.5, (y - y.mean(0)) / (m - 1) ** 0.5
    want = (x.mean(0) - y.mean(0)).square().sum() + xc.square().sum() + yc.square().sum()
    want -= 2 * torch.linalg.svdvals(xc @ yc.T).sum()
    figure = frechet_distance(x, y)
    assert figure.value == pytest.approx(float(want), rel=1e-12)
    assert "singular" in figure.note
    assert ("40 samples" in figure.note) == (n == 40)
    assert ("60 reference rows" in figure.note) == (m == 60)


def test_dead_and_dependent_features_are_exact():
    x, y = _normal(400, 10, 0), _normal(300, 10, 1) * 1.5 + 0.2
    small = frechet_distance(x, y).value
    assert frechet_distance(x, y).note == ""
    embed = _orthogonal(40, 3)[:10]  # the same plane inside a larger space: no distance changes
    assert frechet_distance(x @ embed, y @ embed).value == pytest.approx(small, rel=1e-10)
    dead = torch.zeros(400, 3), torch.zeros(300, 3)
    got = frechet_distance(torch.cat([x, dead[0]], 1), torch.cat([y, dead[1]], 1)).value
    assert got == pytest.approx(small, rel=1e-12)
    half = torch.cat([x, dead[0]], 1), torch.cat([y, _normal(300, 3, 5)], 1)  # dead in the samples only
    cov = torch.cov(half[1].T), torch.cov(half[0].T)
    values = np.linalg.eigvals((cov[0][:10, :10] @ cov[1][:10, :10]).numpy()).real.clip(0)
    shift = (half[0].mean(0) - half[1].mean(0)).square().sum()
    want = float(shift + cov[0].trace() + cov[1].trace()) - 2 * np.sqrt(values).sum()
    assert frechet_distance(*half).value == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("sides", [("samples",), ("reference",), ("samples", "reference")])
def test_a_plane_in_a_large_space_is_exact_to_rounding(sides):
    # 190 of 200 eigenvalues are zero: a root of each rounded one would leave 1e-8
    x, y = _normal(500, 200, 0), _normal(400, 200, 1)
    plane = _orthogonal(200, 2)[:10]
    x = x @ plane.T @ plane if "samples" in sides else x
    y = y @ plane.T @ plane if "reference" in sides else y
    xc, yc = (x - x.mean(0)) / 499**0.5, (y - y.mean(0)) / 399**0.5
    want = (x.mean(0) - y.mean(0)).square().sum() + xc.square().sum() + yc.square().sum()
    want -= 2 * torch.linalg.svdvals(xc @ yc.T).sum()
    assert frechet_distance(x, y).value == pytest.approx(float(want), rel=1e-11)


def test_nearly_singular_covariances_lose_nothing():
    # a condition number of 1e14 in each, and the large axes of one are the small axes of the other
    q = _orthogonal(40, 0)
    a = torch.logspace(0, -14, 40).double()
    b = a.flip(0)
    zero = torch.zeros(40)
    got = frechet_distance(_set(zero, q @ a.diag() @ q.T), _set(zero, q @ b.diag() @ q.T)).value
    want = float((a.sqrt() - b.sqrt()).square().sum())
    assert got == pytest.approx(want, rel=1e-5)


def test_float32_products_are_used_where_they_suffice_and_refused_where_not():
    x, y = _normal(3000, 100, 0).float(), (_normal(3000, 100, 1) * 1.1).float()
    exact = frechet_distance(x, y).value

    def fast(rows):
        return FeatureSet.streamed([rows], network="identity", dtype=torch.float32)

    assert frechet_distance(fast(x), fast(y)).value == pytest.approx(exact, rel=1e-5)
    with pytest.raises(sf.InputError, match="float64"):
        frechet_distance(fast(x[:90]), fast(y))
    flat = torch.cat([x, x[:, :60] + x[:, 1:61]], 1)  # sixty directions without variance but for rounding
    with pytest.raises(sf.InputError, match="float64"):
        frechet_distance(fast(flat), fast(flat))


@pytest.mark.parametrize(("n", "d"), [(2000, 32), (50, 80)])
def test_torchmetrics_agrees(n, d):
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = _normal(n, d, 0), _normal(n + 7, d, 1) @ _normal(d, d, 2) / d**0.5 + 0.1
    net = torch.nn.Identity()
    net.num_features = d
    metric = fid.FrechetInceptionDistance(feature=net).set_dtype(torch.float64)
    metric.update(y, real=True)
    metric.update(x, real=False)
    assert frechet_distance(x, y).value == pytest.approx(float(metric.compute()), rel=1e-4 if n < d else 1e-9)


def test_scipy_agrees():
    linalg = pytest.importorskip("scipy.linalg")
    x, y = _normal(500, 24, 0), _normal(400, 24, 1) * 1.3 + 0.2
    cx, cy = (np.cov(s.numpy(), rowvar=False) for s in (x, y))
    shift = float((x.mean(0) - y.mean(0)).square().sum())
    want = shift + np.trace(cx) + np.trace(cy) - 2 * np.trace(linalg.sqrtm(cx @ cy)).real
    assert frechet_distance(x, y).value == pytest.approx(want, rel=1e-9)


def test_figure_knows_its_reference():
    x, y = FeatureSet.points(_normal(50, 3, 0)), FeatureSet.points(_normal(60, 3, 1))
    figure = frechet_distance(x, y)
    assert (figure.n, figure.n_reference, figure.reference, figure.better) == (50, 60, y.hash, "lower")
