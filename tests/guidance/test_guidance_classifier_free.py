"""Classifier-free guidance on classes whose denoisers are exact; its laws are in the conformance suite."""

import pytest
import torch

from sfumato.core import InputError, Rectified, V, VPLinear, grids, prepare, sample
from sfumato.guidance import ClassifierFree
from sfumato.solvers import Heun
from sfumato.testing import Counted, GaussianMixture, exact_network
from sfumato.testing.table import CLASSES

# two classes of two modes each, as in the paper's figure: class 0 to the left, class 1 to the right
FOUR = GaussianMixture([[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]], [0.15] * 4, labels=[0, 0, 1, 1])


def test_guidance_sharpens_the_class_as_w_grows():
    n, schedule = 1500, VPLinear()
    share, spread = [], []
    for w in (0.0, 1.0, 2.0, 4.0):
        guided = ClassifierFree(denoiser=FOUR.denoiser(schedule), scale=w)
        x = sample(
            guided,
            (n, 2),
            solver=Heun(),
            grid=grids.karras(schedule, 14),
            seeds=range(n),
            cond={"y": torch.ones(n, dtype=torch.int64)},
        )
        share.append(float((x[:, 0] > 0).float().mean()))
        spread.append(float(x[x[:, 0] > 0][:, 0].std()))
    assert share[0] == pytest.approx(0.5, abs=4 * 0.5 / n**0.5)  # w = 0 ignores the class
    assert share[1] > 0.98
    assert share[2] >= share[1]
    assert share[3] == pytest.approx(1.0, abs=1e-3)
    assert spread[1] > spread[2] > spread[3]  # fidelity is paid for with diversity


def test_one_batched_evaluation_of_both_branches():
    counted = Counted(CLASSES.denoiser(VPLinear()))
    ClassifierFree(denoiser=counted, scale=3.0)(CLASSES.sample(5, 1), 0.5, y=torch.zeros(5, dtype=torch.int64))
    assert (counted.calls, counted.rows) == (1, 10)


def test_a_null_of_ones_own():
    x, y = CLASSES.sample(5, 1, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    d = CLASSES.denoiser(Rectified())
    against = ClassifierFree(denoiser=d, scale=2.0, null={"y": 1})(x, 0.5, y=y)
    torch.testing.assert_close(against, 2 * d(x, 0.5, y=y) - d(x, 0.5, y=y + 1), atol=1e-13, rtol=0)


def test_a_negative_prompt_for_each_row():
    x, y = CLASSES.sample(4, 1, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    d, against = CLASSES.denoiser(Rectified()), torch.tensor([1, 2, 0, 2])
    made = ClassifierFree(denoiser=d, scale=3.0, null={"y": against})(x, 0.5, y=y)
    torch.testing.assert_close(made, 3 * d(x, 0.5, y=y) - 2 * d(x, 0.5, y=against), atol=1e-12, rtol=0)


def test_a_time_for_each_row():
    x, y = CLASSES.sample(3, 1, dtype=torch.float64), torch.tensor([0, 1, 1])
    guided = ClassifierFree(denoiser=CLASSES.denoiser(VPLinear()), scale=2.0)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    rows = torch.cat([guided(x[i : i + 1], float(t[i]), y=y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(guided(x, t, y=y), rows, atol=1e-12, rtol=0)


def test_prepared_is_the_same():
    net = exact_network(CLASSES, VPLinear(), V())
    guided = ClassifierFree(denoiser=net, scale=2.0)
    x, y = CLASSES.sample(3, 1, dtype=torch.float64), torch.tensor([0, 1, 1])
    torch.testing.assert_close(prepare(guided, [0.5])(x, 0.5, y=y), guided(x, 0.5, y=y), atol=1e-13, rtol=0)


def test_a_denoiser_without_a_null_is_refused():
    with pytest.raises(InputError, match="needs a condition with a null value"):
        ClassifierFree(denoiser=GaussianMixture([[0.0]], 1.0).denoiser(VPLinear()), scale=2.0)


def test_guided_channels_leave_the_others_to_the_conditional_branch():
    class Four:
        schedule = VPLinear()
        cond = {"y": 0.0}  # noqa: RUF012

        def __call__(self, x, t, *, y):
            return x + y[:, None, None]

    x, y = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 2.0])
    whole = ClassifierFree(denoiser=Four(), scale=3.0)(x, 0.5, y=y)
    some = ClassifierFree(denoiser=Four(), scale=3.0, channels=3)(x, 0.5, y=y)
    assert torch.equal(some[:, :3], whole[:, :3])
    torch.testing.assert_close(some[:, 3:], Four()(x, 0.5, y=y)[:, 3:])
