"""Causal tasks: UUIDs, prompts and targets out of files, where the loss begins, what is refused; and sweeps of them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import cli, models, study, tasks
from bench.commands._resolve import resolve
from bench.core.errors import BadInput
from bench.data import causal
from bench.data.causal import Layout
from bench.data.splits import EncodedData
from bench.embedded.uuids import pairs, pretrain
from bench.store.rows import load

SUMS = [(f"{a}+{b}", f"{a}-{b}={a + b}") for a in range(12) for b in range(12)]


def test_uuids_are_random_keyed_and_the_same_whatever_the_size() -> None:
    small, large = pairs.split(20), pairs.split(400)
    assert large.pairs is not None
    assert small.texts == large.texts[:20]
    everything = [*(text.removesuffix(pairs.SEPARATOR) for text in large.texts), *large.pairs]
    assert len(set(everything)) == 800
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) for text in everything)
    digits = "".join(everything).replace("-", "")
    counts = np.array([digits.count(digit) for digit in "0123456789abcdef"])
    expected = len(digits) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # chi-square, 15 degrees of freedom, p = 0.001
    assert pairs.uuid("key", "task", 0) == small.texts[0][:-1] == "9a125014-83e0-3280-a01b-70707c7a317a"


def test_the_floor_is_what_guessing_digits_gives() -> None:
    wanted = pairs.split(400).pairs or ()
    guessed = ["00000000-0000-0000-0000-000000000000"] * 400
    scores = [causal.char_accuracy(*both) for both in zip(guessed, wanted, strict=True)]
    assert pytest.approx(1 / 6) == pairs.FLOOR
    assert np.mean(scores) == pytest.approx(pairs.FLOOR, abs=0.01)


def test_tasks_of_every_size() -> None:
    assert tasks.get("uuid").name == tasks.get(f"uuid-{pairs.N_PAIRS}").name == "uuid"
    data = tasks.load(tasks.get("uuid-7"))
    assert tasks.get("uuid-7").name == "uuid-7"
    assert data.train is data.eval
    assert len(data.train) == 7
    hashes = {tasks.load(tasks.get(name)).data_hash for name in ("uuid-7", "uuid-8", "uuid")}
    assert len(hashes) == 3
    for name in ("uuid-0", "uuid-007", "sst2-5", "uuid-"):
        with pytest.raises(BadInput, match="known: "):
            tasks.get(name)


def encoded(n: int = 3) -> EncodedData:
    return causal.encode(
        tasks.load(tasks.get(f"uuid-{n}")), models.locate("tiny-decoder"), Layout(),
        metric="char_accuracy", max_length=128, n_select=0,
    )  # fmt: skip


def test_a_sequence_is_begin_key_value_end_and_the_target_begins_behind_the_separator() -> None:
    data, tokenizer = encoded(), models.load_tokenizer(models.locate("tiny-decoder"))
    wanted = tasks.load(tasks.get("uuid-3")).train
    assert data.train.prompt_lengths is not None
    assert data.reading is not None
    assert wanted.pairs is not None
    for i in range(3):
        ids = data.train.ids[data.train.offsets[i] : data.train.offsets[i + 1]].tolist()
        assert len(ids) == 75
        assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *wanted.texts[i], *wanted.pairs[i], "</s>"]
        assert data.reading.decode([ids[data.train.prompt_lengths[i] :]]) == [wanted.pairs[i]]
    assert (data.train.prompt_lengths == 1 + 36 + 1).all()


def test_tiny_decoder_is_small_and_knows_the_layout_but_no_pair_of_the_task() -> None:
    located = models.locate("tiny-decoder")
    assert sum(path.stat().st_size for path in located.directory.iterdir()) < 2e6
    loaded = models.load_causal_lm(located)
    assert loaded.head_names == ()
    assert set(pairs.split(256, name=pretrain.SET).texts).isdisjoint(pairs.split(4096).texts)
    data = encoded(64)
    ids = torch.from_numpy(data.train.ids.astype(np.int64)).view(64, 75)
    with torch.no_grad():
        predicted = loaded.model(input_ids=ids).logits[:, 37:-1].argmax(-1)
    right = (predicted == ids[:, 38:]).double()
    hyphens = [8, 13, 18, 23]
    assert right[:, hyphens].mean() > 0.9
    digits = [i for i in range(36) if i not in hyphens]
    assert right[:, digits].mean() < 0.1


def test_pretraining_lowers_the_loss_and_repeats_itself() -> None:
    tokenizer = pretrain.make_tokenizer()
    settings = pretrain.Pretraining(steps=12, n_pairs=8, batch_size=8, warmup_steps=2)
    courses = []
    for _ in range(2):
        model = pretrain.new_model(tokenizer, settings.seed)
        courses.append([loss for _, loss, _ in pretrain.train(model, pretrain.sequences(tokenizer, 8), settings)])
    assert courses[0] == courses[1]
    assert courses[0][-1] < courses[0][0] - 0.3


def write_task(directory: Path, rows: list[tuple[str, str]] = SUMS, **keys: str) -> Path:
    """A task TOML with its data beside it: sums as text."""
    lines = [json.dumps({"question": q, "solution": s}) for q, s in rows]
    for name in ("train", "eval"):
        (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    settings = {"kind": '"causal_lm"', "name": '"sums"', "default_model": '"tiny-decoder"', **keys}
    files = '[files]\ntrain = "train.jsonl"\neval = "eval.jsonl"\n'
    tables = f'[columns]\nprompt = "question"\ntarget = "solution"\n{files}'
    if keys.get("columns"):
        tables = tables.replace('prompt = "question"\n', "")
        del settings["columns"]
    path = directory / "sums.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()) + tables)
    return path


def test_a_task_of_prompts_and_targets(tmp_path: Path) -> None:
    path = write_task(tmp_path, template='"Q: {prompt}\\nA: "', answer='"=(\\\\d+)"', max_new_tokens="9")
    task = tasks.get(str(path))
    data = tasks.load(task)
    assert (task.kind, task.metric, task.name) == (causal.KIND, "exact_match", "sums")
    assert task.causal is not None
    assert (task.causal.answer, task.causal.max_new_tokens) == ("=(\\d+)", 9)
    assert data.train.pairs is not None
    assert (data.train.texts[13], data.train.pairs[13]) == ("Q: 1+1\nA: ", "1-1=2")
    assert causal.is_match("well =1 no =2", data.train.pairs[13], task.causal.answer)
    other = tasks.load(tasks.get(str(write_task(tmp_path, answer='"(\\\\d+)$"'))))
    assert other.data_hash != data.data_hash, "what counts as right is part of the data"


def test_texts_without_prompts_are_scored_by_perplexity(tmp_path: Path) -> None:
    task = tasks.get(str(write_task(tmp_path, columns="none")))
    data = tasks.load(task)
    assert (task.metric, task.higher_is_better) == ("perplexity", False)
    assert (data.train.texts[0], data.train.pairs[0]) == ("", "0-0=0")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": '"language"'}, r"kind: must be one of the known values.*causal_lm"),
        ({"metric": '"f1"'}, r"metric: must be one of the known values.*perplexity"),
        ({"template": '"Q: "'}, r"template: must be a text with \{prompt\} in it once"),
        ({"answer": '"("'}, "answer: must be a regular expression"),
        ({"answer": '"(a)(b)"'}, "answer: must have one group at the most, but got 2"),
        ({"max_new_tokens": "0"}, "max_new_tokens: must be a whole number >= 1"),
        ({"labels": '["a", "b"]'}, "labels: must be a known key"),
        (
            {"columns": "none", "metric": '"exact_match"'},
            "metric: must be a score of the loss, such as perplexity, where",
        ),
        ({"columns": "none", "template": '"{prompt}"'}, r"template: goes with a prompt"),
    ],
)
def test_what_a_causal_task_may_not_hold(keys: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        tasks.get(str(write_task(tmp_path, **keys)))


@pytest.mark.parametrize(
    ("row", "message"),
    [(("1+1", ""), r"line 2: a target must not be empty"), ((7, "x"), r"line 2: a text must be a string, but got 7")],
)
def test_rows_are_checked_where_they_stand(row: Any, message: str, tmp_path: Path) -> None:
    path = write_task(tmp_path, [SUMS[0], row])
    with pytest.raises(BadInput, match=message):
        tasks.load(tasks.get(str(path)))


@pytest.mark.parametrize(("metric", "fits"), [("perplexity", 75), ("char_accuracy", 75)])
def test_what_max_length_may_cut(metric: str, fits: int) -> None:
    data, located = tasks.load(tasks.get("uuid-2")), models.locate("tiny-decoder")
    settings: dict[str, Any] = {"metric": metric, "n_select": 0}
    assert causal.encode(data, located, Layout(), max_length=fits, **settings).train.lengths.tolist() == [75, 75]
    if metric == "perplexity":
        assert causal.encode(data, located, Layout(), max_length=60, **settings).eval.lengths.tolist() == [60, 60]
        with pytest.raises(BadInput, match=r"max_length: a token of every target must fit.*2 train examples"):
            causal.encode(data, located, Layout(), max_length=38, **settings)
    else:
        with pytest.raises(BadInput, match=r"max_length: an evaluated target must fit whole"):
            causal.encode(data, located, Layout(), max_length=74, **settings)


def test_targets_that_the_tokenizer_cannot_write_are_refused(tmp_path: Path) -> None:
    path = write_task(tmp_path, [*SUMS, ("1+1", "two")])
    task = tasks.get(str(path))
    assert task.causal is not None
    with pytest.raises(BadInput, match=r"tokenizer of tiny-decoder: must know.*example 144: 'two'"):
        causal.encode(
            tasks.load(task), models.locate("tiny-decoder"), task.causal, metric=task.metric, max_length=128, n_select=0
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tiny-roberta"}, r"model: a causal language model must be a decoder, but got roberta"),
        ({"n_select": "10"}, r"n_select: must be 0 where a task measures memory"),
        ({"target_modules": "no_such_module"}, r"target_modules: must name modules of the model"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_training(options: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve(study.load("uuid", overrides=options))


def test_an_encoder_s_language_model_is_refused_when_it_is_loaded() -> None:
    """RoBERTa has a causal class too, whose tokens see later ones unless its config says otherwise."""
    with pytest.raises(BadInput, match=r"later tokens|parameters missing"):
        models.load_causal_lm(models.locate("tiny-roberta"))


def sweep(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    arguments = ("sweep", *options, "--results-dir", str(tmp_path / "results"), "--device", "cpu")
    assert cli.main(list(arguments)) == 0
    (directory,) = (path for path in (tmp_path / "results").iterdir() if (path / "trials").is_dir())
    rows: list[dict[str, Any]] = load(directory).to_pylist()
    return rows


def test_a_sweep_of_a_few_uuids_learns_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = sweep(
        tmp_path, "--study", "uuid", "--task", "uuid-4", "--methods", "full,mora", "--eta-A", "5e-3", "--steps", "40",
        "--eval-steps", "40", "--batch", "4", "--ranks", "8", "--mora-types", "6", "--warmup-steps", "5",
    )  # fmt: skip
    assert {row["status"] for row in rows} == {"ok"}
    (full,) = (row for row in rows if row["method"] == "full")
    assert full["metric_name"] == "char_accuracy"
    assert full["metric_value"] > 0.95
    assert full["eval_loss"] < 0.2
    assert full["accuracy"] is not None
    assert full["n_eval"] == 4
    assert full["select_metric"] is None
    (mora,) = (row for row in rows if row["method"] == "mora")
    assert mora["metric_value"] > pairs.FLOOR + 0.1
    assert json.loads(mora["target_modules"]) == "all-linear"
    assert "char_accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("metric", causal.METRICS)
def test_a_sweep_of_a_task_of_one_s_own(metric: str, tmp_path: Path) -> None:
    path = write_task(tmp_path, SUMS[:16], metric=f'"{metric}"', template='"{prompt}="')
    options = ("--study", "uuid-scan", "--task", str(path), "--methods", "lora", "--eta-A", "1e-3", "--n-select", "1")
    (row,) = sweep(tmp_path, *options, "--steps", "3", "--eval-steps", "3", "--batch", "4", "--warmup-steps", "0")
    assert (row["status"], row["task"], row["metric_name"]) == ("ok", "sums", metric)
    assert row["select_metric"] is not None
    if metric == "perplexity":
        assert row["metric_value"] == pytest.approx(math.exp(row["eval_loss"]))
