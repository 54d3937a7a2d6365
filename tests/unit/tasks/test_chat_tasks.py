"""Tasks of conversations: what is read, what is refused with file and line, and how a part is held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import tasks
from bench.core.errors import BadInput
from bench.data import causal, chat
from bench.data.splits import TextData
from bench.embedded.chats import questions
from bench.tasks import _chat
from tests.support.chat_helpers import MARKED, messages, write_jsonl

MANY = [{"messages": messages(f"question {i}", f"answer {i}")} for i in range(30)]


def load(name: str | Path) -> TextData:
    data = tasks.load(tasks.get(str(name)))
    assert isinstance(data, TextData)
    return data


def toml(directory: Path, text: str) -> Path:
    path = directory / "mine.toml"
    path.write_text('kind = "chat"\n' + text, encoding="utf-8")
    return path


def said(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)["messages"]
    return found


def test_a_file_alone_is_a_task_and_says_what_was_assumed(tmp_path: Path) -> None:
    task = tasks.get(str(write_jsonl(tmp_path / "My Data.jsonl", *MANY)))
    assert (task.name, task.metric, task.default_model, task.default_study) == (
        "my-data", "eval_loss", "smollm2", "_chat",
    )  # fmt: skip
    assert "taken for conversations: loss on every assistant turn" in task.assumed
    data = load(tmp_path / "My Data.jsonl")
    assert (len(data.train), len(data.eval)) == (27, 3)
    with pytest.raises(BadInput, match="task: must be a file of conversations"):
        tasks.get(str(tmp_path / "other.jsonl"))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_sharegpt_and_messages_are_the_same_conversations(tmp_path: Path, suffix: str) -> None:
    whole = [messages("a", "b", system="s"), messages("c", "d", "e", "f")]
    roles = {"user": "human", "assistant": "gpt", "system": "system"}
    theirs = [[{"from": roles[m["role"]], "value": m["content"]} for m in one] for one in whole]

    def write(name: str, column: str, rows: list[Any]) -> Path:
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "jsonl":
            return write_jsonl(path, *({"id": i, column: row} for i, row in enumerate(rows)))
        pq.write_table(pa.table({"id": [0, 1], column: rows}), path)
        return path

    mine = toml(
        tmp_path, f'[files]\ntrain = "{write("a", "messages", whole)}"\neval = "{write("b", "messages", whole)}"'
    )
    first = load(mine)
    shared = write("c", "conversations", theirs)
    other = load(toml(tmp_path, f'[files]\ntrain = "{shared}"\neval = "{shared}"'))
    assert first.train.texts == other.train.texts
    assert first.data_hash == other.data_hash
    assert [said(text) for text in first.train.texts] == whole
    mixed = [[{"role": roles[m["role"]], "content": m["content"]} for m in one] for one in whole]
    third = load(toml(tmp_path, f'[files]\ntrain = "{write("d", "messages", mixed)}"\neval = "{shared}"'))
    assert third.data_hash == first.data_hash, "ShareGPT's names of roles count in messages, too"
    named = load(
        toml(tmp_path, f'[columns]\nmessages = "conversations"\n[files]\ntrain = "{shared}"\neval = "{shared}"')
    )
    assert named.data_hash == first.data_hash


BAD: dict[str, tuple[Any, str]] = {
    "empty": ([], r"must be a list of messages, but got \[\]"),
    "not a list": ("hello", r"must be a list of messages, but got 'hello'"),
    "no role": ([{"content": "a"}], r"message 1: must have a role, but got none; known: assistant, function_call"),
    "another role": ([{"role": "critic", "content": "a"}], r"message 1: must have a role, but got 'critic'"),
    "no object": (["a"], r"message 1: must be an object with role and content"),
    "assistant first": (messages("a", "b")[1:], "message 1 is of assistant, the first one"),
    "two users": ([*messages("a"), *messages("b", "c")], "message 2 is of user, behind one of user"),
    "late system": (
        [*messages("a", "b"), *messages("c", "d", system="s")],
        "message 3 is of system, behind one of ass",
    ),
    "user last": (messages("a", "b", "c"), "must end with an assistant's turn, but got one of user"),
    "says nothing": (messages("a", " "), "message 2: the assistant must say something"),
    "asks nothing": (messages("", "b"), "message 1: the user must say something"),
    "parts": ([{"role": "user", "content": [{"type": "text"}]}, *messages("a", "b")[1:]], "the content must be a text"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_conversation_is_one_line_with_file_and_line(tmp_path: Path, case: str) -> None:
    given, expected = BAD[case]
    path = write_jsonl(tmp_path / "chats.jsonl", MANY[0], {"messages": given}, MANY[1])
    with pytest.raises(BadInput, match=expected) as error:
        load(path)
    assert str(error.value).startswith(f"{path} line 2")
    assert "\n" not in str(error.value)


def test_of_several_bad_conversations_the_first_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", *MANY[:3], {"messages": []}, {"messages": messages("a")}, *MANY[3:])
    with pytest.raises(BadInput, match=r"chats.jsonl line 4: must be a list of messages, but got \[\]; 1 more such"):
        load(path)


def test_other_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("messages\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"conversations must lie in \.jsonl, \.parquet"):
        load(toml(tmp_path, '[files]\ntrain = "a.csv"'))
    write_jsonl(tmp_path / "b.jsonl", {"text": "a"})
    with pytest.raises(BadInput, match=r"b.jsonl line 1: must have a column messages"):
        load(tmp_path / "b.jsonl")


def test_the_held_out_tenth_hangs_on_the_contents_alone(tmp_path: Path) -> None:
    first = load(write_jsonl(tmp_path / "a.jsonl", *MANY))
    shuffled = load(write_jsonl(tmp_path / "b.jsonl", *reversed(MANY)))
    assert set(first.eval.texts) == set(shuffled.eval.texts)
    again = [{"messages": messages(m["messages"][0]["content"].upper() + "!", "another answer")} for m in MANY]
    doubled = load(write_jsonl(tmp_path / "c.jsonl", *MANY, *again))
    asked = [{chat.asked(text).lower().rstrip("!") for text in part.texts} for part in (doubled.train, doubled.eval)]
    assert not asked[0] & asked[1], "conversations that begin alike lie on one side"
    assert len(doubled.eval) == 6
    with pytest.raises(BadInput, match="must hold different conversations, to train on and to be scored on"):
        load(write_jsonl(tmp_path / "d.jsonl", MANY[0], MANY[0]))


def test_a_toml_says_what_is_trained_on_and_scored(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", *MANY)
    (tmp_path / "own.jinja").write_text(MARKED, encoding="utf-8")
    text = 'train_on = "last"\nchat_template = "own.jinja"\nmetric = "bits_per_byte"\nother_metrics = ["exact_match"]\n'
    task = tasks.get(str(toml(tmp_path, text + '[files]\ntrain = "a.jsonl"')))
    assert task.causal == causal.Layout(chat=chat.Format(train_on="last", template=MARKED))
    assert (task.kind, task.metric, task.other_metrics) == (causal.KIND, "bits_per_byte", ("exact_match",))
    plain = tasks.load(tasks.get(str(toml(tmp_path, '[files]\ntrain = "a.jsonl"'))))
    assert plain.data_hash != tasks.load(task).data_hash, "what the loss is on is part of what the data are"
    for bad, rule in (
        ('train_on = "user"', "must be one of the known values, but got 'user'; known: all"),
        ('template = "{prompt}"', "must be a known key"),
        ('chat_template = "none.jinja"', r"mine.toml chat_template: must be a file"),
        ('metric = "accuracy"', "must be one of the known values"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=rule):
            tasks.get(str(toml(tmp_path, f'{bad}\n[files]\ntrain = "a.jsonl"')))


def test_tools_are_read_as_a_list_or_as_its_json() -> None:
    tools, conversation = [{"type": "function"}], messages("a", "b")
    expected = chat.text_of(conversation, tools)
    assert _chat.conversation(conversation, tools, "x") == expected
    assert _chat.conversation(conversation, json.dumps(tools), "x") == expected
    assert _chat.conversation(conversation, "", "x") == _chat.conversation(conversation, None, "x")
    with pytest.raises(BadInput, match="x, tools: must be a list of JSON schemas"):
        _chat.conversation(conversation, "no json", "x")


def test_every_answer_of_chat_demo_can_be_checked() -> None:
    """Against arithmetic and the calendar, and no question of the evaluation is one of the training."""
    train, evaluation = questions.conversations()
    assert (len(train), len(evaluation)) == (300, 40)
    asked = [{m["content"] for one in part for m in one[1:2]} for part in (train, evaluation)]
    assert len(asked[1]) == 40
    assert not asked[0] & asked[1]
    for one in (*train, *evaluation):
        question, answer = one[1]["content"], one[2]["content"]
        words = question.rstrip("?").split()
        assert " " not in answer
        if question.startswith("What is ") and "plus" in words:
            assert int(answer) == int(words[2]) + int(words[4])
            assert len(one) == 3 or int(one[4]["content"]) == int(answer) + 1
        elif question.startswith("Which number"):
            assert int(answer) == int(words[-1]) + 1
            assert len(one) == 3 or int(one[4]["content"]) == int(answer) + 1
        elif words[1] in ("day", "month"):
            names = list(questions.DAYS if words[1] == "day" else questions.MONTHS)
            step = 1 if words[3] == "after" else -1
            assert names[(names.index(words[-1]) + step) % len(names)] == answer
        else:
            listed = questions.OPPOSITES if "opposite" in words else questions.PLURALS
            assert f"{words[-1]} {answer}" in listed
    assert len(load("chat-demo").train) == 300
