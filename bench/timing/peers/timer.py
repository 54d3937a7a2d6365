"""A clock that waits for the device before it is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Timer:
    """Reads seconds that never run backwards; `synchronize` returns when the device has done all it was given."""

    now: Callable[[], float] = time.perf_counter
    synchronize: Callable[[], None] = lambda: None

    def read(self) -> float:
        """Return the time, in seconds, at which the device was idle."""
        self.synchronize()
        return self.now()
