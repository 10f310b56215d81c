"""Every guidance around every other: it runs row by row, keeps the innermost denoiser, and is exact where known."""

import pytest
import torch

from sfumato.core import VPLinear, grids, prepare, sample
from sfumato.guidance import (
    Autoguidance,
    CFGpp,
    Classifier,
    ClassifierFree,
    DynamicThreshold,
    Interval,
    Rescale,
    SkipLayer,
)
from sfumato.solvers import DPMpp2M
from sfumato.testing import ExactClassifier
from sfumato.testing.table import CLASSES, worse

S = VPLinear()
GRID = grids.uniform(S, 10)
BASE = CLASSES.denoiser(S)
OUTER = {
    "ClassifierFree": lambda d: ClassifierFree(denoiser=d, scale=2.0),
    "CFGpp": lambda d: CFGpp(denoiser=d, omega=0.6, grid=GRID),
    "Interval": lambda d: Interval(denoiser=d, low=0.3, high=3.0),
    "Rescale": lambda d: Rescale(denoiser=d),
    "DynamicThreshold": lambda d: DynamicThreshold(denoiser=d, quantile=0.9),
    "Classifier": lambda d: Classifier(denoiser=d, classifier=ExactClassifier(model=CLASSES, schedule=S), scale=0.5),
    "Autoguidance": lambda d: Autoguidance(denoiser=d, bad=worse(CLASSES).denoiser(S), scale=1.5),
    "SkipLayer": lambda d: SkipLayer(denoiser=d, bad=worse(CLASSES).denoiser(S), scale=0.7, low=0.2),
}
X, Y = CLASSES.sample(4, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize("inner", OUTER)
@pytest.mark.parametrize("outer", OUTER)
def test_each_around_each(outer, inner):
    made = OUTER[outer](OUTER[inner](BASE))
    assert made.plain is BASE
    assert made.schedule == S
    assert dict(made.cond) == dict(BASE.cond)
    guided, conditional = made.branches(X, 0.4, y=Y)
    assert torch.equal(made(X, 0.4, y=Y), guided)
    rows = [made.branches(X[i : i + 1], 0.4, y=Y[i : i + 1]) for i in range(4)]
    for k, whole in enumerate((guided, conditional)):
        torch.testing.assert_close(torch.cat([row[k] for row in rows]), whole, atol=1e-12, rtol=0)
    ready = prepare(made, GRID[:-1].tolist())
    torch.testing.assert_close(ready(X, 0.4, y=Y), guided, atol=1e-12, rtol=0)
    run = sample(made, (4, 2), solver=DPMpp2M(), grid=GRID, seeds=range(4), cond={"y": Y})
    assert bool(run.isfinite().all())


def test_what_is_known_of_nests():
    free = OUTER["ClassifierFree"](BASE)
    null, conditional = BASE(X, 0.4), BASE(X, 0.4, y=Y)
    shift = conditional - null  # what the exact classifier adds at w = 1
    found = OUTER["Classifier"](free)(X, 0.4, y=Y)
    torch.testing.assert_close(found, null + 2 * shift + 0.5 * shift, atol=1e-11, rtol=0)
    # a classifier inside: its null branch has y = "any class", of probability 1, and so no gradient
    found = OUTER["ClassifierFree"](OUTER["Classifier"](BASE))(X, 0.4, y=Y)
    torch.testing.assert_close(found, null + 2 * (conditional + 0.5 * shift - null), atol=1e-11, rtol=0)
    bad = worse(CLASSES).denoiser(S)(X, 0.4, y=Y)
    found = OUTER["Autoguidance"](free)(X, 0.4, y=Y)
    torch.testing.assert_close(found, bad + 1.5 * (null + 2 * shift - bad), atol=1e-11, rtol=0)
    never = Interval(denoiser=OUTER["Classifier"](free), low=0.0, high=1e-6)
    assert torch.equal(never(X, 0.4, y=Y), conditional)
