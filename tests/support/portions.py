"""Long campaigns in portions: what is done is noted in a file, so that the same command goes on after any stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core import provenance
from bench.core.cache import write_text

NOT_DONE = 3  # exit code: the time was up before the campaign was


class Portions:
    """Runs named portions of work, each once. Without a path nothing is noted; without `minutes` there is no end."""

    def __init__(self, path: Path | None = None, *, minutes: float | None = None) -> None:
        self._path, self._source = path, provenance.source_hash()
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self.noted: dict[str, dict[str, Any]] = {}
        self.n_left = 0  # portions that were not started
        if path is not None and path.exists():
            self.noted = {line["portion"]: line for line in map(json.loads, path.read_text().splitlines())}

    def run(self, portion: str, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        """Return what the portion gives, now or as noted; None where it failed (which is not noted) or time is up."""
        if portion in self.noted:
            result: dict[str, Any] = self.noted[portion]["result"]
            return result
        if self._end is not None and time.monotonic() > self._end:
            self.n_left += 1
            return None
        begin = time.monotonic()
        found = work()
        if found is not None:
            self._note({"portion": portion, "source": self._source, "seconds": round(time.monotonic() - begin, 1),
                        "result": found})  # fmt: skip
        return found

    def _note(self, line: dict[str, Any]) -> None:
        self.noted[line["portion"]] = line
        if self._path is not None:
            text = "".join(json.dumps(noted) + "\n" for noted in self.noted.values())
            write_text(self._path, text)

    def told(self) -> str:
        """Return how long all portions took, and whether they ran on one version of the code."""
        seconds = sum(line["seconds"] for line in self.noted.values())
        versions = len({line["source"] for line in self.noted.values()})
        return f"{seconds:.0f} s" + (f", on {versions} versions of the code" if versions > 1 else "")

    @property
    def exit_code(self) -> int:
        """0, or NOT_DONE where portions are left."""
        return NOT_DONE if self.n_left else 0
