"""One sweep at a time on a study directory, and proof that it can be written to before anything trains."""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.core.errors import BadInput

LOCK_NAME = ".lock"
ID_NAME = ".id"
TRIES, WAIT_SECONDS = 1000, 0.02  # 20 s, which end a hang only: a look lasts microseconds, on a busy machine longer
PROBE_BYTES = 1 << 16  # about the largest part of a small pack


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Hold the directory's lock while inside. It is flock, so the end of the process frees it, kill -9 included.

    Raises:
        BadInput: if another process holds it (named), or the directory cannot be made or locked.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise _unwritable(directory, error) from error
    try:
        _take(handle, directory)
        yield
    finally:
        os.close(handle)  # the file stays: removing it would let two processes lock two files of one name


def holder(directory: Path) -> str | None:
    """Return the process that holds the directory's lock (its id, or `unknown`); None where no sweep is at work."""
    try:
        handle = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back at once, and `_lock` waits for that
    except BlockingIOError:
        return _named(handle)
    except OSError:
        return None
    finally:
        os.close(handle)
    return None


def _named(handle: int) -> str:
    return os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"


def _take(handle: int, directory: Path) -> None:
    rule, way_out = "one sweep at a time on a study directory", "wait for it, stop it, or give another study name"
    try:
        _lock(handle)
    except BlockingIOError:
        got = f"process {_named(handle)} at work on it"
        raise BadInput(str(directory), rule, got=got, way_out=way_out) from None
    except OSError as error:
        rule, way_out = "results must lie on a file system with locks (flock)", "use a local --results-dir"
        raise BadInput(str(directory), rule, got=error.strerror, way_out=way_out) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)


def _lock(handle: int) -> None:
    """Lock for this process alone. A lock that cannot even be shared is a sweep's; one that can is a look's (`holder`).

    So a sweep at work is told at once, and a look, however long the machine takes over it, never stops a sweep.
    """
    for _ in range(TRIES):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        fcntl.flock(handle, fcntl.LOCK_UN)  # or two that start together would wait for each other
        time.sleep(random.uniform(0, WAIT_SECONDS))
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def prove_writable(*directories: Path) -> None:
    """Make each directory and write a file of PROBE_BYTES through to its disk.

    Raises:
        BadInput: where that fails: a full disk, a read-only file system, no permission, a file in the way.
    """
    for directory in directories:
        probe = directory / f".writing-probe-{os.getpid()}"  # store.check clears it after a kill
        try:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                probe.unlink(missing_ok=True)
                with open(probe, "xb") as stream:
                    stream.write(secrets.token_bytes(PROBE_BYTES))  # random: nothing to compress away
                    stream.flush()
                    os.fsync(stream.fileno())
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(directory, error) from error


def directory_id(directory: Path) -> str:
    """Return the directory's own random id, made on the first call: it tells apart two that share an Optuna storage."""
    path = directory / ID_NAME
    try:
        with open(path, "x", encoding="ascii") as stream:
            stream.write(secrets.token_hex(8))
    except FileExistsError:
        pass
    return path.read_text(encoding="ascii").strip()


def _unwritable(directory: Path, error: OSError) -> BadInput:
    way_out = "free space, change its permissions, or give another --results-dir"
    return BadInput(str(directory), "the results directory must be writable", got=error.strerror, way_out=way_out)
