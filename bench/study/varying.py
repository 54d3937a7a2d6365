"""Which settings vary among the cells of a study, and how they are spelled: one answer for terminal, figures and page.

A cell is a mapping from setting to value, as a trial (`settings_of`) or a stored row has it. Nothing here names a
setting that is special: what is swept next is shown without a change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from bench import methods
from bench.core import keys, record
from bench.core.spec import LR_RATIO, SERIES, Trial

# What a cell is: every setting of a trial that rows hold, but its seed and what is derived. Those of the method come
# first, then those of every method, then the budget's.
SETTINGS: tuple[str, ...] = tuple(
    name
    for name in sorted(record.SETTINGS, key=lambda name: (name in keys.TRAIN, record.SETTINGS[name].every_method))
    if name not in ("seed", LR_RATIO.key)
)
RATES = ("eta_A", "eta_B")
NULL = "none"  # a null that is a value (no clipping, all layers), unlike a setting that the method does not read

_FIRST = ("task", "model", "rank", "init")  # named before the others
ORDER = (*_FIRST, *(name for name in SETTINGS if name not in _FIRST))
_WORDS = {"task": "", "model": "", "max_steps": "steps", "batch_size": "batch", "lr_scheduler_type": "schedule"}


def settings_of(trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial, by name."""
    return {name: record.setting_of(trial, name) for name in SETTINGS}


def of_trials(trials: Iterable[Trial], *, but: Sequence[str] = (*SERIES, *RATES)) -> tuple[str, ...]:
    """Return the settings, other than those of `but`, that have several values among the trials."""
    return varying({trial.cell: settings_of(trial) for trial in trials}.values(), but=but)


def words_of(trial: Trial, names: Sequence[str]) -> str:
    """Return what a trial has of the settings `names`, as titles and legends have it."""
    cell = settings_of(trial)
    found = [(name, value(cell, name)) for name in names]
    return ", ".join(named(name, one) for name, one in found if one is not None)


def varying(cells: Iterable[Mapping[str, Any]], *, but: Sequence[str] = (*SERIES, *RATES)) -> tuple[str, ...]:
    """Return the settings, other than those of `but`, that have several values among the cells.

    A cell whose method does not read a setting has no value of it. A setting that repeats another one that varies
    (lora_alpha = rank in every cell) is left out.
    """
    known = [{name: value(cell, name) for name in ORDER} for cell in cells]
    found: list[str] = []
    for name in (name for name in ORDER if name not in but):
        values = {cell[name] for cell in known} - {None}
        if len(values) > 1 and not any(_repeats(name, other, known) for other in found):
            found.append(name)
    return tuple(found)


def repeats(name: str, other: str, cells: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a setting equals another one in every cell that has it (lora_alpha = rank)."""
    return _repeats(name, other, [{key: value(cell, key) for key in (name, other)} for cell in cells])


def value(cell: Mapping[str, Any], name: str) -> Any:
    """Return a cell's value of a setting: None where its method does not read it, NULL where it is null."""
    found = cell.get(name)
    if found is None or found != found:
        return None if _unread(str(cell["method"]), name) else NULL
    if _is_list(name) and not isinstance(found, str):
        return json.dumps(found)  # as rows have it
    return found


def named(name: str, found: Any) -> str:
    """Return a setting with its value, as titles and legends have it: rank 8, target_modules query, value."""
    word = _WORDS.get(name, name)
    return f"{word} {spelled(name, found)}".strip()


def spelled(name: str, found: Any) -> str:
    """Return the value of a setting in words."""
    if _is_list(name) and isinstance(found, str) and found != NULL:
        found = _parsed(found)
    if isinstance(found, list | tuple):
        return ", ".join(map(str, found))
    if isinstance(found, float):
        return f"{found:.0f}" if found.is_integer() and abs(found) < 1e15 else f"{found:.4g}"
    return str(found)


def order(key: Sequence[Any]) -> tuple[tuple[bool, bool, Any], ...]:
    """Return what sorts values of several settings: numbers before words, those without a value last."""
    # a list's closing bracket would sort behind the comma of a longer one
    return tuple((v is None, isinstance(v, str), 0 if v is None else v.rstrip('"]') if isinstance(v, str) else v)
                 for v in key)  # fmt: skip


def _is_list(name: str) -> bool:
    return name in record.SETTINGS and record.SETTINGS[name].kind is tuple


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:  # the words of a trial, all-linear, are not quoted
        return text


def _repeats(name: str, other: str, known: Sequence[Mapping[str, Any]]) -> bool:
    both = [(cell[name], cell[other]) for cell in known if cell[name] is not None]
    return bool(both) and all(a == b for a, b in both)


@cache
def _unread(method: str, name: str) -> bool:
    """Return whether a null of this method's trials says that the method does not read the setting."""
    if not any(name in methods.get(known).reads for known in methods.names()):
        return False
    return method not in methods.names() or name not in methods.get(method).reads
