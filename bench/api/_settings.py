"""Keyword arguments -> the options of a command, and its errors -> Python's names."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.api import _objects
from bench.commands._options import Selection
from bench.core.errors import BadInput, one_of
from bench.study.formats import NAMES
from bench.study.overrides import BY_KEY

_FLAG = re.compile(r"--([A-Za-z][A-Za-z-]*)")
_T = TypeVar("_T")
_COMMON: Mapping[str, tuple[Any, Any, str]] = {  # type, default, meaning
    "task": (
        Any,
        None,
        "name of a task, path of a task TOML file, or data: a DataFrame, a `datasets.Dataset`, a list of (text, label) "
        'pairs, or a mapping (a `DatasetDict`) with "train" and "eval" or "validation".',
    ),
    "eval_data": (
        Any,
        None,
        "evaluation split where `task` is data of one split; without it a tenth is split off, by content.",
    ),
    "model": (
        Any,
        None,
        "registered name, directory, Hub id, or a transformers model (then give its `tokenizer`, too).",
    ),
    "tokenizer": (Any, None, "of a model that is given as an object."),
    "text": (
        str | list[str] | None,
        None,
        "column or columns of `task` that hold the text; default: the first that is not the label.",
    ),
    "label": (str | None, None, 'column of `task` that holds the label; default "label".'),
    "data_dir": (str | Path | None, None, "directory of the tasks' files, as the option of the command."),
    "results_dir": (str | Path, "results", "directory that the study's own directory lies in."),
}
_OTHERS = "any setting of `bench sweep`: study, methods, eta_A, lr_ratio, rank, seeds, max_steps, ..."


def on_study(run: Callable[..., _T]) -> Callable[..., _T]:
    """Return `run`, which gets `selection`, as a function of the arguments that say which study is meant.

    Its own parameters stay. The others are those of _COMMON and every setting; both are in its signature and docstring.
    """
    signature = inspect.signature(run, eval_str=False)
    mine = [one for one in signature.parameters.values() if one.name != "selection"]

    @functools.wraps(run)
    def call(*args: Any, **given: Any) -> _T:
        own = {one.name: given.pop(one.name) for one in mine if one.name in given}
        with in_python():
            return run(*args, selection=_selected(given), **own)

    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default, _) in _COMMON.items()
    ]
    rest = inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD, annotation=Any)
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=sorted([*mine, *common, rest], key=lambda one: one.kind)
    )
    told = "\n".join(
        f"    {name}: {meaning}" for name, (_, _, meaning) in (*_COMMON.items(), ("**settings", (0, 0, _OTHERS)))
    )
    head, raises, tail = inspect.cleandoc(run.__doc__ or "").partition("\nRaises:")
    arguments = "" if "\nArgs:" in head else "\nArgs:\n"
    call.__doc__ = f"{head.rstrip()}\n{arguments}{told}\n{raises}{tail}"
    return call


def _selected(given: Mapping[str, Any]) -> Selection:
    """Return the options of a study; objects among them are written below the results directory first."""
    common = {name: given.get(name, default) for name, (_, default, _) in _COMMON.items()}
    directory = Path(common["results_dir"]).expanduser()
    data = {name: common[name] for name in ("text", "label")}
    task = _objects.task_of(common["task"], common["eval_data"], **data, directory=directory)
    model = _objects.model_of(common["model"], common["tokenizer"], directory=directory)
    settings = {name: value for name, value in given.items() if name not in _COMMON}
    return selection_of({"task": task, "model": model, **settings}, data_dir=common["data_dir"], results_dir=directory)


def selection_of(
    settings: Mapping[str, Any], *, data_dir: str | Path | None = None, results_dir: str | Path = "results"
) -> Selection:
    """Return the options that a command would be given for these settings.

    Raises:
        BadInput: for a name that is no setting, one that is given twice, and a value that no option can hold.
    """
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if name not in NAMES:
            raise BadInput(name, "must be a setting", way_out=f"known: {one_of(BY_KEY)}")
        key = NAMES[name]
        if key in texts:
            raise BadInput(name, f"must not be given together with another name of {key}", way_out="give one of them")
        if value is not None:
            texts[key] = _text(value, name)
    ordered = {key: texts[key] for key in BY_KEY if key in texts}
    return Selection(
        overrides=ordered,
        data_dir=None if data_dir is None else Path(data_dir).expanduser(),
        results_dir=Path(results_dir).expanduser(),
    )


def _text(value: Any, name: str) -> str:
    """Return a value as the command line spells it: lists with commas between, numbers in full."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path | int | float):
        return repr(value) if isinstance(value, float) else str(value)
    if isinstance(value, list | tuple | range):
        return ",".join(_text(one, name) for one in value)
    rule = "must be a number, a text, a boolean or a list of them"
    raise BadInput(name, rule, got=type(value).__name__, way_out="convert it")


@contextmanager
def in_python() -> Iterator[None]:
    """Raise the errors of a command with the names that Python has for its options."""
    try:
        yield
    except BadInput as error:
        got = error.got if error.got is None else _renamed(str(error.got))
        raise BadInput(
            _renamed(error.where), _renamed(error.rule), got=got, way_out=_renamed(error.way_out)
        ) from error.__cause__


def _renamed(text: str) -> str:
    """Return a text with each option under the name of its setting."""

    def name(match: re.Match[str]) -> str:
        flag = match[1].replace("-", "_")
        return NAMES.get(flag, flag)

    return _FLAG.sub(name, text)
