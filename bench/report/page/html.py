"""Building HTML from values: every text and attribute is escaped here, so that no data can become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Html(str):
    """Text that is markup already; only `el`, `join` and `trusted` make it."""

    __slots__ = ()


Child = str | int | float | Html | None

_VOID, _SVG_EMPTY = frozenset({"meta", "br"}), frozenset({"path"})


def el(name: str, /, *children: Child | Iterable[Child], **attributes: object) -> Html:
    """Return an element. Children that are not Html are escaped; None is left out, lists are flattened.

    In attribute names a trailing _ is dropped and others become -; False and None leave an attribute out, True gives
    it without a value.
    """
    spelled = "".join(_attribute(key, value) for key, value in attributes.items())
    inside = join(*children)
    if name in _VOID:
        return Html(f"<{name}{spelled}>")
    if name in _SVG_EMPTY:
        return Html(f"<{name}{spelled}/>")
    return Html(f"<{name}{spelled}>{inside}</{name}>")


def join(*children: Child | Iterable[Child]) -> Html:
    """Return children one after another, escaped where they are not Html."""
    return Html("".join(_child(child) for child in children))


def trusted(text: str) -> Html:
    """Mark text of this package's own files (style, script) as markup; never for data."""
    return Html(text)


def _child(child: Child | Iterable[Child]) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, str | int | float):
        return html.escape(str(child), quote=True)
    return "".join(_child(item) for item in child)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'
