"""`sfumato sample`: draw samples from a model and save them with the settings that made them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = "Draw samples from a model; each PNG carries the settings that made it."
EPILOG = """examples:
  sfumato sample runs/digits/20260101-120000-ab12 7 -n 16 --guidance 2
  sfumato sample my-model 3 7 --solver heun --steps 18
  sfumato sample my-model "a cat" --image cat.png --mask hat.png --strength 0.7
  sfumato sample my-model "a cat" --control canny/=edges.png:0.8 --preview look.png
  sfumato sample sdxl "a cat" --refiner sdxl-refiner
  sfumato sample my-model "a cat" --sheet steps=10,20,40 --sheet guidance=3,7
  sfumato sample my-model --like out/00003-10.png    make a picture again"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model's folder or file, a training run, or owner/name")
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="*", default=[], help="what to make: texts or classes (default: nothing)"
    )
    parser.add_argument("-n", type=int, default=None, help="samples for each prompt (4; 512 for points)")
    parser.add_argument("--seed", type=int, default=0, help="of the first sample; the next has seed + 1 (0)")
    parser.add_argument("--steps", type=int, default=None, help="steps of the grid (the model's default)")
    parser.add_argument("--solver", default=None, help="ddim, euler, dpm++2m, unipc... (the model's default)")
    parser.add_argument("--grid", default=None, help="uniform, karras, log_snr... or a grid file (the model's default)")
    parser.add_argument("--guidance", type=float, default=None, help="classifier-free guidance, 1 is off")
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="guide in this range of s")
    parser.add_argument("--rescale", type=float, default=None, help="rescale guidance by this phi (0.7 in the paper)")
    parser.add_argument("--negative", default=None, help="what to avoid, in the words of a prompt")
    parser.add_argument("--size", metavar="HxW", default=None, help="of the pictures, as 512x768 (the model's)")
    parser.add_argument("--image", metavar="FILE", default=None, help="a picture to start from")
    parser.add_argument("--mask", metavar="FILE", default=None, help="white where to paint; the rest is kept exactly")
    parser.add_argument("--strength", type=float, default=None, help="share of the steps run from the picture (0.8)")
    parser.add_argument("--depth", metavar="FILE", default=None, help="depth map, near is white (that of --image)")
    parser.add_argument("--noise-level", type=int, default=None, help="noise on the picture that a model enlarges")
    parser.add_argument("--image-guidance", type=float, default=None, help="scale of the picture that is edited")
    steering = parser.add_argument_group("steering")
    steering.add_argument(
        "--control", metavar="NET=PICTURE[:SCALE[:START:END]]", action="append", default=[], help="repeatable"
    )
    steering.add_argument(
        "--image-prompt", metavar="ADAPTER=PICTURE[:SCALE]", action="append", default=[], help="repeatable"
    )
    steering.add_argument("--image-tower", metavar="DIR", default=None, help="the encoder that image prompts need")
    steering.add_argument("--lora", metavar="FILE[:STRENGTH]", action="append", default=[], help="repeatable")
    steering.add_argument("--lora-partly", action="store_true", help="leave out what this model has no modules for")
    passes = parser.add_argument_group("more than one picture, or one pass")
    passes.add_argument("--sheet", metavar="SETTING=A,B,...", action="append", default=[], help="twice: a page of both")
    passes.add_argument("--refiner", metavar="MODEL", default=None, help="a model that ends what this one begins")
    passes.add_argument("--refiner-share", type=float, default=0.2, help="of the noise, left to the refiner (0.2)")
    passes.add_argument("--enlarge", metavar="FACTOR", type=float, default=None, help="a second pass at this size")
    passes.add_argument("--enlarge-strength", type=float, default=0.35, help="share of the steps of that pass (0.35)")
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


def _size(text: str) -> tuple[int, int]:
    """Return (height, width) of "512x768"; one number is a square."""
    from ..core import InputError

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdecimal() for p in parts):
        raise InputError(f"--size {text[:20]!r} must be HEIGHTxWIDTH in pixels, as 512x768")
    return int(parts[0]), int(parts[-1])


def _strength(text: str) -> tuple[str, float]:
    """Return (file, strength) of "file:0.8"; 1 where there is no number."""
    file, _, number = text.rpartition(":")
    try:
        return (file, float(number)) if file else (text, 1.0)
    except ValueError:
        return text, 1.0


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from ..core import InputError, Step
    from ..pipeline import load, read_settings
    from ..pipeline.request import arguments
    from . import sampling
    from .progress import Progress

    call: dict[str, Any] = {
        "prompt": args.prompt or None,
        "negative": args.negative,
        "size": None if args.size is None else _size(args.size),
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
    settings = None
    if args.like is not None:
        beside = {"sheet": args.sheet or None, "refiner": args.refiner, "enlarge": args.enlarge}
        if given := [key for key, value in (call | beside).items() if value is not None and key != "seed"]:
            raise InputError(f"--like takes every setting from the picture: leave out {', '.join(given)}")
        settings = read_settings(args.like)
        call = arguments(settings.request)
    pictures = {"image": args.image, "mask": args.mask, "depth": args.depth}
    pipe = load(
        args.model,
        revision=args.revision,
        variant=args.variant,
        dtype=sampling.pipe_dtype(args),
        tokenizer=args.tokenizer,
        codec=args.codec,
        prediction=sampling.prediction(args.prediction),
    )
    for given in args.lora:
        pipe = pipe.with_lora(*_strength(given), partly=args.lora_partly)
    if str(call["grid"] or "").endswith(".json"):
        from ..align import read_levels, times

        call["grid"] = times(pipe.denoiser.schedule, read_levels(Path(call["grid"])), args.steps).tolist()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe = sampling.placed(pipe, device, args.memory)
    pictures["control"] = sampling.control(args, pipe, device)
    if call["n"] is None:
        call["n"] = 512 if len(pipe.shape) == 1 else 4
    look = None if args.preview is None else sampling.previewing(pipe, args.preview)
    with Progress("sampling", 1) as bar:

        def step(k: Step, x: torch.Tensor) -> None:
            bar.total = k.n
            bar.update(k.i + 1)
            if look is not None:
                look(k, x)

        call |= {"callback": step} | pictures
        if args.sheet:
            page = sampling.save_sheet(pipe, args.sheet, args.out, call | {"compile": args.compile or None})
            print(json.dumps({"paths": [str(page)]}) if args.json else f"1 sheet: {page}")
            return 0
        if settings is None:
            outs = sampling.drawn(args, pipe, device, call | {"compile": args.compile})
        else:
            outs = [pipe.again(settings, callback=step, **pictures)]
    for note in dict.fromkeys(note for out in outs for note in out.notes):
        print(f"note: {note}", file=sys.stderr)
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
