"""What the rows of `bench deploy` say: medians over the rounds between order statistics. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bench.timing.deploy.rows import BASE, LORA
from bench.timing.methods.summary import Value, value_of

WAYS = ("base", "merged", "unmerged", "swapped", "mixed")
KINDS = (BASE, LORA, "sequential adapter", "parallel adapter")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One way of one kind of adapter."""

    kind: str
    way: str
    by: str | None
    latency: Value | None  # seconds of a request alone, a switch included
    throughput: Value | None  # requests per second, all at once
    switch: Value | None  # seconds
    weight_bytes: int | None
    largest_difference: float | None  # of a logit from the unmerged adapters'
    largest_logit: float | None
    refused: str | None  # why there is no such way


def lines(table: pa.Table) -> tuple[Line, ...]:
    """Return a line for each way, also for those that are refused, kind by kind."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault((row["kind"], row["way"]), []).append(row)
    return tuple(_line(groups[key]) for key in sorted(groups, key=lambda k: (KINDS.index(k[0]), WAYS.index(k[1]))))


def _line(rows: Sequence[Mapping[str, Any]]) -> Line:
    timed = next((row for row in rows if row["weight_bytes"] is not None), rows[0])
    each = _seconds_each(rows)
    names = ("kind", "way", "by", "weight_bytes", "largest_difference", "largest_logit")
    return Line(
        latency=each("alone"),
        throughput=each("batch", lambda row: row["n"] / row["seconds"]),
        switch=each("switch") or each("adapter", lambda row: row["seconds"]),
        refused=next((row["reason"] for row in rows if row["part"] == "refused"), None),
        **{name: timed[name] for name in names},
    )


def _seconds_each(rows: Sequence[Mapping[str, Any]]) -> Callable[..., Value | None]:
    def value(
        part: str, of: Callable[[Mapping[str, Any]], float] = lambda row: row["seconds"] / row["n"]
    ) -> Value | None:
        found = [of(row) for row in rows if row["part"] == part and row["seconds"] is not None]
        return value_of(found) if found else None

    return value
