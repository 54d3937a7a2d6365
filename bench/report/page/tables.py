"""Tables of the report that sort by any column, with the mouse or the keyboard."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.page.html import Html, el, join

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
    return scroll(drawn, tabindex="0", role="region", aria_label="table")


def scroll(drawn: Html, **attributes: object) -> Html:
    """Return what may be wider than the screen in a box that scrolls, and a hint, shown where it is wider."""
    hint = el("p", "Wider than the screen: scroll it sideways →", class_="hint", hidden=True)
    return join(hint, el("div", drawn, class_="scroll", **attributes))


def _td(value: Value, name: str, number: bool, long: Sequence[str]) -> Html:
    shown, key = value
    return el("td", shown, data_sort="" if key is None else _plain(key), class_=_class(name, number, long))


def _plain(key: float | str) -> str:
    return key if isinstance(key, str) else repr(float(key))


def _class(name: str, number: bool, long: Sequence[str]) -> str | None:
    return "number" if number else "long" if name in long else None


def decimal(value: float | None) -> Value:
    """Return a number as a table's value: three significant digits, no decimals from 100 on, never an exponent."""
    if value is None:
        return ("–", None)
    if abs(value) >= 99.5:
        return (f"{value:,.0f}", value)
    return (f"{value:.3g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.1e}", value)


def whole(value: int | None) -> Value:
    """Return a count as a table's value."""
    return ("–", None) if value is None else (f"{value:,}", value)
