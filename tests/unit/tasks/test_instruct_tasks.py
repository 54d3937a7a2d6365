"""Tasks of instructions, problems and abstracts: small generated data in the real layouts, read and swept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from bench import cli, models, tasks
from bench.core.errors import BadInput
from bench.data import causal
from bench.data.causal import Layout
from bench.data.splits import TextData
from bench.store.rows import load
from bench.tasks import _mmlu, metamath

ANSWER = metamath.LAYOUT.answer


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def chat(*said: str, dataset: str = "flan_v2") -> dict[str, Any]:
    """Turns of user and assistant, beginning with the user."""
    roles = ("user", "assistant")
    return {"dataset": dataset, "messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]}


def question(subject: str, n: int) -> dict[str, Any]:
    return {"subject": subject, "question": f"{n} + 1?", "choices": [str(n + i) for i in range(4)], "answer": 1}


def write_mmlu(data_dir: Path, task: str) -> None:
    write(
        data_dir / task / "train.jsonl", [chat("2 + 2?", "4"), chat("a?", "b", dataset="cot"), chat("x", "y", "z", "w")]
    )
    write(data_dir / task / "eval.jsonl", [question("high_school_sums", n) for n in range(3)])
    write(data_dir / task / "shots.jsonl", [question("high_school_sums", 10 + n) for n in range(7)])


def write_metamath(data_dir: Path) -> None:
    train = [{"query": f"{a} and {a}?", "response": f"Twice {a}.\nThe answer is: {2 * a}"} for a in range(6)]
    write(data_dir / "metamath" / "train.jsonl", train)
    solved = [
        {"question": f"{a} twice?", "answer": f"2 * {a} = <<2*{a}={2 * a}>>{2 * a}\n#### {2 * a:,}"} for a in (100, 700)
    ]
    write(data_dir / "metamath" / "eval.jsonl", solved)


def write_pubmed(data_dir: Path) -> None:
    for name in ("train", "eval"):
        write(
            data_dir / "pubmed" / f"{name}.jsonl", [{"text": f"Abstract {i} of {name}.", "meta": {}} for i in range(6)]
        )


def read(name: str, data_dir: Path) -> TextData:
    found = tasks.load(tasks.get(name), data_dir)
    assert isinstance(found, TextData)
    return found


def test_mmlu_asks_with_five_solved_examples_of_the_subject(tmp_path: Path) -> None:
    write_mmlu(tmp_path, "flan-mmlu")
    data = read("flan-mmlu", tmp_path)
    assert data.eval.pairs == ("B", "B", "B")
    prompt = data.eval.texts[0]
    assert prompt.startswith(
        "<|user|>\nThe following are multiple choice questions (with answers) about high school sums.\n\n"
        "10 + 1?\nA. 10\nB. 11\nC. 12\nD. 13\nAnswer: B\n\n11 + 1?"
    )
    assert prompt.endswith("0 + 1?\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer:\n<|assistant|>\n")
    assert prompt.count("Answer: B\n\n") == _mmlu.N_SHOTS


def test_a_conversation_is_one_example_whose_target_is_its_last_answer(tmp_path: Path) -> None:
    write_mmlu(tmp_path, "flan-mmlu")
    write_mmlu(tmp_path, "tulu-mmlu")
    flan, tulu = (read(name, tmp_path).train for name in ("flan-mmlu", "tulu-mmlu"))
    assert flan.pairs == ("4", "w"), "flan_v2 only"
    assert tulu.pairs == ("4", "b", "w")
    assert tulu.texts[0] == "<|user|>\n2 + 2?\n<|assistant|>\n"
    assert tulu.texts[2] == "<|user|>\nx\n<|assistant|>\ny\n<|user|>\nz\n<|assistant|>\n"


def test_turns_without_anything_to_learn_are_left_out() -> None:
    def of(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
        return list(_mmlu.turns([_mmlu.Row(place="row 1", values=("d", messages))]))

    user, system = {"role": "user", "content": "u"}, {"role": "system", "content": "s"}
    answer, empty = {"role": "assistant", "content": "a"}, {"role": "assistant", "content": ""}
    assert of([user]) == of([user, empty]) == of([answer]) == of([system, answer]) == []
    assert of([user, answer, user]) == [("u", "a")], "what the user says last has no answer"
    assert of([system, user, answer]) == [("<|system|>\ns\n<|user|>\nu", "a")]


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("so The answer is: 1,400", True),
        ("The answer is: $1400.00", True),
        ("The answer is: 7. No: The answer is 1400.", True),
        ("#### 1400", True),
        ("The answer is: 1400. No: The answer is: 7", False),
        ("1400", False),
        ("The answer is: -1400", False),
        ("The answer is: many", False),
    ],
)
def test_gsm8k_compares_the_last_number_that_is_called_the_answer(written: str, right: bool) -> None:
    assert causal.is_match(written, "2 * 700 = 1400\n#### 1,400", ANSWER, numeric=True) is right


def test_metamath_trains_on_one_data_set_and_is_scored_on_another(tmp_path: Path) -> None:
    write_metamath(tmp_path)
    data = read("metamath", tmp_path)
    assert data.train.pairs is not None
    assert data.train.pairs[2] == "Twice 2.\nThe answer is: 4"
    assert data.eval.texts[0].endswith("### Instruction:\n100 twice?\n\n### Response: ")
    assert len(data.eval) == 2


@pytest.mark.parametrize(
    ("task", "part", "row", "message"),
    [
        ("metamath", "eval", {"question": "q", "answer": "four"}, r"eval.jsonl line 1: an answer must end in ####"),
        ("metamath", "train", {"query": "q", "response": ""}, r"train.jsonl line 1: a target must not be empty"),
        ("metamath", "train", {"query": 3, "response": "a"}, r"train.jsonl line 1: a text must be a string"),
        ("metamath", "train", {"query": "q"}, r"train.jsonl line 1: must have a column response"),
        ("flan-mmlu", "eval", {**question("s", 1), "choices": ["a"]}, r"line 1: choices must be four texts"),
        ("flan-mmlu", "eval", {**question("s", 1), "answer": 4}, r"line 1: answer must be 0, 1, 2 or 3"),
        ("flan-mmlu", "eval", question("other", 1), r"line 1: the subject must have examples, but got other"),
        ("flan-mmlu", "train", {"dataset": "flan_v2", "messages": "hi"}, r"line 1: messages must be a list"),
        ("flan-mmlu", "train", {"dataset": "flan_v2", "messages": [{"role": "user"}]}, r"line 1: a text must be"),
        ("flan-mmlu", "train", chat("a", "b", dataset="cot"), r"task flan-mmlu: must hold at least one example"),
    ],
)
def test_a_bad_row_is_named(task: str, part: str, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_mmlu(tmp_path, "flan-mmlu")
    write_metamath(tmp_path)
    write(tmp_path / task / f"{part}.jsonl", [row])
    with pytest.raises(BadInput, match=message):
        read(task, tmp_path)


def test_a_directory_without_a_part_is_refused(tmp_path: Path) -> None:
    write_metamath(tmp_path)
    (tmp_path / "metamath" / "eval.jsonl").unlink()
    with pytest.raises(BadInput, match=r"metamath: must hold eval.tsv \(or .parquet, .csv, .jsonl\)"):
        read("metamath", tmp_path)


def test_new_fields_leave_the_hash_of_older_data_alone() -> None:
    assert tasks.load(tasks.get("uuid-3")).data_hash == "a6563a64dc153f2e"


def save_byte_gpt2(directory: Path) -> Path:
    """A random GPT-2 of 2 layers, 16 wide, whose tokens are bytes."""
    torch.manual_seed(0)
    vocabulary = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}
    config = GPT2Config(
        vocab_size=len(vocabulary), n_embd=16, n_layer=2, n_head=2, n_positions=2048, bos_token_id=256, eos_token_id=256
    )
    GPT2LMHeadModel(config).save_pretrained(directory)
    GPT2TokenizerFast(vocab=vocabulary, merges=[], model_max_length=2048).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("limit", [None, 5])
def test_a_long_prompt_loses_its_beginning(limit: int | None, tmp_path: Path) -> None:
    write_metamath(tmp_path)
    located = models.locate(str(save_byte_gpt2(tmp_path / "model")))
    data, layout = read("metamath", tmp_path), Layout(prompt="prompt", max_prompt_tokens=limit)
    train = causal.encode(data, located, layout, metric="perplexity", max_length=2048, n_select=0).train
    whole = [len(text.encode()) for text in data.train.texts]
    assert train.prompt_lengths is not None
    # GPT-2's tokenizer puts nothing in front
    assert train.prompt_lengths.tolist() == [n if limit is None else limit for n in whole]
    first = train.ids[: train.offsets[1]].astype(np.int64).tolist()
    assert models.load_tokenizer(located).decode(first[:5]) == ("Below" if limit is None else "nse: ")


@pytest.mark.parametrize(
    ("name", "task", "metric", "methods"),
    [
        ("mora-metamath-r8", "metamath", "exact_match", "lora,mora"),
        ("mora-tulu-r8", "tulu-mmlu", "exact_match", "lora,mora"),
        ("loraplus-llama-mmlu", "flan-mmlu", "exact_match", "lora+"),
        ("mora-pubmed-r256", "pubmed", "perplexity", "lora,mora"),
    ],
)
def test_a_study_is_swept_on_generated_data(
    name: str, task: str, metric: str, methods: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_texts = replace(metamath.LAYOUT, max_new_tokens=8)  # the task's 512 take seconds
    monkeypatch.setattr(metamath, "TASK", replace(metamath.TASK, causal=short_texts))
    for task_of_mmlu in ("flan-mmlu", "tulu-mmlu"):
        write_mmlu(tmp_path, task_of_mmlu)
    write_metamath(tmp_path)
    write_pubmed(tmp_path)
    model = save_byte_gpt2(tmp_path / "model")
    options = ["--model", str(model), "--methods", methods, "--ranks", "2", "--eta-A", "1e-4", "--precision", "fp32"]
    if name.startswith("loraplus"):
        options += ["--eta-B", "1e-3", "--init", "zero_A", "--target-modules", "all-linear"]
    short = ["--steps", "2", "--eval-steps", "2", "--batch", "2", "--warmup-steps", "0", "--seeds", "0"]
    arguments = ["sweep", "--study", name, *options, *short, "--data-dir", str(tmp_path), "--device", "cpu"]
    assert cli.main([*arguments, "--results-dir", str(tmp_path / "results")]) == 0
    rows = load(tmp_path / "results" / name).to_pylist()
    assert {row["method"] for row in rows} == set(methods.split(","))
    assert {(row["status"], row["task"], row["metric_name"]) for row in rows} == {("ok", task, metric)}
    assert all(row["metric_value"] is not None and row["eval_loss"] > 0 for row in rows)
