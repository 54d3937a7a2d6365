"""What a row says about the code and the machine that made it: commit, hash of the source, versions, device."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from bench.core.record import Provenance

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "optuna", "numpy", "pyarrow")


def collect(device: str, package: Path = PACKAGE) -> Provenance:
    """Return the provenance of this code on a device of this name; commit and dirty are None outside git."""
    commit, dirty = git_state(package)
    return Provenance(
        git_commit=commit, git_dirty=dirty, source_hash=source_hash(package), versions=versions(), device=device
    )


def source_hash(package: Path = PACKAGE) -> str:
    """Return 16 hex digits over every .py file of the package: its path below the package, and its bytes."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def git_state(package: Path = PACKAGE) -> tuple[str | None, bool | None]:
    """Return the commit of the work tree that tracks the package, and whether tracked files differ from it.

    A package installed into some other project's tree is not of that project's commit: then (None, None).
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return (None, None) if commit is None or changes is None else (commit, bool(changes))


def versions() -> str:
    """Return a JSON object, package -> version, without importing any; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return json.dumps(found)


def cpu_name() -> str:
    """Return the processor's model name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"


def _git(directory: Path, *arguments: str) -> str | None:
    """Return the output of a git command, or None if git is missing, fails or takes 10 seconds."""
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
