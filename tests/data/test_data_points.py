"""Every point lies where its law says, with the density that it says."""

import math

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato import data

LAWS = [data.moons, data.spirals, data.checkerboard, data.rings]
SETS = [data.Moons(), data.Spirals(), data.Checkerboard(), data.Rings(), data.Datasaurus()]


def test_datasaurus_has_its_published_moments_and_points():
    points = data.datasaurus()
    assert points.shape == (142, 2)
    assert points.dtype == torch.float64
    # published to three decimals: Matejka and Fitzmaurice 2017
    np.testing.assert_allclose(points.mean(0), [54.263, 47.832], atol=5e-4)
    np.testing.assert_allclose(points.std(0), [16.765, 26.935], atol=5e-4)
    correlation = np.corrcoef(points.T.numpy())[0, 1]
    assert correlation == pytest.approx(-0.0645, abs=5e-5)
    assert points[0].tolist() == [55.3846, 97.1795]
    assert points[-1].tolist() == [44.1026, 92.6923]
    assert len(points.unique(dim=0)) == 142


def test_datasaurus_set_is_standardised_by_one_mean_and_one_std():
    ds = data.Datasaurus()
    x = ds.rows.x0.double()
    assert abs(x.mean()) < 1e-6
    assert x.std(correction=0) == pytest.approx(1, abs=1e-6)
    assert x.std(0)[1] / x.std(0)[0] == pytest.approx(26.935 / 16.765, abs=1e-3)
    np.testing.assert_allclose(x * ds.scale + ds.centre, data.datasaurus(), atol=1e-5)


def test_moons_without_noise_lie_on_their_arcs():
    x = data.moons(4000, noise=0.0).double()
    upper = torch.isclose(x.norm(dim=1), torch.ones(4000).double(), atol=1e-6) & (x[:, 1] >= 0)
    y = x - torch.tensor([1.0, 0.5]).double()
    lower = torch.isclose(y.norm(dim=1), torch.ones(4000).double(), atol=1e-6) & (y[:, 1] <= 0)
    assert (upper | lower).all()
    assert upper.sum() == pytest.approx(2000, abs=4 * math.sqrt(1000))
    angle = torch.atan2(x[upper, 1], x[upper, 0]).sort().values / math.pi
    assert _ks(angle) < 1.95 / math.sqrt(len(angle))


def test_moons_noise_has_its_size():
    gap = (data.moons(4000, noise=0.05) - data.moons(4000, noise=0.0)).double()
    assert gap.std() == pytest.approx(0.05, rel=0.04)
    assert abs(gap.mean()) < 4 * 0.05 / math.sqrt(8000)


def test_spirals_without_noise_lie_on_their_arms_and_fill_the_disc_evenly():
    arms, turns = 3, 1.25
    x = data.spirals(3000, noise=0.0, arms=arms, turns=turns).double()
    r = x.norm(dim=1)
    arm = (torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) - turns * r / 2) * arms
    assert (arm - arm.round()).abs().max() < 1e-4
    counts = torch.bincount((arm.round().long() % arms), minlength=arms)
    assert ((counts - 1000).abs() < 4 * math.sqrt(3000 * 2 / 9)).all()
    assert _ks((r / 2).square().sort().values) < 1.95 / math.sqrt(3000)


def test_checkerboard_fills_exactly_its_eight_cells():
    x = data.checkerboard(8000).double()
    cell = (x + 2).floor().long()
    assert ((cell >= 0) & (cell < 4)).all()
    assert (cell.sum(1) % 2 == 0).all()
    counts = torch.bincount(4 * cell[:, 0] + cell[:, 1], minlength=16)
    assert (counts > 0).sum() == 8
    assert ((counts[counts > 0] - 1000).abs() < 4 * math.sqrt(875)).all()
    for inside in (x + 2 - cell).T:
        assert _ks(inside.sort().values) < 1.95 / math.sqrt(8000)


def test_rings_have_their_radii():
    radii = (0.5, 2.0)
    r = data.rings(4000, noise=0.0, radii=radii).double().norm(dim=1)
    on = torch.stack([torch.isclose(r, torch.tensor(v).double(), atol=1e-6) for v in radii])
    assert on.any(0).all()
    assert on[0].sum() == pytest.approx(2000, abs=4 * math.sqrt(1000))
    noisy = data.rings(4000, noise=0.02, radii=radii).double().norm(dim=1)
    assert (noisy - r).std() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("law", LAWS)
def test_a_point_depends_on_seed_and_row_alone(law):
    assert torch.equal(law(10, 3), law(50, 3)[:10])
    assert torch.equal(law(50, 3), law(50, 3))
    assert not torch.isclose(law(50, 3), law(50, 4)).all(1).any()
    assert law(7).dtype == torch.float32
    with pytest.raises(sf.InputError, match="at least 1"):
        law(0)


@pytest.mark.parametrize("ds", SETS, ids=lambda ds: type(ds).__name__)
def test_sets_are_their_own_configuration(ds):
    again = sf.from_config(sf.to_config(ds), data.Dataset)
    assert again == ds
    assert again.fingerprint == ds.fingerprint
    assert ds.shape == (2,)
    assert ds.classes is None
    rows = ds.batch([5, 0, 5], sf.Noise([1, 2, 3]))
    assert torch.equal(rows.x0, ds.rows.x0[[5, 0, 5]])
    assert rows.cond == {}


@pytest.mark.parametrize(
    ("ds", "changes"),
    [
        (data.Moons, [{"n": 9}, {"seed": 1}, {"noise": 0.1}]),
        (data.Spirals, [{"n": 9}, {"seed": 1}, {"noise": 0.1}, {"arms": 3}, {"turns": 2.0}]),
        (data.Checkerboard, [{"n": 9}, {"seed": 1}]),
        (data.Rings, [{"n": 9}, {"seed": 1}, {"noise": 0.1}, {"radii": (1.0, 2.0)}]),
    ],
)
def test_every_setting_changes_the_fingerprint(ds, changes):
    prints = {ds().fingerprint, *(ds(**change).fingerprint for change in changes)}
    assert len(prints) == len(changes) + 1


def _ks(uniform):
    """The Kolmogorov-Smirnov distance of sorted values from the uniform law on (0, 1)."""
    n = len(uniform)
    steps = torch.arange(n + 1).double() / n
    return torch.maximum((uniform - steps[:-1]).abs(), (uniform - steps[1:]).abs()).max()
