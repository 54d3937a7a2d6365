"""What the rows of `bench speed` say: medians over the rounds between order statistics, ratios to LoRA. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pyarrow as pa

from bench import methods
from bench.core import stats
from bench.core.spec import SERIES, Trial
from bench.core.stats import Interval
from bench.methods import BASELINE

RATED = ("seconds_per_step", "peak_memory_bytes", "kept_bytes")  # shown as ratios to LoRA too
PLAIN = (
    "examples_per_second", "forward_seconds", "backward_seconds", "optimizer_seconds", "other_seconds", "merge_seconds",
    "eval_seconds", "merged_eval_seconds",
)  # fmt: skip
FIXED = ("n_trainable", "train_state_bytes", "stored_bytes", "adapter_flop_per_token", "kept_tokens", "n_eval")


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A median over n rounds; the interval lies between two order statistics, None for a single round.

    `coverage`: how often such an interval holds the true median, exactly (stats.median_interval); 0.75 for 3 rounds.
    """

    median: float
    interval: Interval | None
    coverage: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One case."""

    case: str
    method: str
    rank: int | None
    lora_dropout: float | None
    n: int
    values: Mapping[str, Value]  # by column, of those in RATED and PLAIN that were measured
    ratios: Mapping[str, Value]  # by column of RATED: over LoRA without dropout at the same rank, paired by round
    fixed: Mapping[str, int | None]


def lines(table: pa.Table) -> tuple[Line, ...]:
    """Return a line for each case, in the order of their first rows by rank; full fine-tuning last.

    Its ratios are to LoRA at the smallest rank.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(table.to_pylist(), key=_order):
        groups.setdefault(row["case"], []).append(row)
    return tuple(_line(case, rows, _baseline(rows[0], groups)) for case, rows in groups.items())


def seconds_per_step(table: pa.Table, trial: Trial) -> float | None:
    """Return the median isolated seconds per step of a trial's settings; None where they were not measured.

    Method, MoRA's type, rank, dropout, model, task, batch, length and precision count; rates do not.
    """
    names = (*SERIES, "rank", "lora_dropout", "model", "task")
    wanted = {name: getattr(trial, name) for name in names}
    wanted |= {name: getattr(trial.budget, name) for name in ("batch_size", "max_length", "precision")}
    found = [
        row["seconds_per_step"]
        for row in table.to_pylist()
        if row["timing_mode"] == "isolated" and all(row[name] == value for name, value in wanted.items())
    ]
    return median(found) if found else None


def interval_words(found: Iterable[Line]) -> str:
    """Return what the intervals of these lines are: range of the rounds, 98.4 % interval (n = 7)."""
    every = {(v.coverage, line.n) for line in found for v in line.values.values() if v.coverage is not None}
    if not every:
        return "no interval from a single round"
    coverage, n = min(every)
    kind = "range of the rounds" if coverage == 1 - 2.0 ** (1 - n) else "order statistics of the rounds"
    return f"{kind}, {100 * coverage:.1f} % interval (n = {n})"


def _line(case: str, rows: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> Line:
    first = rows[0]
    names = [name for name in (*RATED, *PLAIN) if all(row[name] is not None for row in rows)]
    return Line(
        case=case, method=first["method"], rank=first["rank"],
        lora_dropout=first["lora_dropout"], n=len(rows),
        values={name: value_of([float(row[name]) for row in rows]) for name in names},
        ratios={name: ratio for name in RATED if (ratio := _ratio(name, rows, baseline)) is not None},
        fixed={name: first[name] for name in FIXED},
    )  # fmt: skip


def value_of(values: Sequence[float]) -> Value:
    """Return the median of some values, with its interval."""
    found = stats.median_interval(values)
    interval, coverage = (None, None) if found is None else found
    return Value(median=median(values), interval=interval, coverage=coverage)


def _ratio(name: str, rows: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> Value | None:
    """Return the median over rounds of this case's value over the baseline's in the same round."""
    other = {row["repeat"]: row[name] for row in baseline}
    pairs = [(row[name], other.get(row["repeat"])) for row in rows]
    ratios = [own / base for own, base in pairs if own is not None and base]
    return value_of(ratios) if ratios else None


def _baseline(row: Mapping[str, Any], groups: Mapping[str, Sequence[dict[str, Any]]]) -> Sequence[dict[str, Any]]:
    plain = {
        rows[0]["rank"]: rows
        for rows in groups.values()
        if rows[0]["method"] == BASELINE and not rows[0]["lora_dropout"]
    }
    if row["rank"] is None:
        return plain[min(plain)] if plain else []
    return plain.get(row["rank"], [])


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    one = methods.identity(row)
    return (row["rank"] is None, row["rank"] or 0, one.place, one.series, row["lora_dropout"] or 0.0, row["repeat"])
