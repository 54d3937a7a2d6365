"""A sweep at work, seen from another terminal: what it is doing now (`.live.json`), and a log of one line per pack."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.core.cache import write_text
from bench.core.errors import one_line
from bench.core.record import Record, Status
from bench.executors.local import append_log
from bench.store import lock
from bench.sweep.events import Event, PackStarted, PackStored, Started, SweepSummary, Warned

LIVE_NAME, LOG_NAME = ".live.json", "sweep.log"
EVERY_SECONDS = 2.0  # between two notes of how many steps are done


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What a sweep is doing. Times are ISO 8601, UTC."""

    pid: str
    started_at: str
    n_packs: int = 0  # that were left to run when it began
    n_stored: int = 0  # packs of which records are stored
    running: int = 0  # trials that have been given to the executor and are not stored
    steps_done: int | None = None  # of the pack at work; None where nobody can say
    n_steps: int | None = None
    remaining_seconds: float | None = None
    at: str = ""  # when this was written


def read(directory: Path) -> Live | None:
    """Return what the sweep at work on a study directory does; None where no sweep holds its lock."""
    pid = lock.holder(directory)
    if pid is None:
        return None
    try:
        known = Live(**json.loads((directory / LIVE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = None
    return known if known is not None and known.pid == pid else Live(pid=pid, started_at="")


class Beacon:
    """Takes the events of one sweep, and writes what `read` finds and the log. Neither is needed for anything else.

    So what cannot be written is left out: a full disk is told of by the rows.
    """

    def __init__(self, directory: Path, *, n_steps: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._log = directory / LIVE_NAME, directory / "logs" / LOG_NAME
        self._clock, self._noted_at = clock, -EVERY_SECONDS
        self._since: dict[int, float] = {}  # pack -> when it was started
        self._stored = set[int]()
        self._live = Live(pid=str(os.getpid()), started_at=_now(), n_steps=n_steps)

    def __call__(self, event: Event) -> None:
        """Take one event of the sweep."""
        match event:
            case Started():
                left = None if event.estimate is None else event.estimate.seconds
                self._note(n_packs=event.n_packs, remaining_seconds=left)
                self._say(f"sweep started: {event.n_finished} of {event.n_trials} trials finished, "
                          f"{event.n_packs} packs to run")  # fmt: skip
            case PackStarted():
                self._since[event.index] = self._clock()
                running = self._live.running + event.pack.size
                self._note(n_packs=event.n_packs, running=running, steps_done=0)
            case PackStored():
                self._stored.add(event.index)
                left = None if event.remaining is None else event.remaining.seconds
                running = max(0, self._live.running - len(event.records))
                self._note(n_stored=len(self._stored), running=running, remaining_seconds=left, steps_done=None)
                self._say(self._line(event))
            case Warned():
                self._say(f"warning: {event.text}")

    def steps(self, n: int) -> None:
        """Take note that the trials of the pack have done n steps, if the last note is old enough."""
        if self._clock() - self._noted_at >= EVERY_SECONDS:
            self._note(steps_done=n)

    def ended(self, done: SweepSummary) -> None:
        """Write the last line."""
        how = "interrupted" if done.interrupted else f"stopped: {done.stopped}" if done.stopped else "ended"
        self._say(f"sweep {how}: {done.n_finished} of {done.n_trials} trials finished, {done.n_run} of them in this "
                  f"run, {done.n_failed} failed, {done.seconds:.1f} s")  # fmt: skip

    def _line(self, event: PackStored) -> str:
        by_status = Counter(str(record.outcome.status) for record in event.records)
        counts = ", ".join(f"{by_status[status]} {status}" for status in Status if by_status[status])
        seconds = self._clock() - self._since.get(event.index, self._clock())
        return (
            f"pack {event.index + 1}/{self._live.n_packs} {event.records[0].pack_id} ({_methods(event.records)}): "
            f"{counts}, {seconds:.1f} s; {event.n_finished} of {event.n_trials} trials finished"
        )

    def _note(self, **changes: object) -> None:
        self._live = replace(self._live, at=_now(), **changes)  # type: ignore[arg-type]
        self._noted_at = self._clock()
        with suppress(OSError):
            write_text(self._path, json.dumps(asdict(self._live)))

    def _say(self, text: str) -> None:
        append_log(self._log, f"{_now()} {one_line(text)}\n")


def _methods(records: tuple[Record, ...]) -> str:
    counts = Counter(record.trial.method for record in records)
    return ", ".join(f"{n} {method}" for method, n in counts.items())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
