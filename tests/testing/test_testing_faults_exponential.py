"""Slips of one token in the exponential integrators, and in what they share, are seen.

By the conformance suite alone; and where the slip makes another method of the same order, by the exact tests.
"""

import importlib
import sys
from pathlib import Path

import pytest

from sfumato import solvers
from sfumato.core import VPLinear
from sfumato.solvers import BH2, DPMpp2S, DPMpp3S
from sfumato.testing import cases

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "solvers")]
exact = importlib.import_module("test_solvers_exponential")
load = importlib.import_module("slips").load

FAMILIES = (" on VPLinear", " on VE", " on Rectified", " on ZeroTerminalSNR")
ROOM = "sfumato.solvers."
FOLDER = Path(solvers.__file__).parent
# the modules that a solver is made of, in the order in which they import one another
PARTS = {
    "DPMpp3M": ("phi", "multistep", "dpmpp_3m"),
    "DPMpp3MShipped": ("phi", "multistep", "dpmpp_3m"),
    "DPMpp3MSDE": ("phi", "multistep", "dpmpp_3m_sde"),
    "DPMpp2MSDE": ("phi", "multistep", "dpmpp_2m_sde"),
    "DPMpp2MHeunSDE": ("phi", "multistep", "dpmpp_2m_sde"),
    "DPMpp2S": ("phi", "dpmpp_2s"),
    "DPMpp2SSDE": ("phi", "dpmpp_2s_sde"),
    "DPMpp3S": ("phi", "dpmpp_3s"),
    "DPMSolver2": ("phi", "dpmpp_2s", "dpm_solver"),
    "DPMSolver3": ("phi", "dpmpp_3s", "dpm_solver"),
    "DEIS": ("phi", "multistep", "deis"),
    "UniP": ("phi", "multistep", "adams_moulton", "unipc"),
    "UniPC": ("phi", "multistep", "adams_moulton", "unipc"),
    "SASolver": ("phi", "multistep", "adams_moulton", "sa_solver"),
}


def slipped(monkeypatch, name, settings, module, old, new):
    """Return the solver, made of its modules' sources with `old` -> `new` in one of them."""
    for part in PARTS[name]:
        path = ROOM + part
        source = (FOLDER / f"{part}.py").read_text(encoding="utf-8")
        if part == module:
            assert source.count(old) >= 1, f"{part} has changed: rewrite this slip"
            source = source.replace(old, new, 1)
        monkeypatch.setitem(sys.modules, path, load(path, source))
    return getattr(sys.modules[ROOM + PARTS[name][-1]], name)(**settings)


def only_texts(value):
    return value if isinstance(value, str) else ""


def first_failure(solver):
    for case in cases(solver):
        if case.check.startswith("solver") and case.subject.endswith(FAMILIES) and not case.row().passed:
            return case.check
    return None


SLIPS = [
    ("DPMpp3M", {}, "phi", "(h**k - value) / k", "(h**k + value) / k"),
    ("DPMpp3M", {}, "phi", "(second - b * first)", "(second - a * first)"),
    ("DPMpp3M", {}, "phi", "(b * (b - a))", "(b * (a - b))"),
    ("DEIS", {"order": 4}, "phi", "q * r * first", "q * p * first"),
    ("DEIS", {"order": 4}, "phi", "(q + r) * second", "(q - r) * second"),
    ("UniPC", {"p": 3}, "phi", "(third - (q + r)", "(third + (q + r)"),
    ("DPMpp2S", {}, "phi", "k.lam_t + r * (k.lam_s - k.lam_t)", "k.lam_t + (k.lam_s - k.lam_t)"),
    ("DPMpp3M", {}, "multistep", "k.alpha_s * (1 - sum(weights))", "k.alpha_s * (1 + sum(weights))"),
    ("DPMpp3M", {}, "multistep", "w - kept * u", "w - u"),
    ("DPMpp3M", {}, "multistep", "_replace(used=in_s, extra=None)", "_replace(extra=None)"),
    ("DPMpp3M", {}, "multistep", "alpha_t=start.alpha, sigma_t=start.sigma", "alpha_t=start.alpha"),
    ("DPMpp3M", {}, "multistep", "points > 2 and", "points > 3 and"),
    ("DPMpp3M", {}, "multistep", "lams[: points - 1]", "lams[: points - 2]"),
    ("DEIS", {"order": 4}, "multistep", "-damping(k, rate) * extra[1]", "damping(k, rate) * extra[1]"),
    ("SASolver", {}, "multistep", "(1.0 - rate) * (k.lam_s", "(1.0 + rate) * (k.lam_s"),
    ("DPMpp3MSDE", {}, "multistep", "[rate * (v - lam) for v in lams[1:]]", "[v + lam for v in lams[1:]]"),
    ("DPMpp3M", {}, "dpmpp_3m", "state, 3)", "state, 2)"),
    ("DPMpp3MShipped", {}, "dpmpp_3m", "(second - b * first)", "(second + b * first)"),
    ("DPMpp3MShipped", {}, "dpmpp_3m", "second *= 0.5", "second *= 1.0"),
    ("DPMpp3MSDE", {}, "dpmpp_3m_sde", "-2 * self.eta", "-self.eta"),
    ("DPMpp3MSDE", {}, "dpmpp_3m_sde", "state, 3, 1 + self.eta)", "state, 3, 1)"),
    ("DPMpp2MSDE", {}, "dpmpp_2m_sde", "damping(k, 1 + self.eta)", "damping(k, 1 - self.eta)"),
    ("DPMpp2MSDE", {"eta": 0.0}, "dpmpp_2m_sde", "return 0.5 * c", "return c"),
    ("DPMpp2MHeunSDE", {"eta": 0.0}, "dpmpp_2m_sde", "adams(ah, [ah])", "adams(ah, [-ah])"),
    ("DPMpp2S", {}, "dpmpp_2s", "c * (1 - w), middle", "c * (1 + w), middle"),
    ("DPMpp2S", {}, "dpmpp_2s", "denoiser.schedule, k, self.r", "denoiser.schedule, k, 1 - self.r / 2"),
    ("DPMpp2S", {}, "dpmpp_2s", "x * kept + x0 * (alpha_u", "x * kept - x0 * (alpha_u"),
    ("DPMpp2SSDE", {}, "dpmpp_2s_sde", "math.hypot(left, new)", "(left + new)"),
    ("DPMpp2SSDE", {}, "dpmpp_2s_sde", "alpha_u - k.alpha_t * kept", "alpha_u + k.alpha_t * kept"),
    ("DPMpp2SSDE", {"eta": 0.0}, "dpmpp_2s_sde", "0.5 / self.r", "0.4 / self.r"),
    ("DPMpp3S", {}, "dpmpp_3s", "R1, R2 = 1 / 3, 2 / 3", "R1, R2 = 1 / 3, 1 / 2"),
    ("DPMpp3S", {}, "dpmpp_3s", "adams(R2 * h, [R1 * h])", "adams(h, [R1 * h])"),
    ("DPMpp3S", {}, "dpmpp_3s", "x1 * (alpha * v)", "x0 * (alpha * v)"),
    ("DPMSolver3", {}, "dpm_solver", "return v, w, -v * w", "return v, w, v * w"),
    ("DPMSolver3", {}, "dpm_solver", "math.exp((R2 - 1) * h)", "math.exp(R2 * h)"),
    ("DEIS", {}, "deis", "alpha_t=k.sigma_t, sigma_t=k.alpha_t", "alpha_t=k.alpha_t, sigma_t=k.sigma_t"),
    ("DEIS", {}, "deis", "x - k.alpha_t * x0", "x + k.alpha_t * x0"),
    ("DEIS", {"order": 4}, "deis", "there, w, eps, -w)", "there, -w, eps, w)"),
    ("DEIS", {"order": 4}, "deis", "start.used[0] - w", "start.used[0]"),
    ("UniP", {}, "unipc", "c + w, previous, -w", "c - w, previous, w"),
    ("UniP", {}, "unipc", "return -math.expm1(-h)", "return -math.expm1(-h / 2)"),
    ("UniPC", {}, "unipc", "state, self.p, 1.0, self.b)", "state, 1, 1.0, self.b)"),
    ("UniPC", {}, "adams_moulton", "[rate * h, *(rate", "[-rate * h, *(rate"),
    ("UniPC", {}, "adams_moulton", "c - p for c, p in zip(better", "c + p for c, p in zip(better"),
    ("UniPC", {}, "adams_moulton", "(new, -new - sum(gain), *gain)", "(-new, new - sum(gain), *gain)"),
    ("UniPC", {}, "adams_moulton", "b(h) * h / (lams[1] - lams[0])", "b(h) * h / (lams[0] - lams[1])"),
    ("SASolver", {}, "sa_solver", "-2 * eta *", "-eta *"),
]


@pytest.mark.parametrize(("name", "settings", "module", "old", "new"), SLIPS, ids=only_texts)
def test_a_slip_is_seen_by_the_suite(monkeypatch, name, settings, module, old, new):
    assert first_failure(slipped(monkeypatch, name, settings, module, old, new))


@pytest.mark.parametrize("name", ["DPMpp3M", "UniPC"])
def test_without_a_slip_nothing_fails(monkeypatch, name):
    assert first_failure(slipped(monkeypatch, name, {}, "", "", "")) is None


def integrals_gap(solver):
    made = {h: sys.modules[ROOM + "phi"].integrals(h, 2) for h in (0.09, 2.5)}
    return max(abs(a - b) for h, v in made.items() for a, b in zip(v, exact.exact_integrals(h)))


def run_gap(printed):
    return lambda solver: exact.gap_to_printed_run(solver, printed, VPLinear())


SAME_ORDER = [
    ("DPMpp3M", {}, "phi", "power - k * value", "power + k * value", integrals_gap),
    ("DPMpp3M", {}, "phi", "term *= -h / k", "term *= h / k", integrals_gap),
    ("DPMpp3MShipped", {}, "dpmpp_3m", "c * h / a", "c * h / h", run_gap(exact.printed_shipped_3m)),
    (
        "DPMSolver2",
        {},
        "dpm_solver",
        "math.exp(self.r * h)",
        "math.exp(-self.r * h)",
        lambda s: exact.gap_to_printed_step(s, lambda d, x, k: exact.printed_dpm_solver_2(d, x, k, 0.5), VPLinear()),
    ),
    ("DPMSolver2", {}, "dpm_solver", "if h < _FAR", "if h > _FAR", lambda s: exact.gap_far_out(s, DPMpp2S())),
    ("DPMSolver3", {}, "dpm_solver", "if h >= _FAR", "if h >= 1000", lambda s: exact.gap_far_out(s, DPMpp3S())),
    (
        "UniPC",
        {},
        "adams_moulton",
        "+= kept * k.alpha_t * g",
        "+= k.alpha_t * g",
        run_gap(lambda d, x, plan: exact.printed_unipc(d, x, plan, 2, BH2())),
    ),
    *(
        ("SASolver", {"p": 2, "tau": 0.8}, *slip, lambda s: exact.gap_to_flow(s, VPLinear(), 1, eta=0.64))
        for slip in (
            ("adams_moulton", "adams(rate * h, [rate * h, *(rate", "adams(h, [h, *(1.0"),
            ("sa_solver", "self.tau**2", "self.tau"),
        )
    ),
]


@pytest.mark.parametrize(("name", "settings", "module", "old", "new", "gap"), SAME_ORDER, ids=only_texts)
def test_a_slip_to_a_method_of_the_same_order_is_seen_by_the_exact_tests(
    monkeypatch, name, settings, module, old, new, gap
):
    assert gap(slipped(monkeypatch, name, settings, module, old, old)) < 1e-11
    assert gap(slipped(monkeypatch, name, settings, module, old, new)) > 1e-6
