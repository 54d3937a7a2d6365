"""Rows in one file: exported, drawn again where neither study, data nor model is, refused where they are not rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench import cli, store
from bench.core.record import SCHEMA, Record, to_table
from tests.support.plot_rows import lora_grid, record

ETAS, RATIOS = (1e-4, 1e-3, 1e-2), (1, 10)


def small_grid() -> list[Record]:
    rng = np.random.default_rng(0)
    return [record(trial, rng) for trial in lora_grid(ETAS, RATIOS, (0, 1))]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A consolidated file of a small LoRA grid."""
    path = tmp_path / "small.parquet"
    store.write_part(path, to_table(small_grid()))
    return path


def test_rows_are_drawn_again_without_study_data_or_model(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LORASWEEP_DATA", raising=False)
    assert cli.main(["plot", "--rows", str(rows), "--results-dir", str(tmp_path / "out")]) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.split()]
    assert {path.stem for path in drawn} >= {"heatmap_eta_B_zero_B", "heatmap_lr_ratio_zero_B"}
    assert all(path.parent == tmp_path / "out" / "small" / "figures" for path in drawn)
    assert all(path.stat().st_size > 10_000 and path.with_suffix(".pdf").is_file() for path in drawn)


@pytest.mark.parametrize(
    ("content", "rule"),
    [(None, "must be a file"), (b"", "must be rows of this harness"), (b"PAR1junk", "must be rows of this harness")],
)
def test_a_file_that_is_not_ours_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, rule: str
) -> None:
    path = tmp_path / "other.parquet"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["plot", "--rows", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"--rows: {rule}")
    assert error.count("\n") == 1


def test_rows_of_several_studies_are_drawn_together(tmp_path: Path) -> None:
    """As the LoRA+ paper's figure 6 does, whose columns are tasks."""
    options = []
    for task in ("sst2", "mrpc"):
        trials = [replace(t, task=task) for t in lora_grid((1e-4, 1e-3, 1e-2), (1, 10), (0,))]
        rng = np.random.default_rng(0)
        store.write(tmp_path / task, [record(t, rng, study=task) for t in trials])
        store.consolidate(tmp_path / task, tmp_path / f"{task}.parquet")
        options += ["--rows", str(tmp_path / f"{task}.parquet")]
    assert cli.main(["plot", *options, "--form", "paper", "--results-dir", str(tmp_path / "out")]) == 0
    drawn = {path.name for path in (tmp_path / "out" / "sst2+mrpc" / "figures").iterdir()}
    assert {"ratio.png", "sst2_minilm_speedup.png", "mrpc_minilm_paper_accuracy_zero_B.pdf"} <= drawn


def test_export_writes_all_finished_rows_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, target = tmp_path / "demo-tiny-roberta", tmp_path / "kept" / "demo.parquet"
    records = small_grid()
    directory.mkdir()
    store.write(directory, records[:5])
    store.write(directory, records[5:])
    assert cli.main(["export", "--results-dir", str(tmp_path), "--to", str(target)]) == 0
    assert f"{len(records)} rows in {target}" in capsys.readouterr().out
    table = pq.read_table(target)
    assert table.schema.equals(SCHEMA)
    assert sorted(table["trial_id"].to_pylist()) == sorted(r.trial.trial_id for r in records)


def test_export_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--results-dir", str(tmp_path)]) == 2
    assert "there must be finished trials; run make sweep first" in capsys.readouterr().err
