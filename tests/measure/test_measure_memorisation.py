"""Copies are found in the share in which they were planted, and honest samples are not accused."""

import math

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato.measure import memorisation


def _normal(n, seed, d=8):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_statistics_by_hand():
    train = torch.tensor([[0.0], [10.0]])
    held_out = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    samples = torch.tensor([[0.0], [10.0], [2.5], [5.0]])  # distances 0, 0, 2.5, 5
    m = memorisation(samples, train, held_out, level=0.5)
    assert m.samples.tolist() == [0, 0, 2.5, 5]
    assert m.held_out.tolist() == [1, 2, 3, 4]
    assert m.quantiles[0.5] == (1.25, 2.5)
    assert m.closer.value == pytest.approx(0.5)  # just below 1: half of the samples, none of the held-out
    assert m.ks.value == pytest.approx(0.5)
    assert m.copies.value == pytest.approx(0.5)  # nearer than 2.5, the median
    assert memorisation(held_out, train, samples).closer.value == pytest.approx(0.25)  # at 4: all against 3/4
    assert memorisation(held_out, train, samples).ks.value == pytest.approx(0.5)


def test_ks_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    m = memorisation(_normal(150, 0) * 0.9, _normal(100, 1), _normal(90, 2))
    want = stats.ks_2samp(m.samples.numpy(), m.held_out.numpy())
    assert m.ks.value == pytest.approx(want.statistic, rel=1e-12)
    greater = stats.ks_2samp(m.samples.numpy(), m.held_out.numpy(), alternative="greater")
    assert m.closer.value == pytest.approx(greater.statistic, rel=1e-12)


def test_the_critical_value_is_exceeded_as_often_as_it_says():
    # distances to one training row are independent, as the statistic's law supposes
    runs = [memorisation(_normal(100, 3 * r), torch.zeros(1, 8), _normal(80, 3 * r + 1)) for r in range(300)]
    exceeded = np.mean([m.ks.value > m.critical for m in runs])
    assert 0.01 < exceeded < 0.09
    share = np.array([m.copies.value for m in runs])
    assert share.mean() == pytest.approx(0.01, abs=0.012)


def test_planted_copies_are_counted():
    train, held_out = _normal(400, 0), _normal(400, 1)
    honest = _normal(400, 2)
    copied = honest.clone()
    copied[:120] = train[:120]
    assert memorisation(honest, train, held_out).copies.value < 0.04
    m = memorisation(copied, train, held_out)
    assert m.copies.value == pytest.approx(0.3, abs=0.03)
    assert (m.samples[:120] == 0).all()
    assert m.closer.value > 0.25 > m.critical
    assert m.copies.error == pytest.approx(math.sqrt(m.copies.value * (1 - m.copies.value) / 400))


def test_figures_compare_only_on_the_same_data():
    train, held_out = _normal(50, 0), _normal(50, 1)
    a = memorisation(_normal(40, 2), train, held_out)
    b = memorisation(_normal(40, 3), train, held_out)
    assert isinstance(a.copies - b.copies, float)
    with pytest.raises(sf.InputError, match="reference"):
        a.copies.check(memorisation(_normal(40, 2), train, _normal(50, 4)).copies)
    with pytest.raises(sf.InputError, match="differ in d"):
        memorisation(_normal(40, 2), train, _normal(50, 1, d=3))
    with pytest.raises(sf.InputError, match="level"):
        memorisation(_normal(40, 2), train, held_out, level=1.0)
