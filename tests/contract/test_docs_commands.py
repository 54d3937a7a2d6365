"""Commands and Python that the documentation shows: options exist and are parsed, imports are there, TOML is TOML.

test_docs_python.py runs the Python.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from bench import cli
from bench.commands import _make

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HISTORY = ("log.md",)
ELSEWHERE = ("docs/reference/api.md", "docs/quickstart.md")  # tests/unit/api runs or compares them
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GOALS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
SHELL = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:make |(?:\S*/)?python -m bench |lorasweep )")
AFTER = ("|", ">", "&&", ";", "&")  # what ends a command


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, text) of each block of a language; "" is a block without one."""
    pages = (page for page in PAGES if page.name not in HISTORY)
    return [
        (page.relative_to(ROOT).as_posix(), text)
        for page in pages
        for found, text in BLOCK.findall(page.read_text("utf-8"))
        if found == language
    ]


def lines() -> list[tuple[str, str]]:
    """Return (page, command) of each shell line: of blocks, of indented text and of code within a line."""
    found = set()
    for page in (page for page in PAGES if page.name not in HISTORY):
        text = page.read_text("utf-8")
        shown = "\n".join(block for _, block in BLOCK.findall(text)).replace("\\\n", " ").splitlines()
        prose = BLOCK.sub("", text)
        shown += [line for line in prose.splitlines() if line.startswith("    ")]
        shown += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
        name = page.relative_to(ROOT).as_posix()
        found |= {(name, line.strip().removeprefix("$ ")) for line in shown if SHELL.match(line.strip())}
    return sorted(one for one in found if not set("[<") & set(one[1]))  # those are patterns, not commands


def words_of(line: str) -> list[str]:
    """Return a command's words, without its comment and what it is piped to."""
    words = shlex.split(line, comments=True)
    end = next((i for i, word in enumerate(words) if word in AFTER), len(words))
    return [word for word in words[:end] if not word.startswith("...")]


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(cli.app())
    return dict(group.commands)


def parsed(line: str) -> None:
    """Parse a command as the command line would; raise where it would refuse an option."""
    words, known = words_of(line), commands()
    while "=" in words[0]:  # VARIABLE=value before the command
        words = words[1:]
    if words[0] == "make":
        goals = [word for word in words[1:] if "=" not in word]
        assert goals, f"no goal: {line}"
        assert set(goals) <= GOALS | known.keys(), f"no such goal: {line}"
        name = goals[0]
        if name not in known:
            return
        given = [word for word in words[1:] if "=" in word and not word.startswith(tuple(_ALSO))]
        rest = _make.arguments(known, name, given, {})
    else:
        at = words.index("bench") if "bench" in words else 0
        name, rest = (words[at + 1], words[at + 2 :]) if len(words) > at + 1 else ("", [])
        if not name or name.startswith("-"):
            return
    assert name in known, f"no such command: {line}"
    known[name].make_context(name, [word for word in rest if word != "--help"], resilient_parsing=False)


_ALSO = ("VENV=", "PYTHON=")


def test_there_are_commands_to_look_at_and_a_wrong_one_is_caught() -> None:
    assert len(lines()) > 60
    for wrong in ("make sweep ETAA=1", "make sweeep", "python -m bench plan --tsk 1", "lorasweep swep"):
        with pytest.raises(Exception):  # noqa: B017, PT011 - by click, by BadInput or by an assertion
            parsed(wrong)


@pytest.mark.parametrize(("page", "line"), lines())
def test_every_command_of_the_pages_is_parsed(page: str, line: str) -> None:
    parsed(line)


@pytest.mark.parametrize(("page", "text"), [one for one in blocks("python") if one[0] not in ELSEWHERE])
def test_python_of_the_pages_compiles_and_its_imports_are_there(page: str, text: str) -> None:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [(node.module, tuple(alias.name for alias in node.names))]
        else:
            continue
        for module, wanted in names:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                pytest.skip(f"{module} is not installed here")
            there = importlib.import_module(module)
            for name in wanted:
                assert hasattr(there, name) or importlib.util.find_spec(f"{module}.{name}"), f"{page}: {module}.{name}"


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_toml_of_the_pages_is_toml(page: str, text: str) -> None:
    assert tomllib.loads(text.replace("\n...\n", "\n")), "three dots: lines are left out"
