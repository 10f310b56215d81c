"""Laws that every prediction keeps, and that all of them give the same sample."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..core import InputError, Prediction, Schedule, grids, sample
from ..solvers import DPMpp2M
from .exact import exact_network
from .report import Case, title_of
from .table import CLASSES, PICTURES

_LEVELS = [(1.0, 0.01), (0.99, 0.14), (0.7, 0.7), (0.5, 0.5), (0.3, 0.91), (0.05, 0.99), (1.0, 40.0), (0.002, 1.0)]


def prediction_laws(name: str, prediction: Prediction) -> Iterator[Case]:
    """Yield the checks of one prediction."""
    for check in (_pair, _gain, _rows, _no_signal):
        title = title_of(check)
        yield Case(f"prediction: {title}", name, lambda c=check: c(prediction))


def same_sample(name: str, prediction: Prediction, schedule: Schedule) -> Iterator[Case]:
    """Yield the check that a network of this kind, exact, samples as the exact denoiser does."""
    yield Case("prediction: same sample from the same model", name, lambda: _same_sample(prediction, schedule))


def _tensors(seed: int) -> tuple[Tensor, Tensor]:
    x0, eps = PICTURES.sample(4, seed, dtype=torch.float64), PICTURES.sample(4, seed + 1, dtype=torch.float64) * 1.7
    return x0, eps


def _pair(prediction: Prediction) -> tuple[object, str, bool]:
    """to_x0(target(x0, eps)) = x0."""
    x0, eps = _tensors(1)
    worst = 0.0
    for alpha, sigma in _LEVELS:
        x = alpha * x0 + sigma * eps
        back = prediction.to_x0(prediction.target(x0, eps, alpha, sigma), x, alpha, sigma)
        # x / alpha loses sigma / alpha digits of x0, whatever the formula
        worst = max(worst, float((back - x0).abs().max()) / max(1.0, sigma / alpha))
    return worst, "<= 1e-14 sigma / alpha", worst <= 1e-14


def _gain(prediction: Prediction) -> tuple[object, str, bool]:
    """Affine in the output, with the declared gain."""
    x, out = _tensors(3)
    worst = 0.0
    for alpha, sigma in _LEVELS:
        moved = prediction.to_x0(out + 3.0, x, alpha, sigma) - prediction.to_x0(out, x, alpha, sigma)
        gain = 3.0 * prediction.gain(alpha, sigma)
        worst = max(worst, float((moved - gain).abs().max()) / max(1.0, abs(gain), 1 / alpha))
    return worst, "<= 1e-13", worst <= 1e-13


def _rows(prediction: Prediction) -> tuple[object, str, bool]:
    """Each row has its own level, in batches where B = H = W."""
    x0, eps = _tensors(5)
    levels = _LEVELS[1:5]
    alpha, sigma = (torch.tensor(v, dtype=torch.float64).reshape(4, 1, 1, 1) for v in zip(*levels))
    out = prediction.target(x0, eps, alpha, sigma)
    both = prediction.to_x0(out, alpha * x0 + sigma * eps, alpha, sigma)
    worst = 0.0
    for i, (a, s) in enumerate(levels):
        row = slice(i, i + 1)
        one = prediction.target(x0[row], eps[row], a, s)
        alone = prediction.to_x0(one, a * x0[row] + s * eps[row], a, s)
        worst = max(worst, float((one - out[row]).abs().max()), float((alone - both[row]).abs().max()))
    return worst, "<= 1e-13", worst <= 1e-13


def _no_signal(prediction: Prediction) -> tuple[object, str, bool]:
    """right, or refused in one line, where alpha = 0."""
    x0, eps = _tensors(7)
    try:
        back = prediction.to_x0(prediction.target(x0, eps, 0.0, 1.0), eps, 0.0, 1.0)
    except InputError as refusal:
        return "refused", "one line", "\n" not in str(refusal)
    worst = float((back - x0).abs().max())
    return worst, "<= 1e-13, or refused", worst <= 1e-13


def _same_sample(prediction: Prediction, schedule: Schedule) -> tuple[object, str, bool]:
    start = 1.0 if schedule(1.0)[0] > 0 else 0.999
    grid = grids.uniform(schedule, 16, start=start).float().double()
    y = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1])
    x = CLASSES.sample(8, 5, dtype=torch.float64) * schedule(start)[1]
    ends = [
        sample(denoiser, solver=DPMpp2M(), grid=grid, seeds=range(8), x=x, cond={"y": y})
        for denoiser in (exact_network(CLASSES, schedule, prediction), CLASSES.denoiser(schedule))
    ]
    worst = float((ends[0] - ends[1]).abs().max())
    # rounding of the first output is divided by alpha there
    bar = 1e-14 / schedule(float(grid[0]))[0]
    return worst, f"<= {bar:.0e}", worst <= bar
