"""Trials per second that Optuna's storages take from a sweep: queued, asked, told, as the bridge does it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import bridge, space
from tests import sweep_helpers as fakes

PACK = 16


def throughput(urls: Sequence[str], n: int) -> None:
    """Print the trials per second of the journal, of SQLite and of each storage URL, early and late among n trials."""
    with tempfile.TemporaryDirectory(prefix="storage-") as place:
        named: list[tuple[str, str | None]] = [("journal", None), ("SQLite", f"sqlite:///{place}/optuna.db")]
        for name, url in [*named, *((bridge.redact(url), url) for url in urls)]:
            directory = Path(place) / f"of-{len(name)}-{name.split(':')[0]}"
            directory.mkdir()
            early, late = speed(directory, url, n)
            print(f"{name}: {early:.0f} trials per second, {late:.0f} after {n:,} trials", flush=True)


def speed(directory: Path, url: str | None, n: int) -> tuple[float, float]:
    """Return the trials per second over the first and over the last quarter of n trials."""
    one, _ = bridge.open_bridge(directory, url, higher_is_better=True)
    trials = [fakes.trial(seed=seed, eta_A=1e-4 * (1 + i % 97), eta_B=4e-4 * (1 + i % 97))
              for seed, i in enumerate(range(n))]  # fmt: skip
    axes = space.space_of([space.settings_of(t) for t in trials], None)
    name, marks = f"scale-{time.time_ns()}", [time.monotonic()]
    for i in range(0, n, PACK):
        entries = [
            bridge.Entry(trial_id=t.trial_id, params=axes.params(space.settings_of(t)), attributes={"seed": t.seed})
            for t in trials[i : i + PACK]
        ]
        for entry, asked in zip(entries, one.enqueue_and_ask(name, axes, entries), strict=True):
            one.tell(name, asked, 0.5, {"trial_id": entry.trial_id, "status": "ok"})
        marks.append(time.monotonic())
    quarter = max(1, len(marks) // 4)
    return quarter * PACK / (marks[quarter] - marks[0]), quarter * PACK / (marks[-1] - marks[-1 - quarter])
