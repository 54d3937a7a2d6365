"""Keyword arguments -> the options of a command, and its errors -> Python's names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.commands._options import Selection
from bench.core.errors import BadInput, one_of
from bench.study.overrides import BY_KEY

_NAMES: Mapping[str, str] = {
    name: key
    for key, option in BY_KEY.items()
    for name in (key, *(flag.removeprefix("--").replace("-", "_") for flag in option.flags))
}
_FLAG = re.compile(r"--([A-Za-z][A-Za-z-]*)")


def selection_of(
    settings: Mapping[str, Any], *, data_dir: str | Path | None = None, results_dir: str | Path = "results"
) -> Selection:
    """Return the options that a command would be given for these settings.

    Raises:
        BadInput: for a name that is no setting, one that is given twice, and a value that no option can hold.
    """
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if name not in _NAMES:
            raise BadInput(name, "must be a setting", way_out=f"known: {one_of(BY_KEY)}")
        key = _NAMES[name]
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
        return _NAMES.get(flag, flag)

    return _FLAG.sub(name, text)
