"""The Python of the pages runs as it stands, offline: a page's blocks in one namespace, beside results of one sweep.

`<!-- not run: why -->` before a block says that it needs a download; such a block is compiled only, as all are by
test_docs_commands.py. The pages that tests/unit/api writes or runs as a notebook are left to it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from tests.support.chat_helpers import MARKED, messages, save_chatty, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("reference/api.md", "quickstart.md", "log.md")
BLOCK = re.compile(r"^(<!-- not run: .+ -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- not run: .+ -->")
FIRST = "how-to/python.md"  # its sweep is the one that the others read
TINY = ["--steps", "4", "--eval-steps", "4", "--batch-size", "2", "--seeds", "0", "--rank", "2", "--eta-A", "1e-3"]


def blocks(text: str) -> list[str]:
    """Return the blocks of a page that are run."""
    return [code for marker, code in BLOCK.findall(text) if not marker]


DOCS = {page.relative_to(ROOT / "docs").as_posix(): page.read_text("utf-8") for page in (ROOT / "docs").rglob("*.md")}
PAGES = sorted(name for name, text in DOCS.items() if name not in ELSEWHERE and blocks(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What running a page left: its names, and what it printed."""

    names: dict[str, Any]
    said: str


def run(page: str, directory: Path) -> Ran:
    """Run a page's blocks in their order; an error names the page and the line in it."""
    names: dict[str, Any] = {"__name__": page}
    said = io.StringIO()
    with contextlib.chdir(directory), contextlib.redirect_stdout(said):
        for code in blocks(DOCS[page]):
            above = DOCS[page][: DOCS[page].index(code)].count("\n")
            exec(compile("\n" * above + code, page, "exec"), names)
    return Ran(names=names, said=said.getvalue())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """Return the directory in which the page on Python has run, so that it holds results of the demo."""
    directory = tmp_path_factory.mktemp("pages")
    return directory, run(FIRST, directory)


@pytest.fixture(scope="module")
def prepared(first: tuple[Path, Ran]) -> Path:
    """Return it with what the pages' commands make: an adapter of the demo, and one of conversations."""
    directory, _ = first
    base = save_chatty(directory / "chatty", MARKED)
    chats = [{"messages": messages(f"Is {i} even?", ("yes", "no")[i % 2])} for i in range(20)]
    write_jsonl(directory / "chats.jsonl", *chats)
    with contextlib.chdir(directory), contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["recommend", "--methods", "lora", "--save", "adapter"]) == 0
        chat = ["--task", "chats.jsonl", "--model", str(base), "--methods", "lora", *TINY]
        assert cli.main(["sweep", *chat]) == 0
        assert cli.main(["recommend", *chat, "--save", "my-adapter"]) == 0
    return directory


def test_the_page_on_python_does_what_it_says(first: tuple[Path, Ran]) -> None:
    _, ran = first
    assert ran.names["config"].r >= 1
    assert len(ran.names["rows"]) >= 6
    assert "1 trial" in ran.said


@pytest.mark.parametrize("page", [page for page in PAGES if page != FIRST])
def test_the_python_of_a_page_runs(page: str, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = dict(os.environ)
    run(page, prepared)
    assert dict(os.environ) == before


def test_a_marker_stands_before_a_block_and_blocks_are_found() -> None:
    assert len(PAGES) >= 5
    for name, text in DOCS.items():
        assert len(MARKER.findall(text)) == sum(bool(marker) for marker, _ in BLOCK.findall(text)), name
    assert blocks("<!-- not run: x -->\n```python\na\n```\n\n```python\nb\n```\n") == ["b\n"]
