"""What a sweep found: each method's best cell with its spread. Pure."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.core import choice
from bench.core.errors import one_line
from bench.core.record import Status
from bench.core.spec import SERIES, Meaning, Trial

# What a diverged trial counts as when cells are compared, and what Optuna is told: finite, and never above a score
# (a correlation can be as low as -1).
WORST_SCORE, WORST_LOSS = -1.0, 1e30
MIN_SEEDS_FOR_SPREAD = 3
SHORT = 60  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The part of a finished row that cells are compared by."""

    trial_id: str
    status: str
    metric_value: float | None
    metric_stderr: float | None
    select_metric: float | None
    train_seconds: float | None
    source_hash: str | None
    eval_correct: bytes | None = None
    n_eval: int | None = None
    other_metrics: str | None = None  # JSON, as in the row

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Score:
        """Return the score of a row; what has a default here may be missing there."""
        return cls(**{f.name: row[f.name] for f in fields(cls) if f.default is MISSING or f.name in row})


SCORE_COLUMNS = tuple(Score.__slots__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BestCell:
    """The cell of a method that was chosen, and its score over n seeds.

    It is chosen by the mean of select_metric where all its trials have one (`chosen_by`), and reported by metric_value.
    """

    method: str
    trial: Trial  # one of the cell's trials: its settings, whatever its seed
    chosen_by: Literal["select_metric", "metric_value"]
    n: int  # finished seeds
    n_diverged: int
    mean: float | None  # of metric_value, over the seeds that did not diverge
    spread: float | None  # standard error of `mean`
    spread_of: Literal["seeds", "examples"] | None  # over seeds from 3 of them, else over the evaluation examples
    train_seconds: float | None  # mean
    others: Mapping[str, float] = field(default_factory=dict)  # the task's other metrics, means as `mean`


def objective(score: Score, *, higher_is_better: bool) -> float:
    """Return the finite number that a trial is chosen by: select_metric, else metric_value, else the worst."""
    value = score.metric_value if score.select_metric is None else score.select_metric
    if score.status != Status.OK or value is None or not math.isfinite(value):
        return WORST_SCORE if higher_is_better else WORST_LOSS
    return value


def best_cells(trials: Iterable[Trial], scores: Mapping[str, Score], *, higher_is_better: bool) -> tuple[BestCell, ...]:
    """Return the best cell of each method, its types apart, that has a finished trial, in the order of `trials`.

    A cell counts by its mean over seeds, a diverged seed as the worst value; ties as in bench/core/choice.py.
    """
    cells: dict[tuple[Any, ...], dict[tuple[Any, ...], list[tuple[Trial, Score]]]] = {}
    for trial in trials:
        of_method = cells.setdefault(tuple(getattr(trial, name) for name in SERIES), {})
        score = scores.get(trial.trial_id)
        if score is not None:
            of_method.setdefault(trial.cell, []).append((trial, score))
    found = []
    for of_method in cells.values():
        members = list(of_method.values())
        points = [point_of(m[0][0], [score for _, score in m], higher_is_better=higher_is_better) for m in members]
        if points:
            found.append(_cell(members[choice.best(points, higher_is_better=higher_is_better)]))
    return tuple(found)


def point_of(trial: Trial, scores: Sequence[Score], *, higher_is_better: bool) -> choice.Point:
    """Return a cell as what it is chosen by: the mean objective over its seeds."""
    return choice.Point.of(
        trial,
        fmean(objective(score, higher_is_better=higher_is_better) for score in scores),
        all_diverged=all(score.status != Status.OK for score in scores),
    )


MEANING_COLUMNS = (
    "task", "model", "data_hash", "model_hash", *(f.name for f in fields(Meaning)), "n_select", "spec_version",
)  # fmt: skip
_NOT_COMPARED = ("task", "model", "n_left_out")  # the first two say which trial a row is held against


def own_rows(table: pa.Table, trials: Iterable[Trial]) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the rows without those that mean something else than a row of these trials would, and a line on those.

    Meaning is whatever feeds or scores a trial: data, base model, metric, tokenizer, template, held-out part, version.
    Rows of a task or model that none of the trials has stay.
    """
    meanings = {(t.task, t.model): _meaning_of(t) for t in trials}
    rows = table.select(MEANING_COLUMNS).to_pylist()
    now = [meanings.get((row["task"], row["model"])) for row in rows]
    found = [() if one is None else _differences(row, one) for row, one in zip(rows, now, strict=True)]
    differing = [item for item in found if item]
    if not differing:
        return table, ()
    counts: dict[tuple[str, str], Counter[str]] = {}
    for name, was, is_now in itertools.chain.from_iterable(differing):
        counts.setdefault((name, is_now), Counter())[was] += 1
    told = ", ".join(f"{name} {_several(was, len(differing))} (now {value})" for (name, value), was in counts.items())
    line = f"{len(differing):,} finished rows mean something else than now: {told}; they are kept and do not count"
    return table.filter(pa.array([not item for item in found])), (line,)


def mixtures(table: pa.Table) -> tuple[str, ...]:
    """Return a line for each task and model whose rows do not all mean the same (see `own_rows`)."""
    names = [name for name in MEANING_COLUMNS if name not in _NOT_COMPARED]
    found: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    for row in table.select(MEANING_COLUMNS).to_pylist():
        of_pair = found.setdefault((row["task"], row["model"]), {name: Counter() for name in names})
        for name in names:
            of_pair[name][_short(row[name] or 1 if name == "spec_version" else row[name])] += 1
    several = {pair: {n: c for n, c in of_pair.items() if len(c) > 1} for pair, of_pair in found.items()}
    return tuple(
        f"{task} on {model}: " + ", ".join(f"{name} {_several(counts, -1)}" for name, counts in by_name.items())
        for (task, model), by_name in several.items()
        if by_name
    )


def _meaning_of(trial: Trial) -> dict[str, Any]:
    of_trial = {name: getattr(trial, name) for name in ("task", "model", "data_hash", "model_hash", "spec_version")}
    return {**of_trial, **asdict(trial.meaning), "n_select": trial.budget.n_select}


def _differences(row: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Return (column, what the row says, what it would say now) for each column that differs.

    Rows of version 1 say no more than data, base model and metric.
    """
    version = row["spec_version"] or 1
    known = MEANING_COLUMNS if version != 1 else ("data_hash", "model_hash", "metric_name")
    found = [
        (name, _short(row[name]), _short(now[name]))
        for name in known
        if name not in (*_NOT_COMPARED, "spec_version") and now[name] != "" and row[name] != now[name]
    ]
    if version != now["spec_version"]:
        found.append(("spec_version", str(version), str(now["spec_version"])))
    return tuple(found)


def _short(value: object) -> str:
    """Return a value for a line of text: a template may be long and have several lines."""
    text = one_line(str(value))
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."


def _several(values: Counter[str], n: int) -> str:
    """Return `accuracy`, or `accuracy in 3, f1 in 2` where not all of the n rows say the same."""
    if list(values.values()) == [n]:
        return next(iter(values))
    return ", ".join(f"{value} in {count:,}" for value, count in values.items())


def _cell(members: list[tuple[Trial, Score]]) -> BestCell:
    scores = [score for _, score in members]
    good = [s for s in scores if s.status == Status.OK and s.metric_value is not None]
    values = [s.metric_value for s in good if s.metric_value is not None]
    spread, spread_of = spread_of_mean(
        values, [s.metric_stderr for s in good], [right_bits(s.eval_correct, s.n_eval) for s in good]
    )
    seconds = [s.train_seconds for s in scores if s.train_seconds is not None]
    return BestCell(
        method=members[0][0].method,
        trial=members[0][0],
        chosen_by="metric_value" if any(s.select_metric is None for s in good) else "select_metric",
        n=len(scores),
        n_diverged=len(scores) - len(good),
        mean=fmean(values) if values else None,
        spread=spread,
        spread_of=spread_of,
        train_seconds=fmean(seconds) if seconds else None,
        others=others_of([s.other_metrics for s in good]),
    )


def others_of(columns: Sequence[str | None]) -> dict[str, float]:
    """Return the mean of each of the other metrics that every row has a value of; `columns` are the rows' JSON."""
    rows = [json.loads(column) for column in columns if column is not None]
    names = rows[0] if len(rows) == len(columns) and rows else ()
    values = {name: [row.get(name) for row in rows] for name in names}
    return {name: fmean(each) for name, each in values.items() if None not in each}


def right_bits(packed: bytes | None, n_eval: float | None) -> npt.NDArray[np.uint8] | None:
    """Return which evaluation examples were right, [n_eval] of 0 and 1, from a row's columns; None where unknown."""
    if not isinstance(packed, bytes) or n_eval is None or math.isnan(n_eval) or len(packed) * 8 < n_eval:
        return None
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=int(n_eval))


def spread_of_mean(
    values: Sequence[float], errors: Sequence[float | None], right: Sequence[npt.NDArray[np.uint8] | None]
) -> tuple[float | None, Literal["seeds", "examples"] | None]:
    """Return the standard error of a cell's mean over seeds, and what it is over: the one that everything shows.

    Over seeds from MIN_SEEDS_FOR_SPREAD of them. Below, over the evaluation examples, which the seeds share:
    sd(x) / sqrt(n_eval), x the share of seeds that get an example right; for one seed that is sqrt(p (1 - p) / n_eval).
    Where the metric is not the share of right examples (F1, a loss), that is not known for two seeds: the mean of
    their own standard errors is an upper bound of it (they would have to err together).

    Args:
        values: the metric by seed.
        errors: its standard error over the examples by seed.
        right: which examples were right, by seed: [n_eval].
    """
    if len(values) >= MIN_SEEDS_FOR_SPREAD:
        return stdev(values) / math.sqrt(len(values)), "seeds"
    bits = [b for b, v in zip(right, values, strict=True) if b is not None and len(b) and abs(b.mean() - v) < 1e-9]
    if values and len(bits) == len(values) and len({len(b) for b in bits}) == 1:
        return float(np.mean(bits, axis=0).std() / math.sqrt(len(bits[0]))), "examples"
    known = [error for error in errors if error is not None and math.isfinite(error)]
    return (fmean(known), "examples") if known else (None, None)
