"""An argument parser that names the nearest option, prints one line, and never exits by itself on an error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from typing import NoReturn


class Usage(Exception):
    """The command line cannot be understood. Like `InputError`, without importing torch."""

    exit_code = 2


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for a close match, else the list of what is known."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(names)}"


def number(text: str) -> float:
    """Return the finite number in `text`: the type of an argument."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not finite: give a number")
    return value


class Parser(argparse.ArgumentParser):
    """`parse(words)` gives the arguments or raises `Usage`; with `rest`, unknown words are kept in `args.rest`."""

    def __init__(self, prog: str, description: str | None = None, epilog: str | None = None) -> None:
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.rest = False

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the arguments."""
        if self.rest:
            args, args.rest = self.parse_known_args(words)
            return args
        args, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            word = unknown[0]
            if word.startswith("-"):
                options = [o for o in self._option_string_actions if o.startswith("--")]
                self.error(f"there is no option {word.partition('=')[0]}{nearest(word, options)}")
            self.error(f"one argument too many: {word!r}")
        return args

    def error(self, message: str) -> NoReturn:
        """Raise `Usage`."""
        raise Usage(f"{message} (see {self.prog} --help)")
