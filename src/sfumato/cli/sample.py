"""`sfumato sample`: draw samples from a model and save them with the settings that made them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parser import Usage, number

if TYPE_CHECKING:
    from ..pipeline import Output, Pipeline
    from ..pipeline.metadata import Settings

DESCRIPTION = "Draw samples from a model; each PNG carries the settings that made it."
EPILOG = """examples:
  sfumato sample runs/digits/20260101-120000-ab12 7 -n 16 --guidance 2
  sfumato sample my-model 3 7 --solver heun --steps 18
  sfumato sample my-model "a cat" --image cat.png --mask hat.png --strength 0.7
  sfumato sample my-model "a cat" --control canny/=edges.png:0.8 --preview look.png
  sfumato sample sdxl "a cat" --refiner sdxl-refiner
  sfumato sample my-model "a cat" --sheet steps=10,20,40 --sheet guidance=3,7
  sfumato sample my-model --like out/00003-10.png    make a picture again"""

# options that say how another one is done, and do nothing alone
BESIDE = {
    "refiner_share": "refiner",
    "enlarge_strength": "enlarge",
    "image_tower": "image_prompt",
    "lora_partly": "lora",
}
# options that exclude each other
APART = {
    ("sheet", "refiner"): "a sheet is of single passes",
    ("sheet", "enlarge"): "a sheet is of single passes",
    ("enlarge", "refiner"): "--enlarge works on the pictures of one model",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model's folder or file, a training run, or owner/name")
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="*", default=[], help="what to make: texts or classes (default: nothing)"
    )
    parser.add_argument("-n", type=int, default=None, help="samples for each prompt (4; 512 for points)")
    parser.add_argument("--seed", type=int, default=None, help="of the first sample; the next has seed + 1 (0)")
    parser.add_argument("--steps", type=int, default=None, help="steps of the grid (the model's default)")
    parser.add_argument("--solver", default=None, help="ddim, euler, dpm++2m, unipc... (the model's default)")
    parser.add_argument("--grid", default=None, help="uniform, karras, log_snr... or a grid file (the model's default)")
    parser.add_argument("--guidance", type=number, default=None, help="classifier-free guidance, 1 is off")
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="guide in this range of s")
    parser.add_argument("--rescale", type=number, default=None, help="rescale guidance by this phi (0.7 in the paper)")
    parser.add_argument("--negative", default=None, help="what to avoid, in the words of a prompt")
    parser.add_argument("--weighted", action="store_true", help="read weights in the prompts: (a cat:1.3), [a hat]")
    parser.add_argument("--size", metavar="HxW", default=None, help="of the pictures, as 512x768 (the model's)")
    parser.add_argument("--image", metavar="FILE", default=None, help="a picture to start from")
    parser.add_argument("--mask", metavar="FILE", default=None, help="white where to paint; the rest is kept exactly")
    parser.add_argument("--strength", type=number, default=None, help="share of the steps run from the picture (0.8)")
    parser.add_argument("--depth", metavar="FILE", default=None, help="depth map, near is white (that of --image)")
    parser.add_argument("--noise-level", type=int, default=None, help="noise on the picture that a model enlarges")
    parser.add_argument("--image-guidance", type=number, default=None, help="scale of the picture that is edited")
    steering = parser.add_argument_group("steering")
    steering.add_argument(
        "--control", metavar="NET=PICTURE[:SCALE[:START:END]]", action="append", default=[], help="repeatable"
    )
    steering.add_argument(
        "--image-prompt", metavar="ADAPTER=PICTURE[:SCALE]", action="append", default=[], help="repeatable"
    )
    steering.add_argument("--image-tower", metavar="DIR", default=None, help="the encoder that image prompts need")
    steering.add_argument("--inversion", metavar="FILE", action="append", default=[], help="a learned word; repeatable")
    steering.add_argument("--lora", metavar="FILE[:STRENGTH]", action="append", default=[], help="repeatable")
    steering.add_argument("--lora-partly", action="store_true", help="leave out what this model has no modules for")
    passes = parser.add_argument_group("more than one picture, or one pass")
    passes.add_argument("--sheet", metavar="SETTING=A,B,...", action="append", default=[], help="twice: a page of both")
    passes.add_argument("--refiner", metavar="MODEL", default=None, help="a model that ends what this one begins")
    passes.add_argument("--refiner-share", type=number, default=None, help="of the noise, left to the refiner (0.2)")
    passes.add_argument("--enlarge", metavar="FACTOR", type=number, default=None, help="a second pass at this size")
    passes.add_argument("--enlarge-strength", type=number, default=None, help="share of the steps of that pass (0.35)")
    loading = parser.add_argument_group("loading and running")
    loading.add_argument("--memory", default=None, help="memory savers, as strips,slices,offload (none)")
    loading.add_argument("--compile", action="store_true", help="compile the run: for small networks")
    loading.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=None, help="of the weights")
    loading.add_argument("--device", default=None, help="cpu, cuda... (a GPU where there is one)")
    loading.add_argument("--variant", default=None, help="which set of weights of a folder, as fp16")
    loading.add_argument("--revision", default=None, help="of a model of the hub")
    loading.add_argument("--tokenizer", metavar="DIR", default=None, help="tokenizers of a single file, which has none")
    loading.add_argument("--codec", metavar="FILE", default=None, help="an autoencoder instead of the model's own")
    loading.add_argument(
        "--prediction", choices=("eps", "v", "x0", "flow"), default=None, help="what a file that does not tell predicts"
    )
    parser.add_argument("--preview", metavar="FILE.png", default=None, help="a look at the run, anew after each step")
    parser.add_argument("--like", metavar="PNG", default=None, help="take every setting from a picture instead")
    parser.add_argument("--out", metavar="DIR", default="samples", help="where pictures go (samples)")
    parser.add_argument("--private", action="store_true", help="save no settings, only the mark of generated media")
    parser.add_argument("--json", action="store_true", help="print paths, seeds and settings as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    _check(args)

    from . import sampling, sheets
    from .passes import check_second_pass, drawn
    from .places import of_weights, room
    from .previews import preview_file, previewing
    from .progress import Progress

    call, settings = _asked(args)
    axes = sheets.axes_of(args.sheet, call) if args.sheet else None
    of_weights(Path(args.model), "give a model's folder, a .safetensors file, a run, or owner/name")
    with room(Path(args.out)) as out:
        preview = None if args.preview is None else preview_file(args.preview, sampling.inputs(args))
        pipe = _loaded(args)
        call["grid"] = _grid(call["grid"], args.steps, pipe)
        check_second_pass(args, pipe, call)
        refiner = None if args.refiner is None else sampling.second(args)
        pictures = {"image": args.image, "mask": args.mask, "depth": args.depth}
        pictures["control"] = sampling.control(args, pipe)
        look = None if preview is None else previewing(pipe, preview)
        with Progress("sampling", 1) as bar:

            def step(k: Any, x: Any) -> None:
                bar.total = k.n
                bar.update(k.i + 1)
                if look is not None:
                    look(k, x)

            call |= {"callback": step} | pictures
            if axes is not None:
                page, notes = sheets.save_sheet(pipe, axes, out, call | {"compile": args.compile or None})
                _noted(notes)
                print(json.dumps({"paths": [str(page)]}) if args.json else f"1 sheet: {page}")
                return 0
            call["seed"] = 0 if call["seed"] is None else call["seed"]
            if call["n"] is None:
                call["n"] = 512 if len(pipe.shape) == 1 else 4
            if settings is None:
                outs = drawn(args, pipe, refiner, call | {"compile": args.compile})
            else:
                outs = [pipe.again(settings, callback=step, **pictures)]
        return _saved(args, outs)


def _check(args: argparse.Namespace) -> None:
    """Raise `Usage` for options that would do nothing beside the others."""

    def given(name: str) -> bool:
        return getattr(args, name) not in (None, []) and getattr(args, name) is not False

    for name, host in BESIDE.items():
        if given(name) and not given(host):
            option, needs = (f"--{one.replace('_', '-')}" for one in (name, host))
            raise Usage(f"{option} does nothing without {needs}: give that too, or leave it out")
    for (one, other), why in APART.items():
        if given(one) and given(other):
            raise Usage(f"{why}: leave --{other} out")


def _asked(args: argparse.Namespace) -> tuple[dict[str, Any], Settings | None]:
    """Return the arguments of the call, and the settings that they are from where there are."""
    from ..core import InputError
    from ..pipeline import read_settings
    from ..pipeline.request import arguments
    from . import sampling

    call: dict[str, Any] = {
        "prompt": args.prompt or None,
        "negative": args.negative,
        "size": None if args.size is None else sampling.size(args.size),
        "strength": args.strength,
        "n": args.n,
        "seed": args.seed,
        "steps": args.steps,
        "solver": args.solver,
        "grid": args.grid,
        "guidance": args.guidance,
        "guidance_interval": None if args.interval is None else tuple(args.interval),
        "rescale": args.rescale,
        "image_guidance": args.image_guidance,
        "noise_level": args.noise_level,
    }
    if args.like is None:
        return call, None
    beside = {"sheet": args.sheet or None, "refiner": args.refiner, "enlarge": args.enlarge}
    beside["compile"] = args.compile or None
    if given := [key for key, value in (call | beside).items() if value is not None]:
        raise InputError(f"--like takes every setting from the picture: leave out {', '.join(given)}")
    settings = read_settings(args.like)
    call = arguments(settings.request)
    if call["start"] is not None:
        raise InputError(f"{args.like} was made in two passes (--refiner): run the command that made it again")
    if call["image"] is not None and args.image is None:
        raise InputError(
            f"{args.like} was made from another picture: give its --image, or, where that was the first pass of "
            "--enlarge, run the command that made it again"
        )
    return call, settings


def _loaded(args: argparse.Namespace) -> Pipeline:
    """Return the model as the options ask for it."""
    from ..pipeline import load
    from . import sampling

    pipe = load(
        args.model,
        revision=args.revision,
        variant=args.variant,
        dtype=sampling.pipe_dtype(args),
        tokenizer=args.tokenizer,
        codec=args.codec,
        prediction=sampling.prediction(args.prediction),
    )
    for file in args.inversion:
        pipe = pipe.with_inversion(file)
    for given in args.lora:
        pipe = pipe.with_lora(*sampling.lora(given), partly=args.lora_partly)
    return sampling.placed(sampling.weighted(pipe) if args.weighted else pipe, args)


def _grid(grid: Any, steps: int | None, pipe: Pipeline) -> Any:
    """Return a grid, the times of one in a file."""
    if not (isinstance(grid, str) and grid.endswith(".json")):
        return grid
    from ..align import read_levels, times

    return times(pipe.denoiser.schedule, read_levels(Path(grid)), steps).tolist()


def _noted(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        print(f"note: {note}", file=sys.stderr)


def _saved(args: argparse.Namespace, outs: Sequence[Output]) -> int:
    """Write the pictures, and say where."""
    _noted(note for out in outs for note in out.notes)
    paths = [path for out in outs for path in out.save(args.out, private=args.private)]
    if args.json:
        out = outs[-1]
        facts = {"request": out.request, "model": out.model, "device": out.device}
        seeds = [seed for one in outs for seed in one.seeds]
        print(json.dumps({"paths": [str(p) for p in paths], **facts, "seeds": seeds}))
    else:
        print(
            f"{len(paths)} picture{'s' if len(paths) > 1 else ''}: {paths[0]}"
            + (f" to {paths[-1].name}" if len(paths) > 1 else "")
        )
    return 0
