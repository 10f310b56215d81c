"""The passes of a call: one, or a second one by a refiner or at a larger size, which is looked at before the first."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..pipeline import Output, Pipeline

SHARE, STRENGTH = 0.2, 0.35  # what SDXL's refiner was trained for; the middle of what web interfaces use


def check_second_pass(args: argparse.Namespace, pipe: Pipeline, call: Mapping[str, Any]) -> None:
    """Raise `InputError` for a second pass that could not follow the first."""
    from ..core import InputError
    from ..pipeline.enlarge import larger
    from ..pipeline.names import grid_of

    if args.refiner is None and args.enlarge is None:
        return
    defaults = pipe.defaults
    grid = defaults.grid if call["grid"] is None else call["grid"]
    times = grid_of(grid, pipe.denoiser.schedule, call["steps"], defaults.steps)
    count = len(times) - 1
    if args.refiner is not None:
        share = _or(args.refiner_share, SHARE)
        if not 0 < share < 1:
            raise InputError(f"--refiner-share {share:g} must be in (0, 1): the part of the noise left to the refiner")
        if (late := int((times[:-1] <= share).sum())) in (0, count):
            who = "the model before the refiner" if late else "the refiner"
            raise InputError(f"--refiner-share {share:g} of {count} steps leaves {who} none: give more --steps")
        return
    strength = _or(args.enlarge_strength, STRENGTH)
    if len(pipe.shape) != 3 or (pipe.extra is not None and pipe.extra.small):
        raise InputError("--enlarge is for models of pictures that can start from one: this one cannot, leave it out")
    if not 0 < strength <= 1:
        raise InputError(f"--enlarge-strength {strength:g} must be in (0, 1]: 0.8 changes much, 0.3 little")
    if int(count * strength) < 1:
        raise InputError(
            f"--enlarge-strength {strength:g} of {count} steps leaves none: give more --steps or a greater strength"
        )
    factor = pipe.coded.factor
    try:
        larger(call["size"] or (pipe.shape[1] * factor, pipe.shape[2] * factor), args.enlarge, factor)
    except InputError as error:
        raise InputError(f"--enlarge {args.enlarge:g}: {error}") from None


def drawn(args: argparse.Namespace, pipe: Pipeline, refiner: Pipeline | None, call: dict[str, Any]) -> list[Output]:
    """Return the outputs of a call: one, or after a refiner its own, or the enlarged pictures one by one."""
    from ..pipeline import enlarged, refined

    if refiner is not None:
        kept = {key: value for key, value in call.items() if value is not None}
        return [refined(pipe, refiner, share=_or(args.refiner_share, SHARE), **kept)]
    first = pipe(**call)
    if args.enlarge is None:
        return [first]
    shown = {key: call[key] for key in ("control", "compile", "callback", "depth") if call.get(key)}
    try:
        return enlarged(pipe, first, scale=args.enlarge, strength=_or(args.enlarge_strength, STRENGTH), **shown)
    except BaseException:  # Ctrl-C as well: what is made is kept
        paths = first.save(Path(args.out), private=args.private)
        print(f"note: the second pass did not end; those of the first begin at {paths[0]}", file=sys.stderr)
        raise


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
