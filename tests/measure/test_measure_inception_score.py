"""The inception score where it is known, and against torchmetrics."""

import math

import pytest
import torch

import sfumato as sf
from sfumato.measure import inception_score


def test_certain_and_even_classes_score_their_number():
    p = torch.eye(7).repeat(30, 1)
    assert inception_score(p, splits=1).value == pytest.approx(7, rel=1e-12)


def test_uncertain_or_single_classes_score_one():
    assert inception_score(torch.full((100, 7), 1 / 7)).value == pytest.approx(1, rel=1e-6)
    assert inception_score(torch.eye(7)[:1].repeat(100, 1)).value == pytest.approx(1, rel=1e-12)


def test_two_kinds_of_rows_have_a_closed_form():
    # half the rows (a, 1-a), half (1-a, a): H(y) = ln 2, H(y|x) = h(a)
    a = 0.9
    p = torch.tensor([[a, 1 - a], [1 - a, a]], dtype=torch.float64).repeat(50, 1)
    h = -a * math.log(a) - (1 - a) * math.log(1 - a)
    assert inception_score(p, splits=1).value == pytest.approx(2 * math.exp(-h), rel=1e-12)


def test_torchmetrics_agrees():
    module = pytest.importorskip("torchmetrics.image.inception")
    logits = 3 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(1)

    def peer(splits):
        metric = module.InceptionScore(feature=torch.nn.Identity(), splits=splits)
        metric.update(logits)
        return [float(v) for v in metric.compute()]

    assert inception_score(p, splits=1).value == pytest.approx(peer(1)[0], rel=1e-10)
    ours, (mean, spread) = inception_score(p, splits=10), peer(10)  # the two shuffle differently
    assert ours.value == pytest.approx(mean, abs=3 * spread / math.sqrt(10))
    assert ours.error == pytest.approx(spread / math.sqrt(10), rel=0.8)


def test_rows_sorted_by_class_are_shuffled_before_the_split():
    p = torch.eye(10).repeat_interleave(100, 0)
    assert inception_score(p).value > 9.5  # splits in the given order would each hold one class and score 1


def test_what_is_no_probability_is_refused():
    for bad in (torch.zeros(20, 3), torch.tensor([[1.5, -0.5]]).repeat(20, 1), torch.randn(20, 3)):
        with pytest.raises(sf.InputError, match="softmax"):
            inception_score(bad)
    with pytest.raises(sf.InputError, match="splits"):
        inception_score(torch.eye(3))
