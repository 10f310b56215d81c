"""The rows of adm that rest on closed forms, at small counts, and what they would say of a wrong formula."""

import pytest
import torch

from sfumato.core import VE, VPLinear
from sfumato.reproduce import adm, cfg
from sfumato.testing import ExactClassifier


def test_guided_unconditional_is_conditional():
    only = cfg.guided(cfg.exact(), 8, 64)
    torch.testing.assert_close(cfg.guided(adm.exact(VE(), 1.0), 8, 64), only, atol=1e-9, rtol=0)
    assert not torch.allclose(cfg.guided(adm.exact(VE(), 1.1), 8, 64), only, atol=1e-2)
    free = cfg.guided(cfg.ClassifierFree(denoiser=cfg.exact(), scale=3.0), 8, 64)
    torch.testing.assert_close(cfg.guided(adm.exact(VE(), 3.0), 8, 64), free, atol=1e-8, rtol=0)


def test_both_forms(monkeypatch):
    by_eps, order = adm.forms()
    assert by_eps < 1e-9
    assert 0.9 < order < 1.1
    right = adm._slopes
    monkeypatch.setattr(adm, "_slopes", lambda *a: 1.001 * right(*a))  # an error of a thousandth is seen
    assert adm.forms()[0] > 1e-6


def test_slopes_are_the_gradient():
    x, y = adm.everyone().sample(16, 1, dtype=torch.float64), torch.zeros(16, dtype=torch.int64)
    free = x.clone().requires_grad_()
    log_p = ExactClassifier(model=cfg.classes(), schedule=VPLinear())
    log_p(free, 0.4, y).sum().backward()
    torch.testing.assert_close(adm._slopes(VPLinear(), x, 0.4, y), free.grad, atol=1e-9, rtol=1e-7)


def test_unlabelled_drops_the_label():
    model = cfg.exact()
    made = adm.Unlabelled(denoiser=model)
    x = adm.everyone().sample(4, 1, dtype=torch.float64)
    assert dict(made.cond) == {}
    guided = adm.Classifier(denoiser=made, classifier=adm.exact(VE(), 1.0).classifier, scale=1.0)
    y = torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(guided(x, 0.6, y=y), model(x, 0.6, y=y), atol=1e-9, rtol=0)
    assert pytest.approx(0) == float((made(x, 0.6) - model(x, 0.6)).abs().max())
