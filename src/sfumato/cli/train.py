"""`sfumato train`: train a recipe, or go on with a run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from .parser import Parser, Usage

RECIPES = {
    "digits": "handwritten digits, 8 x 8, class-conditional U-Net",
    "datasaurus": "142 points in the plane, a perceptron with Fourier features",
    "folder": "your own pictures: --data.path DIR",
    "tableau": "captioned scenes of shapes, 64 x 64, latent text-to-image U-Net",
    "tableau-clip": "captioned scenes of shapes, 64 x 64, the contrastive judge",
    "tableau-kl": "their autoencoder: 16 x 16 x 4 latents",
    "tableau-reader": "what their captions say: the encoder of words, before it sees a picture",
    "tableau-vq": "their VQGAN: 512 codes",
    "tableau-dvae": "their discrete VAE: 512 codes",
    "tableau-vae": "their plain VAE: 64 numbers a picture",
    "tableau-tiny": "a small decoder of another codec's latents: --objective.teacher DIR",
}

DESCRIPTION = "Train a recipe, or go on with a run that was stopped.\n\nrecipes:\n" + "\n".join(
    f"  {name:<15}{says}" for name, says in RECIPES.items()
)
EPILOG = """Every field of the recipe can be set: --train.steps 500 --schedule VPLinear --net.multipliers 1,2,2
(--show lists all fields with their values.)

examples:
  sfumato train digits --train.steps 500
  sfumato train folder --data.path pictures --data.size 64
  sfumato train runs/digits/20260101-120000-ab12    go on with a run"""


def add_arguments(parser: Parser) -> None:
    """Declare the command's arguments."""
    parser.rest = True
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a recipe, or the folder of a run to go on with")
    parser.add_argument("--resume", metavar="RUN", default=None, help="the folder of a run to go on with")
    parser.add_argument("--out", metavar="DIR", default="runs", help="where runs are kept (runs)")
    parser.add_argument("--name", default=None, help="what the run is called (the recipe's name)")
    parser.add_argument("--show", action="store_true", help="print every field with its value, and train nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    given = args.resume or args.recipe
    if given is None:
        raise Usage("give a recipe or a run; recipes: " + ", ".join(RECIPES))
    resuming = args.resume is not None or (given not in RECIPES and Path(given).is_dir())
    if not resuming and given not in RECIPES:
        from .parser import nearest

        hint = nearest(given, RECIPES)
        raise Usage(f"there is no recipe {given!r}, and no folder of that name{hint} (it comes before the fields)")

    from ..core import to_config
    from ..recipes import RECIPES as TABLE
    from ..recipes import Recipe, changes, flatten, override, recipe_of, train
    from ..train import Run

    folder = Run(given) if resuming else None
    base = recipe_of(folder) if folder is not None else TABLE[given]()
    recipe = override(base, args.rest)
    if args.show:
        fields = flatten(recipe)
        print(json.dumps(to_config(recipe), indent=1) if args.json else "\n".join(map(_line, fields, fields.values())))
        return 0
    for path, old, new in changes(base, recipe):
        print(f"{path}: {old} -> {new}", file=sys.stderr)
    if folder is None:
        folder = Run(shared(lambda: str(Run.create(args.out, args.name or given, to_config(recipe)).path)))
    print(f"run: {folder.path}", file=sys.stderr)
    trainer, result = train(recipe, folder, quiet=args.quiet)
    if trainer.world.rank == 0:
        done = f"trained {result.steps} steps in {result.seconds:.0f} s, loss {result.loss:.4f}; now try"
        facts = {"run": str(folder.path), **result._asdict()}
        next_step = "sample" if isinstance(recipe, Recipe) else "evaluate"
        print(json.dumps(facts) if args.json else f"{done}\n  sfumato {next_step} {folder.path}")
    return 0


def shared(make: Callable[[], str]) -> str:
    """Return what `make` gives in the first of the processes that torchrun started: they share one run."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return make()
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    # torchrun's own store, which all of its processes can reach before they form a group
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"sfumato/run/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if os.environ["RANK"] == "0":
        store.set(key, make())
    return store.get(key).decode()


def _line(path: str, value: object) -> str:
    return f"--{path} {value}"
