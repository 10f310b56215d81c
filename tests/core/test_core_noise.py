"""Noise: its statistics, and that a row depends on its own seed alone."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sfumato.core import InputError, Noise, fold

N = 200_000


def values(*key, seeds=range(2000), size=100):
    return Noise(seeds).normal((len(seeds), size), *key, dtype=torch.float64)


def assert_uncorrelated(a, b):
    r = float((a.flatten() * b.flatten()).mean())
    assert abs(r) < 4.5 / math.sqrt(a.numel())


def test_normals_are_normal():
    z = values("start").flatten()
    moments = [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]  # E z^k and Var z^k
    for k, mean, variance in moments:
        assert float((z**k).mean()) == pytest.approx(mean, abs=4.5 * math.sqrt(variance / N))
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    assert 4.0 < float(z.abs().max()) < 6.9


def test_uniforms_are_uniform():
    u = Noise(range(N)).uniform("time")
    assert u.dtype == torch.float64
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert float(u.min()) > 0
    assert float(u.max()) < 1


def test_neighbours_are_independent():
    z = values("start")
    assert_uncorrelated(z[1:], z[:-1])  # seeds
    assert_uncorrelated(z[:, 1:], z[:, :-1])  # positions
    assert_uncorrelated(z[:, :50], z[:, 50:])  # the two halves of Box and Muller's pairs
    assert_uncorrelated(z, values("step"))  # keys
    assert_uncorrelated(values("step", 1), values("step", 2))
    assert_uncorrelated(z, values("start", seeds=range(5000, 7000)))
    assert_uncorrelated((z[:, :50] ** 2 - 1) / 2**0.5, (z[:, 50:] ** 2 - 1) / 2**0.5)
    assert_uncorrelated(values("a", 1), values("a1"))


def test_seeds_that_share_bits_are_independent():
    for other in ([s << 32 for s in range(2000)], [2**64 - 1 - s for s in range(2000)], [-s for s in range(1, 2001)]):
        assert_uncorrelated(values("start"), values("start", seeds=other))


def test_numpys_whole_numbers_are_those_of_python():
    for seeds in (np.arange(3), [np.int32(0), np.uint8(1), np.int64(2)], torch.arange(3)):
        assert Noise(seeds).seeds == (0, 1, 2)
    assert fold("a", np.int64(3), np.uint8(4)) == fold("a", 3, 4) != fold("a", "3", 4)
    assert torch.equal(Noise([1]).normal((1, 4), "step", np.int64(7)), Noise([1]).normal((1, 4), "step", 7))


@pytest.mark.parametrize("seeds", [[1.5], np.array([1.0]), ["1"], [None], 3, torch.tensor([0.5])])
def test_seeds_that_are_not_whole_are_refused(seeds):
    with pytest.raises(InputError, match="seeds must be whole numbers, one for each sample"):
        Noise(seeds)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (3, 4, 4), (1, 17, 19)])
def test_a_row_depends_on_its_seed_alone(shape):
    seeds = [5, 99, 0, 7, 2**63, 123456789012345678901234]
    batch = Noise(seeds).normal((6, *shape), "start")
    for i, seed in enumerate(seeds):
        assert torch.equal(Noise([seed]).normal((1, *shape), "start")[0], batch[i])
    assert torch.equal(Noise(seeds).rows([4, 1]).normal((2, *shape), "start"), batch[[4, 1]])
    assert torch.equal(Noise(seeds).rows(slice(2, 5)).normal((3, *shape), "start"), batch[2:5])
    many = Noise(range(300)).normal((300, *shape), "start")
    assert torch.equal(many[5], batch[0])


def test_values_do_not_depend_on_dtype_layout_or_calls():
    noise = Noise(range(4))
    z = noise.normal((4, 6), "start")
    noise.normal((4, 6), "other")
    assert torch.equal(noise.normal((4, 6), "start"), z)
    assert torch.equal(noise.normal((4, 2, 3), "start").reshape(4, 6), z)
    assert torch.equal(noise.like(torch.zeros(4, 6, dtype=torch.float64), "start"), z.double())
    assert torch.equal(noise.normal((4, 6), "start", dtype=torch.float16), z.half())


def test_global_random_state_is_neither_used_nor_touched():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    z = Noise(range(4)).normal((4, 6), "start")
    torch.manual_seed(2)
    assert torch.equal(Noise(range(4)).normal((4, 6), "start"), z)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


# Brownian increments


def increment(t, s, seeds=range(4000), size=8):
    """W(t) - W(s) itself."""
    normal = Noise(seeds).increment(torch.zeros(len(seeds), size, dtype=torch.float64), t, s)
    return normal * math.sqrt(t - s)


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.0), (0.5, 0.25), (0.7, 0.1), (0.3, 0.3 - 1e-6), (1.0, 1 - 1 / 3)])
def test_an_increment_is_a_standard_normal(t, s):
    z = Noise(range(4000)).increment(torch.zeros(4000, 8, dtype=torch.float64), t, s).flatten()
    assert float(z.mean()) == pytest.approx(0, abs=4.5 / math.sqrt(len(z)))
    assert float(z.var()) == pytest.approx(1, abs=4.5 * math.sqrt(2 / len(z)))
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("times", [(0.8, 0.5, 0.1), (1.0, 0.5, 0.0), (0.9, 0.61, 0.6)])
def test_increments_add_up(times):
    t, u, s = times
    whole, parts = increment(t, s, range(50)), increment(t, u, range(50)) + increment(u, s, range(50))
    # sd is that of 30 dyadic levels, sqrt(t - s) to about 2^-30
    torch.testing.assert_close(whole, parts, atol=2e-6, rtol=0)


@pytest.mark.parametrize("times", [(1.0, 0.6, 0.2), (0.75, 0.5, 0.25), (0.5, 0.4999, 0.4998)])
def test_disjoint_increments_are_independent(times):
    t, u, s = times
    a, b = increment(t, u), increment(u, s)
    assert_uncorrelated(a / math.sqrt(t - u), b / math.sqrt(u - s))


def test_overlapping_increments_have_the_covariance_of_the_overlap():
    a, b = increment(0.8, 0.3), increment(0.5, 0.1)
    exact, spread = 0.5 - 0.3, math.sqrt((0.5 * 0.4 + 0.2**2) / a.numel())
    assert float((a * b).mean()) == pytest.approx(exact, abs=4.5 * spread)


def test_increments_of_a_row_depend_on_its_seed_alone():
    x = torch.zeros(5, 3, 2)
    batch = Noise([3, 1, 4, 1, 5]).increment(x, 0.7, 0.2)
    assert torch.equal(Noise([4]).increment(x[:1], 0.7, 0.2)[0], batch[2])
    assert torch.equal(batch[1], batch[3])


def test_refusals():
    with pytest.raises(InputError, match="seeds is empty"):
        Noise([])
    with pytest.raises(InputError, match="3 seeds for a batch of shape"):
        Noise(range(3)).normal((2, 2), "start")
    with pytest.raises(InputError, match="two different times"):
        Noise([1]).increment(torch.zeros(1, 2), 0.5, 0.5)


def test_fold_tells_its_parts_apart():
    made = [fold(1), fold("1"), fold(1, 2), fold(12), fold("1", 2), fold(1, "2"), fold("1\x1fint:2"), fold()]
    assert len(set(made)) == len(made)
    assert fold(1, "a") == fold(1, "a")
    assert all(0 <= v < 2**64 for v in made)
