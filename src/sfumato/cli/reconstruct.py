"""`sfumato evaluate` of a run that trains a codec: what it keeps of pictures that it has not seen."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..recipes import CodecRecipe


def coding(model: Path) -> CodecRecipe | None:
    """Return the recipe of a run that trains a codec, None for every other model."""
    if not (model / "checkpoints").is_dir():
        return None
    from ..recipes import CodecRecipe, recipe_of
    from ..train import Run

    found = recipe_of(Run(model))
    return found if isinstance(found, CodecRecipe) else None


def reconstruct(args: argparse.Namespace, recipe: CodecRecipe) -> int:
    """Print the figures of the codec; `InputError` for options that mean nothing to one."""
    from ..core import InputError, to_config
    from ..recipes import codec_of_run, reconstruction
    from ..recipes.coding import judged
    from .evaluate import figures
    from .progress import Progress

    for name in ("data", "judge", "likelihood"):
        if getattr(args, name, None):
            raise InputError(f"--{name} is for models that make pictures; {args.model} is the run of a codec")
    earlier = {} if args.against is None else figures(Path(args.against))
    with Progress("reconstructing", args.n) as bar:

        def say(what: str, done: int, of: int) -> None:
            bar.stage(what, of)
            bar.update(done)

        found = reconstruction(codec_of_run(args.model), judged(recipe), args.n, args.seed, say)
    differences = {f.name: f - earlier[f.name] for f in found if f.name in earlier}
    if args.json:
        print(json.dumps({"model": [to_config(f) for f in found], "real": [], "difference": differences}))
        return 0
    for f in found:
        print(f"{f}   change: {differences[f.name]:+.4g}" if f.name in differences else str(f))
    return 0
