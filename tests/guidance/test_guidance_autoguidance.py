"""Autoguidance on models whose errors are known; its laws are in the conformance suite."""

import pytest
import torch

from sfumato.core import InputError, Rectified, V, VPLinear, prepare
from sfumato.guidance import Autoguidance, ClassifierFree
from sfumato.testing import Counted, Gaussian, exact_network
from sfumato.testing.table import CLASSES, worse

Y = torch.tensor([0, 1, 1, 0])


def test_it_undoes_an_error_that_the_bad_model_makes_twice():
    """Point data seen with an offset e by the good model and 2 e by the bad one: w = 2 is free of it."""
    schedule, e = VPLinear(), torch.tensor([0.3, -0.2])
    centre = torch.tensor([0.5, 0.1])
    true, good, bad = (Gaussian(centre + k * e, 1e-8).denoiser(schedule) for k in (0, 1, 2))
    x = 0.6 * torch.ones(4, 2, dtype=torch.float64)
    made = Autoguidance(denoiser=good, bad=bad, scale=2.0)(x, 0.5)
    torch.testing.assert_close(made, true(x, 0.5), atol=1e-6, rtol=0)
    assert float((good(x, 0.5) - true(x, 0.5)).abs().max()) > 0.1


def test_both_models_get_the_conditions_and_only_one_call_each():
    schedule = VPLinear()
    good, bad = (Counted(m.denoiser(schedule)) for m in (CLASSES, worse(CLASSES)))
    x = CLASSES.sample(4, 1, dtype=torch.float64)
    made = Autoguidance(denoiser=good, bad=bad, scale=3.0)(x, 0.4, y=Y)
    exact = [m.denoiser(schedule)(x, 0.4, y=Y) for m in (CLASSES, worse(CLASSES))]
    torch.testing.assert_close(made, 3 * exact[0] - 2 * exact[1], atol=1e-12, rtol=0)
    assert (good.calls, bad.calls, good.rows, bad.rows) == (1, 1, 4, 4)


def test_around_classifier_free_guidance():
    schedule, x = VPLinear(), CLASSES.sample(4, 1, dtype=torch.float64)
    inner = ClassifierFree(denoiser=CLASSES.denoiser(schedule), scale=2.0)
    made = Autoguidance(denoiser=inner, bad=worse(CLASSES).denoiser(schedule), scale=1.5)
    guided, conditional = made.branches(x, 0.4, y=Y)
    assert torch.equal(conditional, CLASSES.denoiser(schedule)(x, 0.4, y=Y))
    exact = 1.5 * inner(x, 0.4, y=Y) - 0.5 * made.bad(x, 0.4, y=Y)
    torch.testing.assert_close(guided, exact, atol=1e-12, rtol=0)
    assert made.plain is inner.denoiser


def test_prepared_is_the_same():
    good, bad = (exact_network(m, VPLinear(), V()) for m in (CLASSES, worse(CLASSES)))
    made = Autoguidance(denoiser=good, bad=bad, scale=2.0)
    x = CLASSES.sample(4, 1, dtype=torch.float64)
    ready = prepare(made, [0.5])
    assert ready.bad is not bad
    torch.testing.assert_close(ready(x, 0.5, y=Y), made(x, 0.5, y=Y), atol=1e-13, rtol=0)


def test_models_of_two_schedules_are_refused():
    with pytest.raises(InputError, match="give two of one schedule"):
        Autoguidance(denoiser=CLASSES.denoiser(VPLinear()), bad=CLASSES.denoiser(Rectified()), scale=2.0)
