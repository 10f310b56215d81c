"""`sfumato evaluate`: measure a model against held-out data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DESCRIPTION = """Measure a model's samples against held-out data, or how well it follows captions of the tableau world.

Each figure says how it was measured; those not measured in the same way refuse to be compared (exit code 2)."""
EPILOG = """examples:
  sfumato evaluate runs/digits/20260101-120000-ab12 -n 1000
  sfumato evaluate my-model --data digits --json > figures.json
  sfumato evaluate my-model --data digits --likelihood
  sfumato evaluate tableau -n 2000                   how well captions are followed
  sfumato evaluate other-model --data digits --against figures.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a training run, or a folder that Pipeline.save wrote")
    parser.add_argument("-n", type=int, default=1000, help="samples, or rows for the likelihood (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first sample (0)")
    parser.add_argument("--data", metavar="RECIPE", default=None, help="the recipe whose data to use (the run's own)")
    parser.add_argument("--against", metavar="JSON", default=None, help="figures of an earlier evaluation")
    parser.add_argument(
        "--likelihood", action="store_true", help="measure bits per dimension of the data instead of samples"
    )
    parser.add_argument("--judge", metavar="DIR", default=None, help="of captions: a folder or a run (the shipped one)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from .reconstruct import coding, reconstruct

    if (codec := coding(Path(args.model))) is not None:
        return reconstruct(args, codec)
    from ..core import InputError, to_config
    from ..pipeline import load
    from ..recipes import bits_per_dim
    from ..recipes.evaluation import Evaluation, evaluate
    from ..recipes.following import bars, follow
    from .progress import Progress

    earlier = None if args.against is None else figures(Path(args.against))
    pipe = load(args.model)
    captioned = "tokens" in pipe.denoiser.cond and not args.likelihood
    if args.judge is not None and not captioned:
        raise InputError("--judge is for models that follow captions; this one does not")
    data = None if captioned else _data(Path(args.model), args.data)
    with Progress("sampling", args.n) as progress:

        def say(what: str, done: int, of: int) -> None:
            progress.stage(what, of)
            progress.update(done)

        if data is None:
            found = follow(pipe, args.n, _judge(args.judge), args.seed, say)
        elif args.likelihood:
            found = Evaluation(model=[bits_per_dim(pipe, data, args.n, args.seed, say)], real=[])
        else:
            found = evaluate(pipe, data, args.n, args.seed, say)
    code = 130 if any(f.note.startswith("stopped") for f in found.model) else 0
    differences = {}
    if earlier is not None:
        differences = {f.name: f - earlier[f.name] for f in found.model if f.name in earlier}
    reached = bars(found)
    if args.json:
        told = {name: {"bar": bar, "reached": good} for name, (bar, good) in reached.items()}
        sides = {side: [to_config(f) for f in getattr(found, side)] for side in ("model", "real")}
        print(json.dumps({"model_sha256": pipe.sha256(), **sides, "difference": differences, "bars": told}))
        return code
    real = {f.name: f.value for f in found.real}
    for f in found.model:
        beside = f"   real data: {real[f.name]:.4g}" if f.name in real else ""
        change = f"   change: {differences[f.name]:+.4g}" if f.name in differences else ""
        bar, good = reached.get(f.name, (None, True))
        verdict = "" if bar is None else f"   bar {bar:.4g}: {'reached' if good else 'missed'}"
        print(f"{f}{beside}{change}{verdict}")
    return code


def figures(path: Path) -> dict[str, Any]:
    """Return the model's figures, by name, of what `evaluate --json` printed."""
    from ..core import InputError, from_config
    from ..measure import Figure

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = [from_config(f, Figure) for f in data["model"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not hold figures: give what `sfumato evaluate --json` printed") from error
    return {f.name: f for f in found}


def _judge(given: str | None) -> Any:
    from .. import assets
    from ..measure import load_judge
    from ..recipes import judge_of_run

    folder = assets.shipped("tableau") if given is None else Path(given)
    if folder is None:
        return None
    return judge_of_run(folder) if (folder / "checkpoints").is_dir() else load_judge(folder)


def _data(model: Path, recipe: str | None) -> Any:
    from ..core import InputError, nearest
    from ..recipes import RECIPES, Recipe, recipe_of
    from ..train import Run

    if recipe is not None and recipe not in RECIPES:
        raise InputError(f"there is no recipe {recipe!r}{nearest(recipe, RECIPES)}")
    if recipe is None and not (model / "checkpoints").is_dir():
        raise InputError(f"{model} does not say what it was trained on: give --data, one of {', '.join(RECIPES)}")
    found = RECIPES[recipe]() if recipe is not None else recipe_of(Run(model))
    if not isinstance(found, Recipe):
        raise InputError(f"{recipe or model} trains a {type(found).__name__}, which makes no pictures")
    return found.data
