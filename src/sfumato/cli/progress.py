"""How far a command is, on standard error: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """`with Progress("sampling", total) as bar: bar.update(done)`; nothing is shown in the first `quiet` seconds."""

    def __init__(self, what: str, total: int, *, every: float = 5.0, quiet: float = 2.0) -> None:
        self.every = every
        self._next = time.monotonic() + quiet
        self._shown = False
        self._bar: Any = None
        self._task: Any = None
        self._begin(what, total)

    def __enter__(self) -> Progress:
        return self

    def stage(self, what: str, total: int) -> None:
        """Go on to something else, and say so where something was said before."""
        if what == self.what:
            return
        self._close()
        self._begin(what, total)
        if self._shown and not sys.stderr.isatty():
            print(what, file=sys.stderr, flush=True)

    def update(self, done: int) -> None:
        """Say that `done` of `total` are done; cheap enough for every step."""
        now = time.monotonic()
        if now < self._next:
            return
        self._shown = True
        left = (now - self._began) / max(done, 1) * (self.total - done)
        if sys.stderr.isatty():
            self._next = now + 0.1
            self._draw(done, f"{left:.0f} s left")
        else:
            self._next = now + self.every
            print(f"{self.what}: {done}/{self.total}, {left:.0f} s left", file=sys.stderr, flush=True)

    def _begin(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._began = time.monotonic()

    def _draw(self, done: int, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Rich

            columns = [TextColumn(self.what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")]
            self._bar = Rich(*columns, console=Console(stderr=True), auto_refresh=False)
            self._task = self._bar.add_task("", total=self.total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=self.total, description=text, refresh=True)

    def _close(self, whole: bool = True) -> None:
        if self._bar is not None:
            if whole:
                self._draw(self.total, "")
            self._bar.stop()
            self._bar = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(whole=kind is None)
