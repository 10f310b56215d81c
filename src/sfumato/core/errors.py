"""What can go wrong, each with the exit code that the command line gives it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import accumulate

_LISTED = 500  # characters of names in a message: it stays a line that can be read


class SfumatoError(Exception):
    """A failure with a one-line message; the command line prints it without a traceback and exits with `exit_code`."""

    exit_code = 1


class InputError(SfumatoError, ValueError):
    """What the user gave is wrong: the message names the thing, the value and the remedy (exit code 2)."""

    exit_code = 2


class Diverged(SfumatoError):
    """Training met more non-finite steps than it may roll back from (exit code 3)."""

    exit_code = 3


class CheckpointError(SfumatoError):
    """A checkpoint could not be written, or none that is whole could be read (exit code 4)."""

    exit_code = 4


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'X'?` for a close match of `name`, else the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = names[: max(1, sum(end <= _LISTED for end in accumulate(len(n) + 2 for n in names)))]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"; known: {', '.join(shown) or 'none'}{more}"
