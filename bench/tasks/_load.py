"""Where a task's data comes from: the data directory, else the Hugging Face cache, else the Hub."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import causal, hub
from bench.errors import BadInput
from bench.tasks import _files
from bench.tasks._base import Task, TsvLayout
from bench.text import Split, TextData, hash_data

SUFFIXES = (".tsv", ".parquet", ".csv", ".jsonl")  # looked for in this order


def load(task: Task, data_dir: Path | None) -> TextData:
    """Return the data of `task`: of `<data_dir>/<task>/` if that directory exists, else of the Hub's data set.

    A data directory without the task's own directory is no error as long as the Hub (or its cache) has the task.

    Raises:
        BadInput: for a data directory that does not exist, malformed files, and a Hub out of reach.
    """
    directory = _directory(task, data_dir)
    if directory is not None:
        tsv = task.tsv or plain_layout(task)
        return of_files(
            task, _find(directory, task.train_split, tsv.train), _find(directory, task.eval_split, tsv.eval)
        )
    if task.hub_id is None:
        raise BadInput(f"task {task.name}", "must have data", got="neither files nor a Hub id", way_out=hub.WAYS_OUT)
    try:
        return of_hub(task)
    except BadInput as error:
        if data_dir is None:
            raise
        got = f"{error.got} (and no directory {task.name} in {data_dir})"
        raise BadInput(error.where, error.rule, got=got, way_out=error.way_out) from error


def of_files(task: Task, train: Path, evaluation: Path) -> TextData:
    """Return the data of two files."""
    if task.causal is not None:
        columns = plain_layout(task)
        splits = [causal.split_of(_files.read_prompts(path, columns), task.causal) for path in (train, evaluation)]
        return causal.data_of(splits[0], splits[1], task.causal, task.metric)
    plain = plain_layout(task)
    return _data(*(_files.read_split(path, task.tsv or plain, plain, task.labels) for path in (train, evaluation)))


def of_hub(task: Task) -> TextData:
    """Return the data of the Hub's data set, from the Hugging Face cache where it is there already."""
    import datasets

    where, repo = f"task {task.name}", str(task.hub_id)
    with _quiet(datasets):
        found = _cached(datasets, task)
        if found is None:
            hub.require(where, repo, api="datasets")
            with hub.failures(where, repo):
                found = datasets.load_dataset(repo, task.hub_config)
    splits = [_hub_split(task, found, split) for split in (task.train_split, task.eval_split)]
    if task.causal is not None:
        return causal.data_of(splits[0], splits[1], task.causal, task.metric)
    return _data(*splits)


def plain_layout(task: Task) -> TsvLayout:
    """Return the columns of every file that is not in GLUE's own layout."""
    if task.causal is not None:
        return TsvLayout(texts=(task.causal.prompt,) if task.causal.prompt else (), label=task.causal.target)
    return TsvLayout(texts=task.text_columns, label=task.label_column)


def _data(train: Split, evaluation: Split) -> TextData:
    return TextData(train=train, eval=evaluation, data_hash=hash_data(train, evaluation))


def _directory(task: Task, data_dir: Path | None) -> Path | None:
    if data_dir is None:
        return None
    if not data_dir.is_dir():
        way_out = "mend --data-dir or LORASWEEP_DATA, or leave both out to use the Hub"
        raise BadInput("--data-dir", "must be a directory", got=str(data_dir), way_out=way_out)
    places = (data_dir / name for name in (task.name, *task.directories))
    return next((place for place in places if place.is_dir()), None)


def _find(directory: Path, *stems: str) -> Path:
    """Return the first file of the split in the directory: GLUE's name before the Hub's, in the order of SUFFIXES."""
    names = [f"{stem}{suffix}" for stem in dict.fromkeys(reversed(stems)) for suffix in SUFFIXES]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    way_out = "put it there, or leave the task's directory out to use the Hub"
    raise BadInput(str(directory), f"must hold {names[0]} (or {', '.join(SUFFIXES[1:])})", way_out=way_out)


def _hub_split(task: Task, found: Any, split: str) -> Split:
    where = f"{task.hub_id} {task.hub_config or ''} {split}".replace("  ", " ")
    if split not in found:
        raise BadInput(
            where, "the data set must have the split", got=", ".join(found), way_out="mend the task's splits"
        )
    rows = found[split]
    layout = plain_layout(task)
    wanted = (*layout.texts, layout.label)
    missing = [name for name in wanted if name not in rows.column_names]
    if missing:
        got = ", ".join(rows.column_names)
        raise BadInput(where, f"must have a column {missing[0]}", got=got, way_out="mend the task's columns")
    columns = [rows[name][:] for name in wanted]
    values = enumerate(zip(*columns, strict=True), start=1)
    if task.causal is not None:
        return causal.split_of(_files.to_prompts(values, lambda row: f"{where} row {row}"), task.causal)
    return _files.to_split(values, len(task.text_columns), task.labels, lambda row: f"{where} row {row}")


def _cached(datasets: Any, task: Task) -> Any:
    """Return the data set out of the Hugging Face cache without asking the Hub, or None where it is not there.

    `load_dataset` always asks for the newest revision first; what a study has run on must not change under it.
    """
    from datasets.packaged_modules.cache.cache import Cache

    repo = str(task.hub_id)
    try:
        builder = Cache(
            dataset_name=repo.rpartition("/")[2], repo_id=repo, config_name=task.hub_config, version="auto", hash="auto"
        )
        return builder.as_dataset()
    except (OSError, ValueError):  # not there, not this configuration, or not whole
        return None


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Silence the client's warnings about its own cache; its download bar stays."""
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
