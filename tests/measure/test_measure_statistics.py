"""Streaming moments equal those of all rows at once, however they are batched and wherever they are centred."""

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato.measure import Statistics


def _rows(n, d, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) / d**0.5
    return (torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + 3).to(dtype)


def _moments(rows, sizes, **options):
    statistics = Statistics(**options)
    start = 0
    for size in sizes:
        statistics.add(rows[start : start + size])
        start += size
    assert start == len(rows)
    return statistics.moments()


@pytest.mark.parametrize("sizes", [[2500], [1] * 20 + [2480], [1024, 1024, 452], [1023, 2, 1475], [50] * 50])
@pytest.mark.parametrize("d", [3, 300])  # 300 columns: more than one panel, the last one narrower
def test_moments_are_those_of_numpy_whatever_the_batches(sizes, d):
    rows = _rows(2500, d)
    n, mean, cov, _ = _moments(rows, sizes)
    assert n == 2500
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(cov, np.cov(rows.numpy(), rowvar=False), rtol=1e-10, atol=1e-13)
    assert torch.equal(cov, cov.T)


def test_batching_changes_no_bit():
    rows = _rows(2500, 40)
    assert torch.equal(_moments(rows, [2500]).covariance, _moments(rows, [7] * 357 + [1]).covariance)


def test_a_large_mean_costs_no_digits():
    rows = _rows(3000, 5)
    shifted = _moments(rows + 1e6, [3000]).covariance
    np.testing.assert_allclose(shifted, np.cov(rows.numpy(), rowvar=False), rtol=1e-7)


def test_float32_products_err_by_rounding_only():
    rows = _rows(6000, 64, dtype=torch.float32)
    exact = torch.from_numpy(np.cov(rows.double().numpy(), rowvar=False))
    fast = _moments(rows, [50] * 120, dtype=torch.float32).covariance
    assert 0 < (fast - exact).abs().max() / exact.max() < 2e-7


def test_more_rows_after_a_look():
    rows = _rows(100, 4)
    statistics = Statistics()
    statistics.add(rows[:50])
    first = statistics.moments()
    statistics.add(rows[50:])
    np.testing.assert_allclose(first.covariance, np.cov(rows[:50].numpy(), rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(statistics.moments().covariance, np.cov(rows.numpy(), rowvar=False), rtol=1e-12)


def test_bad_input_is_refused():
    statistics = Statistics()
    with pytest.raises(sf.InputError, match="at least 2"):
        statistics.moments()
    for bad in (torch.zeros(3), torch.zeros(3, 2, 2), torch.zeros(3, 0)):
        with pytest.raises(sf.InputError, match="shape"):
            statistics.add(bad)
    statistics.add(torch.zeros(1, 2))
    with pytest.raises(sf.InputError, match=r"\[rows, 2\]"):
        statistics.add(torch.zeros(1, 3))
    with pytest.raises(sf.InputError, match="finite"):
        statistics.add(torch.tensor([[0.0, torch.nan]]))
    with pytest.raises(sf.InputError, match="float16"):
        Statistics(torch.float16)
