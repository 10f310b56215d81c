"""Two scales: each of its special values is another guidance, exactly."""

import pytest
import torch

import sfumato as sf
from sfumato.guidance import ClassifierFree, TwoScale


class Linear:
    """x0_hat = x + text + 2 extra: a denoiser whose three branches are known."""

    schedule = sf.VPLinear()
    cond = {"text": None, "extra": None}  # noqa: RUF012

    def __call__(self, x, t, *, text, extra):
        return x + text[:, None] + 2 * extra


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(0)
    x, text, extra = (torch.randn(s, generator=g) for s in ((3, 2), (3,), (3, 2)))
    return x, {"text": text, "extra": extra}


def test_each_scale_multiplies_its_own_difference(inputs):
    x, cond = inputs
    guided = TwoScale(denoiser=Linear(), scale=3.0, image_scale=1.5, null={"text": 0.0})
    expected = x + 1.5 * 2 * cond["extra"] + 3.0 * cond["text"][:, None]
    torch.testing.assert_close(guided(x, 0.5, **cond), expected)
    torch.testing.assert_close(guided.branches(x, 0.5, **cond)[1], Linear()(x, 0.5, **cond))


def test_scales_of_one_are_the_conditional_and_a_picture_scale_of_one_is_classifier_free_guidance(inputs):
    x, cond = inputs
    off = TwoScale(denoiser=Linear(), scale=1.0, image_scale=1.0, null={"text": 0.0})
    torch.testing.assert_close(off(x, 0.5, **cond), Linear()(x, 0.5, **cond))
    text = TwoScale(denoiser=Linear(), scale=4.0, image_scale=1.0, null={"text": 0.0})
    same = ClassifierFree(denoiser=Linear(), scale=4.0, null={"text": 0.0})
    torch.testing.assert_close(text(x, 0.5, **cond), same(x, 0.5, **cond))


def test_refusals():
    with pytest.raises(sf.InputError, match="null value"):
        TwoScale(denoiser=Linear())
