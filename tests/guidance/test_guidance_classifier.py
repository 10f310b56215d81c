"""Classifier guidance with exact classifiers; its laws are in the conformance suite."""

import pytest
import torch

from sfumato.core import InputError, Rectified, VPLinear, grids, sample
from sfumato.guidance import Classifier, ClassifierFree, Interval
from sfumato.solvers import DDIM, Heun
from sfumato.testing import ExactClassifier, GaussianMixture
from sfumato.testing.table import CLASSES

EVERYONE = GaussianMixture(CLASSES.means, CLASSES.covariances, CLASSES.weights)
Y = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])


def guided(schedule, scale=1.0, denoiser=None):
    exact = ExactClassifier(model=CLASSES, schedule=schedule)
    return Classifier(denoiser=denoiser or EVERYONE.denoiser(schedule), classifier=exact, scale=scale)


def test_the_exact_classifier_is_bayes_rule():
    schedule, t = VPLinear(), 0.3
    x = CLASSES.sample(8, 1, dtype=torch.float64)
    whole = CLASSES.marginal(schedule, t)
    parts = torch.stack([whole.conditional(c).log_prob(x) for c in (0, 1)], 1)
    share = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    exact = torch.log_softmax(parts + share, 1)[torch.arange(8), Y]
    found = ExactClassifier(model=CLASSES, schedule=schedule)(x, t, Y)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    with pytest.raises(InputError, match="needs a mixture with labels"):
        ExactClassifier(model=EVERYONE, schedule=schedule)


@pytest.mark.parametrize("solver", [Heun(), DDIM()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("schedule", [VPLinear(), Rectified()], ids=lambda s: type(s).__name__)
def test_guided_unconditional_paths_are_the_conditional_ones(solver, schedule):
    grid = grids.uniform(schedule, 12, start=0.999)
    ends = [
        sample(d, (8, 2), solver=solver, grid=grid, seeds=range(8), dtype=torch.float64, cond={"y": Y})
        for d in (guided(schedule), CLASSES.denoiser(schedule))
    ]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-9, rtol=0)


def test_algorithm_2_of_the_paper():
    """eps <- eps - w sigma grad log p, then x_0 from it: written with finite differences of the log-probability."""
    schedule, t, w, h = VPLinear(), 0.4, 2.5, 1e-6
    alpha, sigma = schedule(t)
    x = CLASSES.sample(8, 1, dtype=torch.float64)
    log_p = ExactClassifier(model=CLASSES, schedule=schedule)
    eps = (x - alpha * EVERYONE.denoiser(schedule)(x, t)) / sigma
    steps = h * torch.eye(2, dtype=torch.float64)
    slope = torch.stack([(log_p(x + d, t, Y) - log_p(x - d, t, Y)) / (2 * h) for d in steps], 1)
    exact = (x - sigma * (eps - w * sigma * slope)) / alpha
    torch.testing.assert_close(guided(schedule, w)(x, t, y=Y), exact, atol=1e-7, rtol=0)


def test_the_step_of_algorithm_1_to_first_order():
    """The reverse mean of the guided x_0 is mu + w Sigma grad log p but for the step's own order."""
    schedule, w = VPLinear(), 2.0
    x = CLASSES.sample(8, 1, dtype=torch.float64)
    gaps = []
    for h in (0.02, 0.01):
        t, s = 0.5, 0.5 - h
        (a_t, s_t), (a_s, s_s) = schedule(t), schedule(s)
        beta = 1 - (a_t / a_s) ** 2
        pull, keep = a_s * beta / s_t**2, (a_t / a_s) * s_s**2 / s_t**2
        mean, steered = (pull * guided(schedule, v)(x, t, y=Y) + keep * x for v in (0.0, w))
        slope = (guided(schedule)(x, t, y=Y) - EVERYONE.denoiser(schedule)(x, t)) * a_t / s_t**2
        gaps.append(float((steered - (mean + w * beta * slope)).norm() / (steered - mean).norm()))
    assert gaps[0] < 0.2
    assert gaps[1] == pytest.approx(gaps[0] / 2, rel=0.1)


def test_a_class_conditional_denoiser_gets_the_class_too():
    schedule, t = VPLinear(), 0.4
    x = CLASSES.sample(8, 1, dtype=torch.float64)
    conditional, everyone = CLASSES.denoiser(schedule), EVERYONE.denoiser(schedule)
    shift = guided(schedule)(x, t, y=Y) - everyone(x, t)
    found = guided(schedule, 1.0, conditional)(x, t, y=Y)
    torch.testing.assert_close(found, conditional(x, t, y=Y) + shift, atol=1e-12, rtol=0)
    unconditional = ClassifierFree(denoiser=conditional, scale=0.0)  # of the same model
    torch.testing.assert_close(
        guided(schedule, 1.0, unconditional)(x, t, y=Y), conditional(x, t, y=Y), atol=1e-9, rtol=0
    )


def test_outside_of_an_interval_the_plain_denoiser_is_not_told_the_class():
    x = CLASSES.sample(8, 1, dtype=torch.float64)
    never = Interval(denoiser=guided(VPLinear()), low=0.0, high=1e-9)
    assert torch.equal(never(x, 0.5, y=Y), EVERYONE.denoiser(VPLinear())(x, 0.5))


def test_towards_alpha_0_the_shift_tends_to_what_the_class_says_alone():
    """E[x_0 | y] - E[x_0], with an error of the size of alpha: a run from t = 0.999 starts with that. At alpha = 0
    itself the gradient is 0 and its weight infinite, and the shift cannot be read off them."""
    schedule, x = Rectified(), torch.randn(8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    of_class, of_all = (model.denoiser(schedule) for model in (CLASSES, EVERYONE))
    limit = of_class(x, 1.0, y=Y) - of_all(x, 1.0)
    errors = []
    for alpha in (1e-2, 1e-3):
        shift = guided(schedule)(x, 1 - alpha, y=Y) - of_all(x, 1 - alpha)
        errors.append(float((shift - limit).abs().max()))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)


def test_refusals():
    x = CLASSES.sample(8, 1)
    with pytest.raises(InputError, match="give the condition 'y'"):
        guided(VPLinear())(x, 0.5)
    with pytest.raises(InputError, match=r"alpha = 0 .*start=0.999"):
        guided(Rectified())(x, 1.0, y=Y)
    with pytest.raises(InputError, match=r"alpha = 0 .*start=0.999"):
        guided(Rectified())(x, torch.linspace(0.1, 1.0, 8, dtype=torch.float64), y=Y)
    with pytest.raises(InputError, match="takes no condition 'z'"):
        guided(VPLinear())(x, 0.5, y=Y, z=Y)
