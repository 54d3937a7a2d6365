"""Faults of the disk: full, or not ours to write."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import store
from tests.campaigns.torture.faults.checks import TRIALS, Skipped, fault, half, refused, resumed, says
from tests.support import sweep_helpers as fakes

NOBODY = 65534


@contextmanager
def small_disk(root: Path, megabytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size; Skipped where that is not allowed."""
    place = root / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        raise Skipped("a tmpfs cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Fill a disk to its last byte; return the file that does."""
    filler = place / "filler"
    with open(filler, "wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while stream.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return filler


@fault
def full_disk_before_the_start(root: Path, chance: random.Random) -> str:
    """Refused before anything trains."""
    with small_disk(root, 2) as disk:
        half(disk)
        filler = fill(disk)
        message = refused(disk, "must be writable", "No space left on device", "free space")
        filler.unlink()
        resumed(disk)
    return message


@fault
def full_disk_in_the_middle(root: Path, chance: random.Random) -> str:
    """The sweep stops, keeps what it has, and goes on when there is space."""
    with small_disk(root, 4) as disk:
        engine = fakes.FakeEngine()
        at = chance.randint(1, 12)
        filler: list[Path] = []
        engine.before = lambda pack: filler.append(fill(disk)) if len(engine.packs) == at else None
        stopped = fakes.run(disk, TRIALS, engine)
        assert (stopped.exit_code, stopped.interrupted) == (1, False)
        finished = store.finished_ids(disk / "s")
        assert len(finished) == stopped.n_finished == stopped.n_run > 0
        filler[0].unlink()
        resumed(disk, already=finished)
    return says(str(stopped.stopped), "No space left on device", "everything finished before is kept", "run again")


@fault
def read_only_directory(root: Path, chance: random.Random) -> str:
    """Another user's results directory, as a user without rights on it."""
    half(root)
    if os.getuid():
        for place in (root / "s", root / "s" / store.TRIALS, root / "s" / store.ATTEMPTS):
            place.chmod(0o555)
        message = refused(root, "must be writable", "Permission denied", "permissions")
        for place in (root / "s", root / "s" / store.TRIALS, root / "s" / store.ATTEMPTS):
            place.chmod(0o755)
    else:
        message = as_nobody(root)
    resumed(root)
    return message


def as_nobody(root: Path) -> str:
    """Return the line of a refusal seen by an unprivileged user."""
    for place in (root, *root.parents):
        if place.stat().st_mode & 0o005 != 0o005 and str(place).startswith("/tmp"):
            place.chmod(place.stat().st_mode | 0o055)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            line = refused(root, "must be writable", "Permission denied", "permissions")
        except BaseException as error:
            line = f"FAILED {error!r}"
        os.write(writer, line.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as stream:
        line = stream.read()
    assert not line.startswith("FAILED"), line
    return line
