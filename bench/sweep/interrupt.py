"""Ctrl-C and SIGTERM as one KeyboardInterrupt, held back while rows are being stored and told.

While packs are at work the first Ctrl-C only asks for a stop after them; the next one, and SIGTERM, give them up.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ASKED = "\nstopping after what is at work now; Ctrl-C again gives it up\n"


def _say(text: str) -> None:
    """Write to stderr, by the one call that may be made in the middle of another print."""
    with suppress(OSError):
        os.write(2, text.encode())


class Guard:
    """Turns a signal into KeyboardInterrupt; inside `shield` it waits until the shield ends.

    Inside `patient` the first Ctrl-C sets `asked` and nothing else. In a thread other than the main one, where signals
    cannot be caught, it changes nothing.
    """

    def __init__(self, say: Callable[[str], None] = _say) -> None:
        self.asked = False  # a stop is wanted once what is at work has ended
        self._say, self._patient = say, False
        self._shields, self._wanted = 0, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Guard:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Let the first Ctrl-C only ask while inside: whoever is inside looks at `asked`."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Hold signals back while inside; KeyboardInterrupt at the end if one came."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if self._wanted and self._shields == 0:
            self._wanted = False
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._patient and not self.asked:
            self.asked = True
            self._say(ASKED)
        elif self._shields:
            self._wanted = True
        else:
            raise KeyboardInterrupt
