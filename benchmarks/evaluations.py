"""P7: how many evaluations a sampler needs for an error, on exact models, all of ours and diffusers'.

The error is the root mean square distance to the end of the exact probability-flow path, in units of the data's
standard deviation, over 512 starts in float64. Three mixtures: three Gaussians in the plane, eight in 16 dimensions,
and a stiff one whose components are 100 times narrower than their distance. `--figure FILE` paints the curves,
`--markdown` prints the tables of all solvers.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from harness import write
from torch import Tensor

import sfumato as sf
from sfumato.pipeline.names import GRIDS, SOLVERS, Defaults
from sfumato.testing import GaussianMixture

torch.set_num_threads(1)
POINTS = 512
COUNTS = (5, 10, 20, 50)
LEVELS = (3e-2, 4e-3, 3e-4)  # P7's
BARS = ((14, 18), (25, 35), (60, 80))  # its goals and floors
SCHEDULE = sf.Table.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)
OURS = Defaults()  # what P7 is asked of


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _sixteen() -> GaussianMixture:
    means = torch.randn(8, 16, generator=_generator(1), dtype=torch.float64)
    return GaussianMixture(means, torch.full((8,), 0.3**2, dtype=torch.float64), torch.ones(8) / 8)


MODELS: dict[str, GaussianMixture] = {
    "plane": GaussianMixture([[-1.2, -0.6], [0.9, 1.0], [1.1, -1.1]], [0.25**2, 0.35**2, 0.2**2], [0.3, 0.45, 0.25]),
    "16-D": _sixteen(),
    "stiff": GaussianMixture([[-1.0, -0.5], [0.8, 1.0], [1.0, -1.0]], [1e-4, 4e-4, 1e-4], [0.3, 0.4, 0.3]),
}


@cache
def scale(model: str) -> float:
    """Return the data's standard deviation."""
    return float(MODELS[model].sample(20_000, 3, dtype=torch.float64).std(0).square().mean().sqrt())


@cache
def start(model: str) -> Tensor:
    """Return x_t at t = 1."""
    return MODELS[model].marginal(SCHEDULE, 1.0).sample(POINTS, 5, dtype=torch.float64)


def ours(model: str, solver: sf.Solver, grid: Tensor) -> Tensor:
    denoiser = MODELS[model].denoiser(SCHEDULE)
    return sf.sample(denoiser, solver=solver, grid=grid, seeds=range(POINTS), x=start(model))


@cache
def exact(model: str) -> Tensor:
    """Return the ends of the exact paths: a solver of third order in 2000 steps down to s = 1e-4."""
    return ours(model, sf.solvers.DPMpp3S(), sf.grids.log_snr(SCHEDULE, 2000, sigma_min=1e-4))


def error(model: str, end: Tensor) -> float:
    return float((end - exact(model)).square().mean().sqrt()) / scale(model)


def counted(solver: sf.Solver, grid: str, evaluations: int) -> Tensor | None:
    """Return the longest grid that takes at most so many evaluations, if there is one."""
    found = None
    for n in range(1, evaluations + 1):
        times = GRIDS[grid](SCHEDULE, n)
        if sf.core.evaluations(solver, times, SCHEDULE) > evaluations:
            break
        found = times
    return found


def of(model: str, solver: sf.Solver, grid: str, evaluations: int) -> float:
    times = counted(solver, grid, evaluations)
    return float("nan") if times is None else error(model, ours(model, solver, times))


PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}),
    "DPM-Solver++(2M)": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero", "use_lu_lambdas": True}),
    "DPM-Solver++(3M)": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, "final_sigmas_type": "zero", "use_lu_lambdas": True},
    ),
    "UniPC-3": ("UniPCMultistepScheduler", {"solver_order": 3, "final_sigmas_type": "zero", "use_karras_sigmas": True}),
    "LMS": ("LMSDiscreteScheduler", {"use_karras_sigmas": True}),
}


@torch.no_grad()
def theirs(model: str, name: str, settings: dict[str, Any], n: int) -> Tensor:
    """Run a peer's sampler on the same model, from the same start."""
    import diffusers

    latent = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = getattr(diffusers, name)(**latent, **settings)
    scheduler.set_timesteps(n)
    truth, x = MODELS[model], start(model)
    first = SCHEDULE(1.0)
    x = x / first[0] if float(scheduler.init_noise_sigma) > 1.5 else x  # some keep x / alpha
    for t in scheduler.timesteps:
        inside = scheduler.scale_model_input(x, t)
        alpha, sigma = SCHEDULE((float(t) + 1) / 1000)
        x0 = truth.denoiser(SCHEDULE)(inside, (float(t) + 1) / 1000)
        x = scheduler.step((inside - alpha * x0) / sigma, t, x).prev_sample
    return x


def needed(run: Callable[[int], float], most: int = 100) -> list[int | None]:
    """Return the fewest evaluations with which each level is reached."""
    found: list[int | None] = [None] * len(LEVELS)
    for n in [*range(5, 40), *range(40, most + 1, 5)]:
        reached = run(n)
        found = [n if f is None and reached <= level else f for f, level in zip(found, LEVELS, strict=True)]
        if None not in found:
            break
    return found


def markdown() -> str:
    """Return the table of the deterministic solvers on Karras' levels, by their errors at 20 evaluations."""
    rows: dict[str, list[float]] = {}
    for name, solver in SOLVERS.items():
        if not solver.stochastic and solver.nfe is not None:
            rows[f"`{name}`"] = [of(model, solver, "karras", n) for model in MODELS for n in COUNTS]
    rows["the default"] = [of(model, OURS.solver, OURS.grid, n) for model in MODELS for n in COUNTS]
    place = [i for i in range(len(MODELS) * len(COUNTS)) if COUNTS[i % len(COUNTS)] == 20]
    lines = [
        f"| | {' | '.join(f'{model}, {n}' for model in MODELS for n in COUNTS)} |",
        "|---" * (1 + len(MODELS) * len(COUNTS)) + "|",
    ]
    for name in sorted(rows, key=lambda name: math.prod(rows[name][i] for i in place)):
        lines.append(f"| {name} | {' | '.join('-' if e != e else f'{e:.1g}' for e in rows[name])} |")
    return "\n".join(lines)


def paint(path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, len(MODELS))
    counts = (5, 6, 8, 10, 13, 16, 20, 26, 32, 40, 50)
    for axis, model in zip(axes, MODELS, strict=True):
        for name in ("ddim", "heun", "dpm++2m", "dpm++3m", "unipc", "unipc-3", "lms", "ipndm"):
            errors = [of(model, SOLVERS[name], "karras", n) for n in counts]
            axis.loglog(counts, errors, marker="o", ms=3, label=name)
        errors = [of(model, OURS.solver, OURS.grid, n) for n in counts]
        axis.loglog(counts, errors, "k", marker="o", ms=3, label="the default")
        axis.set(title=model, xlabel="evaluations", ylabel="error (standard deviations)")
        axis.set_xticks(COUNTS, [str(n) for n in COUNTS])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", default=None, help="paint the curves into this PNG")
    parser.add_argument("--markdown", action="store_true", help="print the tables of all solvers and stop")
    parser.add_argument("--json", default=None)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.figure:
        paint(arguments.figure)
    if arguments.markdown or arguments.figure:
        print(markdown() if arguments.markdown else f"painted {arguments.figure}")
        return
    mine = needed(lambda n: of("16-D", OURS.solver, OURS.grid, n))
    peers = {
        label: needed(lambda n, c=name, s=settings: error("16-D", theirs("16-D", c, s, n)))
        for label, (name, settings) in PEERS.items()
    }
    print(f"evaluations to an error of {', '.join(map(str, LEVELS))}, 16-D mixture")
    for label, found in {"ours, the default": mine, **peers}.items():
        print(f"  {label:<28} {' / '.join('never' if f is None else str(f) for f in found)}")
    rows = []
    for level, count, (goal, floor), best in zip(LEVELS, mine, BARS, zip(*peers.values(), strict=True), strict=True):
        peer = min((n for n in best if n is not None), default=None)
        state = "goal" if count is not None and count <= min(goal, peer or goal) else "floor"
        state = "BELOW FLOOR" if count is None or count > floor else state
        rows.append({"name": f"P7 {level}", "ours": count, "peer": peer, "goal": goal, "floor": floor, "state": state})
        print(f"P7 evaluations to {level}: best peer {peer}, ours {count} (floor {floor}, goal {goal})  {state}")
    write(rows)
    sys.exit(1 if any(row["state"] == "BELOW FLOOR" for row in rows) else 0)


if __name__ == "__main__":
    main()
