"""Ctrl-C and SIGTERM as one KeyboardInterrupt, held back while rows are being stored and told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Guard:
    """Turns the first signal into KeyboardInterrupt; inside `shield` it waits until the shield ends.

    In a thread other than the main one, where signals cannot be caught, it changes nothing.
    """

    def __init__(self) -> None:
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
        if self._shields:
            self._wanted = True
        else:
            raise KeyboardInterrupt
