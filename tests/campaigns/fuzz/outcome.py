"""How one input ended: accepted, or refused in one line of the one form; anything else is a failure."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bench.core.errors import BadInput, one_line

HANG_SECONDS = 300.0


class Hung(BaseException):
    """An input took longer than HANG_SECONDS; not an Exception, so that no handler swallows it."""


class Ends:
    """Counts how inputs end."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def check(self, call: Callable[[], object]) -> None:
        """Call; BadInput in its form is an end, every other exception passes through."""
        try:
            with in_time():
                call()
        except BadInput as error:
            check_form(error)
            self.counts["refused"] += 1
        else:
            self.counts["accepted"] += 1


def check_form(error: BadInput) -> None:
    """Assert where - rule - got - way out, on one line that any terminal and file can take."""
    line = str(error)
    found = "" if error.got is None else f", but got {error.got}"
    assert line == one_line(f"{error.where}: {error.rule}{found}; {error.way_out}"), line
    assert all(part.strip() for part in (str(error.where), error.rule, error.way_out)), line
    check_line(line)


def check_line(line: str) -> None:
    """Assert one printable line."""
    assert line
    assert len(line.splitlines()) == 1, repr(line)
    line.encode()  # half a surrogate pair cannot be written
    assert "Traceback" not in line
    control = {c for c in line if ord(c) < 32 or 127 <= ord(c) < 160}
    assert not control, f"control characters {control} in {line!r}"


@contextmanager
def in_time(seconds: float = HANG_SECONDS) -> Iterator[None]:
    """Raise Hung where the block takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hung(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
