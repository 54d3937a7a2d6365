"""Tables of the report that sort by any column, with the mouse or the keyboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plots import style

Kind = Literal["", "number", "long"]
Value = tuple[str, float | str | None]  # as shown, as sorted; None: missing


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """The head of a column: a button that sorts by it."""

    name: str
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell: what is shown, and what it is sorted by; empty: missing."""

    shown: str
    key: str
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What templates/_macros.html draws as a table."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def table(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[Value]], *, long: Sequence[str] = ()) -> Table:
    """Return a table; `columns` are names and whether they hold numbers, `long` those whose texts may wrap."""
    heads = tuple(
        Column(name=name, kind="number" if number else "long" if name in long else "") for name, number in columns
    )
    cells = (
        tuple(Cell(shown=shown, key=_plain(key), kind=head.kind) for (shown, key), head in zip(row, heads, strict=True))
        for row in rows
    )
    return Table(columns=heads, rows=tuple(cells))


def _plain(key: float | str | None) -> str:
    return "" if key is None else key if isinstance(key, str) else repr(float(key))


def text(value: str) -> Value:
    """Return a text as a table's value."""
    return (value, value)


def decimal(value: float | None) -> Value:
    """Return a number as a table's value: three significant digits, no decimals from 100 on, never an exponent."""
    if value is None:
        return ("–", None)
    if abs(value) >= 99.5:
        return (f"{value:,.0f}", value)
    return (f"{value:.3g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.1e}", value)


def whole(value: float | None) -> Value:
    """Return a count, or a number that is shown without decimals, as a table's value."""
    return ("–", None) if value is None else (f"{value:,.0f}", value)


def rate(eta_A: float) -> Value:
    """Return a learning rate as a table's value."""
    return (style.rate(eta_A), eta_A)


def ratio(lr_ratio: float | None) -> Value:
    """Return a ratio of learning rates as a table's value."""
    return ("–", None) if lr_ratio is None else (style.ratio(lr_ratio), lr_ratio)
