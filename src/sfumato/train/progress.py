"""How far a run is: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, Protocol


class Progress(Protocol):
    """Told after every step; must be cheap."""

    def update(self, step: int, loss: float) -> None:
        """Take note of `step` finished steps and the last loss."""
        ...

    def close(self) -> None:
        """Stop showing."""
        ...


class Silent:
    """Shows nothing."""

    def update(self, step: int, loss: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Lines:
    """One line on standard error every `every` seconds: step, smoothed loss, images/s, time left."""

    def __init__(self, start: int, steps: int, images: int, every: float = 5.0) -> None:
        self.meter = Meter(start, steps, images)
        self.every = every
        self._next = time.monotonic() + every

    def update(self, step: int, loss: float) -> None:
        """Write a line where it is time."""
        self.meter.note(step, loss)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.every
            self._write()

    def close(self) -> None:
        """Write the last line."""
        self._write()

    def _write(self) -> None:
        print(f"step {self.meter.step}/{self.meter.steps}  {self.meter.text()}", file=sys.stderr, flush=True)


class Bar:
    """A bar on the terminal, redrawn at most ten times a second."""

    def __init__(self, start: int, steps: int, images: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Rich

        self.meter = Meter(start, steps, images)
        console = Console(stderr=True)
        columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")]
        self._rich = Rich(*columns, console=console, auto_refresh=False)
        self._task = self._rich.add_task("", total=steps, completed=start)
        self._next = 0.0
        self._rich.start()

    def update(self, step: int, loss: float) -> None:
        """Redraw where it is time."""
        self.meter.note(step, loss)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.1
            self._draw()

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._draw()
        self._rich.stop()

    def _draw(self) -> None:
        self._rich.update(self._task, completed=self.meter.step, description=self.meter.text(), refresh=True)


class Meter:
    """Smoothed loss (over about 50 steps), images a second and time left, since this process began."""

    def __init__(self, start: int, steps: int, images: int) -> None:
        self.start, self.steps, self.images = start, steps, images
        self.step = start
        self.loss = float("nan")
        self._began = time.monotonic()

    def note(self, step: int, loss: float) -> None:
        """Take note of a step."""
        self.step = step
        if math.isfinite(loss):
            self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss

    def text(self) -> str:
        """Return the line's text."""
        done, passed = self.step - self.start, time.monotonic() - self._began
        left = int(passed / done * (self.steps - self.step)) if done else 0
        speed = done * self.images / passed if passed else 0.0
        return f"loss {self.loss:.4f}  {speed:,.0f} images/s  {left // 60}:{left % 60:02d} left"


def progress(start: int, steps: int, images: int) -> Progress:
    """Return a `Bar` where standard error is a terminal, `Lines` elsewhere."""
    return Bar(start, steps, images) if sys.stderr.isatty() else Lines(start, steps, images)
