"""What `sfumato sample` makes of its options: control from files, sheets, previews, second passes."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core import Prediction
    from ..pipeline import Output, Pipeline

# what a sheet can be over, and how a value is read
AXES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("steps", "seed", "noise_level"), int),
    **dict.fromkeys(("guidance", "rescale", "strength", "image_guidance"), float),
    **dict.fromkeys(("solver", "grid", "prompt", "negative"), str),
}


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
    return file, rest, numbers


def control(args: argparse.Namespace, pipe: Pipeline, device: str) -> list[Any]:
    """Return what steers: `--control` and `--image-prompt`, their networks on `device`."""
    from ..core import InputError
    from ..pipeline import read_control, read_image_prompt

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


def placed(pipe: Pipeline, device: str, memory: str | None) -> Pipeline:
    """Return `pipe` on a device, with the memory savers that are named."""
    import torch

    from ..core import InputError

    savers = () if memory is None else tuple(memory.split(","))
    try:
        if "offload" in savers:
            return replace(pipe, memory=savers, device=torch.device(device))
        return replace(pipe, memory=savers).to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device} cannot be used here: {str(error).splitlines()[0][:120]}") from error


def prediction(name: str | None) -> Prediction | None:
    """Return the prediction of a name, None for none."""
    from ..core import X0, Eps, Flow, V

    return None if name is None else {"eps": Eps(), "v": V(), "x0": X0(), "flow": Flow()}[name]


def previewing(pipe: Pipeline, file: str) -> Callable[[Any, Any], None]:
    """Return a callback that keeps a small picture of the run's state in `file`, whole at any moment."""
    from ..core import InputError
    from ..pipeline import watching
    from ..pipeline.images import contact_sheet
    from ..pipeline.metadata import encode_png

    path = Path(file)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise InputError(f"--preview {file!r:.80} must be a .png in a folder that is there; each step writes it anew")
    aside = path.with_name(path.name + ".part")

    def show(k: Any, pictures: Sequence[Any]) -> None:
        aside.write_bytes(encode_png(contact_sheet(pictures), None))
        os.replace(aside, path)

    return watching(pipe, show)


def axis(text: str) -> tuple[str, list[Any]]:
    """Return (setting, values) of "guidance=1,3,7.5"; values with commas in them are given as a JSON list."""
    from ..core import InputError, nearest

    name, _, said = text.partition("=")
    name = name.replace("-", "_")
    if name not in AXES:
        raise InputError(f"--sheet {text[:60]!r} must be SETTING=VALUE,VALUE{nearest(name[:40], AXES)}")
    try:
        given = json.loads(said) if said.startswith("[") else said.split(",")
        return name, [AXES[name](value) for value in given]
    except (ValueError, TypeError) as error:
        raise InputError(f"--sheet {text[:60]!r}: the values of {name} are {AXES[name].__name__}s") from error


def save_sheet(pipe: Pipeline, axes: Sequence[str], folder: str, call: dict[str, Any]) -> Path:
    """Write the sheet over two settings under the next free name in `folder`, and return its path."""
    from ..core import InputError
    from ..pipeline import sheet
    from ..pipeline.metadata import encode_png

    if len(axes) != 2:
        raise InputError(
            "a sheet is over two settings: give --sheet twice, as --sheet steps=10,20 --sheet guidance=3,7"
        )
    rows, columns = (axis(text) for text in axes)
    free = {key: value for key, value in call.items() if value is not None and key not in (rows[0], columns[0], "n")}
    for name in (rows[0], columns[0]):
        if name != "seed" and call.get(name) not in (None, ()):  # a seed has a default
            raise InputError(f"--sheet {name}=... and --{name.replace('_', '-')}: give one of them")
    page = encode_png(sheet(pipe, rows, columns, n=1, **free), None)
    at = Path(folder)
    try:
        at.mkdir(parents=True, exist_ok=True)
        for number in range(100_000):
            path = at / f"sheet-{number:05d}.png"
            try:
                with open(path, "xb") as file:
                    file.write(page)
                return path
            except FileExistsError:
                continue
    except OSError as error:
        raise InputError(f"cannot write pictures to {at}: {error.strerror}; give another folder") from error
    raise InputError(f"{at} is full of sheets: give another folder")


def drawn(args: argparse.Namespace, pipe: Pipeline, device: str, call: dict[str, Any]) -> list[Output]:
    """Return the outputs of a call: one, or after a refiner its own, or the enlarged pictures one by one."""
    from ..core import InputError
    from ..pipeline import enlarged, load, refined

    if args.refiner is None:
        outs = [pipe(**call)]
    else:
        second = placed(load(args.refiner, variant=args.variant, dtype=pipe_dtype(args)), device, args.memory)
        kept = {key: value for key, value in call.items() if value is not None}
        outs = [refined(pipe, second, share=args.refiner_share, **kept)]
    if args.enlarge is None:
        return outs
    shown = {key: call[key] for key in ("control", "compile", "callback") if call.get(key)}
    if args.refiner is not None:
        raise InputError("--enlarge works on the pictures of one model: leave --refiner out")
    return enlarged(pipe, outs[0], scale=args.enlarge, strength=args.enlarge_strength, **shown)


def pipe_dtype(args: argparse.Namespace) -> Any:
    """Return the dtype that the weights are asked in, None for how they are stored."""
    import torch

    return None if args.dtype is None else getattr(torch, args.dtype)
