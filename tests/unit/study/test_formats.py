"""Files of other programs as starting studies: what is carried over, what is named as left, and that the TOML plans."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bench import cli, study
from bench.core.spec import Trial
from bench.study import formats

WANDB = """
program: train.py
project: mine
method: grid
metric: {name: eval/accuracy, goal: maximize}
parameters:
  learning_rate: {values: [1e-4, 4.0e-4]}
  lora_r: {values: [2, 4]}
  lora_alpha: {value: 8}
  per_device_train_batch_size: {value: 16}
  num_train_epochs: {value: 3}
  max_steps: {value: 20}
"""
BAYES = """
method: bayes
run_cap: 12
parameters:
  train:
    parameters:
      lr: {distribution: log_uniform_values, min: 1e-5, max: 1e-2}
  lora_dropout: {distribution: normal, mu: 0, sigma: 1}
  weight_decay: {min: 0.0, max: 0.1}
  loraplus_lr_ratio: {distribution: log_uniform, min: 0, max: 2.772588722239781}
early_terminate: {type: hyperband, min_iter: 3}
"""
AXOLOTL = """
base_model: tiny-roberta
adapter: lora
micro_batch_size: 4
gradient_accumulation_steps: 2
num_epochs: 2
sequence_len: 64
learning_rate: [0.0001, 0.001]
optimizer: adamw_torch
lr_scheduler: cosine
warmup_ratio: 0.1
lora_target_modules: [query, value]
datasets: [{path: mhenrichsen/alpaca_2k_test, type: alpaca}]
_:
  - {lora_r: 4, lora_alpha: 4}
  - {lora_r: 8, lora_alpha: 16}
"""


def started(form: str, content: str, tmp_path: Path, **options: Any) -> tuple[dict[str, Any], formats.Draft, Path]:
    source = tmp_path / "given"
    source.write_text(content, encoding="utf-8")
    text, draft = formats.study_of(form, source, **options)
    made = tmp_path / "made.toml"
    made.write_text(text, encoding="utf-8")
    return tomllib.loads(text), draft, made


def trials(made: Path) -> tuple[Trial, ...]:
    return study.expand(study.load(made), data_hash="d", model_hash="m", default_targets=("query",))


def test_a_grid_of_wandb_is_the_same_grid(tmp_path: Path) -> None:
    found, draft, made = started("wandb", WANDB, tmp_path)
    assert found["grid"] == {"lora": {"eta_A": [1e-4, 4e-4], "rank": [2, 4], "lora_alpha": 8}}
    assert found["train"] == {"batch_size": 16, "max_steps": 20, "eval_steps": 5}
    for left in ("program", "project", "metric", "num_train_epochs"):
        assert any(note.startswith(f"{left}: ") for note in draft.notes)
        assert f"#   {left}: " in made.read_text("utf-8")
    cells = {(t.eta_A, t.rank, t.lora_alpha, t.budget.batch_size) for t in trials(made)}
    assert cells == {(rate, rank, 8, 16) for rate in (1e-4, 4e-4) for rank in (2, 4)}


def test_a_search_of_wandb_is_a_search_between_the_same_ends(tmp_path: Path) -> None:
    found, draft, made = started("wandb", BAYES, tmp_path)
    assert (found["sampler"], found["n_trials"], found["pruner"]) == ("tpe", 12, "hyperband")
    assert found["grid"] == {"lora+": {"eta_A": [1e-5, 1e-2], "lr_ratio": [1.0, 16.0]}}
    told = {note.partition(":")[0] for note in draft.notes}
    assert {"lora_dropout", "weight_decay", "early_terminate"} <= told
    assert study.load(made).n_trials == 12


def test_axolotl_s_lists_are_axes_and_pairs_are_told(tmp_path: Path) -> None:
    found, draft, made = started("axolotl", AXOLOTL, tmp_path)
    assert found["model"] == "tiny-roberta"
    assert found["train"] == {
        "batch_size": 8, "max_length": 64, "optimizer": "adamw", "lr_scheduler_type": "cosine", "warmup_steps": 0.1,
        "max_steps": 1000, "eval_steps": 250,
    }  # fmt: skip
    grid = found["grid"]["lora"]
    assert grid == {
        "eta_A": [1e-4, 1e-3], "rank": [4, 8], "lora_alpha": [4, 16], "target_modules": ["query", "value"]
    }  # fmt: skip
    told = {note.partition(":")[0] for note in draft.notes}
    assert told == {"num_epochs", "datasets", "_"}
    assert len(trials(made)) == 8


def test_a_config_that_peft_saved_is_read(tmp_path: Path) -> None:
    from peft import LoraConfig

    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["query"], use_rslora=True, bias="all",
        base_model_name_or_path="tiny-roberta", modules_to_save=["classifier"], task_type="SEQ_CLS",
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    found, draft, made = started("peft", (tmp_path / "adapter_config.json").read_text("utf-8"), tmp_path)
    (trial, *_) = trials(made)
    assert (trial.rank, trial.lora_alpha, trial.lora_dropout, trial.use_rslora) == (4, 8, 0.1, True)
    assert (trial.target_modules, trial.init, found["model"]) == (("query",), "zero_B", "tiny-roberta")
    assert {note.partition(":")[0] for note in draft.notes} == {"bias", "modules_to_save"}
    assert {line.partition(":")[0] for line in draft.lacking} == {"task", "seeds", "eta_A", "max_steps", "eval_steps"}


@pytest.mark.parametrize(
    ("given", "method", "key", "value"),
    [
        ({"peft_type": "LORA", "use_dora": True, "r": 2}, "dora", "rank", 2),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, "lora", "init", "pissa"),
        ({"peft_type": "IA3", "target_modules": ["key"]}, "ia3", "target_modules", ["key"]),
        ({"peft_type": "VERA", "r": 64, "vera_dropout": 0.5}, "vera", "lora_dropout", 0.5),
        ({"peft_type": "LORA", "target_modules": ".*query"}, "lora", "target_modules", ".*query"),
    ],
)
def test_methods_of_peft(given: dict[str, Any], method: str, key: str, value: Any, tmp_path: Path) -> None:
    found, _, made = started("peft", json.dumps(given), tmp_path)
    assert found["grid"][method][key] == value
    assert study.load(made)


def test_the_command_prints_a_study_that_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "sweep.yaml"
    source.write_text(WANDB, encoding="utf-8")
    assert cli.main(["study", f"--from-wandb={source}", "--task=demo", "--model=tiny-roberta"]) == 0
    said = capsys.readouterr()
    assert "not carried over as it is: num_train_epochs" in said.err
    made = tmp_path / "mine.toml"
    made.write_text(said.out, encoding="utf-8")
    assert cli.main(["plan", f"--study={made}", f"--results-dir={tmp_path / 'results'}"]) == 0
    assert "4 trials" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("wandb", "method: grid\n", "must have parameters"),
        ("wandb", "- a\n", "must hold keys and values"),
        ("wandb", "a: [", "must be YAML or JSON"),
        ("axolotl", "nothing: here\n", "must have keys of axolotl"),
        ("axolotl", "", "must hold keys and values"),
        ("peft", '{"r": 8}', "must be of a method here"),
        ("peft", '{"peft_type": "PREFIX_TUNING"}', "must be of a method here"),
    ],
)
def test_a_bad_file_is_one_line(
    form: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "bad"
    source.write_text(content, encoding="utf-8")
    assert cli.main(["study", f"--from-{form}={source}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_missing_file_and_other_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", f"--from-peft={tmp_path / 'none.json'}"]) == 2
    assert "must be a readable UTF-8 file" in capsys.readouterr().err
    assert cli.main(["study", "--from-peft=a.json", "--steps=3"]) == 2
    assert "must be given alone" in capsys.readouterr().err


def test_values_that_a_setting_cannot_hold_are_named(tmp_path: Path) -> None:
    content = "learning_rate: 1e-4\nlr_scheduler: rex\nweight_decay: -1\n"
    found, draft, _ = started("axolotl", content, tmp_path)
    assert {note.partition(":")[0] for note in draft.notes} == {"lr_scheduler", "weight_decay"}
    assert found["grid"]["lora"]["eta_A"] == 1e-4


def test_the_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "from-other-tools.md").read_text("utf-8")
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith(".venv/bin/python -m bench study")]
    assert len(commands) == 3
    (tmp_path / "sweep.yaml").write_text("parameters: {lr: {values: [1e-4]}}\nlora_r: 8\n", encoding="utf-8")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for words in commands:
        *given, to, target = words[3:]
        assert to == ">"
        assert cli.main(given) == 0
        Path(target).write_text(capsys.readouterr().out, encoding="utf-8")
        if "chats.jsonl" not in given:
            assert study.load(Path(target)).grids
