"""docs/quickstart.ipynb runs from its first cell to its last, and the site's page is what it holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.support import notebook as support

MISSING = [name for name in ("nbformat", "nbclient", "ipykernel") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} of requirements-dev.txt")


def test_the_page_is_what_the_notebook_holds() -> None:
    text, figures = support.page(support.read())
    assert support.PAGE.read_text("utf-8") == text, "run python -m tests.support.notebook"
    for name, content in figures.items():
        assert (support.DOCS / support.FIGURES / name).read_bytes() == content
    assert len(figures) == 1
    assert support.NOTEBOOK.stat().st_size < 200_000


def test_the_notebook_runs_and_says_what_it_holds(tmp_path: Path) -> None:
    kept = support.read()
    assert all(cell.outputs for cell in kept.cells if cell.cell_type == "code" and "print" in cell.source)
    done = support.run(support.read(), tmp_path)
    codes = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    support.cleaned(done)
    kinds = [[one.output_type for one in cell.outputs] for cell in codes]
    assert kinds == [[one.output_type for one in cell.outputs] for cell in kept.cells if cell.cell_type == "code"]
    said = "\n".join(one.text for cell in codes for one in cell.outputs if one.output_type == "stream")
    assert "trainable params" in said
    assert "LoRA+" in said
