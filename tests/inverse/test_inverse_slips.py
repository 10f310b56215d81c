"""Every slip of one token in a method is seen by the closed form that it is held to."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from sfumato.core import Noise, VPLinear, grids, steps
from sfumato.inverse import DDNM, DPS, MomentMatching, PiGDM, Replacement
from sfumato.solvers import DDPM
from sfumato.testing.table import PICTURES

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "testing")]
closed = importlib.import_module("test_inverse_posterior")
slips = importlib.import_module("slips")

KINDS = {
    "ddnm": DDNM,
    "pigdm": PiGDM,
    "moment_matching": MomentMatching,
    "dps": DPS,
    "replacement": Replacement,
}
END = r"\n    @|\n    def |\n\n\n|\Z"  # a method, with the functions in it
SCHEDULE, GRID = VPLinear(), grids.uniform(VPLinear(), 6)


def gap(kind, name):
    """The largest deviation from what the method is in closed form."""
    operator = closed.OPERATORS["downsample" if name != "replacement" else "mask"]
    law = closed.ODD if name in ("moment_matching", "dps", "replacement") else closed.ROUND
    worst = 0.0
    for noise in (0.0, 0.3):
        for k in steps(SCHEDULE, GRID)[1:4]:
            x, y = closed.data(operator, law, SCHEDULE, k.t, noise)
            given = {"denoiser": law.denoiser(SCHEDULE), "operator": operator, "y": y}
            if name == "dps":
                made = kind(**given, grid=GRID, zeta=0.7)
                found, _ = DDPM().step(made, x.clone(), k, None, Noise(range(3)), {})
                exact = closed.algorithm_1(law, operator, y, x, k, 0.7)
            elif name == "replacement":
                made = kind(**given, noise=Noise(range(3)))
                z, m = Noise(range(3)).like(x, "replacement", repr(k.t)), operator.mask
                pasted = x * (1 - m) + m * (k.alpha_t * y + k.sigma_t * z)
                found, exact = made(x, k.t), law.denoiser(SCHEDULE)(pasted, k.t) * (1 - m) + m * y
            else:
                more = {"iterations": 60} if name == "moment_matching" else {"variance": 0.3}
                made = kind(**given, noise=noise, **more)
                found = made(x, k.t)
                exact = closed.posterior(operator, law, SCHEDULE, x, k.t, y, noise)
            free = made.branches(x, k.t)[1]
            kept = law.denoiser(SCHEDULE)(pasted if name == "replacement" else x, k.t)
            worst = max(worst, float((found - exact).abs().max()), float((free - kept).abs().max()))
    x, y = PICTURES.sample(3, 1, dtype=torch.float64), torch.tensor([1, 0, 2])
    given = {"denoiser": PICTURES.denoiser(SCHEDULE), "operator": operator, "y": operator.A(x)}
    more = {"dps": {"grid": GRID}, "replacement": {"noise": Noise(range(3))}}.get(name, {})
    free = kind(**given, **more).branches(x, 0.4, y=y)[1]
    if name != "replacement":  # the conditions are passed on
        return max(worst, float((free - PICTURES.denoiser(SCHEDULE)(x, 0.4, y=y)).abs().max()))
    return worst if torch.allclose(free[0], kind(**given, **more).branches(x, 0.4, y=y.roll(1))[1][0]) is False else 1.0


@pytest.mark.parametrize("name", KINDS)
def test_every_slip_is_seen(name):
    assert gap(KINDS[name], name) < 1e-8
    methods = ["branches", *(["_weights"] if name == "dps" else [])]
    found = [m for method in methods for m in slips.mutants(f"sfumato.inverse.{name}", method, END)]
    assert len(found) >= 2
    unseen = []
    for what, source in found:
        kind = getattr(slips.load(f"sfumato.inverse.{name}", source), KINDS[name].__name__)
        try:
            if gap(kind, name) < 1e-8:
                unseen.append(what)
        except Exception:
            continue
    assert unseen == []


def test_the_measurements_are_expanded_to_the_rows():
    x, y = closed.data(closed.OPERATORS["mask"], closed.ROUND, SCHEDULE, 0.5, 0.0)
    made = DDNM(denoiser=closed.ROUND.denoiser(SCHEDULE), operator=closed.OPERATORS["mask"], y=y[:1])
    seen, difference = made.measured(x, torch.zeros_like(x))
    assert torch.equal(seen, y[:1].expand_as(y))
    assert torch.equal(difference, seen)
