"""Where the seconds of a pack go: setup, compile, train, eval, each synchronised with the device at both ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

Phase = Literal["setup", "compile", "train", "eval"]


class Clock:
    """Accumulated seconds by phase. Phases do not nest: evaluation can never be train time.

    `now` gives seconds that never run backwards; `synchronize` waits until the device has done all it was given.
    """

    def __init__(
        self, *, now: Callable[[], float] = time.perf_counter, synchronize: Callable[[], None] = lambda: None
    ) -> None:
        self._now, self._synchronize = now, synchronize
        self._seconds: dict[Phase, float] = {}
        self._running: Phase | None = None

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Add the seconds spent inside to `phase`; RuntimeError if another phase is running."""
        if self._running is not None:
            raise RuntimeError(f"phase {phase} cannot start within {self._running}")
        self._running = phase
        try:
            with self._spent(phase):
                yield
        finally:
            self._running = None

    @contextmanager
    def apart(self, phase: Phase) -> Iterator[None]:
        """Add the seconds spent inside to `phase` and not to the phase that is running."""
        before = self._seconds.get(phase, 0.0)
        try:
            with self._spent(phase):
                yield
        finally:
            if self._running is not None:
                taken = self._seconds[phase] - before
                self._seconds[self._running] = self._seconds.get(self._running, 0.0) - taken

    @contextmanager
    def _spent(self, phase: Phase) -> Iterator[None]:
        self._synchronize()
        start = self._now()
        try:
            yield
        finally:
            self._synchronize()
            self._seconds[phase] = self._seconds.get(phase, 0.0) + self._now() - start

    def all_seconds(self) -> dict[Phase, float]:
        """Return the seconds of every phase that ran."""
        return dict(self._seconds)

    def add(self, seconds: Mapping[Phase, float]) -> None:
        """Add what an earlier process measured of the same work."""
        for phase, more in seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + more

    def seconds(self, phase: Phase) -> float | None:
        """Return the seconds spent in `phase` so far; None if it never ran."""
        return self._seconds.get(phase)
