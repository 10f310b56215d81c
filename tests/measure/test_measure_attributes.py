"""Shares, entropies and histograms of attributes, where they are known in closed form."""

import math

import pytest
import torch

import sfumato as sf
from sfumato.measure import alignment, diversity, entropy, total_variation, validity


@pytest.mark.parametrize("metric", [alignment, validity])
def test_a_share_and_its_binomial_error(metric):
    figure = metric(torch.tensor([True] * 9 + [False]))
    assert figure.value == pytest.approx(0.9)
    assert figure.error == pytest.approx(math.sqrt(0.9 * 0.1 / 10))
    assert (figure.name, figure.better, figure.n) == (metric.__name__, "higher", 10)


def test_entropy_is_in_bits():
    assert entropy(torch.arange(8).repeat(5)) == pytest.approx(3.0)
    assert entropy(torch.tensor([4, 4, 4])) == 0.0
    assert entropy(torch.tensor([0, 0, 0, 7])) == pytest.approx(2 - 0.75 * math.log2(3))


def test_diversity_adds_the_entropies_of_columns():
    even, fixed = torch.arange(8), torch.zeros(8, dtype=torch.int64)
    reference = torch.stack([even, even % 2], 1)  # 3 + 1 bits
    assert diversity(reference.flip(0), reference).value == pytest.approx(1.0)
    assert diversity(torch.stack([even, fixed], 1), reference).value == pytest.approx(3 / 4)
    assert diversity(torch.stack([fixed, even % 2], 1), reference).value == pytest.approx(1 / 4)
    assert diversity(even % 4, even).value == pytest.approx(2 / 3)


def test_total_variation_of_known_histograms():
    a = torch.tensor([0, 0, 1, 2])  # 1/2, 1/4, 1/4
    b = torch.tensor([0, 1, 1, 3])  # 1/4, 1/2, 0, 1/4
    assert total_variation(a, b).value == pytest.approx(0.5 * (1 / 4 + 1 / 4 + 1 / 4 + 1 / 4))
    assert total_variation(a, a.repeat(3)).value == 0.0
    assert total_variation(a, a + 10).value == 1.0
    both = total_variation(torch.stack([a, a], 1), torch.stack([b, a], 1))
    assert both.value == pytest.approx(0.25)


def test_figures_against_other_references_do_not_compare():
    a, b = torch.arange(4), torch.arange(4) % 2
    with pytest.raises(sf.InputError, match="reference"):
        _ = total_variation(a, a) < total_variation(a, b)
    assert total_variation(a, a) < total_variation(b, a)
    assert diversity(b, a) < diversity(a, a)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: alignment(torch.ones(3)), "bool"),
        (lambda: validity(torch.ones(0, dtype=torch.bool)), "one a sample"),
        (lambda: diversity(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)), "attributes"),
        (lambda: diversity(torch.arange(3), torch.zeros(3, dtype=torch.int64)), "varies"),
        (lambda: total_variation(torch.zeros(3), torch.zeros(3, dtype=torch.int64)), "integers"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(sf.InputError, match=words):
        call()
