"""bench methods, and what is said of a method that cannot be saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import cli, methods
from bench.commands import recommend
from bench.core.errors import BadInput
from bench.export import as_code
from tests.support.engine_helpers import trial


def test_every_method_is_listed_with_source_settings_and_what_it_leaves_as(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(methods.names()) <= set(lines)
    assert "arXiv:2402.09353" in lines["dora"]
    assert "PEFT's VeraConfig, merged" in lines["vera"]
    assert "rank, mora_type" in lines["mora"]
    assert {name for name in methods.names() if "  nothing  " in lines[name]} == {
        "parallel-adapter", "sequential-adapter",
    }  # fmt: skip


def test_a_model_that_cannot_be_saved_is_refused_before_it_trains(tmp_path: Path) -> None:
    one = trial(method="sequential-adapter", rank=2, adapter_activation="relu", adapter_gate=False)
    assert "cannot be merged" in as_code.plain_code(one)
    with pytest.raises(BadInput, match="--save: must be of a method that PEFT has or that can be merged"):
        recommend._save(one, None, tmp_path / "saved", {}, score="", code="")  # type: ignore[arg-type]
    assert not (tmp_path / "saved").exists()
