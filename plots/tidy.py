"""Rows -> cells: what every plot draws is a table with one row per grid cell, made here from rows of bench.core.record.

Means are over seeds. A cell whose seeds did not all end ok says so in its counts, and every plot marks it: an average
is never silently over fewer seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench import methods
from bench.core import choice
from bench.core.cells import MIN_SEEDS_FOR_SPREAD, right_bits, spread_of_mean
from bench.core.errors import BadInput
from bench.core.record import Status
from bench.core.rules import round_rate
from bench.core.spec import SERIES, Study, Trial
from bench.study.varying import SETTINGS, settings_of, varying

_OTHERS = tuple(name for name in SETTINGS if name not in choice.AXES)
LOSSES = frozenset({"eval_loss", "train_loss", "loss", "perplexity"})
Measure = Literal["metric_value", "accuracy", "best_metric", "eval_loss", "train_loss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyInfo:
    """What the plots know about a study beside its rows.

    With `trials`, exactly these are drawn: those without a row are missing, other rows are counted in the caption.
    Without, every row is drawn, and a cell is expected to have `seeds` (where empty: all seeds that occur).
    `higher_is_better` None: decided by the name of the metric, losses and perplexity being better when low.
    """

    name: str | None = None
    seeds: tuple[int, ...] = ()
    trials: tuple[Trial, ...] | None = None
    higher_is_better: bool | None = None
    # trials that were left out at a rung, by id: the step, and the training loss there
    stopped: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study, trials: tuple[Trial, ...], *, higher_is_better: bool | None = None) -> StudyInfo:
        """Return what the plots need of a resolved study and its expanded trials."""
        return cls(name=study.name, seeds=study.seeds, trials=trials, higher_is_better=higher_is_better)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the caption tells about the rows behind a figure."""

    study: str
    rows_of: str | None  # another study whose rows are drawn
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    n_seeds: int
    devices: tuple[str, ...]
    commits: tuple[str, ...]  # short, with "+" where the work tree was dirty
    n_sources: int  # versions of the harness's source among the rows
    n_other_rows: int  # rows of the directory that are not of the study


@dataclass(frozen=True, kw_only=True, slots=True)
class CellTable:
    """Cells as a DataFrame, and how to read them.

    Columns of `cells`: SETTINGS, `lr_ratio`, `series` (see `series_of`), `mean`, `stderr`, `stderr_kind` ("seeds",
    "examples" or None), `select` (mean of select_metric), `n_expected`, `n_ok`, `n_diverged`, `n_collapsed`,
    `n_missing`, `trial_ids`, `stopped_at` and `stopped_loss` (of cells left out at a rung, else nan). `mean` is over
    the n_ok seeds that ended with a value. `varying` names the settings other than method and rates that have several
    values in the study (`study.varying`), whichever of its cells are left here.
    """

    cells: pd.DataFrame
    varying: tuple[str, ...]
    metric_name: str
    higher_is_better: bool
    facts: Facts

    def where(self, mask: pd.Series[bool]) -> CellTable:
        """Return the table with the cells of `mask` only."""
        return replace(self, cells=self.cells[mask].reset_index(drop=True))


def tidy(df: pd.DataFrame, study: StudyInfo | None = None, *, measure: Measure = "metric_value") -> CellTable:
    """Return the cells of the rows in `df` (columns of bench.core.record.SCHEMA), `measure` averaged over seeds."""
    study = study or StudyInfo()
    rows, n_other = rows_of_study(df, study)
    metric_name = _metric_name(rows, measure)
    better = _higher_is_better(study, metric_name, measure)
    n_seeds = len(study.seeds) or int(rows["seed"].nunique())
    cells = _cells(_flag(rows, measure, study.stopped), n_seeds=None if study.trials is not None else n_seeds)
    facts = _facts(rows, study, n_seeds, n_other)
    return CellTable(
        cells=cells,
        varying=varying(cells[list(SETTINGS)].to_dict("records")),  # type: ignore[arg-type]
        metric_name=metric_name,
        higher_is_better=better,
        facts=facts,
    )


def rows_of_study(df: pd.DataFrame, study: StudyInfo) -> tuple[pd.DataFrame, int]:
    """Return one row for each trial of the study (without outcome where it is missing), and how many other rows are."""
    if df["trial_id"].duplicated().any():
        twice = df.loc[df["trial_id"].duplicated(), "trial_id"].iloc[0]
        raise BadInput("rows", "a trial must occur once", got=f"{twice} twice", way_out="consolidate the study's rows")
    if study.trials is None:
        return df, 0
    planned = _planned(study.trials)
    outcomes = df.set_index("trial_id")
    n_other = int((~outcomes.index.isin(planned.index)).sum())
    outcomes = outcomes[[name for name in outcomes.columns if name not in planned.columns]]
    return planned.join(outcomes, how="left").reset_index(), n_other


def series_of(rows: pd.DataFrame) -> list[str]:
    """Return the name under which each row is compared: the method, and its type where it has several (`mora-6`)."""
    columns = [rows[name] for name in SERIES]
    return [methods.identity(dict(zip(SERIES, row, strict=True))).series for row in zip(*columns, strict=True)]


def complete(cells: pd.DataFrame) -> pd.Series[bool]:
    """Return which cells have a value from every seed that they should have."""
    return (cells["n_ok"] == cells["n_expected"]) & (cells["n_ok"] > 0)


def choose(table: CellTable, *, by: Literal["mean", "select"] = "mean") -> pd.Series[Any] | None:
    """Return the best cell, or None where no cell has a value.

    A cell with a diverged or missing seed is passed over as long as a complete one exists: its mean is over the
    survivors. `by="select"` compares means of select_metric where the candidates have one (see `has_select`).
    """
    cells = _candidates(table.cells)
    key = cells["select"] if by == "select" and has_select(table.cells) else cells["mean"]
    if key.notna().sum() == 0:
        return None
    # select_metric is the task's metric, so it points the same way as metric_value
    known = cells[key.notna()]
    points = [_point(cell, float(value)) for (_, cell), value in zip(known.iterrows(), key.dropna(), strict=True)]
    return known.iloc[choice.best(points, higher_is_better=table.higher_is_better)]


def _point(cell: pd.Series[Any], objective: float) -> choice.Point:
    ratio = float(cell["lr_ratio"])
    others = tuple("" if pd.isna(cell[name]) else str(cell[name]) for name in _OTHERS)
    return choice.Point(
        objective=objective, eta_A=float(cell["eta_A"]), lr_ratio=None if np.isnan(ratio) else ratio, others=others
    )


def has_select(cells: pd.DataFrame) -> bool:
    """Return whether every cell that could be the best one has a select_metric: otherwise metric_value decides."""
    candidates = _candidates(cells)
    return len(candidates) > 0 and bool(candidates["select"].notna().all())


def shortfall(table: CellTable, best: float) -> pd.Series[float]:
    """Return by how much each cell's mean is worse than `best`, in the metric's unit (negative: better)."""
    return best - table.cells["mean"] if table.higher_is_better else table.cells["mean"] - best


def _candidates(cells: pd.DataFrame) -> pd.DataFrame:
    valued = cells[cells["n_ok"] > 0]
    return valued[complete(valued)] if complete(valued).any() else valued


@lru_cache(maxsize=8)
def _planned(trials: tuple[Trial, ...]) -> pd.DataFrame:
    """Return the settings of the trials by trial_id; kept, since hashing thousands of trials takes seconds."""
    return pd.DataFrame([_planned_row(trial) for trial in trials]).set_index("trial_id")


def _planned_row(trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial, spelled as bench.core.record.to_row spells them."""
    row = settings_of(trial)
    for name in ("target_modules", "layers_to_transform"):
        row[name] = None if row[name] is None else json.dumps(row[name])
    return row | {"trial_id": trial.trial_id, "seed": trial.seed, "head_policy": str(trial.head_policy)}


def _flag(rows: pd.DataFrame, measure: Measure, stopped: Mapping[str, tuple[int, float]]) -> pd.DataFrame:
    value = pd.to_numeric(rows[measure], errors="coerce").astype(float)
    ok = rows["status"].eq(Status.OK.value) & np.isfinite(value)
    stderr = pd.to_numeric(rows["metric_stderr"]).astype(float) if measure == "metric_value" else np.nan
    return rows.assign(
        _value=value.where(ok),
        _error=pd.Series(stderr, index=rows.index),
        _right=rows["eval_correct"] if measure == "metric_value" and "eval_correct" in rows else None,
        _select=pd.to_numeric(rows["select_metric"]).astype(float).where(ok),
        _ok=ok,
        _diverged=rows["status"].eq(Status.DIVERGED.value),
        _collapsed=ok & rows["collapsed"].eq(True),
        _stopped_at=[stopped.get(one, (np.nan, np.nan))[0] for one in rows["trial_id"]],
        _stopped_loss=[stopped.get(one, (np.nan, np.nan))[1] for one in rows["trial_id"]],
    )


def _cells(rows: pd.DataFrame, *, n_seeds: int | None) -> pd.DataFrame:
    """Return one row per cell; `n_seeds` None: every seed of a cell has a row already."""
    rows = _one_embedding_rate(rows)
    if rows.duplicated([*SETTINGS, "seed"]).any():
        way_out = "name the study's trials: these rows differ in a setting that rows do not hold (eval_steps, n_select)"
        raise BadInput("rows", "a cell must have one row for each seed", got="two of one seed", way_out=way_out)
    cells = (
        rows.groupby(list(SETTINGS), dropna=False, sort=False)
        .agg(
            mean=("_value", "mean"),
            _values=("_value", list),
            _errors=("_error", list),
            _rights=("_right", list),
            _n_evals=("n_eval", list),
            select=("_select", "mean"),
            n_expected=("seed", "size"),
            n_ok=("_ok", "sum"),
            n_diverged=("_diverged", "sum"),
            n_collapsed=("_collapsed", "sum"),
            trial_ids=("trial_id", tuple),
            stopped_at=("_stopped_at", "max"),
            stopped_loss=("_stopped_loss", "mean"),
        )
        .reset_index()
    )
    if n_seeds is not None:
        cells["n_expected"] = cells["n_expected"].clip(lower=n_seeds)
    cells["n_missing"] = cells["n_expected"] - cells["n_ok"] - cells["n_diverged"]
    cells["lr_ratio"] = _ratios(cells["eta_A"].to_numpy(float), _numbers(cells["eta_B"]).to_numpy(np.float64))
    cells["series"] = series_of(cells)
    return _with_stderr(cells)


def _with_stderr(cells: pd.DataFrame) -> pd.DataFrame:
    """Add `stderr` and `stderr_kind`, as `summary.spread_of_mean` has them: over seeds from 3 of them on."""
    found = [
        _spread(*columns)
        for columns in zip(cells["_values"], cells["_errors"], cells["_rights"], cells["_n_evals"], strict=True)
    ]
    stderr = np.array([np.nan if value is None else value for value, _ in found], dtype=np.float64)
    kinds = pd.Series([kind for _, kind in found], index=cells.index, dtype=object)
    return cells.assign(stderr=stderr, stderr_kind=kinds).drop(columns=["_values", "_errors", "_rights", "_n_evals"])


def _spread(
    values: list[float], errors: list[float], rights: list[bytes | None], n_evals: list[float]
) -> tuple[float | None, str | None]:
    ok = [i for i, value in enumerate(values) if np.isfinite(value)]
    right = [right_bits(rights[i], n_evals[i]) if len(ok) < MIN_SEEDS_FOR_SPREAD else None for i in ok]
    return spread_of_mean([values[i] for i in ok], [errors[i] for i in ok], right)


def _one_embedding_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """Give LoRA's rows LoRA+'s embedding rate where there is but one, so that both lie in one grid.

    LoRA does not read the field; its null would otherwise make it a grid of its own.
    """
    rates = rows["loraplus_lr_embedding"].dropna().unique()
    if len(rates) != 1:
        return rows
    column = pd.to_numeric(rows["loraplus_lr_embedding"]).astype(float)
    return rows.assign(loraplus_lr_embedding=column.where(~rows["method"].isin(methods.FAMILY), float(rates[0])))


def _numbers(column: pd.Series[Any]) -> pd.Series[float]:
    return pd.to_numeric(column).astype(float)


def _ratios(eta_A: npt.NDArray[Any], eta_B: npt.NDArray[Any]) -> list[float]:
    """Return eta_B / eta_A, nan where there is no B; ratios that differ by rounding only become one.

    Rates have 12 significant digits, so that equal ratios of two pairs can differ in their last digits, which would
    split a row of the (eta_A, lambda) view. The shortest spelling stands for all.
    """
    ratios = [round_rate(ratio) for ratio in eta_B / eta_A]
    groups: list[list[float]] = []
    for ratio in sorted({ratio for ratio in ratios if not np.isnan(ratio)}):
        if groups and ratio <= groups[-1][-1] * (1 + 1e-9):
            groups[-1].append(ratio)
        else:
            groups.append([ratio])
    shortest = {ratio: min(group, key=lambda r: len(repr(r))) for group in groups for ratio in group}
    return [shortest.get(ratio, float("nan")) for ratio in ratios]


def _metric_name(rows: pd.DataFrame, measure: Measure) -> str:
    names = sorted(rows["metric_name"].dropna().unique())
    if len(names) > 1:
        raise BadInput("rows", "a figure must show one metric", got=", ".join(names), way_out="draw one task at a time")
    if measure in ("metric_value", "best_metric"):
        return str(names[0]) if names else measure
    return measure


def _higher_is_better(study: StudyInfo, metric_name: str, measure: Measure) -> bool:
    if measure in ("metric_value", "best_metric") and study.higher_is_better is not None:
        return study.higher_is_better
    return metric_name not in LOSSES


def _facts(rows: pd.DataFrame, study: StudyInfo, n_seeds: int, n_other: int) -> Facts:
    ran = rows[rows["status"].notna()]
    studies = _values(ran, "study")
    name = study.name or ", ".join(studies)
    commits = {
        str(commit)[:7] + ("+" if dirty is True or dirty == 1 else "")
        for commit, dirty in zip(ran["git_commit"], ran["git_dirty"], strict=True)
        if isinstance(commit, str)
    }
    return Facts(
        study=name,
        rows_of=None if not studies or studies == (name,) or study.name is None else ", ".join(studies),
        tasks=_values(rows, "task"),
        models=_values(rows, "model"),
        n_seeds=n_seeds,
        devices=_values(ran, "device"),
        commits=tuple(sorted(commits)),
        n_sources=int(ran["source_hash"].nunique()),
        n_other_rows=n_other,
    )


def _values(rows: pd.DataFrame, name: str) -> tuple[str, ...]:
    return tuple(sorted(str(value) for value in rows[name].dropna().unique()))
