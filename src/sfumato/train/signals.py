"""Being asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator
from types import FrameType


class Stop:
    """Remembers a SIGTERM or a Ctrl-C, so that the step can be finished and saved; a second one ends at once."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        if self.signal:
            os._exit(128 + number)
        self.signal = number


@contextlib.contextmanager
def stoppable() -> Generator[Stop, None, None]:
    """Catch SIGTERM and SIGINT inside; outside the main thread, where the system allows no handler, catch nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
