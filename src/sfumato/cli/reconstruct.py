"""`sfumato evaluate` of a run that makes no pictures: what a codec keeps, a judge tells apart, a reader reads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..recipes import CodecRecipe, JudgeRecipe, ReaderRecipe


def coding(model: Path) -> CodecRecipe | JudgeRecipe | ReaderRecipe | None:
    """Return the recipe of a run that trains a codec, a judge or a reader, None for every other model."""
    if not (model / "checkpoints").is_dir():
        return None
    from ..recipes import CodecRecipe, JudgeRecipe, ReaderRecipe, recipe_of
    from ..train import Run

    found = recipe_of(Run(model))
    return found if isinstance(found, (CodecRecipe, JudgeRecipe, ReaderRecipe)) else None


def reconstruct(args: argparse.Namespace, recipe: CodecRecipe | JudgeRecipe | ReaderRecipe) -> int:
    """Print the figures of the codec, the judge or the reader; `InputError` for options that mean nothing to one."""
    from ..core import InputError, to_config
    from ..recipes import CodecRecipe, JudgeRecipe, codec_of_run, examined, judge_of_run, reconstruction
    from ..recipes.coding import judged
    from ..recipes.judging import contrasted, told_apart
    from .evaluate import figures
    from .progress import Progress

    kind = type(recipe).__name__.removesuffix("Recipe").lower()
    for name in ("data", "judge", "likelihood"):
        if getattr(args, name, None):
            raise InputError(f"--{name} is for models that make pictures; {args.model} is the run of a {kind}")
    earlier = {} if args.against is None else figures(Path(args.against))
    with Progress("measuring", args.n) as bar:

        def say(what: str, done: int, of: int) -> None:
            bar.stage(what, of)
            bar.update(done)

        if isinstance(recipe, CodecRecipe):
            found = reconstruction(codec_of_run(args.model), judged(recipe), args.n, args.seed, say)
        elif isinstance(recipe, JudgeRecipe):
            found = told_apart(judge_of_run(args.model), contrasted(recipe), args.n)
        else:
            found = examined(args.model, args.n)
    differences = {f.name: f - earlier[f.name] for f in found if f.name in earlier}
    if args.json:
        print(json.dumps({"model": [to_config(f) for f in found], "real": [], "difference": differences}))
        return 0
    for f in found:
        print(f"{f}   change: {differences[f.name]:+.4g}" if f.name in differences else str(f))
    return 0
