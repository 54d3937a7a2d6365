"""The keys of a task TOML: type, default and meaning of each; docs/reference/task-keys.md is made of them.

`Reader` checks a file against them, so that the page cannot say anything else than what is checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import metrics
from bench.core.errors import BadInput, one_of
from bench.core.rules import Check, choice, flag, plain_name, shown, whole, word
from bench.data import causal, chat
from bench.tasks._base import CHAT, REGRESSION, TEXT_CLASSIFICATION

CLASSES, NUMBERS, TEXTS = TEXT_CLASSIFICATION, REGRESSION, causal.KIND
KINDS = (CLASSES, NUMBERS, TEXTS, CHAT)
WRITTEN = (TEXTS, CHAT)  # kinds whose texts are written
READ = (CLASSES, NUMBERS)  # kinds whose texts are read and judged
METRICS = {
    CLASSES: metrics.names_of("classes"),
    NUMBERS: metrics.names_of("numbers"),
    TEXTS: causal.METRICS,
    CHAT: causal.METRICS,
}
REQUIRED = object()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What a value may be: in words, and its check."""

    words: str
    check: Check


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One key. `default` is what a file without it has; `default_words` says so where the value would not."""

    name: str
    value: Kind
    meaning: str
    example: str  # as in TOML
    table: str = ""
    kinds: tuple[str, ...] = KINDS
    default: Any = None
    default_words: str = ""

    @property
    def place(self) -> str:
        """The key as a message names it."""
        return f"[{self.table}].{self.name}" if self.table else self.name


def words(value: Any, where: str) -> tuple[str, ...]:
    """Return a list of different texts."""
    if not isinstance(value, list) or not value:
        raise BadInput(where, "must be a list of texts", got=repr(value), way_out='write one, as in ["a", "b"]')
    found = tuple(str(word(item, where)) for item in value)
    if len(set(found)) < len(found):
        raise BadInput(where, "must not repeat a name", got=repr(value), way_out="leave one out")
    return found


def _labels(given: Any, where: str) -> tuple[str, ...]:
    numbers = isinstance(given, list) and all(type(item) is int for item in given)
    labels = words([str(item) for item in given] if numbers else given, where)
    if len(labels) < 2:
        raise BadInput(where, "must name at least two classes", got=repr(given), way_out="name them all")
    return labels


def _columns(given: Any, where: str) -> tuple[str, ...]:
    columns = words([given] if isinstance(given, str) else given, where)
    if len(columns) > 2:
        raise BadInput(where, "must be one or two columns", got=repr(given), way_out="join some")
    return columns


def _template(given: Any, where: str) -> str:
    if not isinstance(given, str) or given.count("{prompt}") != 1:
        rule, way_out = "must be a text with {prompt} in it once", 'write one, as in "Question: {prompt} Answer: "'
        raise BadInput(where, rule, got=shown(given), way_out=way_out)
    return given


def _pattern(given: Any, where: str) -> str:
    pattern = str(word(given, where))
    try:
        n_groups = re.compile(pattern).groups
    except re.error as error:
        raise BadInput(where, "must be a regular expression", got=str(error), way_out="mend it") from None
    if n_groups > 1:
        rule = "must have one group at the most"
        raise BadInput(where, rule, got=n_groups, way_out="write (?:...) for the others")
    return pattern


def _name(value: Any, where: str) -> str:
    return plain_name(str(word(value, where)), where)


TEXT = Kind(words="text", check=word)
FILE = Kind(words="path, relative to the TOML", check=word)
FLAG = Kind(words="true or false", check=flag)
COUNT = Kind(words="whole number >= 1", check=whole(1))
LIST = Kind(words="list of texts", check=words)

KEYS: tuple[Key, ...] = (
    Key(
        name="kind",
        value=Kind(words=f"one of {', '.join(KINDS)}", check=choice(*KINDS)),
        default=CLASSES,
        meaning="what is learnt: classes of texts, a number for each, the next tokens of targets or of conversations",
        example=f'"{TEXTS}"',
    ),
    Key(
        name="name",
        value=Kind(words="file name of a-z 0-9 . _ + -", check=_name),
        default_words="the TOML's own name",
        meaning="what the task is called in rows and directories",
        example='"reviews"',
    ),
    Key(
        name="labels",
        value=Kind(words="list of texts or of whole numbers", check=_labels),
        kinds=(CLASSES,),
        default=REQUIRED,
        meaning="the classes, in index order; the data may hold names, or indices where no name is a number",
        example='["very bad", "bad", "good", "very good"]',
    ),
    Key(
        name="metric",
        value=Kind(words="; ".join(f"{kind}: {', '.join(METRICS[kind])}" for kind in KINDS), check=word),
        default_words=f"{CLASSES}: accuracy; {NUMBERS}: pearson; {TEXTS}: exact_match, without prompts perplexity; "
        f"{CHAT}: eval_loss",
        meaning="the score that cells are chosen and compared by; f1 is that of the second of two classes",
        example='"macro_f1"',
    ),
    Key(
        name="other_metrics",
        value=LIST,
        default=(),
        default_words="none",
        meaning="scored beside it at the last step; recall is one number for each class",
        example='["balanced_accuracy", "recall"]',
    ),
    Key(
        name="default_model",
        value=TEXT,
        default_words=f"{TEXTS}: gpt2; {CHAT}: smollm2; else roberta-base",
        meaning="the model where none is named",
        example='"tiny-roberta"',
    ),
    Key(
        name="empty_texts",
        value=FLAG,
        default=False,
        meaning="whether a text may be empty (or white space); else the first one is refused, with its file and line",
        example="true",
    ),
    Key(
        name="template",
        value=Kind(words="text with {prompt} in it once", check=_template),
        kinds=(TEXTS,),
        default="{prompt}",
        meaning="the prompt as the model sees it; it may hold a chat's markers",
        example='"Q: {prompt} A: "',
    ),
    Key(
        name="answer",
        value=Kind(words="regular expression with one group at the most", check=_pattern),
        kinds=WRITTEN,
        default_words="the whole text",
        meaning="exact_match compares its last match, or first group",
        example='"The answer is (.+)"',
    ),
    Key(
        name="numeric",
        value=FLAG,
        kinds=WRITTEN,
        default=False,
        meaning="whether exact_match compares numbers (1,000 is 1000.0), not characters",
        example="true",
    ),
    Key(
        name="max_prompt_tokens",
        value=COUNT,
        kinds=(TEXTS,),
        default_words="kept whole",
        meaning="longer prompts lose their beginning, but not their begin token",
        example="1536",
    ),
    Key(
        name="max_new_tokens",
        value=COUNT,
        kinds=WRITTEN,
        default_words="the longest target of the split",
        meaning="how many tokens are generated at most",
        example="256",
    ),
    Key(
        name="train_on",
        value=Kind(words=f"one of {', '.join(chat.TRAIN_ON)}", check=choice(*chat.TRAIN_ON)),
        kinds=(CHAT,),
        default="assistant",
        meaning="the tokens that the loss is on: all, those of every assistant turn with its end mark, or of the last",
        example='"last"',
    ),
    Key(
        name="chat_template",
        value=Kind(words="path of a Jinja file, relative to the TOML", check=word),
        kinds=(CHAT,),
        default_words="the tokenizer's own",
        meaning="how conversations are written; {% generation %} marks say what assistants write",
        example='"template.jinja"',
    ),
    Key(
        name="forgetting",
        value=Kind(words="path of a text file, relative to the TOML; shipped, or none", check=word),
        kinds=WRITTEN,
        default_words=f"{CHAT}: shipped; {TEXTS}: none",
        meaning="a fixed text whose loss before and after training is kept in the rows, at 3 % of the cost at most",
        example='"letters.txt"',
    ),
    Key(
        name="text",
        table="columns",
        value=Kind(words="text, or list of one or two", check=_columns),
        kinds=READ,
        default=("text",),
        default_words='"text"',
        meaning="the text's column, or both of a pair",
        example='["question", "reply"]',
    ),
    Key(
        name="label",
        table="columns",
        value=TEXT,
        kinds=READ,
        default="label",
        meaning="the column of the class or of the number",
        example='"stars"',
    ),
    Key(
        name="header",
        table="columns",
        value=LIST,
        kinds=READ,
        default_words="line 1 of the file",
        meaning="the columns of a TSV without a header line",
        example='["id", "text", "label"]',
    ),
    Key(
        name="prompt",
        table="columns",
        value=TEXT,
        kinds=(TEXTS,),
        default_words="no prompt: the target is the whole text",
        meaning="the prompt's column",
        example='"question"',
    ),
    Key(
        name="target",
        table="columns",
        value=TEXT,
        kinds=(TEXTS,),
        default="target",
        meaning="the column of what is to be written",
        example='"answer"',
    ),
    Key(
        name="messages",
        table="columns",
        value=TEXT,
        kinds=(CHAT,),
        default_words="messages, else conversations",
        meaning="messages with role and content, or from and value; a column tools goes along",
        example='"dialogue"',
    ),
    Key(
        name="train",
        table="files",
        value=FILE,
        default=REQUIRED,
        meaning="training examples: .tsv (a quote is a character), .csv, .jsonl or .parquet; chats: the last two",
        example='"train.csv"',
    ),
    Key(
        name="eval",
        table="files",
        value=FILE,
        kinds=(*READ, TEXTS),
        default=REQUIRED,
        meaning="what is scored",
        example='"dev.csv"',
    ),
    Key(
        name="eval",
        table="files",
        value=FILE,
        kinds=(CHAT,),
        default_words="a tenth of train, by a hash of its contents",
        meaning="what is scored",
        example='"dev.jsonl"',
    ),
    Key(
        name="test",
        table="files",
        value=FILE,
        default_words="none",
        meaning="scored once by chosen cells (the fresh runs of `compare`, `recommend --save`), never chosen by",
        example='"test.csv"',
    ),
    Key(
        name="id", table="hub", value=TEXT, default=REQUIRED, meaning="a data set of the Hub", example='"owner/reviews"'
    ),
    Key(
        name="config",
        table="hub",
        value=TEXT,
        default_words="the data set's own",
        meaning="its configuration",
        example='"default"',
    ),
    Key(name="train", table="hub", value=TEXT, default="train", meaning="its split to train on", example='"train"'),
    Key(
        name="eval",
        table="hub",
        value=TEXT,
        kinds=(*READ, TEXTS),
        default="validation",
        meaning="its split to score",
        example='"test"',
    ),
    Key(
        name="eval",
        table="hub",
        value=TEXT,
        kinds=(CHAT,),
        default_words="a tenth of train, by a hash of its contents",
        meaning="its split to score",
        example='"test"',
    ),
    Key(
        name="test",
        table="hub",
        value=TEXT,
        default_words="none",
        meaning="its split to score once, as [files].test; it must hold labels",
        example='"test"',
    ),
)
TABLES = ("columns", "files", "hub")


class Reader:
    """The keys of one file: known ones only, each checked where it is read."""

    def __init__(self, raw: Mapping[str, Any], path: Path) -> None:
        self.path, self.tables = path, {"": raw}
        self.kind = str(self.of("kind", keys=KEYS))
        self.keys = tuple(key for key in KEYS if self.kind in key.kinds)
        for name in TABLES:
            table = raw.get(name, {})
            if not isinstance(table, dict):
                raise BadInput(f"{path} {name}", "must be a table", got=repr(table), way_out=f"write [{name}]")
            self.tables[name] = table
        for name, table in self.tables.items():
            known = [key.name for key in self.keys if key.table == name] + [*TABLES] * (not name)
            unknown = [key for key in table if key not in known]
            if unknown:
                where = f"{path} [{name}].{unknown[0]}" if name else f"{path} {unknown[0]}"
                raise BadInput(where, "must be a known key", way_out=f"known: {one_of(known)}")

    def has(self, name: str, table: str = "") -> bool:
        """Return whether the file gives the key."""
        return name in self.tables[table]

    def of(self, name: str, table: str = "", *, keys: tuple[Key, ...] | None = None) -> Any:
        """Return the key's value, checked, or its default.

        Raises:
            BadInput: for a value that cannot be, and for a key that must be given.
        """
        key = next(key for key in keys or self.keys if (key.name, key.table) == (name, table))
        where = f"{self.path} {key.place}"
        if name in self.tables[table]:
            return key.value.check(self.tables[table][name], where)
        if key.default is REQUIRED:
            raise BadInput(where, "must be given", way_out=f"add {name} = {key.example}")
        return key.default
