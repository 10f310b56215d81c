"""What `sfumato sample` makes of its options: a model as it is asked for, and what steers it, from files."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core import Prediction
    from ..pipeline import Pipeline


def spec(text: str, option: str) -> tuple[str, str, list[float]]:
    """Return (file, picture, numbers) of "file=picture:0.8:0:0.7"."""
    from ..core import InputError

    file, _, rest = text.partition("=")
    numbers: list[float] = []
    while len(numbers) < 3:
        head, _, tail = rest.rpartition(":")
        try:
            numbers.insert(0, float(tail))
        except ValueError:
            break
        rest = head
    if not file or not rest:
        raise InputError(f"{option} {text[:80]!r} must be FILE=PICTURE, or FILE=PICTURE:SCALE")
    if odd := [value for value in numbers if not math.isfinite(value)]:
        raise InputError(f"{option} {text[:80]!r}: {odd[0]} after the picture is not finite, give a number")
    return file, rest, numbers


def control(args: argparse.Namespace, pipe: Pipeline) -> list[Any]:
    """Return what steers: `--control` and `--image-prompt`, their networks on the device."""
    from ..core import InputError
    from ..pipeline import read_control, read_image_prompt

    device = device_name(args)
    found: list[Any] = []
    for text in args.control:
        file, picture, numbers = spec(text, "--control")
        if len(numbers) not in (0, 1, 3):
            raise InputError(f"--control {text[:80]!r}: after the picture come SCALE, or SCALE:START:END")
        found.append(read_control(file, picture, **dict(zip(("scale", "start", "end"), numbers, strict=False))))
        found[-1].net.to(device)
    for text in args.image_prompt:
        file, picture, numbers = spec(text, "--image-prompt")
        if len(numbers) > 1 or args.image_tower is None:
            raise InputError(f"--image-prompt {text[:80]!r} is FILE=PICTURE:SCALE, with --image-tower DIR")
        scale = numbers[0] if numbers else 1.0
        found.append(read_image_prompt(file, picture, pipe.denoiser.net, args.image_tower, scale=scale))
        found[-1].adapter.to(device)
    return found


def device_name(args: argparse.Namespace) -> str:
    """Return the device that is asked for, or a GPU where there is one."""
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def placed(pipe: Pipeline, args: argparse.Namespace) -> Pipeline:
    """Return `pipe` on its device, with the memory savers that are named."""
    import torch

    from ..core import InputError

    device = device_name(args)
    savers = () if args.memory is None else tuple(args.memory.split(","))
    try:
        torch.zeros(1, device=device).item()  # "meta" takes a model and gives no number back
        if "offload" in savers:
            return replace(pipe, memory=savers, device=torch.device(device))
        return replace(pipe, memory=savers).to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device} cannot be used here: {str(error).splitlines()[0][:120]}") from error


def lora(text: str) -> tuple[str, float]:
    """Return (file, strength) of "file:0.8"; 1 where there is no number."""
    from ..core import InputError

    file, _, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        return text, 1.0
    if not file:
        return text, 1.0
    if not math.isfinite(strength):
        raise InputError(f"--lora {text[:80]!r}: the strength after the file is not finite")
    return file, strength


def size(text: str) -> tuple[int, int]:
    """Return (height, width) of "512x768"; one number is a square."""
    from ..core import InputError
    from ..pipeline.request import checked

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdecimal() and len(p) < 10 for p in parts):
        raise InputError(f"--size {text[:20]!r} must be HEIGHTxWIDTH in pixels, as 512x768")
    height, width = int(parts[0]), int(parts[-1])
    checked(height=height, width=width)
    return height, width


def second(args: argparse.Namespace) -> Pipeline:
    """Return the refiner, as the model before it is asked for."""
    from ..pipeline import load

    pipe = load(args.refiner, variant=args.variant, dtype=pipe_dtype(args))
    return placed(weighted(pipe) if args.weighted else pipe, args)


def weighted(pipe: Pipeline) -> Pipeline:
    """Return `pipe` with prompts that hold weights, (a cat:1.3); raise `InputError` where it reads no texts."""
    from ..conditioning import TextConditioner, Weighted
    from ..core import InputError

    if not isinstance(pipe.conditioner, TextConditioner):
        raise InputError("--weighted is for models that read texts, this one does not: leave it out")
    return replace(pipe, conditioner=replace(pipe.conditioner, syntax=Weighted()))


def inputs(args: argparse.Namespace) -> list[str]:
    """Return the files of the pictures that a call reads."""
    steering = [spec(text, "--control")[1] for text in args.control]
    steering += [spec(text, "--image-prompt")[1] for text in args.image_prompt]
    return [file for file in (args.image, args.mask, args.depth, args.like) if file is not None] + steering


def prediction(name: str | None) -> Prediction | None:
    """Return the prediction of a name, None for none."""
    from ..core import X0, Eps, Flow, V

    return None if name is None else {"eps": Eps(), "v": V(), "x0": X0(), "flow": Flow()}[name]


def pipe_dtype(args: argparse.Namespace) -> Any:
    """Return the dtype that the weights are asked in, None for how they are stored."""
    import torch

    return None if args.dtype is None else getattr(torch, args.dtype)
