"""Every slip of one token in a guidance is seen by the suite, or by the paper's formula written out here."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.core import Rectified, VPLinear, grids
from sfumato.guidance import Autoguidance, CFGpp, Classifier, ClassifierFree, DynamicThreshold
from sfumato.testing import Counted, ExactClassifier, GaussianMixture, cases
from sfumato.testing.table import CLASSES, PICTURES, worse

sys.path.insert(0, str(Path(__file__).parent.parent / "testing"))
slips = importlib.import_module("slips")

BASE = PICTURES.denoiser(Rectified())
EVERYONE = GaussianMixture(PICTURES.means, PICTURES.covariances).denoiser(Rectified())
GRID = grids.uniform(Rectified(), 8)
Y = torch.tensor([2, 0, 1, 1])
PARTS = {
    "classifier": (
        Classifier,
        {"denoiser": EVERYONE, "classifier": ExactClassifier(model=PICTURES, schedule=Rectified()), "scale": 2.5},
    ),
    "classifier_free": (ClassifierFree, {"denoiser": BASE, "scale": 2.5}),
    "dynamic_threshold": (
        DynamicThreshold,
        {"denoiser": ClassifierFree(denoiser=BASE, scale=3.0), "quantile": 0.83},
    ),
    "autoguidance": (
        Autoguidance,
        {"denoiser": BASE, "bad": worse(PICTURES).denoiser(Rectified()), "scale": 2.5},
    ),
    "cfgpp": (CFGpp, {"denoiser": BASE, "omega": 0.6, "grid": GRID}),
}


def reference(name, x, t):
    """The guided x_0 by each paper's formula, row by row where rows matter."""
    null, conditional, bad = BASE(x, t), BASE(x, t, y=Y), PARTS["autoguidance"][1]["bad"](x, t, y=Y)
    k = sum(v >= t for v in GRID.tolist()) - 1
    here, there = (v / (1 - v) for v in GRID[k : k + 2].tolist())
    return {
        "classifier": null + 2.5 * (conditional - null),
        "classifier_free": null + 2.5 * (conditional - null),
        "dynamic_threshold": torch.stack([_thresholded(row) for row in null + 3 * (conditional - null)]),
        "autoguidance": bad + 2.5 * (conditional - bad),
        "cfgpp": null + 0.6 * here / (here - there) * (conditional - null),
    }[name]


def _thresholded(row, quantile=0.83):
    limit = max(1.0, float(torch.quantile(row.abs(), quantile)))
    return row.clamp(-limit, limit) / limit


def gap(part, name):
    """The largest deviation from the formula, of the guided and of the conditional answer, at two times."""
    x, worst = 2 * PICTURES.sample(4, 3, dtype=torch.float64), 0.0
    for t in (0.3, 0.62):
        guided, conditional = part.branches(x, t, y=Y)
        kept = BASE(x, t, y=Y) if name != "classifier" else EVERYONE(x, t)
        worst = max(worst, float((guided - reference(name, x, t)).abs().max()), float((conditional - kept).abs().max()))
        rows = part(x, torch.full((4,), t, dtype=torch.float64), y=Y)
        worst = max(worst, float((rows - guided).abs().max()))
    return worst


def idle(part, name):
    """Whether a guidance that is off is not, or still calls what it should not; at its end, for a threshold."""
    x = 2 * PICTURES.sample(4, 3, dtype=torch.float64)
    if name == "dynamic_threshold":
        rows = part.denoiser(x, 0.3, y=Y)
        found = [(replace(part, quantile=q)(x, 0.3, y=Y), [_thresholded(row, q) for row in rows]) for q in (0.99, 1.0)]
        return any(float((made - torch.stack(exact)).abs().max()) > 1e-12 for made, exact in found)
    if name not in ("classifier_free", "autoguidance"):
        return False
    if name == "classifier_free" and part.channels is None:
        some, whole, plain = (replace(part, channels=c)(x, 0.5, y=Y) for c in (1, None, 0))
        if not (torch.equal(some[:, :1], whole[:, :1]) and torch.equal(some[:, 1:], plain[:, 1:])):
            return True
        if not torch.equal(plain, BASE(x, 0.5, y=Y)):
            return True
    counted = Counted(BASE)
    off = replace(part, scale=1.0, **({"bad": counted} if name == "autoguidance" else {"denoiser": counted}))
    same = torch.equal(off(x, 0.5, y=Y), BASE(x, 0.5, y=Y))
    return not same or counted.rows != (0 if name == "autoguidance" else 4)


@pytest.mark.parametrize("name", PARTS)
def test_the_formula_itself(name):
    kind, values = PARTS[name]
    assert gap(kind(**values), name) < 1e-9
    assert not idle(kind(**values), name)


@pytest.mark.parametrize(("name", "function"), [(n, "branches") for n in PARTS] + [("cfgpp", "_scales")])
def test_every_slip_is_seen(name, function):
    kind, values = PARTS[name]
    found = slips.mutants(f"sfumato.guidance.{name}", function)
    assert len(found) >= 2
    unseen = []
    for what, source in found:
        changed = getattr(slips.load(f"sfumato.guidance.{name}", source), kind.__name__)
        try:
            part = changed(**values)
            if gap(part, name) < 1e-9 and not idle(part, name):
                unseen.append(what)
        except Exception:
            continue
    assert unseen == []


def test_a_slip_in_the_null_values_is_seen_by_the_suite():
    part = ClassifierFree(denoiser=CLASSES.denoiser(VPLinear()), scale=2.0, null={"y": 0})  # not the null class
    failed = {c.check for c in cases(part) if not c.row().passed}
    assert "guidance: null + w (cond - null), with classes whose denoisers are known" in failed
