"""The command line: one line and exit code 2 for bad input, no heavy imports, and a Makefile that agrees with it."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer.main
from rich.console import Console
from rich.progress import Progress

from bench import cli, commands, models, study, tasks
from bench.commands import _make, _progress, _show, _text, dictionary
from bench.core import registry
from bench.core.errors import BadInput
from bench.core.record import SCHEMA, Outcome
from bench.core.spec import Pack
from bench.data import text
from bench.schedule import workloads
from bench.schedule.estimate import Estimate
from bench.study.overrides import BY_KEY, OPTIONS
from bench.sweep import PackStarted, PackStored, Started

ROOT = Path(__file__).resolve().parents[3]
STUDY_COMMANDS = ("plan", "sweep", "status", "plot", "export", "report", "recommend")


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
        (["--task", "my/chats.csv"], "--task: must be a task here, a task's .toml, or conversations in a .jsonl or"),
        (["--task", "chats.json"], "but got chats.json; describe other files in a task TOML"),
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


@pytest.mark.parametrize(
    ("error", "code", "said"), [(BadInput("x", "y", way_out="z"), 2, "x: y; z\n"), (KeyboardInterrupt(), 130, "")]
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr(dictionary, "text", fail)
    assert cli.main(["dictionary", "--output", os.devnull]) == code
    assert capsys.readouterr().err == said


def test_the_dictionary_tells_every_column_and_is_up_to_date(tmp_path: Path) -> None:
    target = tmp_path / "README.md"
    assert cli.main(["dictionary", "--output", str(target)]) == 0
    written = target.read_text(encoding="utf-8")
    assert re.findall(r"^\| (\w+) \|", written, re.MULTILINE)[1:] == SCHEMA.names
    assert (ROOT / "results" / "README.md").read_text(encoding="utf-8") == written, "run make dictionary"


def test_studies_lists_every_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["studies", "--results-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:] if line} >= {"demo", "sst2", "cola", "mrpc"}
    by_name = {line.split()[0]: line for line in lines if line}
    assert re.search(r"  100     0  \d.* (s|min|h) +LoRA\+ .*Fig\. 3", by_name["demo"])
    assert re.search(r"  6348     0  \d.* (s|min|h) +LoRA\+", by_name["toy"])


def test_studies_end_their_lines_at_the_terminal_s_edge() -> None:
    from bench.commands import studies

    assert studies._cut("x" * 20 + "\nyy", 10) == "xxxxxxx...\nyy"
    assert studies._cut("x" * 20, None) == "x" * 20


@pytest.mark.parametrize("command", [["--help"], ["studies"], ["status", "--results-dir", "{tmp}"]])
def test_no_command_that_only_looks_imports_torch(command: list[str], tmp_path: Path) -> None:
    command = [part.format(tmp=tmp_path) for part in command]
    code = "import sys; from bench import cli; cli.main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    for _ in range(2):  # what a first look needs them for is kept in the cache
        done = subprocess.run(
            [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=True
        )
    heavy = {"torch", "transformers", "datasets", "matplotlib", "optuna"}
    assert heavy & set(done.stderr.split()) == set()
    assert done.stdout


def test_flags_and_make_variables_are_all_different() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(set(flags)) == len(flags)
    assert len({option.variable for option in OPTIONS}) == len(OPTIONS) == len(BY_KEY)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_passes_every_variable_to_its_option_and_none_that_is_not_given() -> None:
    assert made("plan") == []
    for option in OPTIONS:
        assert made("plan", f"{option.variable}=1") == [f"{option.flags[0]}=1"]
    assert made("plan", "TASK=") == ["--task="]
    assert made("plan", "DATA=/a b") == ["--data-dir=/a b"]
    assert made("plan", "TARGET_MODULES=.*'q$", "RESULTS=r") == ["--target-modules=.*'q$", "--results-dir=r"]
    odd = "a  b\"c'd`e`$(VENV)${HOME}$$x;|&*?~#\\!<>"
    assert made("plan", f"MODEL={odd}") == [f"--model={odd}"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_knows_the_options_of_each_command() -> None:
    group: Any = typer.main.get_command(cli.app())
    for name, command in group.commands.items():
        for option in (one for one in command.params if one.param_type_name == "option"):
            variable = option.opts[0].lstrip("-").replace("-", "_").upper()
            expected = option.opts[0] if option.is_flag else f"{option.opts[0]}=1"
            assert _make.arguments(group.commands, name, [f"{variable}=1"], {}) == [expected]
            assert _make.arguments(group.commands, name, [], {variable: "1"}) == (
                [expected] if variable not in ("DATA_DIR", "RESULTS_DIR") else []
            )


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (["RANK=4"], {}, ["--ranks=4"]),  # any flag names its option
        ([], {"RANK": "4", "SEED": "1"}, []),  # of other programs
        ([], {"RANKS": "4", "DATA": "d"}, ["--ranks=4", "--data-dir=d"]),
        (["RANK=4"], {"RANKS": "8"}, ["--ranks=4"]),
        (["TASK=a=b"], {"TASK": "c"}, ["--task=a=b"]),
        (["WATCH=1"], {}, ["--watch"]),
        (["WATCH=0"], {}, []),
        (["status", "compare", "FRESH_SEEDS=3", "TASK=x"], {}, ["--task=x"]),
        (["LORASWEEP_DATA=d"], {"PATH": "/bin"}, []),
    ],
)
def test_what_a_variable_of_make_is(words: list[str], environment: dict[str, str], expected: list[str]) -> None:
    group: Any = typer.main.get_command(cli.app())
    assert _make.arguments(group.commands, "status", words, environment) == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ETAA=1"], "make status: must be given variables of its own options, but got 'ETAA'; did you mean ETA_A"),
        (["status", "FRESH_SEEDS=3"], "but got 'FRESH_SEEDS'"),
        (["rank=3"], "but got 'rank'; did you mean RANK"),
        (["CUDA_VISIBLE_DEVICES=0"], "write CUDA_VISIBLE_DEVICES=... before make"),
        (["WATCH="], "WATCH: must be 1 or 0, but got ''"),
        (["WATCH=2"], "WATCH: must be 1 or 0, but got '2'"),
        (["TASK="], "--task: must not be empty"),
    ],
)
def test_a_variable_that_make_does_not_know_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "--make", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert line in captured.err


def made(goal: str, *variables: str) -> list[str]:
    """Return the options that `make <goal>` gives its command: the line that it would run, read as a shell reads it."""
    known = {option.variable for option in OPTIONS} | {"DATA", "RESULTS", "MAKEFLAGS", "MAKELEVEL"}
    environment = {name: value for name, value in os.environ.items() if name not in known}
    done = subprocess.run(
        ["make", "-n", goal, *variables], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    line = done.stdout.rstrip("\n").rpartition(".venv/bin/python -m bench ")[2]
    words = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True).stdout
    command, mark, *rest = words.split("\0")[:-1]
    assert (command, mark) == (goal, "--make")
    group: Any = typer.main.get_command(cli.app())
    return _make.arguments(group.commands, goal, rest, {})


def test_tables_are_aligned() -> None:
    assert _text.table(("name", "n"), [("a", "10"), ("bcd", "5")]) == "name   n\na     10\nbcd    5"
    assert [_text.duration(s) for s in (45, 720, 12240)] == ["45 s", "12 min", "3.4 h"]
    assert [_text.count(n, "trial") for n in (1, 2000)] == ["1 trial", "2,000 trials"]
    assert (_text.rate(1.6e-4), _text.rate(None)) == ("1.6e-04", "-")


def test_a_sweep_from_plan_to_figures_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--methods", "lora,lora+", "--ranks", "2", "--eta-A", "1e-3,1.6e-2", "--lambda", "1,4", "--seeds", "0"]
    options = [*chosen, "--steps", "2", "--n-select", "0", "--results-dir", str(tmp_path), "--device", "cpu"]
    study_dir = tmp_path / "demo-tiny-roberta"

    assert cli.main(["plan", *options]) == 0
    assert "4 trials in 1 pack; 0 finished, 4 to run in 1 pack; about" in capsys.readouterr().out
    assert not study_dir.exists()

    assert cli.main(["plot", *options]) == 2
    assert "there must be finished trials of the study" in capsys.readouterr().err

    assert cli.main(["sweep", *options]) == 0
    out = capsys.readouterr().out
    assert "pack 1/1, 4/4 trials" in out
    assert "chosen on the evaluation split itself" in out
    assert re.search(r"^lora\+? +2 +1.[06]e-0\d +[14] +0\.\d{4} +0\.\d{4} +1$", out, re.MULTILINE)
    assert {path.suffix for path in (study_dir / "figures").iterdir()} == {".png", ".pdf"}
    rows = pd.read_parquet(study_dir / "trials")
    assert sorted(zip(rows["method"], rows["eta_A"], rows["lr_ratio"], strict=True)) == [
        ("lora", 1e-3, 1), ("lora", 1.6e-2, 1), ("lora+", 1e-3, 4), ("lora+", 1.6e-2, 4),
    ]  # fmt: skip

    assert cli.main(["sweep", *options]) == 0
    assert "4 of 4 trials finished (0 diverged); this run: 0 in" in capsys.readouterr().out
    assert pd.read_parquet(study_dir / "trials").equals(rows)

    assert cli.main(["plan", *options]) == 0
    assert "4 finished, 0 to run in 0 packs\n" in capsys.readouterr().out
    assert cli.main(["status", *options]) == 0
    assert re.search(r"^lora\+ +2 +2 +0 +0$", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["plot", *options]) == 0
    assert "heatmap_eta_B_zero_B.png" in capsys.readouterr().out


def test_failed_trials_are_exit_code_1_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> list[Outcome]:
        raise RuntimeError("the cable is out")

    monkeypatch.setattr("bench.executors.runtime._train", fail)
    options = ["--methods", "full", "--eta-A", "1e-3,1e-2", "--seeds", "0", "--results-dir", str(tmp_path)]
    assert cli.main(["sweep", *options]) == 1
    out = capsys.readouterr().out
    assert "1 trial failed: RuntimeError: the cable is out" in out
    assert re.search(r"0 of 2 trials finished \(0 diverged\); this run: 0 in [^,]+, 2 failed", out)
    assert cli.main(["status", *options]) == 0
    assert re.search(r"^full +2 +0 +0 +2$", capsys.readouterr().out, re.MULTILINE)


def test_an_interrupted_sweep_is_exit_code_130(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> list[Outcome]:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.executors.runtime._train", interrupt)
    assert cli.main(["sweep", "--methods", "full", "--seeds", "0", "--results-dir", str(tmp_path)]) == 130
    assert "interrupted; everything finished is kept" in capsys.readouterr().out


def test_the_bar_moves_within_a_pack_and_names_the_best_cell() -> None:
    loaded = study.load("demo", overrides={"methods": "lora+", "rank": "8"})
    trials = study.expand(loaded, data_hash="", model_hash="", default_targets=("query",))
    stream = io.StringIO()
    console = Console(file=stream, width=200, force_terminal=True, color_system=None)
    with Progress(*_progress.COLUMNS, console=console, auto_refresh=False) as progress:
        bar = _progress.Bar(trials, progress, n_steps=10)
        bar(Started(n_trials=8, n_finished=2, n_packs=2, estimate=Estimate(seconds=600, calibrated=True)))
        bar(PackStarted(pack=Pack(trials=trials[:4]), index=0, n_packs=2))
        bar.steps(5)
        assert progress.tasks[0].completed == 4
        best = (trials[1].trial_id, 0.75)
        bar(PackStored(records=(), n_finished=6, n_trials=8, remaining=None, best=best))
        assert progress.tasks[0].completed == 6
        assert f"best so far 0.7500 (held out): {_show.place_of(trials[1])}" in progress.tasks[0].description


def test_the_place_of_a_trial() -> None:
    loaded = study.load("demo", overrides={"eta_A": "1.6e-4", "seeds": "0"})
    trials = study.expand(loaded, data_hash="", model_hash="", default_targets=("query",))
    assert [_show.place_of(trial) for trial in trials] == [
        "lora, rank 1, eta_A 1.6e-04",
        "lora, rank 8, eta_A 1.6e-04",
        "lora+, rank 8, eta_A 1.6e-04, lambda 4",
        "lora+, rank 8, eta_A 1.6e-04, lambda 16",
        "lora+, rank 8, eta_A 1.6e-04, lambda 64",
        "mora type 1, rank 8, eta_A 1.6e-04",
        "mora type 6, rank 8, eta_A 1.6e-04",
        "full, eta_A 1.6e-04",
    ]


def test_mean_tokens_are_those_of_the_encoded_texts() -> None:
    task, located = tasks.get("demo"), models.locate("tiny-roberta")
    data = tasks.load(task, None)
    encoded = text.encode(data, located, n_labels=2, metric="accuracy", max_length=128, n_select=0)
    assert workloads.mean_tokens(data.train, located) == pytest.approx(encoded.train.lengths.mean(), rel=0.05)
    assert workloads.mean_tokens(data.eval, located) == pytest.approx(encoded.eval.lengths.mean(), rel=0.05)


def test_a_precision_that_the_device_lacks_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert cli.main(["sweep", "--device", "cpu", "--precision", "fp16", "--results-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("--precision: must be one the device computes in")
