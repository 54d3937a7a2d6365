"""Tables of the report that sort by any column, with the mouse or the keyboard."""

from __future__ import annotations

from collections.abc import Sequence

from plots.html import Html, el

Column = tuple[str, bool]  # name, whether it holds numbers
Value = tuple[str, float | str | None]  # as shown, as sorted; None: missing


def table(columns: Sequence[Column], rows: Sequence[Sequence[Value]], *, long: Sequence[str] = ()) -> Html:
    """Return a table that sorts by any column: a button in each head, the value to sort by on each cell."""
    head = [
        el("th", el("button", name, type="button"), scope="col", aria_sort="none", class_=_class(name, number, long))
        for name, number in columns
    ]
    body = [
        el("tr", [_td(value, name, number, long) for value, (name, number) in zip(row, columns, strict=True)])
        for row in rows
    ]
    drawn = el("table", el("thead", el("tr", head)), el("tbody", body), class_="data")
    return el("div", drawn, class_="scroll", tabindex="0", role="region", aria_label="table")


def _td(value: Value, name: str, number: bool, long: Sequence[str]) -> Html:
    shown, key = value
    return el("td", shown, data_sort="" if key is None else _plain(key), class_=_class(name, number, long))


def _plain(key: float | str) -> str:
    return key if isinstance(key, str) else repr(float(key))


def _class(name: str, number: bool, long: Sequence[str]) -> str | None:
    return "number" if number else "long" if name in long else None


def whole(value: int | None) -> Value:
    """Return a count as a table's value."""
    return ("–", None) if value is None else (f"{value:,}", value)
