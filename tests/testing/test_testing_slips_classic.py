"""Slips of a token in the Adams-Bashforth, adaptive, noisy and distilled solvers: the suite sees all, or a formula."""

import importlib
import sys
from pathlib import Path

import pytest

from sfumato import solvers
from sfumato.core import VPLinear
from sfumato.testing import cases, table

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "solvers")]
load = importlib.import_module("slips").load
adams, noisy = (importlib.import_module(f"test_solvers_{name}") for name in ("adams", "noise"))
FORMULAS = {
    "Ancestral": lambda schedule: noisy.test_dpm2_ancestral_is_k_diffusions(1.0, schedule),
    "Restart": noisy.test_restart_is_algorithm_1,
    "PredictorCorrector": noisy.test_predictor_corrector_is_the_papers,
    "TCD": noisy.TestTCD().test_a_step_is_algorithm_2,
}

SOLVERS = {
    **table.SOLVERS,
    "LMS(order=3)": solvers.LMS(order=3),
    "DPMAdaptive(order=2)": solvers.DPMAdaptive(order=2),
    "TCD(gamma=1)": solvers.TCD(gamma=1.0),
}
FAMILIES = (" on VPLinear", " on Rectified")


def seen(solver):
    """The first check of the suite that a solver fails, on a few schedules."""
    for case in cases(solver):
        if case.check.startswith("solver") and case.subject.endswith(FAMILIES) and not case.row().passed:
            return case.check
    return None


# (module, row of the table, what is changed, into what)
SLIPS = [
    ("lms", "LMS", "(low - v * high) / (u - v)", "(low + v * high) / (u - v)"),
    ("lms", "LMS", "c / (i + 1)", "c / (i + 2)"),
    ("lms", "LMS", "(now, *past)[:kept]", "(*past, now)[:kept]"),
    ("lms", "LMS", "kept = self.order - 1", "kept = self.order - 2"),
    ("lms", "LMS", "bashforth(nodes, nodes[-1], end)", "bashforth(nodes, nodes[0], end)"),
    ("lms", "LMS(order=3)", "w - u for w, u", "w + u for w, u"),
    ("lms", "LMS(order=2)", "k.sigma_s / k.alpha_s", "k.sigma_s / k.alpha_t"),
    ("plms", "PLMS", "len(grid) if", "len(grid) - 1 if"),
    ("pndm", "PNDM", "k.alpha_s - k.alpha_t * kept", "k.alpha_s + k.alpha_t * kept"),
    ("pndm", "PNDM", "n + 3 * min(n, 3)", "n + 4 * min(n, 3)"),
    ("ancestral", "Ancestral", "k.lam_s - 0.5 * math.log", "k.lam_s + 0.5 * math.log"),
    ("ancestral", "Ancestral", "r = k.alpha_s / alpha", "r = k.alpha_t / alpha"),
    ("ancestral", "Ancestral", "(r * sigma) ** 2) ** 0.5", "(r * sigma) ** 2)"),
    ("ancestral", "Ancestral(DPMpp2M, eta=0.5)", "(1 - self.eta**2) + ", "(1 - self.eta) + "),
    ("rk45", "RK45", "44 / 45, -56 / 15", "44 / 45, -55 / 15"),
    ("rk45", "RK45", "(1 / 5, 3 / 10, 4 / 5", "(1 / 5, 3 / 10, 3 / 5"),
    ("rk45", "RK45", "(per_row(alpha / size, z) * z - x0)", "(per_row(alpha / size, z) * z + x0)"),
    ("rk45", "RK45", "self.atol + self.rtol *", "100 * self.atol + 100 * self.rtol *"),
    ("rk45", "RK45", "rms(error / scale)", "rms(error / scale).mean().expand(len(z))"),
    ("dpm_adaptive", "DPMAdaptive", "1.5 * bent * d2", "2.5 * bent * d2"),
    ("dpm_adaptive", "DPMAdaptive", "(y - x0) / per_row", "(y + x0) / per_row"),
    ("dpm_adaptive", "DPMAdaptive(order=2)", "e0 + d1 / (2 * r)", "e0 - d1 / (2 * r)"),
    ("restart", "Restart", "(r * k.sigma_s) ** 2) ** 0.5", "(r * k.sigma_s)) ** 0.5"),
    ("restart", "Restart", "r = back[0].alpha_t / k.alpha_s", "r = k.alpha_s / back[0].alpha_t"),
    ("restart", "Restart", "[back] * self.times", "[back] * self.steps"),
    ("restart", "Restart", "return x, self.solver.init(x)", "return x * 0.9, self.solver.init(x)"),
    ("langevin_corrector", "PredictorCorrector", "2 * (self.snr * k.alpha_t", "9 * (self.snr * k.sigma_t"),
    ("langevin_corrector", "PredictorCorrector", "own + self.steps *", "own + 2 * self.steps *"),
    ("annealed_langevin", "AnnealedLangevin", "k.alpha_s / k.alpha_t if", "k.alpha_t / k.alpha_s if"),
    ("tcd", "TCD", "(r * sigma) ** 2) ** 0.5", "(r * sigma)) ** 0.5"),
    ("tcd", "TCD", "kept = r * sigma / k.sigma_t", "kept = sigma / k.sigma_t"),
    ("tcd", "TCD(gamma=1)", "k.alpha_s - k.alpha_t * kept, noise", "k.alpha_t - k.alpha_s * kept, noise"),
    ("lcm", "LCM", "k.alpha_s, noise", "k.alpha_t, noise"),
    ("lcm", "LCM", "k.t, k.s), k.sigma_s)", "k.t, k.s), k.sigma_t)"),
]


@pytest.mark.parametrize(("name", "row", "old", "new"), SLIPS, ids=lambda v: str(v).replace(" ", ""))
def test_a_slip_is_seen_by_the_suite(name, row, old, new):
    original = SOLVERS[row]
    path = f"sfumato.solvers.{name}"
    source = Path(sys.modules[path].__file__).read_text(encoding="utf-8")
    assert source.count(old) >= 1, f"{name} has changed: rewrite this slip"
    kind = getattr(load(path, source.replace(old, new)), type(original).__name__)
    assert seen(kind(**vars(original)))


# what several solvers share: (module, where it is used, its name there, row, what is changed, into what)
SHARED = [
    ("adams", "lms", "advance", "LMS", "k.sigma_s - k.alpha_s * k.sigma_t / k.alpha_t", "k.sigma_s - k.sigma_t"),
    ("adams", "lms", "advance", "LMS", "kept -= sum(weights)", "kept += sum(weights)"),
    ("adams", "lms", "advance", "LMS", "rest[::2], rest[1::2]", "rest[::2], rest[::2]"),
    ("adams", "ipndm", "recall", "IPNDM", "alpha=-k.alpha_t", "alpha=k.alpha_t"),
    ("langevin", "annealed_langevin", "langevin", "AnnealedLangevin", "(2 * rate) ** 0.5", "(3 * rate) ** 0.5"),
    ("langevin", "langevin_corrector", "langevin", "PredictorCorrector", "1 - rate, x0", "1 + rate, x0"),
    ("langevin", "annealed_langevin", "langevin", "AnnealedLangevin", 'f"{k.s:.17g}", j', 'f"{k.s:.17g}"'),
    ("adaptive", "rk45", "drive", "RK45", "good = ~(error > 1.0)", "good = ~(error > 100.0)"),
    ("adaptive", "dpm_adaptive", "drive", "DPMAdaptive", "v[active.to(v.device)] if", "v[: len(active)] if"),
    ("adaptive", "rk45", "rms", "RK45", "v = x.reshape(len(x), -1)", "v = (0 * x + x.amax()).reshape(len(x), -1)"),
]


@pytest.mark.parametrize(("name", "user", "part", "row", "old", "new"), SHARED, ids=lambda v: str(v).replace(" ", ""))
def test_a_slip_in_what_is_shared_is_seen(monkeypatch, name, user, part, row, old, new):
    path = f"sfumato.solvers.{name}"
    source = Path(sys.modules[path].__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{name} has changed: rewrite this slip"
    monkeypatch.setattr(
        sys.modules[f"sfumato.solvers.{user}"], part, getattr(load(path, source.replace(old, new)), part)
    )
    assert seen(SOLVERS[row])


# what leaves the order, or the marginals, as they are: seen by the papers' formulas in tests/solvers
BY_FORMULA = [
    ("ipndm", "IPNDM", "(-59 / 24, 37 / 24", "(-59 / 12, 37 / 24"),
    ("ipndm", "IPNDM", "denoiser(x, k.t, **cond)", "denoiser(x, k.s, **cond)"),
    ("plms", "PLMS", "denoiser(x, k.s, **cond) - x0", "denoiser(x, k.s, **cond) + x0"),
    ("pndm", "PNDM", "+ seen[3]) / 6", "+ seen[3]) / 5"),
    ("pndm", "PNDM", "2 * seen[1]", "3 * seen[1]"),
    ("pndm", "PNDM", "ratio * (there - k.alpha_s * x0)", "ratio * (there + k.alpha_s * x0)"),
    ("ancestral", "Ancestral", "(self.eta * q) ** 2", "(self.eta * q)"),
    ("restart", "Restart", "_RHO = 7.0", "_RHO = 6.0"),
    ("langevin_corrector", "PredictorCorrector", "2 * (self.snr", "3 * (self.snr"),
    ("tcd", "TCD", "(1 - self.gamma) * k.s", "self.gamma * k.s"),
]


@pytest.mark.parametrize(("name", "kind", "old", "new"), BY_FORMULA, ids=lambda v: str(v).replace(" ", ""))
def test_a_slip_is_seen_by_the_papers_formula(monkeypatch, name, kind, old, new):
    path = f"sfumato.solvers.{name}"
    source = Path(sys.modules[path].__file__).read_text(encoding="utf-8")
    assert source.count(old) >= 1, f"{name} has changed: rewrite this slip"
    faulty = getattr(load(path, source.replace(old, new)), kind)
    if kind in adams.RUNS:
        monkeypatch.setitem(adams.RUNS, kind, (faulty(), adams.RUNS[kind][1]))
        runs = [lambda n=n: adams.test_a_run_is_the_papers(kind, VPLinear(), n) for n in (7, 14)]
    else:
        monkeypatch.setattr(noisy, kind, faulty)
        runs = [lambda: FORMULAS[kind](VPLinear())]
    failed = 0
    for run in runs:
        try:
            run()
        except AssertionError:
            failed += 1
    assert failed


def test_the_solvers_themselves_are_not_faulted():
    assert all(name in vars(solvers) for name in ("LMS", "RK45", "Restart"))
    assert seen(SOLVERS["TCD"]) is None
