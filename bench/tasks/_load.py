"""Where a task's data comes from: the data directory, else the Hugging Face cache, else the Hub."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core import hub
from bench.core.errors import BadInput
from bench.data import causal
from bench.data.splits import Split, TextData, hash_data
from bench.tasks import _files
from bench.tasks._base import REGRESSION, Task, TsvLayout

SUFFIXES = (".tsv", ".parquet", ".csv", ".jsonl")  # looked for in this order


def load(task: Task, data_dir: Path | None) -> TextData:
    """Return the data of `task`: of `<data_dir>/<task>/` if that directory exists, else of the Hub's data set.

    A data directory without the task's own directory is no error as long as the Hub (or its cache) has the task.

    Raises:
        BadInput: for a data directory that does not exist, malformed files, and a Hub out of reach.
    """
    place = directory((task.name, *task.directories), data_dir)
    if place is not None:
        tsv = task.tsv or plain_layout(task)
        test = None if task.test_split is None else find_file(place, task.test_split)
        return of_files(
            task, find_file(place, task.train_split, tsv.train), find_file(place, task.eval_split, tsv.eval), test
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


def of_files(task: Task, train: Path, evaluation: Path, test: Path | None = None) -> TextData:
    """Return the data of two files, or three.

    Raises:
        BadInput: for malformed files, and a test file without labels.
    """
    splits = [_file_split(task, path) for path in (train, evaluation)]
    return _data(task, *splits, test=None if test is None else _file_split(task, test))


def of_hub(task: Task) -> TextData:
    """Return the data of the Hub's data set, from the Hugging Face cache where it is there already.

    Raises:
        BadInput: for a data set that lacks a split or a column, and a test split without labels.
    """
    found = data_set(f"task {task.name}", str(task.hub_id), task.hub_config)
    splits = [_hub_split(task, found, split) for split in (task.train_split, task.eval_split)]
    test = None if task.test_split is None else _hub_split(task, found, task.test_split)
    return _data(task, *splits, test=test)


def data_set(where: str, repo: str, config: str | None) -> Any:
    """Return a data set of the Hub, split by split, from the Hugging Face cache where it is there already."""
    hub.refuse_if_closed(where, repo)
    import datasets

    with _quiet(datasets):
        found = _cached(repo, config)
        if found is None:
            hub.require(where, repo, api="datasets")
            with hub.failures(where, repo):
                found = datasets.load_dataset(repo, config)
    return found


def plain_layout(task: Task) -> TsvLayout:
    """Return the columns of every file that is not in GLUE's own layout."""
    if task.causal is not None:
        return TsvLayout(texts=(task.causal.prompt,) if task.causal.prompt else (), label=task.causal.target)
    return TsvLayout(texts=task.text_columns, label=task.label_column)


def _data(task: Task, train: Split, evaluation: Split, *, test: Split | None) -> TextData:
    if task.causal is not None:
        return replace(causal.data_of(train, evaluation, task.causal, task.metric), test=test)
    return TextData(train=train, eval=evaluation, data_hash=hash_data(train, evaluation), test=test)


def _file_split(task: Task, path: Path) -> Split:
    plain = plain_layout(task)
    if task.causal is not None:
        return causal.split_of(_files.read_prompts(path, plain, empty_texts=task.empty_texts), task.causal)
    return _files.read_split(path, task.tsv or plain, plain, labels_of(task), empty_texts=task.empty_texts)


def labels_of(task: Task) -> tuple[str, ...] | None:
    """Return the classes of a task; None where its labels are numbers."""
    return None if task.kind == REGRESSION else task.labels


def directory(names: tuple[str, ...], data_dir: Path | None) -> Path | None:
    """Return the first of the directories of these names below the data directory, or None."""
    if data_dir is None:
        return None
    if not data_dir.is_dir():
        way_out = "mend --data-dir or LORASWEEP_DATA, or leave both out to use the Hub"
        raise BadInput("--data-dir", "must be a directory", got=str(data_dir), way_out=way_out)
    places = (data_dir / name for name in names)
    return next((place for place in places if place.is_dir()), None)


def find_file(directory: Path, *stems: str) -> Path:
    """Return the first file of a split in the directory: the last name first, in the order of SUFFIXES."""
    names = [f"{stem}{suffix}" for stem in dict.fromkeys(reversed(stems)) for suffix in SUFFIXES]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    way_out = "put it there, or leave the task's directory out to use the Hub"
    raise BadInput(str(directory), f"must hold {names[0]} (or {', '.join(SUFFIXES[1:])})", way_out=way_out)


def _hub_split(task: Task, found: Any, split: str) -> Split:
    where = f"{task.hub_id} {task.hub_config or ''} {split}".replace("  ", " ")
    layout = plain_layout(task)
    values = columns(found, split, (*layout.texts, layout.label), where)
    place = lambda row: f"{where} row {row}" if row else where  # noqa: E731
    if task.causal is not None:
        return causal.split_of(_files.to_prompts(values, place, empty_texts=task.empty_texts), task.causal)
    return _files.to_split(values, len(task.text_columns), labels_of(task), place, empty_texts=task.empty_texts)


def columns(found: Any, split: str, wanted: tuple[str, ...], where: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield number, from 1, and values of each row of a split of the Hub's data set.

    Raises:
        BadInput: where it lacks the split or a column.
    """
    if split not in found:
        raise BadInput(
            where, "the data set must have the split", got=", ".join(found), way_out="mend the task's splits"
        )
    rows = found[split]
    missing = [name for name in wanted if name not in rows.column_names]
    if missing:
        got = ", ".join(rows.column_names)
        raise BadInput(where, f"must have a column {missing[0]}", got=got, way_out="mend the task's columns")
    return enumerate(zip(*(rows[name][:] for name in wanted), strict=True), start=1)


def _cached(repo: str, config: str | None) -> Any:
    """Return the data set out of the Hugging Face cache without asking the Hub, or None where it is not there.

    `load_dataset` always asks for the newest revision first; what a study has run on must not change under it.
    """
    from datasets.packaged_modules.cache.cache import Cache

    try:
        builder = Cache(
            dataset_name=repo.rpartition("/")[2], repo_id=repo, config_name=config, version="auto", hash="auto"
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
