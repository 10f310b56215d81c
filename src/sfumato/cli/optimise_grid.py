"""`sfumato optimise-grid`: search the grid of few steps that suits a model (Align Your Steps)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

DESCRIPTION = """Search the grid of few steps that suits a model and a solver (Align Your Steps, arXiv 2404.14507).

Writes a grid file that `sfumato sample --grid FILE` takes. Ctrl-C ends the search with the best grid so far."""
EPILOG = """examples:
  sfumato optimise-grid runs/digits/20260101-120000-ab12 --steps 8 --out eight.json
  sfumato sample runs/digits/20260101-120000-ab12 7 --grid eight.json
  sfumato optimise-grid my-model --steps 6 --solver heun --data digits --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a training run, or a folder that Pipeline.save wrote")
    parser.add_argument("--steps", type=int, default=8, help="steps of the grid (8)")
    parser.add_argument("--solver", default=None, help="the solver that it is for (the model's default)")
    parser.add_argument("--data", metavar="RECIPE", default=None, help="the recipe whose data to use (the run's own)")
    parser.add_argument("--draws", type=int, default=64, help="draws for each estimate of the bound (64)")
    parser.add_argument("-n", type=int, default=500, help="samples that decide when to stop (500)")
    parser.add_argument("--sigma-min", type=float, default=None, help="end of the last step (data's deviation / 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--out", metavar="FILE", default=None, help="the grid file (grid-STEPS.json)")
    parser.add_argument("--json", action="store_true", help="print the grid as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..align import Aligned, optimise, write_grid
    from ..core import Batch, InputError, to_config
    from ..pipeline import load
    from ..pipeline.names import SOLVERS, by_name
    from ..pipeline.pipeline import evaluating
    from ..recipes.evaluation import rows
    from .evaluate import _data
    from .progress import Progress

    pipe = load(args.model)
    solver = pipe.defaults.solver if args.solver is None else by_name("solver", args.solver, SOLVERS)
    path = Path(args.out or f"grid-{args.steps}.json")
    if path.exists():
        raise InputError(f"{path} exists and is not overwritten: give another name with --out")
    source = _data(Path(args.model), args.data)
    if source.shape != pipe.shape:
        raise InputError(f"the data is {source.shape}, the model {pipe.shape}: give the data that it was trained on")
    found = rows(source, 4000)
    data = Batch(found.x0, {key: value for key, value in found.cond.items() if key in pipe.denoiser.cond})
    options = {"draws": args.draws, "samples": args.n, "seed": args.seed, "sigma_min": args.sigma_min}
    best: Aligned | None = None
    stopped = False
    with evaluating(pipe.denoiser), Progress("searching", 100) as bar:
        try:
            for i, grid in enumerate(optimise(pipe.denoiser, data, args.steps, solver=solver, **options)):
                best = grid
                bar.total = max(i + 2, 40)
                bar.update(i + 1)
        except KeyboardInterrupt:
            stopped = True
    if best is None:
        return 130
    facts = {
        "steps": args.steps,
        "solver": to_config(solver),
        "model_sha256": pipe.sha256(),
        "cost": best.cost,
        "distance": {"first": best.start, "found": best.held_out},
        "finished": not stopped,
    }
    write_grid(path, best.levels, facts)
    if args.json:
        print(
            json.dumps(
                {
                    "path": str(path),
                    "times": best.grid(pipe.denoiser.schedule, args.steps).tolist(),
                    "levels": best.levels,
                    **facts,
                }
            )
        )
    else:
        print(f"{path}: distance of samples to data {best.start:.4g} -> {best.held_out:.4g}")
        print("s = " + ", ".join(f"{v:.4g}" for v in best.levels[:-1]) + ", 0")
    return 130 if stopped else 0
