"""Every path, module and link that the project's own texts name is there."""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from functools import cache
from pathlib import Path

import pytest

from bench import cli

ROOT = Path(__file__).resolve().parents[2]
# A path of this repository, as prose, comments and docstrings write it; `<name>` and * stand for any name.
PATH = re.compile(r"(?<![\w./<>-])(?:bench|plots|tests|studies|docs)/[\w./*<>-]*[\w>*/]")
MODULE = re.compile(r"(?<![\w./-])(?:bench|plots)(?:\.[a-z_]\w*)+")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HISTORY = ("docs/log.md", "CHANGELOG.md")  # they tell of files that are gone


@cache
def tracked(*patterns: str) -> tuple[str, ...]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(name for name in listed.stdout.split() if (ROOT / name).is_file())


def texts() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("which files are the project's own is asked of git")
    return [name for name in tracked("*.md", "*.py", "*.toml", "Makefile") if name not in HISTORY]


def prose(name: str) -> str:
    """The text of a file; of Python only comments and strings, since code has attributes that look like modules."""
    text = (ROOT / name).read_text("utf-8")
    if not name.endswith(".py"):
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING))


def is_there(path: str) -> bool:
    """Whether a file or folder fits; a placeholder fits every name."""
    pattern = re.sub(r"<[^>]*>", "*", path.rstrip("/"))
    return any(True for _ in ROOT.glob(pattern)) if pattern else True


def is_module(dotted: str) -> bool:
    """Whether some beginning of the dotted name is a module: what follows may be a function or a method."""
    parts = dotted.split(".")
    found = ROOT / parts[0]
    for part in parts[1:]:
        if (found / part).is_dir():
            found = found / part
        else:
            return (found / f"{part}.py").is_file() or _defines(found / "__init__.py", part)
    return True


def _defines(path: Path, name: str) -> bool:
    return path.is_file() and re.search(rf"\b{re.escape(name)}\b", path.read_text("utf-8")) is not None


def test_paths_that_texts_name_exist() -> None:
    missing = [
        f"{name}: {found}"
        for name in texts()
        if not name.startswith("tests/")  # where a path may be one of a temporary directory
        for found in dict.fromkeys(PATH.findall(prose(name)))
        if not is_there(found)
    ]
    assert missing == []


def test_modules_that_texts_name_exist() -> None:
    missing = [
        f"{name}: {found}"
        for name in texts()
        for found in dict.fromkeys(MODULE.findall(prose(name)))
        if not is_module(found)
    ]
    assert missing == []


def test_tests_that_documents_name_exist() -> None:
    named = [(name, *found) for name in tracked("*.md") for found in TEST.findall((ROOT / name).read_text("utf-8"))]
    missing = [
        f"{name}: {path}::{test}"
        for name, path, test in named
        if not (ROOT / path).is_file() or f"\ndef {test}(" not in (ROOT / path).read_text("utf-8")
    ]
    assert missing == []
    assert any(name == "docs/findings.md" for name, _, _ in named)


def test_commands_and_keys_are_all_in_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {path.stem.replace("_", "-") for path in (ROOT / "bench" / "commands").glob("[a-z]*.py")}
    for study in ("demo", "loraplus-llama-mnli", "uuid", "lora-full"):
        assert cli.main(["study", study]) == 0
    keys = set(re.findall(r"^(?:# )?(\w+) = ", capsys.readouterr().out, flags=re.MULTILINE))
    assert {"task", "clip", "max_steps", "reinit_head", "eta_A", "mora_type"} <= keys
    for page, names in (("commands.md", commands), ("study-keys.md", keys)):
        text = (ROOT / "docs" / "reference" / page).read_text("utf-8")
        assert [name for name in sorted(names) if f"`{name}`" not in text] == [], page


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for name in [name for name in texts() if name.endswith(".md")]:
        for link in LINK.findall((ROOT / name).read_text("utf-8")):
            target, _, heading = link.partition("#")
            if "://" in link or link.startswith("mailto:"):
                continue
            place = (ROOT / name).parent / target if target else ROOT / name
            if not place.exists() or (heading and heading not in _headings(place)):
                broken.append(f"{name}: {link}")
    assert broken == []


def _headings(path: Path) -> set[str]:
    lines = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}
