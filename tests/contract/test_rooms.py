"""Rooms and floors: an import goes down, or stays in its room, and no import goes round in a circle."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# From the bottom up; docs/architecture.md says what each room is for. `cli` is bench/cli.py and bench/__main__.py.
FLOORS = (
    "core", "methods", "searches", "pruners", "models", "data", "embedded", "tasks", "study", "engine", "schedule",
    "executors", "store", "sweep", "trackers", "comparison", "timing", "theory", "plots", "checks", "claims", "export",
    "report", "commands", "api", "cli",
)  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    found = {}
    for top in ("bench", "plots"):
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Return the project's modules that a module imports, inside functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{module}: imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found & set(modules()) - {module})


def room(module: str) -> str:
    top, *rest = module.split(".")
    if top == "plots":
        return "plots"
    return "cli" if not rest or rest[0] == "__main__" else rest[0]


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in modules()} == set(FLOORS)


def test_no_import_goes_up() -> None:
    up = [
        f"{module} imports {name}"
        for module in modules()
        for name in imports(module)
        if FLOORS.index(room(name)) > FLOORS.index(room(module))
    ]
    assert sorted(up) == []


def test_no_import_goes_round_in_a_circle() -> None:
    """Take away whatever imports nothing that is left, again and again: a circle stays."""
    left = set(modules())
    while free := {module for module in left if not imports(module) & left}:
        left -= free
    on_circles = {module for module in left if _reaches(module, module)}
    assert sorted(on_circles) == []


def _reaches(start: str, goal: str) -> bool:
    seen: set[str] = set()
    todo = set(imports(start))
    while todo:
        module = todo.pop()
        if module == goal:
            return True
        seen.add(module)
        todo |= imports(module) - seen
    return False


def test_the_order_of_floors_is_the_documented_one() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    told = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    rooms = [name.removeprefix("bench/").removesuffix(".py").strip("/") for name in told]
    assert [name for name in rooms if name in FLOORS] == list(FLOORS)


def test_no_test_imports_a_test() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if name is not None and any(part.startswith("test_") for part in name.split("."))
    ]
    assert found == [], "what tests share lies in tests/support"
