"""Strategies: valid text and bytes with typing errors put in, and tables of any values."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.support.study_texts import BASE, KEYS, TABLES, VALUES, toml

SPECIAL = ["\t", "\n", "\r\n", '"', '""', ",", "\\", "\0", "\ufeff", "\u2028", "\x85", "[", "]", "{", "}", "=", "'",
           "#", "nan", "1e999", "-1", "../", "é", "\ud800", "null", "9" * 400]  # fmt: skip
PUT = st.one_of(st.sampled_from(SPECIAL), st.text(max_size=4))


def edited(base: str) -> st.SearchStrategy[bytes]:
    """Return `base` with up to three places changed, as bytes that may be no UTF-8."""
    edit = st.tuples(st.integers(0, len(base)), st.integers(0, 6), PUT)

    def apply(edits: list[tuple[int, int, str]], tail: bytes) -> bytes:
        text = base
        for at, cut, put in edits:
            text = text[:at] + put + text[at + cut :]
        return text.encode("utf-8", "surrogatepass") + tail

    return st.builds(apply, st.lists(edit, max_size=3), st.sampled_from([b"", b"", b"", b"\xff", b"\n"]))


def mutated(base: bytes) -> st.SearchStrategy[bytes]:
    """Return `base` cut short, with bytes flipped, cut out or put in."""
    edit = st.tuples(st.integers(0, len(base)), st.integers(0, 8), st.binary(max_size=8))

    def apply(end: int, edits: list[tuple[int, int, bytes]]) -> bytes:
        content = base[:end]
        for at, cut, put in edits:
            content = content[:at] + put + content[at + cut :]
        return content

    ends = st.one_of(st.just(len(base)), st.just(len(base)), st.integers(0, len(base)))
    return st.builds(apply, ends, st.lists(edit, max_size=2))


STUDY = BASE.format(top="", train="", lora="rank = [2, 8]")


def studies() -> st.SearchStrategy[bytes]:
    """Return study files: any value of any key, any tables, typing errors."""
    places = st.tuples(st.sampled_from(["top", "train", "lora"]), st.sampled_from(KEYS), VALUES)
    one = places.map(lambda p: BASE.format(**{"top": "", "train": "", "lora": "", p[0]: f"{p[1]} = {toml(p[2])}"}))
    table = st.tuples(st.sampled_from(TABLES), st.sampled_from(KEYS), VALUES)
    tables = st.lists(table, max_size=6, unique_by=lambda t: t[0]).map(
        lambda some: "\n".join(f"{name}\n{key} = {toml(value)}" for name, key, value in some)
    )
    text = st.one_of(one, tables).map(lambda t: t.encode("utf-8", "surrogatepass"))
    return st.one_of(text, edited(STUDY))


TASK = """name = "mine"
labels = ["no", "yes"]
metric = "accuracy"
default_model = "tiny-roberta"
[columns]
text = ["a", "b"]
label = "y"
header = ["a", "b", "y"]
[files]
train = "train.tsv"
eval = "dev.tsv"
"""
TASK_KEYS = [
    "name",
    "labels",
    "metric",
    "default_model",
    "text",
    "label",
    "header",
    "train",
    "eval",
    "id",
    "config",
    "x",
]
TASK_TABLES = ["", "[columns]", "[files]", "[hub]", "[x]", "[[files]]"]


def tasks() -> st.SearchStrategy[bytes]:
    """Return task files."""
    table = st.tuples(st.sampled_from(TASK_TABLES), st.lists(st.tuples(st.sampled_from(TASK_KEYS), VALUES), max_size=4))
    tables = st.lists(table, max_size=4, unique_by=lambda t: t[0]).map(_tables)
    return st.one_of(edited(TASK), tables)


def _tables(some: list[tuple[str, list[tuple[str, Any]]]]) -> bytes:
    text = "\n".join(
        f"{name}\n" + "\n".join(f"{key} = {toml(value)}" for key, value in dict(pairs).items()) for name, pairs in some
    )
    return f'labels = ["a", "b"]\n{text}'.encode("utf-8", "surrogatepass")


CELLS = st.one_of(st.sampled_from(["no", "yes", "0", "1", "", "a b", *SPECIAL]), st.text(max_size=6))
TSV = "a\tb\ty\none\ttwo\tno\nthree\tfour\tyes\n"
CSV = 'a,b,y\none,"t,wo",no\nthree,four,yes\n'
JSONL = '{"a": "one", "b": "two", "y": "no"}\n{"a": "three", "b": "four", "y": 1}\n'
JSON = st.recursive(st.one_of(CELLS, st.integers(), st.floats(), st.booleans(), st.none()),
                    lambda inner: st.one_of(st.lists(inner, max_size=2),
                                            st.dictionaries(CELLS, inner, max_size=2)), max_leaves=4)  # fmt: skip


def lines(separator: str) -> st.SearchStrategy[bytes]:
    """Return tables whose cells hold anything, with their header."""
    row = st.lists(CELLS, min_size=3, max_size=3).map(separator.join)
    rows = st.lists(row, max_size=4)
    header = st.sampled_from([["a", "b", "y"], ["y", "b", "a", "c"], ["a"], ["a", "a", "y"]]).map(separator.join)
    return st.builds(lambda h, r: "\n".join([h, *r]).encode("utf-8", "surrogatepass"), header, rows)


def json_lines() -> st.SearchStrategy[bytes]:
    """Return lines of JSON objects with the wanted names and any values."""
    item = st.fixed_dictionaries({}, optional={"a": JSON, "b": JSON, "y": JSON, "z": JSON})
    return st.lists(item.map(json.dumps), max_size=4).map(lambda some: "\n".join(some).encode())


KNOWN_WORDS = ["demo", "sst2", "lora", "lora+", "mora", "full", "0", "1e-3", "1e-3,1e-2", "-1", "nan", "", " ", "cpu",
               "cuda", "all-linear", "rank", "quick", "tpe", "advised", "halving", "median", "true", "../x",
               "x.toml", "%s", "--", "[", "(", "\x1b[31m", "9" * 400, "x/" * 3000, "9" * 400 + ".toml"]  # fmt: skip
# No surrogate and no NUL: a shell cannot pass them, and the operating system refuses them before we are asked.
ANY = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


def arguments(commands: list[str], flags: list[str]) -> st.SearchStrategy[list[str]]:
    """Return command lines: a command, then options with known words or any text, in any order."""
    value = st.one_of(st.sampled_from(KNOWN_WORDS), ANY)
    option = st.one_of(
        st.tuples(st.sampled_from(flags), value).map(list),
        st.tuples(st.sampled_from(flags), value).map(lambda pair: ["=".join(pair)]),
        value.map(lambda word: [word]),
    )
    command = st.one_of(st.sampled_from(commands), st.sampled_from(commands), ANY)
    return st.builds(lambda c, some: [c, *(w for o in some for w in o)], command, st.lists(option, max_size=4))
