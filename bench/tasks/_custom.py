"""A user's own task, described by a TOML file with the keys of `_keys.py` (docs/reference/task-keys.md)."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core import metrics
from bench.core.errors import BadInput, one_of
from bench.data import causal, chat, forgetting
from bench.data.splits import TextData
from bench.embedded import prose
from bench.tasks import _chat, _load
from bench.tasks._base import CHAT, Task, TsvLayout
from bench.tasks._keys import CLASSES, METRICS, NUMBERS, TEXTS, WRITTEN, Reader


def read_task(path: Path, *, where: str = "task") -> Task:
    """Return the task that the TOML file at `path` describes; its files are read by `Task.load`.

    Raises:
        BadInput: for a file that is missing or no TOML, an unknown or missing key, and a value that cannot be.
    """
    keys = Reader(_read_toml(path, where), path)
    if bool(keys.tables["files"]) == bool(keys.tables["hub"]):
        got = "both" if keys.tables["files"] else "neither"
        raise BadInput(str(path), "must have one of [files] and [hub]", got=got, way_out="give one of them")
    stem = re.sub(r"[^a-z0-9._+-]+", "-", path.stem.lower())
    own = _causal(keys) if keys.kind == TEXTS else _chats(keys) if keys.kind == CHAT else _read_and_judged(keys)
    metric = _metric(keys, own)
    task = Task(
        name=keys.of("name") if keys.has("name") else str(_checked_stem(stem, path)),
        kind=causal.KIND if keys.kind == CHAT else keys.kind,
        metric=metric,
        other_metrics=_other_metrics(keys, metric, own),
        default_model=keys.of("default_model") or {TEXTS: "gpt2", CHAT: "smollm2"}.get(keys.kind, "roberta-base"),
        default_study="_chat" if keys.kind == CHAT else "_default",
        fixed_text=_fixed_text(keys) if keys.kind in WRITTEN else None,
        empty_texts=keys.of("empty_texts"),
        **own,
    )
    task = _with_files(task, keys) if keys.tables["files"] else replace(task, **_hub(keys))
    return _with_conversations(task, keys) if keys.kind == CHAT and keys.tables["hub"] else task


def of_conversations(path: Path, *, where: str = "task") -> Task:
    """Return the task that a file of conversations is by itself, with the defaults of `kind = "chat"`.

    Raises:
        BadInput: for a path that is no file.
    """
    if not os.path.isfile(path.expanduser()):
        raise BadInput(where, "must be a file of conversations", got=str(path), way_out="mend the path")
    stem = re.sub(r"[^a-z0-9._+-]+", "-", path.stem.lower())
    task = Task(
        name=str(_checked_stem(stem, path)), kind=causal.KIND, metric="eval_loss",
        other_metrics=("perplexity", "bits_per_byte"), default_model="smollm2", default_study="_chat",
        causal=causal.Layout(chat=chat.Format()), fixed_text=prose.text(),
        assumed=f"{path.name} alone is taken for conversations: loss on every assistant turn, scored by eval_loss on a "
        "tenth held out by content; a task TOML changes that",
    )  # fmt: skip

    def read(data_dir: Path | None) -> TextData:
        """Read the file; the data directory has no part in it."""
        return _chat.data_of(task, path.expanduser(), None, None, column=None)

    return replace(task, read=read)


def _read_and_judged(keys: Reader) -> dict[str, Any]:
    """Return the fields of a task of classes or numbers."""
    texts, label = keys.of("text", "columns"), keys.of("label", "columns")
    header = keys.of("header", "columns")
    return {
        "labels": keys.of("labels") if keys.kind == CLASSES else (),
        "text_columns": texts,
        "label_column": label,
        "tsv": TsvLayout(texts=texts, label=label, header=header) if header else None,
    }


def _causal(keys: Reader) -> dict[str, Any]:
    """Return the fields of a task of causal language modelling."""
    prompt = keys.of("prompt", "columns")
    if keys.has("template") and prompt is None:
        rule = "goes with a prompt: [columns].prompt must be given"
        raise BadInput(f"{keys.path} template", rule, way_out="name the column, or leave the template out")
    layout = causal.Layout(
        prompt=prompt,
        target=keys.of("target", "columns"),
        **{name: keys.of(name) for name in ("template", "answer", "max_new_tokens", "max_prompt_tokens", "numeric")},
    )
    return {"causal": layout}


def _chats(keys: Reader) -> dict[str, Any]:
    """Return the fields of a task of conversations."""
    given = keys.of("chat_template")
    template = None
    if given is not None:
        file = _file(keys.path, "chat_template", given, table="")
        template = file.read_text("utf-8")
    layout = causal.Layout(
        chat=chat.Format(train_on=keys.of("train_on"), template=template),
        **{name: keys.of(name) for name in ("answer", "max_new_tokens", "numeric")},
    )
    return {"causal": layout}


def _fixed_text(keys: Reader) -> str | None:
    """Return the text by whose loss forgetting is told."""
    given = keys.of("forgetting") or (forgetting.SHIPPED if keys.kind == CHAT else "none")
    if given == forgetting.SHIPPED:
        return prose.text()
    if given == "none":
        return None
    path = _file(keys.path, "forgetting", given, table="")
    try:
        found = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(str(path), "must be a text in UTF-8", got=str(error), way_out="convert the file") from None
    if not found.strip():
        raise BadInput(str(path), "must hold a text", got="an empty file", way_out="give another file")
    return found


def _metric(keys: Reader, own: Mapping[str, Any]) -> str:
    where = f"{keys.path} metric"
    has_prompt = keys.kind == TEXTS and own["causal"].prompt is not None
    usual = {CLASSES: "accuracy", NUMBERS: "pearson", TEXTS: "exact_match" if has_prompt else "perplexity",
             CHAT: "eval_loss"}  # fmt: skip
    if not keys.has("metric"):
        return usual[keys.kind]
    name = str(keys.of("metric"))
    _check_metric(name, keys, own, where)
    if metrics.get(name).by_class is not None:
        way_out = f'use balanced_accuracy, its mean; or other_metrics = ["{name}"]'
        raise BadInput(where, "must be one number", got=f"{name}, one for each class", way_out=way_out)
    if keys.kind == TEXTS and not has_prompt and name in causal.GENERATED:
        rule = "must be a score of the loss, such as perplexity, where there are no prompts"
        raise BadInput(where, rule, got=name, way_out="name [columns].prompt, or leave metric out")
    return name


def _other_metrics(keys: Reader, metric: str, own: Mapping[str, Any]) -> tuple[str, ...]:
    where, found = f"{keys.path} other_metrics", keys.of("other_metrics")
    for name in found:
        _check_metric(name, keys, own, where)
        if name == metric:
            raise BadInput(where, "must not hold the metric itself", got=name, way_out="leave it out")
        if keys.kind == TEXTS and own["causal"].prompt is None and name in causal.GENERATED:
            rule = "must be scores of the loss where there are no prompts"
            raise BadInput(where, rule, got=name, way_out="name [columns].prompt, or leave it out")
    return tuple(found)


def _check_metric(name: str, keys: Reader, own: Mapping[str, Any], where: str) -> None:
    kinds = {CLASSES: "a score of classification", NUMBERS: "a score of regression"}
    known = (
        (*METRICS[keys.kind], *metrics.names_of("classes", chosen_by=False))
        if keys.kind == CLASSES
        else METRICS[keys.kind]
    )
    if name not in known:
        if keys.kind not in WRITTEN:
            metrics.get(name, where=where)
        raise BadInput(
            where,
            f"must be {kinds.get(keys.kind, 'one of the known values')}",
            got=repr(name),
            way_out=f"known: {one_of(known)}",
        )
    if metrics.get(name).two_classes_only and len(own["labels"]) != 2:
        way_out = f"use {' or '.join(_for_more_classes(name))} instead"
        raise BadInput(where, f"{name} needs two labels", got=len(own["labels"]), way_out=way_out)


def _for_more_classes(name: str) -> list[str]:
    """Return the metrics of the same family for any number of classes, as macro_f1 and weighted_f1 for f1."""
    return [one for one in metrics.names_of("classes") if one.endswith(f"_{name}")]


def _hub(keys: Reader) -> dict[str, Any]:
    names = {"hub_id": "id", "hub_config": "config", "train_split": "train", "eval_split": "eval", "test_split": "test"}
    return {field: keys.of(name, "hub") for field, name in names.items()}


def _with_files(task: Task, keys: Reader) -> Task:
    """Return the task whose data are the files of the TOML, relative to its directory."""
    paths: dict[str, Path | None] = {}
    for name in ("train", "eval", "test"):
        given = keys.of(name, "files")
        paths[name] = None if given is None else _file(keys.path, name, given)

    def read(data_dir: Path | None) -> TextData:
        """Read the files that the TOML names; the data directory has no part in it."""
        assert paths["train"] is not None
        if keys.kind == CHAT:
            column = keys.of("messages", "columns")
            return _chat.data_of(task, paths["train"], paths["eval"], paths["test"], column=column)
        assert paths["eval"] is not None
        return _load.of_files(task, paths["train"], paths["eval"], paths["test"])

    return replace(task, read=read)


def _with_conversations(task: Task, keys: Reader) -> Task:
    """Return the task whose data are conversations of the Hub."""
    splits = [keys.of(name, "hub") for name in ("train", "eval", "test")]
    column = keys.of("messages", "columns")

    def read(data_dir: Path | None) -> TextData:
        """Read the data set; the data directory has no part in it."""
        return _chat.data_of(task, *splits, column=column)

    return replace(task, read=read)


def _file(toml: Path, name: str, given: str, table: str = "files") -> Path:
    path = toml.expanduser().parent / Path(given)
    if not os.path.isfile(path):  # unlike Path.is_file, also for a name that is too long for the system
        raise BadInput(
            f"{toml} [{table}].{name}" if table else f"{toml} {name}",
            "must be a file",
            got=str(path),
            way_out="mend the path",
        )
    return path


def _checked_stem(stem: str, path: Path) -> str:
    from bench.core.rules import plain_name

    return plain_name(stem, f"{path} name")


def _read_toml(path: Path, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.expanduser().read_text("utf-8"))
    except OSError as error:
        raise BadInput(
            where, "the task file must be readable", got=f"{path}: {error.strerror}", way_out="mend the path"
        ) from None
    except ValueError as error:
        raise BadInput(str(path), "must be TOML", got=str(error), way_out="mend the line") from None
