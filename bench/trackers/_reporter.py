"""Finished trials to a tracker, from a thread of its own: it never stops a sweep, and slows it as little as it can.

`reported-<tracker>.txt` in the study's directory holds the ids of runs that were written. What is finished and not in
it is sent when the next sweep begins, so that a kill, a full queue or a tracker that is down lose nothing.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import one_line
from bench.core.record import to_row
from bench.sweep.events import Event, PackStored, Started
from bench.trackers._base import Open, Tracker, of_row

MOST_WAITING = 10_000  # rows in the queue; more wait for the next sweep
LAST_SECONDS = 60.0  # that a sweep which has ended waits for its tracker, and that one call of it may take by then

Row = Mapping[str, Any]


class Reporter:
    """Takes the events of a sweep; `warn` gets one line where the tracker fails."""

    def __init__(
        self, name: str, opens: Open, *, group: str, directory: Path, finished: Callable[[], Iterable[Row]],
        warn: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._name, self._opens, self._group, self._directory = name, opens, group, directory
        self._finished, self._warn = finished, warn
        self._queue: queue.Queue[Row | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._failed = False
        self._called: float | None = None  # when the tracker's call at work began

    @property
    def ledger(self) -> Path:
        """The ids of the runs that were written, one a line."""
        return self._directory / f"reported-{self._name}.txt"

    def __call__(self, event: Event) -> None:
        """Queue what is finished: what earlier sweeps left over at the start, then what is stored."""
        if isinstance(event, Started):
            self._thread = threading.Thread(target=self._work, name=f"tracker {self._name}", daemon=True)
            self._queue_all(self._finished())
            self._thread.start()
        elif isinstance(event, PackStored):
            self._queue_all(to_row(record) for record in event.records if record.outcome.status.finished)

    def close(self) -> None:
        """Wait until all is written, for LAST_SECONDS at most; not for a tracker that has hung for as long already."""
        if self._thread is None:
            return
        end = time.monotonic() + LAST_SECONDS
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=self._left(end))
        while self._thread.is_alive() and self._left(end) > 0:
            self._thread.join(min(1.0, self._left(end)))
        if self._thread.is_alive():
            self._tell(f"has not answered for {LAST_SECONDS:.0f} seconds")

    def _left(self, end: float) -> float:
        """Return how many seconds are left to wait: until `end`, or until one call has taken LAST_SECONDS."""
        called = self._called
        return max(0.0, (end if called is None else min(end, called + LAST_SECONDS)) - time.monotonic())

    def _queue_all(self, rows: Iterable[Row]) -> None:
        known = self._known()
        for row in rows:
            if self._failed or row["trial_id"] in known:
                continue
            try:
                self._queue.put_nowait(row)
            except queue.Full:
                self._tell(f"is slower than the sweep by {MOST_WAITING:,} trials")

    def _known(self) -> set[str]:
        return set(self.ledger.read_text("utf-8").split()) if self.ledger.is_file() else set()

    def _work(self) -> None:
        tracker: Tracker | None = None
        try:
            self._called = time.monotonic()
            tracker = self._opens(self._group, self._directory)
            while (row := self._next()) is not None:
                tracker.send(of_row(row))
                with self.ledger.open("a", encoding="utf-8") as stream:
                    stream.write(f"{row['trial_id']}\n")
        except Exception as error:  # whatever a tracker throws: the sweep goes on
            self._tell(f"failed: {type(error).__name__}: {one_line(str(error))[:200]}")
        finally:
            if tracker is not None:
                self._close(tracker)

    def _next(self) -> Row | None:
        """Return the next row once there is one; waiting for it is no call of the tracker."""
        self._called = None
        row = self._queue.get()
        self._called = time.monotonic()
        return row

    def _close(self, tracker: Tracker) -> None:
        try:
            tracker.close()
        except Exception as error:
            self._tell(f"failed at its end: {type(error).__name__}: {one_line(str(error))[:200]}")

    def _tell(self, what: str) -> None:
        """Say once that the tracker gets no more from this sweep."""
        if not self._failed:
            self._failed = True
            self._warn(
                f"tracker {self._name} {what}; rows are complete without it, the next sweep reports what is left"
            )
