"""Laws that every guidance keeps, and those of the kinds that are known here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core import Noise, Schedule, grids, sample, steps
from ..guidance import Autoguidance, CFGpp, Classifier, ClassifierFree, DynamicThreshold, SkipLayer, TwoScale
from ..solvers import DDIM, DPMpp2M
from .classifier import ExactClassifier
from .exact import Counted, ExactDenoiser
from .mixture import GaussianMixture
from .report import Case, title_of
from .table import CLASSES, PICTURES, worse


def rewrap(guided: Any, denoiser: ExactDenoiser) -> Any:
    """Return the same nest of guidance around another denoiser; the models beside it become exact ones of its data."""
    inner = getattr(guided, "denoiser", None)
    if inner is None or not dataclasses.is_dataclass(guided):
        return denoiser
    changed: dict[str, Any] = {"denoiser": rewrap(inner, denoiser)}
    if isinstance(denoiser.model, GaussianMixture):
        if hasattr(guided, "classifier"):
            changed["classifier"] = ExactClassifier(model=denoiser.model, schedule=denoiser.schedule)
        if hasattr(guided, "bad"):
            changed["bad"] = worse(denoiser.model).denoiser(denoiser.schedule)
    return dataclasses.replace(guided, **changed)  # type: ignore[type-var]


def guidance_laws(name: str, guided: Any, schedule: Schedule) -> Iterator[Case]:
    """Yield the checks of one nest of guidance on a schedule; the denoiser inside it is replaced by exact ones."""
    checks: list[Any] = [_attributes, _rows_apart, _times, _samples, _inputs_kept]
    for kind, own in _OWN.items():
        checks += own if isinstance(guided, kind) else []
    for check in checks:
        title = title_of(check)
        yield Case(f"guidance: {title}", name, lambda c=check: c(guided, schedule))


def _data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return PICTURES.sample(4, 3, dtype=dtype) * 1.2, torch.tensor([2, 0, 1, 1])


def _attributes(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """Schedule and conditions are those of the inner denoiser."""
    made = rewrap(guided, CLASSES.denoiser(schedule))
    return dict(made.cond), str(dict(CLASSES.cond)), dict(made.cond) == dict(CLASSES.cond) and made.schedule == schedule


def _rows_apart(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """A row does not change with its neighbours, also where B = H = W."""
    made = rewrap(guided, PICTURES.denoiser(schedule))
    worst = 0.0
    for dtype, bar in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        x, y = _data(dtype)
        for t in (0.2, 0.5, 0.9):
            batch = made(x, t, y=y)
            order = [2, 0, 3, 1]
            gaps = [(made(x[order], t, y=y[order]) - batch[order]).abs().max()]
            gaps += [(made(x[i : i + 1], t, y=y[i : i + 1]) - batch[i]).abs().max() for i in range(4)]
            worst = max(worst, float(max(gaps)) / bar)
            worst = worst if batch.dtype == dtype and batch.shape == x.shape else float("inf")
    return worst, "<= 1 rounding unit (1e-13, 1e-5)", worst <= 1


def _times(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """A time for each row, where B = H = W, is each row at its time."""
    made = rewrap(guided, PICTURES.denoiser(schedule))
    x, y = _data()
    t = torch.tensor([0.15, 0.4, 0.6, 0.95], dtype=torch.float64)
    batch = made(x, t, y=y)
    worst = max(float((made(x[i : i + 1], float(t[i]), y=y[i : i + 1]) - batch[i]).abs().max()) for i in range(4))
    return worst, "<= 1e-11", worst <= 1e-11


def _samples(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """A run from t = 1 to 0 is finite, and differs from an unguided one."""
    y = torch.tensor([0, 1, 1, 0])
    grid = _grid(guided, schedule)
    ends = [
        sample(d, (4, 2), solver=DPMpp2M(), grid=grid, seeds=range(4), cond={"y": y})
        for d in (rewrap(guided, CLASSES.denoiser(schedule)), CLASSES.denoiser(schedule))
    ]
    gap = float((ends[0] - ends[1]).abs().max())
    return gap, "> 1e-3", bool(ends[0].isfinite().all()) and gap > 1e-3


def _grid(guided: Any, schedule: Schedule) -> Tensor:
    """Return the grid of a run: the guidance's own, else one from t = 1, or just below where alpha = 0 is refused."""
    slopes, own, layer = False, None, guided
    while hasattr(layer, "denoiser"):
        slopes, own = slopes or hasattr(layer, "classifier"), getattr(layer, "grid", own)
        layer = layer.denoiser
    return grids.uniform(schedule, 24, start=0.999 if slopes else 1.0) if own is None else own


def _inputs_kept(guided: Any, schedule: Schedule) -> tuple[object, str, bool]:
    """X and the conditions are left alone."""
    made = rewrap(guided, PICTURES.denoiser(schedule))
    x, y = _data()
    before, labels = x.clone(), y.clone()
    made(x, 0.5, y=y)
    differing = int((x != before).sum()) + int((y != labels).sum())
    return differing, "0 values differ", differing == 0


def _off(guided: ClassifierFree, schedule: Schedule) -> tuple[object, str, bool]:
    """W = 1 is the conditional denoiser, bit for bit, at its cost."""
    counted = Counted(PICTURES.denoiser(schedule))
    made = dataclasses.replace(guided, denoiser=counted, scale=1.0)
    x, y = _data()
    differing = int((made(x, 0.5, y=y) != PICTURES.denoiser(schedule)(x, 0.5, y=y)).sum())
    return (differing, counted.rows), "0 values differ, 4 rows", (differing, counted.rows) == (0, 4)


def _unconditional(guided: ClassifierFree, schedule: Schedule) -> tuple[object, str, bool]:
    """W = 0 is the unconditional denoiser."""
    made = dataclasses.replace(guided, denoiser=PICTURES.denoiser(schedule), scale=0.0)
    x, y = _data()
    worst = float((made(x, 0.5, y=y) - PICTURES.denoiser(schedule)(x, 0.5)).abs().max())
    return worst, "<= 1e-14", worst <= 1e-14


def _linear(guided: ClassifierFree, schedule: Schedule) -> tuple[object, str, bool]:
    """Null + w (cond - null), with classes whose denoisers are known."""
    made = rewrap(guided, CLASSES.denoiser(schedule))
    x = CLASSES.sample(6, 2, dtype=torch.float64)
    worst = 0.0
    for y in (0, 1):
        null, cond = (m.denoiser(schedule)(x, 0.4) for m in (CLASSES, CLASSES.conditional(y)))
        exact = null + guided.scale * (cond - null)
        worst = max(worst, float((made(x, 0.4, y=torch.full((6,), y)) - exact).abs().max()))
    return worst, "<= 1e-12", worst <= 1e-12


def _silent(guided: Classifier, schedule: Schedule) -> tuple[object, str, bool]:
    """W = 0 is the denoiser, bit for bit, and the classifier is not called."""
    base = PICTURES.denoiser(schedule)
    made = dataclasses.replace(guided, denoiser=base, classifier=lambda x, t, y: 1 / 0, scale=0.0)
    x, y = _data()
    differing = int((made(x, 0.5, y=y) != base(x, 0.5, y=y)).sum())
    return differing, "0 values differ", differing == 0


def _bayes(guided: Classifier, schedule: Schedule) -> tuple[object, str, bool]:
    """W (cond - plain) is added to an unconditional denoiser: at w = 1 it is the conditional."""
    everyone = GaussianMixture(CLASSES.means, CLASSES.covariances, CLASSES.weights).denoiser(schedule)
    classifier, conditional = ExactClassifier(model=CLASSES, schedule=schedule), CLASSES.denoiser(schedule)
    x, y, worst = CLASSES.sample(6, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0]), 0.0
    for w in (1.0, guided.scale):
        made = dataclasses.replace(guided, denoiser=everyone, classifier=classifier, scale=w)
        for t in (0.05, 0.4, 0.97, torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
            plain = everyone(x, t)
            exact = plain + w * (conditional(x, t, y=y) - plain)
            worst = max(worst, float((made(x, t, y=y) - exact).abs().max()))
    return worst, "<= 1e-9", worst <= 1e-9


def _in_range(guided: DynamicThreshold, schedule: Schedule) -> tuple[object, str, bool]:
    """The answer lies in [-1, 1], what lies there already is kept bit for bit, and twice is once."""
    x, y = _data()
    made = rewrap(guided, PICTURES.denoiser(schedule))
    twice = dataclasses.replace(guided, denoiser=made)
    once = made(3 * x, 0.3, y=y)
    small = GaussianMixture(0.2 * PICTURES.means, 0.001, labels=PICTURES.labels).denoiser(schedule)
    kept = dataclasses.replace(guided, denoiser=small)(x, 0.3, y=y)
    differing = int((twice(3 * x, 0.3, y=y) != once).sum()) + int((kept != small(x, 0.3, y=y)).sum())
    return (float(once.abs().max()), differing), "<= 1, 0 values differ", float(once.abs().max()) <= 1 and not differing


def _same_model(guided: Autoguidance, schedule: Schedule) -> tuple[object, str, bool]:
    """With itself as the bad model it is off, and at w = 1 too, bit for bit and without the bad model."""
    base = PICTURES.denoiser(schedule)
    x, y = _data()
    plain = base(x, 0.5, y=y)
    same = dataclasses.replace(guided, denoiser=base, bad=base)(x, 0.5, y=y)
    idle = Counted(base)
    one = dataclasses.replace(guided, denoiser=base, bad=idle, scale=1.0)(x, 0.5, y=y)
    gap, differing = float((same - plain).abs().max()), int((one != plain).sum()) + idle.calls
    return (gap, differing), "<= 1e-14, 0 values differ", gap <= 1e-14 and differing == 0


def _away(guided: Autoguidance, schedule: Schedule) -> tuple[object, str, bool]:
    """Bad + w (good - bad)."""
    good, bad = PICTURES.denoiser(schedule), worse(PICTURES).denoiser(schedule)
    x, y = _data()
    exact = bad(x, 0.5, y=y) + guided.scale * (good(x, 0.5, y=y) - bad(x, 0.5, y=y))
    worst = float((dataclasses.replace(guided, denoiser=good, bad=bad)(x, 0.5, y=y) - exact).abs().max())
    return worst, "<= 1e-12", worst <= 1e-12


def _beside(guided: SkipLayer, schedule: Schedule) -> tuple[object, str, bool]:
    """Guided + w (cond - bad) inside of the interval, guided alone outside and without a call of `bad`."""
    whole, bad = PICTURES.denoiser(schedule), worse(PICTURES).denoiser(schedule)
    (x, y), worst, idle = _data(), 0.0, Counted(bad)
    around = ClassifierFree(denoiser=whole, scale=2.0)
    for low, high, weight, other in ((0.0, float("inf"), guided.scale, bad), (1e-9, 2e-9, 0.0, idle)):
        made = dataclasses.replace(guided, denoiser=around, bad=other, low=low, high=high)
        exact = around(x, 0.5, y=y) + weight * (whole(x, 0.5, y=y) - bad(x, 0.5, y=y))
        worst = max(worst, float((made(x, 0.5, y=y) - exact).abs().max()))
    return (worst, idle.calls), "<= 1e-12, 0 calls", worst <= 1e-12 and idle.calls == 0


def _one_scale(guided: TwoScale, schedule: Schedule) -> tuple[object, str, bool]:
    """Without a picture, the text's scale alone: classifier-free guidance."""
    base = CLASSES.denoiser(schedule)
    x, y = CLASSES.sample(6, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    made = dataclasses.replace(guided, denoiser=base)(x, 0.5, y=y)
    worst = float((made - ClassifierFree(denoiser=base, scale=guided.scale)(x, 0.5, y=y)).abs().max())
    return worst, "<= 1e-12", worst <= 1e-12


def _renoised(guided: CFGpp, schedule: Schedule) -> tuple[object, str, bool]:
    """A DDIM step interpolates to x_0 by omega, and renoises with the null branch's eps."""
    base, noise, worst = CLASSES.denoiser(schedule), Noise(range(6)), 0.0
    made = dataclasses.replace(guided, denoiser=base)
    x, y = CLASSES.sample(6, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    for k in steps(schedule, guided.grid)[:-1]:
        if k.alpha_t > 0.0:
            null, conditional = base(x, k.t), base(x, k.t, y=y)
            eps = (x - k.alpha_t * null) / k.sigma_t
            exact = k.alpha_s * (null + guided.omega * (conditional - null)) + k.sigma_s * eps
            found, _ = DDIM().step(made, x.clone(), k, None, noise, {"y": y})
            worst = max(worst, float((found - exact).abs().max() / exact.abs().max()))
    return worst, "<= 1e-11", worst <= 1e-11


_OWN: dict[type, list[Any]] = {
    ClassifierFree: [_off, _unconditional, _linear],
    Classifier: [_silent, _bayes],
    DynamicThreshold: [_in_range],
    Autoguidance: [_same_model, _away],
    SkipLayer: [_beside],
    TwoScale: [_one_scale],
    CFGpp: [_renoised],
}
