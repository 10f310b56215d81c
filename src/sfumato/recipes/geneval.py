"""Plain prompts by task, each asking for one ability of a text-to-image model: GenEval's tasks (arXiv 2310.11513)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..core import Noise
from ..data.tableau import COLOURS, SHAPES, SIZES, TEXTURES
from ..data.tableau.words import NOUNS

NUMBERS = {2: "two", 3: "three", 4: "four"}
PLACES = ("left of", "right of", "above", "below")


class _Picks:
    """Numbers of one prompt, used up one after the other."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._left = list(numbers)

    def of(self, things: Sequence[str], besides: str | None = None) -> str:
        """Return one of the things, another than `besides`."""
        open_to = [t for t in things if t != besides]
        return open_to[int(self._left.pop() * len(open_to))]


def _object(picks: _Picks) -> str:
    return f"a {picks.of(SHAPES)}"


def _pair(picks: _Picks) -> str:
    first = picks.of(SHAPES)
    return f"a {first} and a {picks.of(SHAPES, first)}"


def _counting(picks: _Picks) -> str:
    number = picks.of(tuple(NUMBERS.values()))
    return f"{number} {NOUNS[picks.of(SHAPES)][0][1]}"


def _colour(picks: _Picks) -> str:
    return f"a {picks.of(COLOURS)} {picks.of(SHAPES)}"


def _size(picks: _Picks) -> str:
    return f"a {picks.of(SIZES)} {picks.of(SHAPES)}"


def _texture(picks: _Picks) -> str:
    return f"a {picks.of(TEXTURES)} {picks.of(SHAPES)}"


def _position(picks: _Picks) -> str:
    first = picks.of(SHAPES)
    return f"a {first} {picks.of(PLACES)} a {picks.of(SHAPES, first)}"


def _binding(picks: _Picks) -> str:
    shape, colour = picks.of(SHAPES), picks.of(COLOURS)
    return f"a {colour} {shape} and a {picks.of(COLOURS, colour)} {picks.of(SHAPES, shape)}"


TASKS: dict[str, Callable[[_Picks], str]] = {
    "single_object": _object,
    "two_objects": _pair,
    "counting": _counting,
    "colours": _colour,
    "sizes": _size,
    "textures": _texture,
    "position": _position,
    "colour_binding": _binding,
}


def prompts(task: str, n: int, seed: int = 0) -> list[str]:
    """Return `n` prompts of a task; prompt i is a pure function of (seed, i)."""
    drawn = Noise(range(n)).normal((n, 8), "geneval", seed, task)
    uniform = (0.5 * (1 + (drawn / 2**0.5).erf())).clamp(max=1 - 1e-7)
    return [TASKS[task](_Picks(row)) for row in uniform.tolist()]
