"""What a row says about its code: the commit that really tracks it, and a hash of exactly its source."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench.core import provenance


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of two files."""
    folder = tmp_path / "repository" / "package"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("a = 1\n")
    (folder / "sub" / "b.py").write_text("b = 2\n")
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_source_hash_follows_every_source_file_and_nothing_else(package: Path) -> None:
    first = provenance.source_hash(package)
    (package / "notes.txt").write_text("x")
    (package / "sub" / "b.pyc").write_bytes(b"x")
    assert provenance.source_hash(package) == first
    (package / "sub" / "b.py").write_text("b = 3\n")
    changed = provenance.source_hash(package)
    (package / "sub" / "b.py").rename(package / "sub" / "c.py")
    renamed = provenance.source_hash(package)
    assert len({first, changed, renamed}) == 3
    (package / "sub" / "c.py").rename(package / "sub" / "b.py")
    (package / "sub" / "b.py").write_text("b = 2\n")
    assert provenance.source_hash(package) == first


def test_the_commit_is_that_of_the_tree_that_tracks_the_package(package: Path) -> None:
    assert provenance.git_state(package) == (None, None)
    git(package.parent, "init", "-q")
    (package.parent / "other").write_text("x")
    git(package.parent, "add", "other")
    git(package.parent, "commit", "-q", "-m", "other")
    assert provenance.git_state(package) == (None, None), "inside someone else's tree, and not tracked by it"
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "all")
    assert provenance.git_state(package) == (git(package.parent, "rev-parse", "HEAD"), False)
    (package / "untracked").write_text("x")
    assert provenance.git_state(package)[1] is False
    (package / "__init__.py").write_text("a = 2\n")
    assert provenance.git_state(package)[1] is True


def test_provenance_without_git(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(package))
    found = provenance.collect("fake", package)
    assert (found.git_commit, found.git_dirty, found.device) == (None, None, "fake")
    assert {"python", "torch", "optuna", "pyarrow"} <= set(json.loads(found.versions))
    assert provenance.cpu_name()
