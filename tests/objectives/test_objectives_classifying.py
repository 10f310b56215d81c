"""The loss of a noisy classifier against the exact one: its mean cross-entropy is least at the truth."""

import math

import pytest
import torch
from torch import nn

from sfumato.core import X0, Batch, InputError, Noise, Plain, Preconditioned, Rectified, VPLinear
from sfumato.guidance import Classifier, Logits
from sfumato.objectives import Classifying, Discrete
from sfumato.testing import ExactClassifier, GaussianMixture
from sfumato.testing.table import CLASSES


class ExactLogits(nn.Module):
    """Logits that are the exact log-probabilities, tempered: 1 is the truth."""

    def __init__(self, schedule, temper=1.0):
        super().__init__()
        self.mark = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.cond, self.exact, self.temper = {}, ExactClassifier(model=CLASSES, schedule=schedule), temper

    def forward(self, x, c_noise):
        t = c_noise.double().expand(len(x)).contiguous()
        labels = [torch.full((len(x),), c) for c in (0, 1)]
        return 3.7 + self.temper * torch.stack([self.exact(x, t, y) for y in labels], 1)


def network(schedule, temper=1.0):
    return Preconditioned(ExactLogits(schedule, temper), schedule, X0(), Plain(scale=1.0))


def batch(n):
    y = (CLASSES.components(n, 5) > 0).long()
    return Batch(CLASSES.sample(n, 5, dtype=torch.float64), {"y": y})


def test_logits_are_the_exact_log_probabilities():
    x, y = CLASSES.sample(6, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 0, 1])
    t = torch.linspace(0.1, 0.9, 6).double()  # float32 values: the label is one
    log_p = Logits(network(VPLinear()))
    torch.testing.assert_close(log_p(x, t, y), ExactClassifier(model=CLASSES, schedule=VPLinear())(x, t, y))
    everyone = GaussianMixture(CLASSES.means, CLASSES.covariances, CLASSES.weights).denoiser(VPLinear())
    made = Classifier(denoiser=everyone, classifier=log_p, scale=1.0)(x, 0.5, y=y)
    torch.testing.assert_close(made, CLASSES.denoiser(VPLinear())(x, 0.5, y=y), atol=1e-9, rtol=0)
    with pytest.raises(InputError, match=r"knows the classes 0\.\.1"):
        log_p(x, t, y + 1)


@pytest.mark.parametrize("schedule", [VPLinear(), Rectified()], ids=lambda s: type(s).__name__)
def test_the_loss_row_by_row(schedule):
    data, noise = batch(8), Noise(range(8))
    loss = Classifying(time=Discrete(count=64))(network(schedule), data, noise)
    t = Discrete(count=64)(noise.uniform("time"), schedule)
    alpha, sigma = (v[:, None] for v in schedule(t))
    x = alpha * data.x0 + sigma * noise.like(data.x0, "eps")
    exact = -ExactClassifier(model=CLASSES, schedule=schedule)(x, t, data.cond["y"])
    torch.testing.assert_close(loss.double(), exact, atol=1e-9, rtol=1e-9)


def test_the_truth_has_the_least_loss():
    n, losses = 4000, {}
    for temper in (0.7, 1.0, 1.4):
        losses[temper] = float(Classifying()(network(VPLinear(), temper), batch(n), Noise(range(n))).mean())
    assert losses[1.0] < min(losses[0.7], losses[1.4])
    assert losses[1.0] < -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))  # less than the entropy of the classes


def test_data_without_classes_are_refused():
    with pytest.raises(InputError, match="no condition 'y'"):
        Classifying()(network(VPLinear()), Batch(torch.zeros(2, 2), {}), Noise(range(2)))
