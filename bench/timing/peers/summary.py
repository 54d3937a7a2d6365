"""What the rows of a throughput run say: medians over the rounds, ratios to the baselines, shares of the ceiling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pyarrow as pa

from bench.timing.peers.ceiling import EVAL_FLOP, TRAIN_FLOP, share_of_ceiling
from bench.timing.peers.rows import PARTS

Key = tuple[str, str, str, int, int | None, int | None]  # part, contender, precision, K, rank, length
_KEY = ("part", "contender", "precision", "n_trials", "rank", "length")
BASELINES = ("b0", "b1", "b1g", "b1gh", "b1ghn", "trl")
CEILING = "ceiling"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One contender: medians over n rounds, lowest and highest round in brackets. None: not known."""

    part: str
    contender: str
    precision: str
    n_trials: int
    rank: int | None
    length: int | None
    n: int
    seconds: float  # of the block
    examples_per_second: float | None
    lowest: float | None
    highest: float | None
    tokens_per_second: float | None  # of causal language models
    ms_per_trial_step: float | None
    share: float | None  # of the ceiling in the same precision
    padding: float | None  # computed tokens / real tokens
    peak_memory_bytes: int | None  # highest round
    ratios: Mapping[tuple[str, str], float]  # (baseline, precision) -> examples/s over the baseline's


def ceilings(table: pa.Table) -> dict[str, float]:
    """Return the median ceiling by precision, FLOP per second."""
    found: dict[str, list[float]] = {}
    for row in table.to_pylist():
        if row["part"] == CEILING:
            found.setdefault(row["precision"], []).append(row["flop_per_second"])
    return {precision: median(values) for precision, values in found.items()}


def lines(table: pa.Table) -> tuple[Line, ...]:
    """Return a line for each contender of each part, in the order in which the rows name them, sorted by part."""
    groups: dict[Key, list[Mapping[str, Any]]] = {}
    for row in table.to_pylist():
        if row["part"] != CEILING:
            groups.setdefault(_key(row), []).append(row)
    rates = {key: _rate(rows) for key, rows in groups.items()}
    limits = ceilings(table)
    return tuple(_line(key, groups[key], rates, limits) for key in sorted(groups, key=_order))


def _line(
    key: Key, rows: Sequence[Mapping[str, Any]], rates: Mapping[Key, float | None], limits: Mapping[str, float]
) -> Line:
    part, contender, precision, n_trials, rank, length = key
    each = [row["examples"] / row["seconds"] for row in rows if row["examples"]]
    peaks = [row["peak_memory_bytes"] for row in rows if row["peak_memory_bytes"] is not None]
    padded = [row["computed_tokens"] / row["tokens"] for row in rows if row["computed_tokens"] and row["tokens"]]
    return Line(
        part=part, contender=contender, precision=precision, n_trials=n_trials, rank=rank, length=length, n=len(rows),
        seconds=median(row["seconds"] for row in rows),
        examples_per_second=rates[key],
        lowest=min(each, default=None),
        highest=max(each, default=None),
        tokens_per_second=_tokens(rows),
        ms_per_trial_step=_ms(rows),
        share=_share(rows, limits.get(precision)),
        padding=median(padded) if padded else None,
        peak_memory_bytes=max(peaks, default=None),
        ratios=_ratios(key, rates),
    )  # fmt: skip


def _rate(rows: Iterable[Mapping[str, Any]]) -> float | None:
    each = [row["examples"] / row["seconds"] for row in rows if row["examples"]]
    return median(each) if each else None


def _ms(rows: Sequence[Mapping[str, Any]]) -> float | None:
    each = [1e3 * row["seconds"] / (row["steps"] * row["n_trials"]) for row in rows if row["steps"]]
    return median(each) if each else None


def _share(rows: Sequence[Mapping[str, Any]], limit: float | None) -> float | None:
    if limit is None or any(not row["tokens"] for row in rows):
        return None
    flop = TRAIN_FLOP if rows[0]["part"] in ("train", "rank", "length") else EVAL_FLOP
    return median(share_of_ceiling(_products(row) / row["seconds"], limit, flop_per_param=flop) for row in rows)


def _products(row: Mapping[str, Any]) -> int:
    """Return weights times the tokens that need their products: those of a causal head at targets only."""
    return int(row["matmul_params"] * row["tokens"] + row["head_params"] * (row["targets"] or 0))


def _tokens(rows: Sequence[Mapping[str, Any]]) -> float | None:
    if any(row["targets"] is None for row in rows):
        return None
    return float(median(row["tokens"] / row["seconds"] for row in rows))


def _ratios(key: Key, rates: Mapping[Key, float | None]) -> dict[tuple[str, str], float]:
    """Return this contender's rate over that of each baseline of its part, rank and length, in every precision.

    Of a baseline that was measured with several numbers of trials at once, it is the fastest one's.
    """
    own, found = rates[key], dict[tuple[str, str], float]()
    for other, rate in rates.items():
        same = other[0] == key[0] and other[4:] == key[4:] and other[1] in BASELINES
        if same and own is not None and rate:
            of = (other[1], other[2])
            found[of] = min(found.get(of, math.inf), own / rate)
    return dict(sorted(found.items()))


def _key(row: Mapping[str, Any]) -> Key:
    return tuple(row[name] for name in _KEY)


def _order(key: Key) -> tuple[Any, ...]:
    part, contender, precision, n_trials, rank, length = key
    return (PARTS.index(part), length or 0, precision == "bf16", contender == "ours", contender, n_trials, rank or 0)
