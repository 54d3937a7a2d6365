"""docs/reference/commands.md and study-keys.md, out of the commands and of the settings that spec.py declares."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

import typer.main

from bench import methods
from bench.commands import _make
from bench.commands._app import app
from bench.commands._options import STUDY_OPTIONS
from bench.core import keys
from bench.core.settings import Setting
from bench.core.spec import Study, TrainBudget

REQUIRED = "must be given"


def commands() -> str:
    """Return docs/reference/commands.md: every command and its options, in Markdown."""
    group: Any = typer.main.get_command(app())
    found: Mapping[str, Any] = group.commands
    rows = [(f"[`{name}`](#{name})", _first(one)) for name, one in found.items()]
    parts = [_COMMANDS, _table(("command", "what it does"), rows), _AROUND]
    return "\n".join([*parts, *(_command(name, one) for name, one in found.items())])


def study_keys() -> str:
    """Return docs/reference/study-keys.md: every key of a study file, in Markdown."""
    top = [(f"`{key}`", meaning, "", default) for key, meaning, default in _BESIDE]
    top += [_row(one, _default_of(Study, one)) for one in keys.TOP.values()]
    train = [_row(one, _default_of(TrainBudget, one)) for one in keys.TRAIN.values()]
    grid = [(*_row(one, _value(one.usual)), _readers(one)) for one in keys.GRID.values()]
    head = ("key", "value", "option", "default")
    sections = (
        ("## Top level", "", _table(head, top)),
        ("## [train]", _axes_of_train(), _table(head, train)),
        ("## [grid.&lt;method&gt;] and [adapter]", _GRID, _table((*head, "methods"), grid)),
    )
    return "\n".join([_KEYS, *("\n\n".join(filter(None, section)) for section in sections)])


def _axes_of_train() -> str:
    names = ", ".join(f"`{key}`" for key in keys.SWEPT)
    return (
        f"These may be lists: {names}. A list here is an axis of every grid, in `[grid.<method>]` of that grid alone. "
        "Trials of\ndifferent values train in different packs."
    )


def _command(name: str, command: Any) -> str:
    options = [one for one in command.params if one.param_type_name == "option" and "--help" not in one.opts]
    own = [one for one in options if one.name not in STUDY_OPTIONS]
    of_study = len(own) < len(options)
    rows = [(f"`{one.opts[0]}`", f"`{_make.variables(one)[0]}`", one.help or "", _default(one)) for one in own]
    several = _study_options([one for one in options if one.name in STUDY_OPTIONS]) if of_study else ""
    table = _table(("option", "make", "meaning", "default"), rows) if rows else ""
    text = inspect.cleandoc(command.help or "")
    return "\n\n".join(filter(None, (f"## {name}", text, several, table)))


def _study_options(found: Sequence[Any]) -> str:
    if len(found) == len(STUDY_OPTIONS):
        return "Takes all options of a study."
    return f"Takes of the options of a study {', '.join(f'`{one.opts[0]}`' for one in found)}."


def _first(command: Any) -> str:
    return inspect.cleandoc(command.help or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")


def _default(option: Any) -> str:
    shown = option.default
    return "" if shown in (None, False, ()) or callable(shown) else f"`{shown}`"


def _row(setting: Setting, default: str) -> tuple[str, str, str, str]:
    flag = f"`{setting.flags[0]}`" if setting.flags else ""
    return f"`{setting.key}`", setting.help or setting.meaning, flag, setting.default_words or default


def _default_of(declaring: type, setting: Setting) -> str:
    default = next(f.default for f in fields(declaring) if f.name == setting.key)
    return REQUIRED if default is MISSING else _value(default)


def _value(default: Any) -> str:
    if default is None:
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _readers(setting: Setting) -> str:
    if setting.every_method or setting.key == "eta_A":
        return "all"
    key = "loraplus_lr_embedding" if setting.axis == "rate" else setting.key
    return ", ".join(name for name in methods.names() if key in methods.get(name).reads)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


_BESIDE = (  # keys of the file itself, which are no settings of a study
    ("base", "a study beside the file or in `studies/`, or a path to a TOML file", "none"),
    ("drop", "list of the base's keys that this study does without, such as `grid.lora.eta_A`", "none"),
)
_KEYS = """# Study keys

[Write a study](../how-to/studies.md) explains how files, profiles and bases are merged. `make study STUDY=name` prints
every value with its origin. An unknown key is refused. The option changes the key for one run; its make variable is
the flag in capitals (`--eta-A`: `ETA_A=`).

This page is generated by `make dictionary` from `bench/core/spec.py`.
"""
_GRID = """Each key is an axis: a list gives one value per cell. `[adapter]` holds axes for every method that reads
them; rates and rank stand in the grids only. Instead of `eta_B` a grid of `lora+` may give `lr_ratio`,
`eta_B / eta_A`."""
_COMMANDS = """# Commands

Each command is `python -m bench <command>` and a make target of the same name, `make <command> VARIABLE=value`; a
variable is an option's flag in capitals. `make plots` is `make plot`. The options of a study are those of its
[keys](study-keys.md), `--study`, `--task`, `--methods`, `--profile`, `--device`, `--data-dir` (`DATA`) and
`--results-dir` (`RESULTS`).

This page is generated by `make dictionary` from `bench/commands/`.
"""
_AROUND = """`plot`, `report`, `status`, `recommend`, `verify` and `export` take the options of the last sweep of
that task and model, unless others are given. With `ROWS=a.parquet,b.parquet`, `compare`, `plot`, `report`, `verify`
and `recommend` read files that `export` wrote and train nothing ([how](../how-to/compare.md#from-stored-rows)). An
error is one line: where, which rule, what was found, the way out.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | some trials failed, or a check found something |
| 2 | bad input; nothing was trained |
| 130 | interrupted |

| environment variable | meaning |
|---|---|
| `LORASWEEP_DATA` | where `<task>/train.tsv` and others lie (`DATA=`) |
| `LORASWEEP_STORAGE` | Optuna's storage, `postgresql://...`, in place of a journal beside the rows |
| `RAY_ADDRESS` | the Ray cluster ([many GPUs](../how-to/many-gpus.md)) |

For developers: `make test`, `make lint`, `make docs`, `make torture`, `make fuzz`, `make scale`.
"""
