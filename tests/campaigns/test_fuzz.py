"""A few inputs for each fuzz target; `make fuzz` gives each 10,000."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.errors import BadInput, one_line
from tests.campaigns.fuzz.outcome import check_form, check_line

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("study", "task", "tsv", "csv", "jsonl", "parquet", "part", "stopped", "cli")


def test_every_target_takes_a_few_inputs() -> None:
    command = [sys.executable, "-m", "tests.campaigns.fuzz", "--n", "40"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if "no traceback, no hang" in line]
    assert [line.split(":")[0] for line in told] == [f"fuzz {name}" for name in TARGETS]


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x00b", "\ud800", "\u202etxt.exe", "\x0e"])
def test_what_a_file_holds_never_steers_the_terminal(text: str) -> None:
    check_form(BadInput(f"{text}.tsv", f"rule {text}", got=text, way_out=f"way {text}"))


def test_one_line_keeps_what_can_be_read() -> None:
    assert one_line(" é\n\tλ\u2028漢 ") == "é λ 漢"
    assert one_line("a\x1b[0m\ud800") == "a\\x1b[0m\\ud800"
    with pytest.raises(AssertionError):
        check_line("two\nlines")
