"""Tasks that train on instructions and are scored on MMLU with five examples before each question.

MMLU: Hendrycks et al. 2020, arXiv:2009.03300; 14,042 questions of 57 subjects, four choices each. The question, its
choices and the examples of its subject are put as that paper's own evaluation puts them; the whole stands where an
instruction stands in training. Right is a generated text that begins with the letter of the right choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.core.errors import BadInput
from bench.data import causal
from bench.data.causal import Layout
from bench.data.splits import Split, TextData
from bench.tasks._base import Task
from bench.tasks._parts import MEND, Part, Row, checked, rows, texts

LETTERS = "ABCD"
N_SHOTS = 5
METRIC = "exact_match"
# A chat's markers as plain text (Wang et al. 2023, arXiv:2306.04751, section 3.2).
LAYOUT = Layout(
    prompt="prompt",
    template="<|user|>\n{prompt}\n<|assistant|>\n",
    answer=rf"^\s*([{LETTERS}])\b",
    max_new_tokens=3,
    max_prompt_tokens=1536,
)
_COLUMNS = ("subject", "question", "choices", "answer")
QUESTIONS = Part(stem="eval", columns=_COLUMNS, hub_id="cais/mmlu", hub_config="all", hub_split="test")
SHOTS = Part(stem="shots", columns=_COLUMNS, hub_id="cais/mmlu", hub_config="all", hub_split="dev")


def task(name: str, hub_id: str, *, only: str | None = None) -> Task:
    """Return the task of training on conversations of a Hub data set with the columns `dataset` and `messages`.

    `only`: the rows whose `dataset` is this, all rows without it.
    """
    train = Part(stem="train", columns=("dataset", "messages"), hub_id=hub_id, hub_split="train")

    def read(data_dir: Path | None) -> TextData:
        """Read conversations, questions and examples from the data directory or the Hub."""
        kept = (row for row in rows(train, name, data_dir) if only is None or row.values[0] == only)
        shots = shots_of(rows(SHOTS, name, data_dir))
        asked = questions(rows(QUESTIONS, name, data_dir), shots)
        splits = [_filled(causal.split_of(found, LAYOUT), name) for found in (turns(kept), asked)]
        return causal.data_of(splits[0], splits[1], LAYOUT, METRIC)

    return Task(name=name, kind=causal.KIND, metric=METRIC, default_model="llama2-7b", causal=LAYOUT, read=read)


def turns(found: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Yield (prompt, target) of conversations: what was said before the last turn of the assistant, and that turn.

    Earlier turns stand in the prompt between the template's own markers. A conversation without a turn of the assistant
    that holds text, behind a turn of the user, is left out: there is nothing to learn.
    """
    for row in found:
        said = [_message(row, one) for one in checked(row, row.values[-1], _is_list, "messages must be a list")]
        last = max((i for i, (role, text) in enumerate(said) if role == "assistant" and text), default=0)
        before = said[:last]
        if any(role == "user" for role, _ in before):
            yield _history(before), said[last][1]


def shots_of(found: Iterable[Row]) -> dict[str, list[str]]:
    """Return the solved examples of each subject, N_SHOTS at the most, in the order of the rows."""
    shots: dict[str, list[str]] = {}
    for row in found:
        subject, text, letter = _question(row)
        of_subject = shots.setdefault(subject, [])
        if len(of_subject) < N_SHOTS:
            of_subject.append(f"{text} {letter}\n\n")
    return shots


def questions(found: Iterable[Row], shots: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Yield (prompt, letter): a heading, the subject's solved examples, and the question."""
    for row in found:
        subject, text, letter = _question(row)
        if subject not in shots:
            raise BadInput(row.place, "the subject must have examples", got=subject, way_out="add rows to shots")
        heading = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        yield heading + "".join(shots[subject]) + text, letter


def _question(row: Row) -> tuple[str, str, str]:
    subject, question, choices, answer = row.values
    texts(row, (subject, question))
    checked(row, choices, lambda c: _is_list(c) and len(c) == len(LETTERS), "choices must be four texts")
    texts(row, choices)
    checked(row, answer, lambda a: type(a) is int and 0 <= a < len(LETTERS), "answer must be 0, 1, 2 or 3")
    lines = [question, *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)), "Answer:"]
    return subject, "\n".join(lines), LETTERS[answer]


def _message(row: Row, message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise BadInput(row.place, "a message must have role and content", got=repr(message)[:80], way_out=MEND)
    role, content = texts(row, (message.get("role"), message.get("content")))
    return role, content


def _history(said: list[tuple[str, str]]) -> str:
    """Return the turns, with the markers between them that the template does not set around the whole."""
    text = "\n".join(f"<|{role}|>\n{content}" for role, content in said)
    return text.removeprefix("<|user|>\n")


def _filled(split: Split, name: str) -> Split:
    if not len(split):
        raise BadInput(
            f"task {name}", "must hold at least one example", got="none", way_out="give rows of its data set"
        )
    return split


def _is_list(value: object) -> bool:
    return isinstance(value, list)
