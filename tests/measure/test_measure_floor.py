"""The floor is what a perfect model would score, measured like the model."""

import functools

import pytest
import torch

import sfumato as sf
from sfumato.measure import FeatureSet, floor, frechet_distance, precision, sliced_wasserstein


def _normal(n, seed, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_floor_is_one_half_against_the_other():
    real = FeatureSet.points(_normal(400, 0))
    a, b = real.halves(seed=2, n=150)
    assert floor(frechet_distance, real, seed=2, n=150) == frechet_distance(b, a)
    assert floor(frechet_distance, real.rows, seed=2, n=150) == frechet_distance(b, a)
    assert floor(frechet_distance, real).n == 200
    assert floor(frechet_distance, real).value != floor(frechet_distance, real, seed=1).value


@pytest.mark.parametrize("metric", [frechet_distance, sliced_wasserstein, functools.partial(precision, k=4)])
def test_a_model_measured_alike_is_comparable_to_it(metric):
    real = FeatureSet.points(_normal(600, 0))
    perfect = floor(metric, real)
    model = metric(_normal(300, 1) * 2 + 1, real.halves()[0])
    assert perfect.is_better(model)
    with pytest.raises(sf.InputError, match="n is 299 in one and 300 in the other"):
        metric(_normal(299, 1), real.halves()[0]).ratio(perfect)
    with pytest.raises(sf.InputError, match="reference"):
        metric(_normal(300, 1), real.halves()[1]).ratio(perfect)


def test_a_perfect_model_scores_the_floor():
    ratios = []
    for r in range(40):
        real = FeatureSet.points(_normal(400, 2 * r))
        ratios.append(frechet_distance(_normal(200, 2 * r + 1), real.halves()[0]).ratio(floor(frechet_distance, real)))
    ratios = torch.tensor(ratios).log()
    assert abs(float(ratios.mean())) < 3 * float(ratios.std()) / 40**0.5
