"""The Python on the how-to page runs as it stands, in its order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bench import api
from tests.support import api_page

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "python.md"


def test_the_code_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["config"].r >= 1
    assert len(names["rows"]) >= 6
    assert "1 trial" in capsys.readouterr().out


def test_the_page_of_the_functions_is_up_to_date_and_has_them_all() -> None:
    text = api_page.PAGE.read_text("utf-8")
    assert text == api_page.page(), "run python -m tests.support.api_page"
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == api.__all__
