"""Tasks whose parts come from different data sets: one to train on, another to be scored on, a third for examples.

A part is a file `<data_dir>/<task>/<stem>.{parquet,jsonl,...}`, or a split of a data set of the Hub, with the same
columns. Which of the two is decided for all parts of a task at once, by whether its directory is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import BadInput
from bench.tasks import _files, _load

MEND = "mend the row or leave it out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a task's data: its file's name without ending, its columns, and where the Hub has it."""

    stem: str
    columns: tuple[str, ...]
    hub_id: str
    hub_split: str
    hub_config: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The values of a part's columns in one row, in their order, and where it stands, for an error."""

    place: str
    values: tuple[Any, ...]


def rows(part: Part, task: str, data_dir: Path | None) -> Iterator[Row]:
    """Yield the rows of a part, in their order; what the values are is not checked.

    Raises:
        BadInput: for a directory without the part's file, malformed files, and a Hub out of reach.
    """
    directory = _load.directory((task,), data_dir)
    if directory is None:
        where = " ".join(filter(None, (part.hub_id, part.hub_config, part.hub_split)))
        found = _load.data_set(f"task {task}", part.hub_id, part.hub_config)
        yield from _placed(_load.columns(found, part.hub_split, part.columns, where), f"{where} row")
        return
    path = _load.find_file(directory, part.stem)
    unit = "row" if path.suffix == ".parquet" else "line"
    yield from _placed(_files.read_columns(path, part.columns), f"{path} {unit}")


def texts(row: Row, values: Sequence[Any]) -> tuple[str, ...]:
    """Return the values if each is a text.

    Raises:
        BadInput: naming the row.
    """
    return tuple(checked(row, value, lambda v: isinstance(v, str), "a text must be a string") for value in values)


def checked(row: Row, value: Any, is_right: Callable[[Any], bool], rule: str) -> Any:
    """Return the value if it is right.

    Raises:
        BadInput: naming the row.
    """
    if not is_right(value):
        raise BadInput(row.place, rule, got=repr(value)[:80], way_out=MEND)
    return value


def _placed(found: Iterator[_files.Row], unit: str) -> Iterator[Row]:
    return (Row(place=f"{unit} {number}", values=values) for number, values in found)
