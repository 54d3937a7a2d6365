"""What the rows of `bench speed` say: medians over the rounds with bootstrap intervals, ratios to LoRA. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench import stats
from bench.spec import Trial
from bench.stats import Interval

BASELINE = "lora"
RATED = ("seconds_per_step", "peak_memory_bytes", "kept_bytes")  # shown as ratios to LoRA too
PLAIN = (
    "examples_per_second", "forward_seconds", "backward_seconds", "optimizer_seconds", "other_seconds", "merge_seconds",
    "eval_seconds", "merged_eval_seconds",
)  # fmt: skip
FIXED = ("n_trainable", "train_state_bytes", "stored_bytes", "adapter_flop_per_token", "kept_tokens", "n_eval")


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A median over n rounds; the interval is a percentile bootstrap over rounds, None for a single one."""

    median: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One case."""

    case: str
    method: str
    mora_type: int | None
    rank: int | None
    lora_dropout: float | None
    n: int
    values: Mapping[str, Value]  # by column, of those in RATED and PLAIN that were measured
    ratios: Mapping[str, Value]  # by column of RATED: over LoRA without dropout at the same rank, paired by round
    fixed: Mapping[str, int | None]


def lines(table: pa.Table, *, seed: int = 0) -> tuple[Line, ...]:
    """Return a line for each case, in the order of their first rows by rank; full fine-tuning last.

    Its ratios are to LoRA at the smallest rank. `seed` is that of the bootstrap.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(table.to_pylist(), key=_order):
        groups.setdefault(row["case"], []).append(row)
    rng = np.random.default_rng(seed)
    return tuple(_line(case, rows, _baseline(rows[0], groups), rng) for case, rows in groups.items())


def seconds_per_step(table: pa.Table, trial: Trial) -> float | None:
    """Return the median isolated seconds per step of a trial's settings; None where they were not measured.

    Method, MoRA's type, rank, dropout, model, task, batch, length and precision count; rates do not.
    """
    names = ("method", "mora_type", "rank", "lora_dropout", "model", "task")
    wanted = {name: getattr(trial, name) for name in names}
    wanted |= {name: getattr(trial.budget, name) for name in ("batch_size", "max_length", "precision")}
    found = [
        row["seconds_per_step"]
        for row in table.to_pylist()
        if row["timing_mode"] == "isolated" and all(row[name] == value for name, value in wanted.items())
    ]
    return median(found) if found else None


def median_interval(
    values: Sequence[float], rng: np.random.Generator, *, level: float = stats.LEVEL
) -> Interval | None:
    """Return the percentile bootstrap interval of a median, [n]; None for n < 2."""
    if len(values) < 2:
        return None
    x: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    medians = np.median(x[rng.integers(len(x), size=(stats.N_RESAMPLES, len(x)))], axis=1)
    tail = (1 - level) / 2
    return Interval(low=float(np.quantile(medians, tail)), high=float(np.quantile(medians, 1 - tail)))


def _line(
    case: str, rows: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> Line:
    first = rows[0]
    names = [name for name in (*RATED, *PLAIN) if all(row[name] is not None for row in rows)]
    return Line(
        case=case, method=first["method"], mora_type=first["mora_type"], rank=first["rank"],
        lora_dropout=first["lora_dropout"], n=len(rows),
        values={name: _value([float(row[name]) for row in rows], rng) for name in names},
        ratios={name: ratio for name in RATED if (ratio := _ratio(name, rows, baseline, rng)) is not None},
        fixed={name: first[name] for name in FIXED},
    )  # fmt: skip


def _value(values: Sequence[float], rng: np.random.Generator) -> Value:
    return Value(median=median(values), interval=median_interval(values, rng))


def _ratio(
    name: str, rows: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> Value | None:
    """Return the median over rounds of this case's value over the baseline's in the same round."""
    other = {row["repeat"]: row[name] for row in baseline}
    pairs = [(row[name], other.get(row["repeat"])) for row in rows]
    ratios = [own / base for own, base in pairs if own is not None and base]
    return _value(ratios, rng) if ratios else None


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
    methods = ("lora", "lora+", "mora")
    place = methods.index(row["method"]) if row["method"] in methods else len(methods)
    return (
        row["rank"] is None,
        row["rank"] or 0,
        place,
        row["mora_type"] or 0,
        row["lora_dropout"] or 0.0,
        row["repeat"],
    )
