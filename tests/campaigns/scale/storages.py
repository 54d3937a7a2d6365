"""Trials per second that Optuna's storages take from a sweep: queued, asked, told, as the bridge does it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.sweep.optuna_mirror import bridge, space
from tests.support import postgres
from tests.support import sweep_helpers as fakes

PACK = 16
Way = Callable[[bridge.Bridge, str, Sequence[bridge.Entry]], None]


def throughput(urls: Sequence[str], n: int, *, own_server: bool = False) -> None:
    """Print the trials per second of the journal, of SQLite and of each storage URL: queued, and only mirrored.

    `own_server`: of a PostgreSQL server too, started for it.
    """
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="storage-"))
        named: list[tuple[str, str | None]] = [("journal", None), ("SQLite", f"sqlite:///{place}/optuna.db")]
        if own_server:
            named.append(("PostgreSQL", stack.enter_context(postgres.server()).url))
        for name, url in [*named, *((bridge.redact(url), url) for url in urls)]:
            for way in (queued, mirrored):
                with tempfile.TemporaryDirectory(dir=place) as directory:
                    early, late = speed(Path(directory), url, n, way)
                print(f"{name}, {way.__name__}: {early:.0f} trials per second, {late:.0f} after {n:,}", flush=True)


def speed(directory: Path, url: str | None, n: int, way: Way) -> tuple[float, float]:
    """Return the trials per second over the first and over the last quarter of n trials."""
    one, _ = bridge.open_bridge(directory, url, higher_is_better=True)
    trials = [fakes.trial(seed=seed, eta_A=1e-4 * (1 + i % 97), eta_B=4e-4 * (1 + i % 97))
              for seed, i in enumerate(range(n))]  # fmt: skip
    axes = space.space_of([space.settings_of(t) for t in trials], None)
    name, marks = f"scale-{time.time_ns()}", [time.monotonic()]
    for i in range(0, n, PACK):
        entries = [
            bridge.Entry(
                trial_id=t.trial_id, space=axes, params=axes.params(space.settings_of(t)), attributes={"seed": t.seed}
            )
            for t in trials[i : i + PACK]
        ]
        way(one, name, entries)
        marks.append(time.monotonic())
    one.close()
    quarter = max(1, len(marks) // 4)
    return quarter * PACK / (marks[quarter] - marks[0]), quarter * PACK / (marks[-1] - marks[-1 - quarter])


def queued(one: bridge.Bridge, name: str, entries: Sequence[bridge.Entry]) -> None:
    """Queue, ask and tell a pack, as a sweep of up to QUEUE_LIMIT trials does."""
    for entry, asked in zip(entries, one.enqueue_and_ask(name, entries), strict=True):
        one.tell(name, asked, 0.5, {"trial_id": entry.trial_id, "status": "ok"})


def mirrored(one: bridge.Bridge, name: str, entries: Sequence[bridge.Entry]) -> None:
    """Add finished trials, as a larger sweep does, and a sweep that fills a new storage from its rows."""
    for entry in entries:
        one.add(name, replace(entry, value=0.5, attributes={**entry.attributes, "status": "ok"}))
