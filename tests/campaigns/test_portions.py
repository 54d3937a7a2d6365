"""Campaigns in portions: each is done once, failed ones again, and a stop loses none."""

from __future__ import annotations

from pathlib import Path

from tests.campaigns.fuzz import guided
from tests.support.portions import NOT_DONE, Portions


def test_what_is_noted_is_not_done_again(tmp_path: Path) -> None:
    done: list[str] = []

    def work(name: str) -> dict[str, object] | None:
        done.append(name)
        return None if name == "bad" and len(done) < 3 else {"n": len(done)}

    for _ in range(3):
        portions = Portions(tmp_path / "notes")
        found = [portions.run(name, lambda name=name: work(name)) for name in ("good", "bad")]  # type: ignore[misc]
    assert done == ["good", "bad", "bad"], "what failed is done again"
    assert found == [{"n": 1}, {"n": 3}]
    assert portions.exit_code == 0
    late = Portions(tmp_path / "notes", minutes=-1.0)
    assert late.run("good", lambda: work("good")) == {"n": 1}
    assert late.run("new", lambda: work("new")) is None
    assert (late.exit_code, late.n_left, done) == (NOT_DONE, 1, ["good", "bad", "bad"])


def test_mutation_is_guided_by_the_lines_reached() -> None:
    """A rule behind three checks, each on a line of its own, is found by going on from what passed the one before."""
    from bench.core.errors import one_line  # of the package: its lines are those that count

    found: list[bytes] = []

    def check(content: bytes) -> None:
        found.append(content)
        one_line(content.decode("latin-1"))

    reached = guided.search([b"printable"], check, n=300, seed="0")
    assert len(found) == 300
    again: list[bytes] = []
    assert guided.search([b"printable"], again.append, n=300, seed="0") == 0, "no line of the package ran"
    assert reached >= 4, "text that cannot be printed, too"
    assert again != found, "what is reached decides what is mutated"
