"""The suite can fail: faults seen in well-known code, and slips of one token in our own, are all caught."""

import dataclasses
import importlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from sfumato.core import Eps, Flow, Rectified, V, VPLinear, update
from sfumato.guidance import ClassifierFree, Rescale
from sfumato.solvers import DDIM, DDPM, DPMpp2M, Euler, Heun
from sfumato.solvers.churn import Churn
from sfumato.testing import cases
from sfumato.testing.table import CLASSES, GUIDANCE

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "solvers")]
references = importlib.import_module("test_solvers_steps")
slips = importlib.import_module("slips")
load, mutants = slips.load, slips.mutants


def caught(part, *kinds):
    """The first failing check of a part among those whose name begins with one of `kinds`, or None."""
    for case in cases(part):
        if any(case.check.startswith(k) for k in kinds or ("",)) and not case.row().passed:
            return case.check
    return None


# Faults of schedules and predictions


class Tampered(VPLinear):
    """A schedule with one wrong method."""

    def derivatives(self, t):
        alpha, sigma = super().derivatives(t)
        return alpha, 2 * sigma  # twice its true value


def test_a_wrong_derivative():
    assert caught(Tampered(), "schedule") == "schedule: derivatives match finite differences"


class Biased(VPLinear):
    def inverse(self, lam):
        return super().inverse(lam) * (1 - 1e-6)


class Unscaled(VPLinear):
    def __call__(self, t):
        alpha, sigma = super().__call__(t)
        return alpha, sigma * 0.999


class Floored(VPLinear):
    def __call__(self, t):
        return super().__call__(t * 0.9999 + 0.0001)


class Short(VPLinear):
    def __call__(self, t):
        return super().__call__(t * 0.5)


class Split(VPLinear):
    def __call__(self, t):
        return super().__call__(t if isinstance(t, torch.Tensor) else t * (1 + 1e-9))


class Flat(Rectified):
    def __call__(self, t):
        return super().__call__(t.reshape(-1) if isinstance(t, torch.Tensor) else t)


@pytest.mark.parametrize(
    ("schedule", "check"),
    [
        (Biased(), "inverse(lam(t)) = t"),
        (Unscaled(), "alpha^2 + sigma^2 = 1"),
        (Floored(), "alpha = 1 and sigma = 0 at t = 0"),
        (Short(), "sigma / alpha at t = 1"),
        (Split(), "floats and tensors agree"),
        (Flat(), "any shape of t is kept, in float64"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_wrong_schedule(schedule, check):
    assert not {c.check: c for c in cases(schedule)}[f"schedule: {check}"].row().passed


def test_predictions_with_a_slip():
    class FlowCalledEps(Flow):
        def target(self, x0, eps, alpha, sigma):
            return eps  # a velocity read, a noise trained

    class Columns(V):
        def to_x0(self, out, x, alpha, sigma):
            if isinstance(alpha, torch.Tensor):
                alpha, sigma = alpha.flatten(), sigma.flatten()  # meets the columns where B = W
            return super().to_x0(out, x, alpha, sigma)

    class Gain(Eps):
        def gain(self, alpha, sigma):
            return sigma / alpha

    class Infinite(Eps):
        def to_x0(self, out, x, alpha, sigma):
            return (x - sigma * out) / (max(alpha, 1e-9) if isinstance(alpha, float) else alpha)

    found = [caught(kind(), "prediction") for kind in (FlowCalledEps, Columns, Gain, Infinite)]
    assert all(found)
    assert found[1] == "prediction: each row has its own level, in batches where B = H = W"
    assert found[2] == "prediction: affine in the output, with the declared gain"
    assert found[3] == "prediction: right, or refused in one line, where alpha = 0"


# Faults of solvers


@dataclass(frozen=True, kw_only=True)
class Faulty(DDIM):
    """DDIM with a fault."""

    fault: str = ""
    counter: list = dataclasses.field(default_factory=lambda: [0])

    def step(self, denoiser, x, k, state, noise, cond):
        if self.fault == "hidden index":
            self.counter[0] += 1  # as a scheduler's private step counter
            k = k._replace(t=k.t * (1 - 0.01 * (self.counter[0] % 7)))
        if self.fault == "conditions swallowed":
            cond = {}
        if self.fault == "one-step crash" and k.i == k.n - 1 and k.i == 0:
            raise UnboundLocalError("h_last")
        if self.fault == "norm of the batch":
            x = x * (1 + 1e-7 * x.norm() / x.numel() ** 0.5)
        if self.fault == "an evaluation more":
            denoiser(x, k.t, **cond)
        if self.fault == "sigma_t for sigma_s":
            k = k._replace(sigma_s=k.sigma_t)
        x, state = super().step(denoiser, x, k, state, noise, cond)
        if self.fault == "noise in other coordinates" and self.eta:
            x = update(x, 1.0, noise.like(x, "more", k.i), k.sigma_s * math.sqrt(1 / k.n))
        if self.fault == "noise of the batch":
            x = x + 1e-3 * torch.randn(x.shape, dtype=x.dtype)
        return x, state


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("hidden index", "solver: two runs stepped in turn are each as if alone"),
        ("conditions swallowed", "solver: every evaluation gets the conditions"),
        ("one-step crash", "solver: a single short step that ends above 0 hardly moves the distribution"),
        ("norm of the batch", "solver: a row is bit-identical alone, permuted and in a batch, also where B = H = W"),
        ("an evaluation more", "solver: evaluations are as declared"),
        ("noise of the batch", "solver: the same call twice gives the same bits, and leaves its input alone"),
        ("sigma_t for sigma_s", "solver: order, Gaussian"),
        ("none", None),
    ],
)
def test_a_faulty_solver(fault, check):
    solver = Faulty(fault=fault)
    wanted = [c for c in cases(solver) if c.check == check and c.subject.endswith(" on VPLinear")]
    if check is None:
        assert caught(solver, "solver: a", "solver: e", "solver: t") is None
    else:
        assert len(wanted) == 1
        assert not wanted[0].row().passed


def test_noise_in_other_coordinates():
    assert caught(Faulty(fault="noise in other coordinates", eta=1.0), "solver: moments converge")


def test_an_option_without_effect():
    @dataclass(frozen=True, kw_only=True)
    class Ignored(DDIM):
        rho: float = 7.0

    failed = {c.check for c in cases(Ignored()) if c.check.startswith("config") and not c.row().passed}
    assert "config: rho has an effect" in failed
    assert "config: JSON and back" in failed  # and it is not registered
    assert "config: eta has an effect" not in failed


def test_a_wrong_order():
    class Boast(Euler):
        order: ClassVar[int] = 2

    assert caught(Boast(), "solver: order") == "solver: order, Gaussian"


# Faults of guidance


def test_guidance_with_a_norm_over_the_batch():
    @dataclass(frozen=True, kw_only=True, eq=False)
    class WholeBatch(ClassifierFree):
        def branches(self, x, t, **cond):
            guided, conditional = super().branches(x, t, **cond)
            return guided * (conditional.norm() / guided.norm()), conditional

    part = WholeBatch(denoiser=CLASSES.denoiser(VPLinear()), scale=2.0)
    assert (
        caught(part, "guidance: a row") == "guidance: a row does not change with its neighbours, also where B = H = W"
    )


def test_guidance_with_a_slip():
    base = CLASSES.denoiser(VPLinear())

    @dataclass(frozen=True, kw_only=True, eq=False)
    class FromTheOtherEnd(ClassifierFree):
        def branches(self, x, t, **cond):
            guided, conditional = super().branches(x, t, **cond)
            return 2 * conditional - guided if self.scale != 1 else guided, conditional

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Off(ClassifierFree):
        def branches(self, x, t, **cond):
            return dataclasses.replace(self, scale=1.0).denoiser(x, t, **cond), x

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Columns(Rescale):
        def branches(self, x, t, **cond):
            guided, conditional = super().branches(x, t, **cond)
            return guided * conditional.flatten(1).std(1), conditional

    inner = GUIDANCE["ClassifierFree"]
    assert caught(FromTheOtherEnd(denoiser=base, scale=2.0), "guidance: null")
    assert caught(Off(denoiser=base, scale=2.0), "guidance: a run")
    assert caught(Columns(denoiser=inner), "guidance: a row")


# Slips of one token in the solvers themselves

CHURN = Churn(amount=20.0)
FAMILIES = (" on VPLinear", " on VE", " on Rectified", " on ZeroTerminalSNR")
SOLVERS = {
    "ddim": (DDIM, [{}, {"eta": 0.5}], references.reference_ddim, {"eta": 0.4}),
    "ddpm": (DDPM, [{}, {"variance": 1.0}], references.reference_ddpm, {"variance": 0.3}),
    "euler": (Euler, [{}, {"churn": CHURN}], references.CASES[-1].values[2], {"churn": references.CHURN}),
    "heun": (Heun, [{}, {"churn": CHURN}], references.reference_heun, {"churn": references.CHURN}),
    "dpmpp_2m": (DPMpp2M, [{}], None, {}),
}


def by_check(kind, settings):
    """The first check that fails, on a few schedules."""
    for values in settings:
        for case in cases(kind(**values)):
            if case.check.startswith("solver") and case.subject.endswith(FAMILIES) and not case.row().passed:
                return case.check
    return None


# (solver, its settings, what is changed, into what): each seen by `check` alone
HAND_PICKED = [
    (
        "ddim",
        {},
        "k.alpha_s - k.alpha_t * kept), None\n        kept",
        "k.alpha_s + k.alpha_t * kept), None\n        kept",
    ),
    ("ddim", {}, "kept = k.sigma_s / k.sigma_t\n", "kept = k.sigma_s / k.alpha_t\n"),
    ("ddim", {"eta": 1.0}, "/ k.sigma_t, v**0.5", "/ k.sigma_t, v"),
    ("ddim", {"eta": 0.5}, "(k.sigma_s**2 - v)", "(k.sigma_s**2 + v)"),
    ("ddim", {"eta": 1.0}, "denoiser(x, k.t, **cond)", "denoiser(x, 0.9 * k.t, **cond)"),
    ("ddpm", {}, "k.alpha_s * beta / k.sigma_t**2", "k.alpha_t * beta / k.sigma_t**2"),
    ("ddpm", {}, "(k.sigma_s / k.sigma_t) ** 2", "(k.sigma_s / k.sigma_t)"),
    ("ddpm", {"variance": 1.0}, "** 0.5\n        z", "** 0.6\n        z"),
    ("ddpm", {}, "k.sigma_t**2 - r * r", "k.sigma_t**2 - r"),
    ("euler", {}, "kept = k.sigma_s / k.sigma_t", "kept = k.alpha_s / k.alpha_t"),
    ("euler", {}, "k.alpha_s - k.alpha_t * kept", "k.alpha_t - k.alpha_t * kept"),
    ("euler", {}, "denoiser(x, k.t, **cond)", "denoiser(x, k.t)"),
    ("heun", {}, "(1 - q) / (2 * q)", "(1 - q) / (3 * q)"),
    ("heun", {}, "denoiser(x, k.s, **cond) - x0", "denoiser(x, k.t, **cond) - x0"),
    ("heun", {}, "denoiser(x, k.s, **cond) - x0", "denoiser(x, k.s, **cond) + x0"),
    ("heun", {}, "q = kept * k.alpha_t / k.alpha_s", "q = kept * k.alpha_s / k.alpha_t"),
    ("dpmpp_2m", {}, "w = 0.5 *", "w = 0.6 *"),
    ("dpmpp_2m", {}, "(lam_t - lam_previous)", "(k.lam_s - lam_previous)"),
    ("dpmpp_2m", {}, "-c * w", "c * w"),
    ("dpmpp_2m", {}, "previous, -c * w), (x0, lam_t)", "previous, -c * w), state"),
    ("dpmpp_2m", {}, "w = 0.5 * (k.lam_s - lam_t) / (lam_t - lam_previous)", "w = 0.5"),
]


@pytest.mark.parametrize(("name", "settings", "old", "new"), HAND_PICKED, ids=lambda v: v if isinstance(v, str) else "")
def test_a_slip_is_seen_by_the_suite(name, settings, old, new):
    path = f"sfumato.solvers.{name}"
    source = Path(sys.modules[path].__file__).read_text(encoding="utf-8")
    assert source.count(old) >= 1, f"{name} has changed: rewrite this slip"
    kind = getattr(load(path, source.replace(old, new)), SOLVERS[name][0].__name__)
    assert by_check(kind, [settings])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(r * k.sigma_t) ** 2", "k.sigma_t ** 2"),
        ("k.lam_t - math.log1p(gamma)", "k.lam_t + math.log1p(gamma)"),
        ("update(x, r, z", "update(x, 1.0, z"),
        ("** 0.5\n        z", "\n        z"),
        ("alpha_t=alpha, sigma_t=sigma", "alpha_t=alpha"),
    ],
)
def test_a_slip_in_churn_is_seen_by_the_suite(old, new):
    source = Path(sys.modules["sfumato.solvers.churn"].__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1
    kind = load("sfumato.solvers.churn", source.replace(old, new)).Churn
    assert by_check(Heun, [{"churn": kind(amount=20.0)}])


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_every_slip_is_seen(name):
    """Each token of each solver's step: seen by the suite, or by the paper's formula written in other variables."""
    original, settings, reference, at = SOLVERS[name]
    unseen = []
    for what, source in mutants(f"sfumato.solvers.{name}", "step"):
        kind = getattr(load(f"sfumato.solvers.{name}", source), original.__name__)
        try:
            if reference is None:
                gap = references.gap_to_reference_2m(kind(), Rectified())
            else:
                gap = references.gap_to_reference(kind(**at), reference, at, Rectified())
            if name == "heun":
                gap = max(gap, references.gap_far_out(kind()))
        except Exception:
            continue
        if not gap > 1e-9 and by_check(kind, settings) is None:
            unseen.append(what)
    assert unseen == []
