"""Optuna's journal file on disk: mended after a kill, set aside when broken, copied for the dashboard.

The journal is a mirror of the rows: losing any part of it costs nothing but the time to write it again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

JOURNAL_NAME = "optuna.journal"
LOCK_SUFFIX = ".lock"  # Optuna's JournalFileOpenLock
STALE_SECONDS = 2.0  # Optuna holds its lock for milliseconds, and waits 30 s for one that a killed process left


def mend(path: Path) -> str | None:
    """Make a journal loadable after anything, under the study directory's lock; return what was done, or None.

    A torn last line is cut off: the next append would be glued to it and every later read would fail. A journal that
    is broken elsewhere, or is a link to some other file, is renamed, and the rows fill a new one.
    """
    _drop_stale_lock(path)
    if path.is_symlink():
        return set_aside(path)
    if not path.exists():
        return None
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if not all(_is_record(line) for line in whole.splitlines()):
        aside = _free(path.with_name(path.name + ".broken"))
        os.replace(path, aside)
        return f"{path}: broken; renamed {aside.name} and written anew from the rows"
    if len(whole) == len(content):
        return None
    with open(path, "r+b") as stream:
        stream.truncate(len(whole))
        os.fsync(stream.fileno())
    return f"{path}: a torn last line was cut off"


def set_aside(path: Path) -> str:
    """Rename a journal that Optuna cannot load; return what was done."""
    aside = _free(path.with_name(path.name + ".broken"))
    os.replace(path, aside)
    return f"{path}: could not be loaded; renamed {aside.name} and written anew from the rows"


def copy_for_dashboard(directory: Path) -> Path:
    """Copy a study directory's journal, whole lines only, so that a dashboard never touches the one in use.

    Raises:
        FileNotFoundError: if the study has no journal.
    """
    source, target = directory / JOURNAL_NAME, directory / f".dashboard-{JOURNAL_NAME}"
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    mend(target)
    return target


def _drop_stale_lock(path: Path) -> None:
    """Remove Optuna's lock file once it is STALE_SECONDS old: whoever made it is dead, or this process would wait."""
    lock = path.with_name(path.name + LOCK_SUFFIX)
    for _ in range(int(STALE_SECONDS / 0.05) + 1):
        try:
            age = time.time() - lock.stat().st_mtime
        except FileNotFoundError:
            return
        if not 0 <= age < STALE_SECONDS:  # a time in the future tells nothing: the clock went backwards
            break
        time.sleep(0.05)
    lock.unlink(missing_ok=True)


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _free(path: Path) -> Path:
    n, free = 1, path
    while free.exists() or free.is_symlink():
        n += 1
        free = path.with_name(f"{path.name}.{n}")
    return free
