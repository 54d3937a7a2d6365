"""A starting study that grows key by key out of another program's file, with a note for what found no place in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import methods
from bench.core import keys
from bench.core.errors import BadInput, one_line
from bench.core.settings import Setting
from bench.study import as_toml, layer
from bench.study.files import DEFAULT_TASK
from bench.study.overrides import BY_KEY

BASE = "_text"  # the study that what the file does not say comes from
MAX_BYTES = 1_000_000
STEPS, EVALUATIONS, SEEDS = 1000, 4, [0]  # where the file says nothing
RATES = [4e-5, 1.6e-4, 6.4e-4, 2.56e-3]  # likewise: steps of 4 around what PEFT's users take
NAMES: Mapping[str, str] = {  # every name that an option has, in Python's spelling -> its key
    name: key
    for key, option in BY_KEY.items()
    for name in (key, *(flag.removeprefix("--").replace("-", "_") for flag in option.flags))
}
_DECLARED: Mapping[str, Setting] = {**keys.TRAIN, **keys.GRID, **keys.TOP}


@dataclass(kw_only=True, slots=True)
class Draft:
    """A study file in the making. `notes` says, by key of the other file, what was not carried over as it is."""

    method: str = "lora"
    top: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)  # what a study must have and the file does not

    def note(self, name: str, why: str) -> None:
        """Say that a key of the file was not carried over, or not as it is."""
        self.notes.append(one_line(f"{name}: {why}"))

    def take(self, name: str, values: Sequence[Any], *, key: str | None = None) -> None:
        """Carry the values of a key over, under the setting of this key or of that name; else note why not."""
        key = key or NAMES.get(name.rpartition(".")[2].replace("-", "_"))
        if key is None or key not in _DECLARED:
            self.note(name, "there is no such setting here")
            return
        one = _DECLARED[key]
        several = one.place == "grid" or one.swept
        if len(values) > 1 and not several and one.kind is not tuple:
            self.note(name, f"may not vary in a study; {values[0]!r} of {list(values)!r} was taken")
            values = values[:1]
        try:
            given = [number(value) for value in values]
            if one.place == "grid" and one.kind is tuple and len(given) > 1:
                given = [item if isinstance(item, list) else [item] for item in given]
            bare = given[0] if len(given) == 1 else given
            value = _bare(one.values(bare, name)) if several else one.value(bare, name)
        except BadInput as error:
            self.note(name, f"{error.rule}{'' if error.got is None else f', but is {error.got}'}")
            return
        place = {"grid": self.grid, "train": self.train}.get(one.place, self.top)
        place[key] = list(value) if isinstance(value, tuple) else value

    def settle(self, *, task: str | None, model: str | None) -> None:
        """Give the study what it must have, and take out of its grid what the method does not read."""
        given = {"task": task, "model": model}
        self.top |= {key: value for key, value in given.items() if value is not None}
        if "task" not in self.top:
            self.top["task"] = DEFAULT_TASK
            self.lacking.append("task: a stand-in; give --task, or write a task file for your data")
        allowed = layer.grid_keys(self.method, self.method)
        for key in [key for key in self.grid if key not in allowed]:
            self.note(key, f"{self.method} does not read it")
            del self.grid[key]
        self._lacks(self.top, "seeds", SEEDS)
        self._lacks(self.grid, "eta_A", RATES)
        if methods.get(self.method).at_equal_rates is not None and not {"eta_B", "lr_ratio"} & set(self.grid):
            self._lacks(self.grid, "lr_ratio", [16.0])
        self._lacks(self.train, "max_steps", STEPS)
        steps = self.train["max_steps"]
        least = min(steps) if isinstance(steps, list) else steps
        if self.train.get("eval_steps", least) > least:
            self.note("eval_steps", f"more than the {least} steps there are")
            del self.train["eval_steps"]
        self._lacks(self.train, "eval_steps", max(1, math.ceil(least / EVALUATIONS)))

    def _lacks(self, place: dict[str, Any], key: str, value: Any) -> None:
        if key not in place:
            place[key] = value
            self.lacking.append(f"{key}: not in the file; {as_toml.value(value)} is a start")


def _bare(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else [list(one) if isinstance(one, tuple) else one for one in values]


def number(value: Any) -> Any:
    """Return a text that YAML should have read as a number, such as 1e-4, as one; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = float(value)
    except ValueError:
        return value
    return found if math.isfinite(found) else value


def parse(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML or JSON file holds.

    Raises:
        BadInput: where there is no such file, or something else in it.
    """
    import yaml

    shown, way_out = str(path), "check the path"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(
                shown, f"must be at most {MAX_BYTES:,} bytes", got=f"{path.stat().st_size:,}", way_out=way_out
            )
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or "something else"
        raise BadInput(shown, "must be a readable UTF-8 file", got=got, way_out=way_out) from None
    try:
        raw = yaml.safe_load(content)  # JSON is YAML
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(shown, "must be YAML or JSON", got=one_line(str(error))[:200], way_out="mend it") from None
    if not isinstance(raw, dict) or not raw or not all(isinstance(key, str) for key in raw):
        got = "no keys" if raw in (None, {}) else type(raw).__name__
        raise BadInput(shown, "must hold keys and values", got=got, way_out="give the program's own file")
    return raw


def text(draft: Draft, source: str) -> str:
    """Return the study file of a draft: notes first, then its tables."""
    top = {"base": BASE, **draft.top}
    lines = [f"# Started from {Path(source).name}"]
    for head, found in (("Not carried over as it is", draft.notes), ("To be looked at", draft.lacking)):
        lines += [f"# {head}:", *(f"#   {one}" for one in found)] if found else []
    tables = {"": top, "[train]": draft.train, f"[{layer.grid_table(draft.method)}]": draft.grid}
    for name, table in tables.items():
        lines += ["", name] if name else []
        lines += [f"{key} = {as_toml.value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"
