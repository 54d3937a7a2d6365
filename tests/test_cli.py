"""The command line: one line and exit code 2 for bad input, no heavy imports, and a Makefile that agrees with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli, commands, registry
from bench.commands import _text, dictionary
from bench.errors import BadInput
from bench.overrides import BY_KEY, OPTIONS
from bench.record import SCHEMA

ROOT = Path(__file__).resolve().parent.parent
STUDY_COMMANDS = ("plan", "sweep", "status", "plot")


@pytest.mark.parametrize("command", STUDY_COMMANDS)
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--task="], "--task: must not be empty"),
        (["--eta_A", "0"], "--eta-A: must be a finite number > 0, but got 0"),
        (["--learning-rate", "-1"], "--eta-A: must be a finite number > 0, but got -1"),
        (["--lr_ratio", "x"], "--lambda: must be a finite number > 0, but got 'x'"),
        (["--lambda", "4", "--methods", "full"], "--lambda: must be read by one of the methods that run (full)"),
        (["--task", "demmo"], "--task: must be one of the tasks here, but got 'demmo'; did you mean 'demo'?"),
        (["--study", "../../etc/passwd"], "--study: a name must be"),
        (["--device", "tpu"], "--device: must be a known device"),
        (["--profile", "fast"], "--profile: must be one of the known values"),
        (["--results-dir", ""], "--results-dir: must name a directory"),
        (["--no-such-option"], "No such option: --no-such-option"),
        (["--eta-A"], "requires an argument"),
        (["stray"], "Got unexpected extra argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    command: str, options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert line in captured.err


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["swep"]) == 2
    assert capsys.readouterr().err == "No such command 'swep'. Did you mean 'sweep'?; see python -m bench --help\n"


def test_no_command_shows_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in registry.names(commands))


@pytest.mark.parametrize(("error", "code"), [(BadInput("x", "y", way_out="z"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr(dictionary, "text", fail)
    assert cli.main(["dictionary", "--output", os.devnull]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_the_dictionary_tells_every_column_and_is_up_to_date(tmp_path: Path) -> None:
    target = tmp_path / "README.md"
    assert cli.main(["dictionary", "--output", str(target)]) == 0
    written = target.read_text(encoding="utf-8")
    assert re.findall(r"^\| (\w+) \|", written, re.MULTILINE)[1:] == SCHEMA.names
    assert (ROOT / "results" / "README.md").read_text(encoding="utf-8") == written, "run make dictionary"


def test_studies_lists_every_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["studies", "--results-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} >= {"demo", "sst2", "cola", "mrpc"}


@pytest.mark.parametrize("command", [["--help"], ["studies"], ["plan", "--results-dir", "{tmp}"]])
def test_no_command_that_only_looks_imports_torch(command: list[str], tmp_path: Path) -> None:
    command = [part.format(tmp=tmp_path) for part in command]
    code = "import sys; from bench import cli; cli.main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "datasets", "matplotlib", "optuna"}
    assert heavy & set(done.stderr.split()) == set()
    assert done.stdout


def test_flags_and_make_variables_are_all_different() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(set(flags)) == len(flags)
    assert len({option.variable for option in OPTIONS}) == len(OPTIONS) == len(BY_KEY)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_passes_every_variable_to_its_option_and_none_that_is_not_given() -> None:
    assert make_line() == ".venv/bin/python -m bench plan"
    for option in OPTIONS:
        assert make_line(f"{option.variable}=1") == f".venv/bin/python -m bench plan {option.flags[0]}='1'"
    assert make_line("TASK=").endswith(" plan --task=''")
    assert make_line("DATA=/a b").endswith(" --data-dir='/a b'")
    assert make_line("TARGET_MODULES=.*'q$", "RESULTS=r").endswith(" --target-modules='.*'\\''q$' --results-dir='r'")


def make_line(*variables: str) -> str:
    """Return the last command that `make plan` would run."""
    known = {option.variable for option in OPTIONS} | {"DATA", "RESULTS", "MAKEFLAGS", "MAKELEVEL"}
    environment = {name: value for name, value in os.environ.items() if name not in known}
    done = subprocess.run(
        ["make", "-n", "plan", *variables], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


def test_tables_are_aligned() -> None:
    assert _text.table(("name", "n"), [("a", "10"), ("bcd", "5")]) == "name   n\na     10\nbcd    5"
    assert [_text.duration(s) for s in (45, 720, 12240)] == ["45 s", "12 min", "3.4 h"]
    assert [_text.count(n, "trial") for n in (1, 2000)] == ["1 trial", "2,000 trials"]
    assert (_text.rate(1.6e-4), _text.rate(None)) == ("1.6e-04", "-")
