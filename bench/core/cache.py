"""The user's cache directory, and files written into place whole. Losing the cache costs time, nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def cache_dir() -> Path:
    """Return LORASWEEP_CACHE, else lorasweep/ below XDG_CACHE_HOME or ~/.cache; it need not exist."""
    own = os.environ.get("LORASWEEP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or f"{base}/lorasweep").expanduser()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all (see `write_atomic`)."""

    def write(stream: BinaryIO) -> None:
        stream.write(text.encode())

    write_atomic(path, write)


def write_atomic(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file under a temporary name beside `path` and move it into place, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
