"""Plain text for the terminal: aligned tables, durations, rates."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Return an aligned table; columns whose cells all begin like a number are set right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    right = [bool(rows) and all(cell[:1].isdigit() or cell in ("", "-") for cell in column[1:]) for column in columns]
    lines = (
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in (header, *rows)
    )
    return "\n".join(indent + line for line in lines)


def duration(seconds: float) -> str:
    """Return seconds as 45 s, 12 min, 3.4 h or 5 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:,.0f} days"


def ratio(value: float | None) -> str:
    """Return lambda to three digits, 0.0774 or 16, and - where there is none."""
    return "-" if value is None or value != value else f"{value:.3g}"


def every(steps: int) -> str:
    """Return `every step`, `every 50 steps`."""
    return "every step" if steps == 1 else f"every {steps} steps"


def rate(value: float | None) -> str:
    """Return a learning rate as 1.6e-04, and - where there is none."""
    return "-" if value is None or value != value else f"{value:.1e}"


def count(n: int, noun: str) -> str:
    """Return `1 trial`, `2 trials`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
