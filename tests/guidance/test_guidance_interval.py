"""Guidance in an interval: the guided answer inside, the plain one outside at half the cost."""

import pytest
import torch

from sfumato.core import InputError, Rectified, VPLinear
from sfumato.guidance import ClassifierFree, Interval
from sfumato.testing import Counted
from sfumato.testing.table import CLASSES

LOW, HIGH = 0.28, 1.61  # the paper's, in s = sigma / alpha


@pytest.mark.parametrize("schedule", [VPLinear(), Rectified()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("s", "inside"), [(0.27, False), (0.29, True), (1.6, True), (1.63, False)])
def test_inside_and_outside(schedule, s, inside):
    t = schedule.inverse(-torch.tensor(s, dtype=torch.float64).log()).item()
    counted = Counted(CLASSES.denoiser(schedule))
    guided = ClassifierFree(denoiser=counted, scale=2.0)
    x, y = CLASSES.sample(4, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    made = Interval(denoiser=guided, low=LOW, high=HIGH)(x, t, y=y)
    assert counted.rows == (8 if inside else 4)
    exact = guided(x, t, y=y) if inside else CLASSES.denoiser(schedule)(x, t, y=y)
    assert torch.equal(made, exact)
    per_row = Interval(denoiser=guided, low=LOW, high=HIGH)(x, torch.full((4,), t, dtype=torch.float64), y=y)
    torch.testing.assert_close(per_row, made, atol=1e-11, rtol=0)


def test_both_ends_of_the_schedule():
    guided = ClassifierFree(denoiser=CLASSES.denoiser(Rectified()), scale=2.0)
    x, y = CLASSES.sample(4, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    for t in (1.0, torch.ones(4, dtype=torch.float64)):  # s is infinite there
        made = Interval(denoiser=guided, low=LOW, high=HIGH)(x, t, y=y)
        torch.testing.assert_close(made, guided.denoiser(x, 1.0, y=y), atol=1e-13, rtol=0)
    everywhere = Interval(denoiser=guided, low=0.0, high=float("inf"))
    torch.testing.assert_close(everywhere(x, 0.5, y=y), guided(x, 0.5, y=y), atol=0, rtol=0)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1.0), (2.0, 1.0)])
def test_refusals(low, high):
    guided = ClassifierFree(denoiser=CLASSES.denoiser(Rectified()), scale=2.0)
    with pytest.raises(InputError, match="0 <= low <= high"):
        Interval(denoiser=guided, low=low, high=high)
