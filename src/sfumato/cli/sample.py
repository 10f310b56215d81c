"""`sfumato sample`: draw samples from a model and save them with the settings that made them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

DESCRIPTION = "Draw samples from a model; each PNG carries the settings that made it."
EPILOG = """examples:
  sfumato sample runs/digits/20260101-120000-ab12 7 -n 16 --guidance 2
  sfumato sample my-model 3 7 --solver heun --steps 18
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
    parser.add_argument("--solver", default=None, help="ddpm, ddim, euler, heun or dpm++2m (the model's default)")
    parser.add_argument("--grid", default=None, help="uniform, karras, log_snr... or a grid file (the model's default)")
    parser.add_argument("--guidance", type=float, default=None, help="classifier-free guidance, 1 is off")
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="guide in this range of s")
    parser.add_argument("--rescale", type=float, default=None, help="rescale guidance by this phi (0.7 in the paper)")
    parser.add_argument("--negative", default=None, help="what to avoid, in the words of a prompt")
    parser.add_argument("--size", metavar="HxW", default=None, help="of the pictures, as 512x768 (the model's)")
    parser.add_argument("--image", metavar="FILE", default=None, help="a picture to start from")
    parser.add_argument("--mask", metavar="FILE", default=None, help="white where to paint; the rest is kept exactly")
    parser.add_argument("--strength", type=float, default=None, help="share of the steps run from the picture (0.8)")
    parser.add_argument("--memory", default=None, help="memory savers, as strips,slices,offload (none)")
    parser.add_argument("--compile", action="store_true", help="compile the run: for small networks")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=None, help="of the weights")
    parser.add_argument("--variant", default=None, help="which set of weights of a folder, as fp16")
    parser.add_argument("--tokenizer", metavar="DIR", default=None, help="tokenizers of a single file, which has none")
    parser.add_argument("--lora", metavar="FILE[:STRENGTH]", action="append", default=[], help="adapters; repeatable")
    parser.add_argument("--lora-partly", action="store_true", help="leave out what this model has no modules for")
    parser.add_argument("--like", metavar="PNG", default=None, help="take every setting from a picture instead")
    parser.add_argument("--out", metavar="DIR", default="samples", help="where pictures go (samples)")
    parser.add_argument("--device", default=None, help="cpu, cuda... (a GPU where there is one)")
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
    }
    settings = None
    if args.like is not None:
        if given := [key for key, value in call.items() if value is not None and key != "seed"]:
            raise InputError(f"--like takes every setting from the picture: leave out {', '.join(given)}")
        settings = read_settings(args.like)
        call = arguments(settings.request)
    pictures = {"image": args.image, "mask": args.mask}
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    pipe = load(args.model, variant=args.variant, dtype=dtype, tokenizer=args.tokenizer)
    for given in args.lora:
        pipe = pipe.with_lora(*_strength(given), partly=args.lora_partly)
    if str(call["grid"] or "").endswith(".json"):
        from ..align import read_levels, times

        call["grid"] = times(pipe.denoiser.schedule, read_levels(Path(call["grid"])), args.steps).tolist()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    savers = () if args.memory is None else tuple(args.memory.split(","))
    try:
        if "offload" in savers:
            pipe = replace(pipe, memory=savers, device=torch.device(device))
        else:
            pipe = replace(pipe, memory=savers).to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device} cannot be used here: {str(error).splitlines()[0][:120]}") from error
    if call["n"] is None:
        call["n"] = 512 if len(pipe.shape) == 1 else 4
    with Progress("sampling", 1) as bar:

        def step(k: Step, x: torch.Tensor) -> None:
            bar.total = k.n
            bar.update(k.i + 1)

        if settings is None:
            out = pipe(**call, **pictures, callback=step, compile=args.compile)
        else:
            out = pipe.again(settings, callback=step, **pictures)
    for note in out.notes:
        print(f"note: {note}", file=sys.stderr)
    paths = out.save(args.out, private=args.private)
    if args.json:
        facts = {"request": out.request, "model": out.model, "device": out.device, "seeds": out.seeds}
        print(json.dumps({"paths": [str(p) for p in paths], **facts}))
    else:
        print(
            f"{len(paths)} picture{'s' if len(paths) > 1 else ''}: {paths[0]}"
            + (f" to {paths[-1].name}" if len(paths) > 1 else "")
        )
    return 0
