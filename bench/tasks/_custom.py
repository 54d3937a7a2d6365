"""A user's own classification task, described by a TOML file.

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
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import metrics
from bench.errors import BadInput, one_of
from bench.fields import plain_name, word
from bench.tasks import _load
from bench.tasks._base import Task, TsvLayout
from bench.text import TextData

_KEYS: dict[str, tuple[str, ...]] = {
    "": ("name", "labels", "metric", "default_model", "columns", "files", "hub"),
    "columns": ("text", "label", "header"),
    "files": ("train", "eval"),
    "hub": ("id", "config", "train", "eval"),
}


def read_task(path: Path, *, where: str = "task") -> Task:
    """Return the task that the TOML file at `path` describes; its files are read by `Task.load`.

    Raises:
        BadInput: for a file that is missing or no TOML, an unknown or missing key, and a value that cannot be.
    """
    raw = _read_toml(path, where)
    tables = {name: _table(raw, name, path) for name in _KEYS}
    columns, files, hub = tables["columns"], tables["files"], tables["hub"]
    if bool(files) == bool(hub):
        got = "both" if files else "neither"
        raise BadInput(str(path), "must have one of [files] and [hub]", got=got, way_out="give one of them")
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


def _read_toml(path: Path, where: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.expanduser().read_text("utf-8"))
    except OSError as error:
        raise BadInput(
            where, "the task file must be readable", got=f"{path}: {error.strerror}", way_out="mend the path"
        ) from None
    except ValueError as error:
        raise BadInput(str(path), "must be TOML", got=str(error), way_out="mend the line") from None


def _table(raw: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    table = raw.get(name, {}) if name else raw
    if not isinstance(table, dict):
        raise BadInput(f"{path} {name}", "must be a table", got=repr(table), way_out=f"write [{name}]")
    unknown = [key for key in table if key not in _KEYS[name]]
    if unknown:
        where = f"{path} [{name}].{unknown[0]}" if name else f"{path} {unknown[0]}"
        raise BadInput(where, "must be a known key", way_out=f"known: {one_of(_KEYS[name])}")
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
        if not file.is_file():
            raise BadInput(f"{path} [files].{key}", "must be a file", got=str(file), way_out="mend the path")
    return train, evaluation
