"""Marks of where a sweep is, told over a pipe, and a kill -9 at a chosen call inside a chosen phase."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

PHASES = ("plan", "train", "store", "tell", "plot")


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """Die at the n-th call or return inside this phase, counted over all its entries, from 1."""

    phase: str
    n: int


class Marks:
    """Writes `phase <name>`, `idle` and `stored <ids>` to a pipe; carries the aim out, or counts calls by phase."""

    def __init__(self, pipe: int, aim: Aim | None, *, count: bool = False) -> None:
        self._pipe, self._aim, self._counts = pipe, aim, count
        self._left = 0 if aim is None else aim.n
        self.calls: Counter[str] = Counter()

    def say(self, line: str) -> None:
        """Write one line at once: what was written before a kill is read after it."""
        os.write(self._pipe, f"{line}\n".encode())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Mark a phase; phases inside a phase belong to the outer one."""
        watched = self._counts or (self._aim is not None and self._aim.phase == name)
        self.say(f"phase {name}")
        if watched:
            sys.setprofile(self._on_call(name))
        try:
            yield
        finally:
            if watched:
                sys.setprofile(None)
            self.say("idle")

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` as a phase of this name."""

        def inside(*args: Any, **more: Any) -> Any:
            with self.phase(name):
                return call(*args, **more)

        return inside

    def _on_call(self, name: str) -> Callable[[FrameType, str, Any], None]:
        def count(frame: FrameType, event: str, arg: Any) -> None:
            self.calls[name] += 1

        def countdown(frame: FrameType, event: str, arg: Any) -> None:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

        return count if self._counts else countdown


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a sweep's process told before it ended."""

    phase: str  # the phase it was in at the end, or idle
    stored: frozenset[str]  # trials it had called finished
    ran_again: bool  # it trained a trial that was finished when it began
    calls: dict[str, int]  # by phase, where they were counted
    exit_code: int | None  # None: killed


def told(text: str, status: int) -> Told:
    """Return what these lines and this wait status say."""
    lines = text.splitlines()
    where = [line for line in lines if line == "idle" or line.startswith("phase ")]
    stored = (line.split()[1:] for line in lines if line.startswith("stored "))
    return Told(
        phase=where[-1].removeprefix("phase ") if where else "idle",
        stored=frozenset(trial_id for ids in stored for trial_id in ids),
        ran_again="ran-again" in lines,
        calls={words[1]: int(words[2]) for words in map(str.split, lines) if words[:1] == ["calls"]},
        exit_code=None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status),
    )
