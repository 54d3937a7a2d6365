"""A user's own task, described by a TOML file.

name = "reviews"                      # default: the file's name
labels = ["negative", "positive"]     # in index order; the data may hold names or indices
metric = "accuracy"                   # accuracy, matthews_correlation or f1; default accuracy
default_model = "roberta-base"        # default: roberta-base
[columns]
text = "review"                       # or two: ["question", "answer"]
label = "stars"                       # default: label
header = ["id", "review", "stars"]    # only for a TSV without a header line
[files]                               # beside the TOML file: tsv, csv, jsonl or parquet
train = "train.csv"
eval = "dev.csv"
[hub]                                 # or a data set of the Hub, instead of [files]
id = "owner/reviews"
config = "default"                    # may be left out
train = "train"                       # splits; defaults: train and validation
eval = "test"

Or one of causal language modelling, with [files] or [hub] as above:

kind = "causal_lm"
metric = "exact_match"                # exact_match, char_accuracy or perplexity
template = "Q: {prompt} A: "          # the prompt as the model sees it; default: "{prompt}"
answer = "The answer is (.+)"         # exact_match compares its last match (or first group); default: the whole text
numeric = true                        # answers are compared as numbers: 1,000 is 1000.0; default: to the character
max_prompt_tokens = 1536              # longer prompts lose their beginning; default: they are kept whole
max_new_tokens = 256                  # default: as many as the longest target of the split
default_model = "gpt2"
[columns]
prompt = "question"                   # may be left out: then the target is the whole text, scored by perplexity
target = "answer"                     # default: target
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import causal, metrics
from bench.errors import BadInput, one_of
from bench.settings.fields import choice, flag, plain_name, shown, whole, word
from bench.tasks import _load
from bench.tasks._base import TEXT_CLASSIFICATION, Task, TsvLayout
from bench.text import TextData

_KEYS: dict[str, tuple[str, ...]] = {
    "": ("name", "labels", "metric", "default_model", "columns", "files", "hub"),
    "columns": ("text", "label", "header"),
    "files": ("train", "eval"),
    "hub": ("id", "config", "train", "eval"),
}
_CAUSAL_KEYS = {
    **_KEYS,
    "": (
        "name",
        "metric",
        "default_model",
        "template",
        "answer",
        "numeric",
        "max_prompt_tokens",
        "max_new_tokens",
        "columns",
        "files",
        "hub",
    ),
    "columns": ("prompt", "target"),
}


def read_task(path: Path, *, where: str = "task") -> Task:
    """Return the task that the TOML file at `path` describes; its files are read by `Task.load`.

    Raises:
        BadInput: for a file that is missing or no TOML, an unknown or missing key, and a value that cannot be.
    """
    raw = _read_toml(path, where)
    if choice(TEXT_CLASSIFICATION, causal.KIND)(raw.pop("kind", TEXT_CLASSIFICATION), f"{path} kind") == causal.KIND:
        return _causal(raw, path)
    columns, files, hub = _tables(raw, path, _KEYS)
    labels = _labels(raw, path)
    task = Task(
        name=_name(raw, path),
        labels=labels,
        metric=_metric(raw, labels, path),
        default_model=_word(raw, "", "default_model", path, "roberta-base"),
        hub_id=_word(hub, "hub", "id", path) if hub else None,
        hub_config=_word(hub, "hub", "config", path) if "config" in hub else None,
        text_columns=_texts(columns, path),
        label_column=_word(columns, "columns", "label", path, "label"),
        train_split=_word(hub, "hub", "train", path, "train"),
        eval_split=_word(hub, "hub", "eval", path, "validation"),
    )
    if "header" in columns:
        header = _words(columns["header"], path, "[columns].header")
        task = replace(task, tsv=TsvLayout(texts=task.text_columns, label=task.label_column, header=header))
    return _with_files(task, _paths(files, path)) if files else task


def _with_files(task: Task, paths: tuple[Path, Path]) -> Task:
    def read(data_dir: Path | None) -> TextData:
        """Read the files that the TOML names; the data directory has no part in it."""
        return _load.of_files(task, *paths)

    return replace(task, read=read)


def _causal(raw: Mapping[str, Any], path: Path) -> Task:
    """Return a task of causal language modelling: what the second half of this file's text describes."""
    columns, files, hub = _tables(raw, path, _CAUSAL_KEYS)
    prompt = _word(columns, "columns", "prompt", path) if "prompt" in columns else None
    metric = choice(*causal.METRICS)(raw.get("metric", "exact_match" if prompt else "perplexity"), f"{path} metric")
    if prompt is None and metric != "perplexity":
        rule = "must be perplexity where there are no prompts"
        raise BadInput(f"{path} metric", rule, got=metric, way_out="name [columns].prompt, or leave metric out")
    task = Task(
        name=_name(raw, path),
        kind=causal.KIND,
        metric=metric,
        default_model=_word(raw, "", "default_model", path, "gpt2"),
        hub_id=_word(hub, "hub", "id", path) if hub else None,
        hub_config=_word(hub, "hub", "config", path) if "config" in hub else None,
        train_split=_word(hub, "hub", "train", path, "train"),
        eval_split=_word(hub, "hub", "eval", path, "validation"),
        causal=causal.Layout(
            prompt=prompt,
            target=_word(columns, "columns", "target", path, "target"),
            template=_template(raw, prompt, path),
            answer=_answer(raw, path),
            max_new_tokens=_limit(raw, "max_new_tokens", path),
            max_prompt_tokens=_limit(raw, "max_prompt_tokens", path),
            numeric=bool(flag(raw.get("numeric", False), f"{path} numeric")),
        ),
    )
    return _with_files(task, _paths(files, path)) if files else task


def _template(raw: Mapping[str, Any], prompt: str | None, path: Path) -> str:
    given = raw.get("template", "{prompt}")
    if not isinstance(given, str) or given.count("{prompt}") != 1:
        rule, way_out = "must be a text with {prompt} in it once", 'write one, as in "Question: {prompt} Answer: "'
        raise BadInput(f"{path} template", rule, got=shown(given), way_out=way_out)
    if "template" in raw and prompt is None:
        rule = "goes with a prompt: [columns].prompt must be given"
        raise BadInput(f"{path} template", rule, way_out="name the column, or leave the template out")
    return given


def _limit(raw: Mapping[str, Any], key: str, path: Path) -> int | None:
    return int(whole(1)(raw[key], f"{path} {key}")) if key in raw else None


def _answer(raw: Mapping[str, Any], path: Path) -> str | None:
    if "answer" not in raw:
        return None
    pattern = word(raw["answer"], f"{path} answer")
    try:
        n_groups = re.compile(pattern).groups
    except re.error as error:
        raise BadInput(f"{path} answer", "must be a regular expression", got=str(error), way_out="mend it") from None
    if n_groups > 1:
        rule = "must have one group at the most"
        raise BadInput(f"{path} answer", rule, got=n_groups, way_out="write (?:...) for the others")
    return str(pattern)


def _tables(
    raw: Mapping[str, Any], path: Path, keys: Mapping[str, tuple[str, ...]]
) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    """Return the tables columns, files and hub, all keys known, and one of the last two given."""
    columns, files, hub = [_table(raw, name, path, keys[name]) for name in keys][1:]
    if bool(files) == bool(hub):
        got = "both" if files else "neither"
        raise BadInput(str(path), "must have one of [files] and [hub]", got=got, way_out="give one of them")
    return columns, files, hub


def _read_toml(path: Path, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.expanduser().read_text("utf-8"))
    except OSError as error:
        raise BadInput(
            where, "the task file must be readable", got=f"{path}: {error.strerror}", way_out="mend the path"
        ) from None
    except ValueError as error:
        raise BadInput(str(path), "must be TOML", got=str(error), way_out="mend the line") from None


def _table(raw: Mapping[str, Any], name: str, path: Path, keys: tuple[str, ...]) -> Mapping[str, Any]:
    table = raw.get(name, {}) if name else raw
    if not isinstance(table, dict):
        raise BadInput(f"{path} {name}", "must be a table", got=repr(table), way_out=f"write [{name}]")
    unknown = [key for key in table if key not in keys]
    if unknown:
        where = f"{path} [{name}].{unknown[0]}" if name else f"{path} {unknown[0]}"
        raise BadInput(where, "must be a known key", way_out=f"known: {one_of(keys)}")
    return table


def _name(raw: Mapping[str, Any], path: Path) -> str:
    stem = re.sub(r"[^a-z0-9._+-]+", "-", path.stem.lower())
    return plain_name(_word(raw, "", "name", path, stem), f"{path} name")


def _word(table: Mapping[str, Any], name: str, key: str, path: Path, default: str | None = None) -> str:
    where = f"{path} [{name}].{key}" if name else f"{path} {key}"
    if key not in table:
        if default is None:
            raise BadInput(where, "must be given", way_out=f"add {key} = ...")
        return default
    return str(word(table[key], where))


def _words(value: Any, path: Path, key: str) -> tuple[str, ...]:
    where = f"{path} {key}"
    if not isinstance(value, list) or not value:
        raise BadInput(where, "must be a list of texts", got=repr(value), way_out='write one, as in ["a", "b"]')
    words = tuple(str(word(item, where)) for item in value)
    if len(set(words)) < len(words):
        raise BadInput(where, "must not repeat a name", got=repr(value), way_out="leave one out")
    return words


def _labels(raw: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    if "labels" not in raw:
        raise BadInput(f"{path} labels", "must be given", way_out='add labels = ["negative", "positive"]')
    given = raw["labels"]
    numbers = isinstance(given, list) and all(type(item) is int for item in given)
    labels = _words([str(item) for item in given] if numbers else given, path, "labels")
    if len(labels) < 2:
        raise BadInput(f"{path} labels", "must name at least two classes", got=repr(given), way_out="name them all")
    return labels


def _texts(columns: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    given = columns.get("text", "text")
    texts = _words([given] if isinstance(given, str) else given, path, "[columns].text")
    if len(texts) > 2:
        raise BadInput(f"{path} [columns].text", "must be one or two columns", got=repr(given), way_out="join some")
    return texts


def _metric(raw: Mapping[str, Any], labels: tuple[str, ...], path: Path) -> str:
    where = f"{path} metric"
    metric = metrics.get(_word(raw, "", "metric", path, "accuracy"), where=where)
    if metric.score is None:
        way_out = f"use one of {one_of(m.name for m in metrics.METRICS.values() if m.score)}"
        raise BadInput(where, "must be a score of classification", got=metric.name, way_out=way_out)
    if metric.two_classes_only and len(labels) != 2:
        raise BadInput(where, f"{metric.name} needs two labels", got=len(labels), way_out="use accuracy instead")
    return metric.name


def _paths(files: Mapping[str, Any], path: Path) -> tuple[Path, Path]:
    """Return the two files, relative to the directory of the TOML file."""
    train, evaluation = (path.expanduser().parent / Path(_word(files, "files", key, path)) for key in ("train", "eval"))
    for key, file in (("train", train), ("eval", evaluation)):
        if not os.path.isfile(file):  # unlike Path.is_file, also for a name that is too long for the system
            raise BadInput(f"{path} [files].{key}", "must be a file", got=str(file), way_out="mend the path")
    return train, evaluation
