"""Commands that read rows go by the options of the last sweep, and say which settings differ where none fits."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench import cli, store
from bench.commands import _last

ROOT = Path(__file__).resolve().parents[3]
SWEPT = ["--methods", "lora,mora", "--ranks", "2", "--eta-A", "1e-3,3e-3", "--seeds", "0", "--steps", "2",
         "--batch", "4", "--mora-types", "1,6", "--n-select", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results directory with a small sweep of six trials."""
    results = tmp_path_factory.mktemp("results")
    assert cli.main(["sweep", *SWEPT, "--device", "cpu", "--results-dir", str(results)]) == 0
    return results


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main([*words, "--device", "cpu"])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("command", ["plot", "status", "recommend", "report", "verify"])
def test_without_options_the_last_sweep_s_are_taken_and_told(
    command: str, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, command, "--results-dir", str(swept))
    assert code == 0, err
    assert "demo-tiny-roberta: as last swept, METHODS=lora,mora RANKS=2 SEEDS=0 ETA_A=1e-3,3e-3 STEPS=2" in err
    if command == "status":
        assert "6 of 6 trials finished" in out
        for method in ("lora", "mora type 1", "mora type 6"):
            assert [line.split("  ")[0] for line in out.splitlines()].count(method) == 2, "in both tables"


def test_what_is_given_counts_and_axes_that_nobody_reads_are_left_out(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, "status", "--methods", "lora", "--results-dir", str(swept))
    assert code == 0, err
    assert "2 of 2 trials finished" in out
    assert "MORA_TYPES" not in err


@pytest.mark.parametrize("command", ["plot", "recommend", "report"])
def test_rows_with_other_settings_are_told_by_what_differs(
    command: str, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, command, "--steps", "5", "--ranks", "3", "--results-dir", str(swept))
    assert code == 2
    line = err.splitlines()[-1]
    assert "there must be finished trials of the study, but got 6 rows with other settings (" in line
    assert "rank 2, asked for 3" in line
    assert "max_steps 2, asked for 5" in line
    assert "eta_A" not in line


@pytest.mark.parametrize("note", ["", "{", "[]", '{"options": {"rank": "zero"}, "data_dir": null}', '{"options": 1}'])
def test_a_note_that_is_broken_counts_as_none(
    note: str, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "r"
    shutil.copytree(swept, results)
    (results / "demo-tiny-roberta" / _last.NAME).write_text(note)
    code, out, err = said(capsys, "status", "--results-dir", str(results))
    assert (code, err) == (0, "")
    assert "0 of 100 trials finished" in out


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_export_obeys_its_filters_and_writes_what_the_ending_says(
    ending: str, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"few.{ending}"
    words = ["export", "--methods", "lora", "--eta-A", "1e-3", "--to", str(target), "--results-dir", str(swept)]
    code, out, err = said(capsys, *words)
    assert code == 0, err
    assert f"1 rows in {target}" in out
    rows = store.load(swept / "demo-tiny-roberta").to_pylist()
    (wanted,) = [row for row in rows if (row["method"], row["eta_A"]) == ("lora", 1e-3)]
    if ending == "parquet":
        assert pq.read_table(target).to_pylist() == [wanted]
        return
    text = target.read_text(encoding="utf-8")
    (row,) = list(csv.DictReader(text.splitlines())) if ending == "csv" else [json.loads(text)]
    assert list(row) == list(wanted)
    assert float(row["metric_value"]) == wanted["metric_value"]
    assert row["eval_correct"] == wanted["eval_correct"].hex()
    assert (json.loads(row["curve"]) if ending == "csv" else row["curve"]) == wanted["curve"]


@pytest.mark.parametrize("name", ["rows.xlsx", "rows", "rows.CSV.gz"])
def test_export_refuses_an_ending_that_it_does_not_write(
    name: str, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "export", "--to", str(tmp_path / name), "--results-dir", str(swept))
    assert code == 2
    assert err.startswith("--to: must end in .parquet, .csv or .jsonl, which says what is written, but got rows")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_with_make_j_what_reads_rows_waits_for_the_sweep(tmp_path: Path) -> None:
    """The Makefile's own rules, with commands that note when they run: `plots` begins when `sweep` has ended."""
    fake = tmp_path / ".venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text('#!/bin/sh\necho "begin $3" >> notes\n[ "$3" = sweep ] && while [ ! -e go ]; do sleep 0.01; done\n'
                    'echo "end $3" >> notes\n')  # fmt: skip
    fake.chmod(0o755)
    for name in (".run", ".dev", ".minilm"):
        (tmp_path / ".venv" / name).touch()
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    for name in (".run", ".dev", ".minilm"):
        (tmp_path / ".venv" / name).touch()
    words = ["make", "-j4", "plots", "sweep"]
    one = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    notes = tmp_path / "notes"
    while not notes.exists():
        assert one.poll() is None, one.communicate()
    (tmp_path / "go").touch()
    out, _ = one.communicate(timeout=600)
    assert one.returncode == 0, out
    assert notes.read_text().split("\n")[:-1] == ["begin sweep", "end sweep", "begin plot", "end plot"]


def test_the_command_works_from_another_directory(tmp_path: Path) -> None:
    """As after `pip install -e .`: the package is found, and studies with it; results go below where one stands."""
    import os
    import sys

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LORASWEEP_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-m", "bench", "status", "--study", "demo-compare", "--device", "cpu"],
                          cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "results in results/demo-compare" in done.stdout
