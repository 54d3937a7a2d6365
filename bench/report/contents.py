"""The numbers of a report, worked out from rows in this one place: `build` returns a frozen Report. Pure.

Cells, means and standard errors are those of plots.tidy, so that the page and the figures of a study agree. The page
itself is bench/report/page/document.py; its sentences are in bench/report/text.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.claims.verdict import Verdict
from bench.comparison.numbers import Comparison
from bench.core.cells import others_of
from bench.core.pruned import share_saved
from bench.core.record import Status
from bench.core.spec import Study
from bench.report import repeat
from bench.report.charts import all_charts
from bench.report.data import (
    Best,
    CellNumbers,
    Counts,
    HeatCell,
    Heatmap,
    Isolated,
    Report,
    Source,
    Speed,
    Trouble,
)
from bench.study import varying
from bench.study.varying import SETTINGS
from bench.timing.methods import summary
from plots import heatmap, tidy
from plots.figures.pairs import is_grid
from plots.grid import Grid, View, grid_of, limits
from plots.lines import series_in
from plots.settings import fixed_text, split
from plots.tidy import CellTable, StudyInfo, choose, has_select

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy

VIEWS: tuple[View, ...] = ("eta_B", "lr_ratio")
LEAST_FILLED = 0.2  # of a table's positions: below, as where the axes' log steps differ, a view shows little but holes


def build(
    df: pd.DataFrame, attempts: pd.DataFrame, study: Study, info: StudyInfo, *, source: Source,
    comparison: Comparison | None = None, speed: pa.Table | None = None, fresh: pd.DataFrame | None = None,
    claims: Sequence[Verdict] = (), pruned: pd.DataFrame | None = None, optuna: Mapping[str, OptunaStudy] | None = None,
) -> Report:  # fmt: skip
    """Return the report of a study from its finished rows and its failed attempts (columns: record.SCHEMA).

    `speed` are the rows of `bench speed`, `fresh` those of the comparison's fresh runs, where there are some;
    `claims` the verdicts that rest on the study, `pruned` the rows of trials that were left out early, `optuna` the
    rows as Optuna has them, by method.

    Raises:
        BadInput: where a trial occurs twice or the rows hold several metrics.
    """
    rows, n_other = tidy.rows_of_study(df, info)
    failed = _failed(attempts, rows, planned=info.trials is not None)
    left_out = _left_out(pruned, rows, planned=info.trials is not None)
    table = tidy.tidy(df, info)
    return Report(
        study=study.name,
        figure=study.figure,
        task=study.task,
        model=study.model,
        metric=table.metric_name,
        higher_is_better=table.higher_is_better,
        max_steps=study.budget.max_steps,
        n_seeds=len(study.seeds),
        fixed=fixed_text(table),
        varying=told(table),
        counts=_counts(rows, failed, left_out, n_other),
        best=tuple(_best_cells(table, rows)),
        borders=source.borders,
        heatmaps=tuple(_heatmaps(df, info)),
        charts=all_charts(df, info, comparison, fresh),
        speeds=tuple(_speeds(rows)),
        isolated=None if speed is None or not speed.num_rows else _isolated(speed),
        troubles=tuple(_troubles(rows[~rows["trial_id"].isin(left_out["trial_id"])], failed, told(table))),
        comparison=comparison,
        repeat=repeat.of_rows(rows, study, source),
        claims=tuple(claims),
        optuna=optuna or {},
    )


def _failed(attempts: pd.DataFrame, rows: pd.DataFrame, *, planned: bool) -> pd.DataFrame:
    """Return the last attempt of each trial of the study that has no finished row."""
    done = rows.loc[rows["status"].notna(), "trial_id"]
    mine = attempts["trial_id"].isin(rows["trial_id"]) if planned else pd.Series(True, index=attempts.index)
    open_ = attempts[mine & ~attempts["trial_id"].isin(done)]
    return open_.drop_duplicates("trial_id", keep="last")


def _left_out(pruned: pd.DataFrame | None, rows: pd.DataFrame, *, planned: bool) -> pd.DataFrame:
    """Return the rows of the study's trials that were left out early and not finished since."""
    if pruned is None:
        return rows.iloc[:0]
    done = set(rows.loc[rows["status"].notna(), "trial_id"])
    mine = pruned["trial_id"].isin(rows["trial_id"]) if planned else pd.Series(True, index=pruned.index)
    return pruned[mine & ~pruned["trial_id"].isin(done)]


def _counts(rows: pd.DataFrame, failed: pd.DataFrame, left_out: pd.DataFrame, n_other: int) -> Counts:
    planned = len(rows.index) + len(set(left_out["trial_id"]) - set(rows["trial_id"]))
    steps = list(zip(left_out["steps_done"].astype(int), left_out["max_steps"].astype(int), strict=True))
    ok = rows["status"].eq(Status.OK.value)
    diverged = rows["status"].eq(Status.DIVERGED.value)
    return Counts(
        n_planned=planned,
        n_ok=int(ok.sum()),
        n_diverged=int(diverged.sum()),
        n_collapsed=int((ok & rows["collapsed"].eq(True)).sum()),
        n_missing=int((~ok & ~diverged & ~rows["trial_id"].isin(left_out["trial_id"])).sum()),
        n_failed=len(failed),
        n_other_rows=n_other,
        n_pruned=len(left_out),
        share_saved=share_saved(steps, rows.loc[ok | diverged, "max_steps"].astype(int)),
    )


def _best_cells(table: CellTable, rows: pd.DataFrame) -> Iterable[Best]:
    """Yield the best cell of each method in each panel, over all ranks; of equals the smaller rates come first."""
    ordered = replace(table, cells=table.cells.sort_values(["eta_A", "eta_B"], kind="stable", ignore_index=True))
    panels = split(ordered, within=("rank",))
    seen: set[Any] = set()
    for title, panel in panels:
        for series in series_in(panel.cells):
            group = panel.where(panel.cells["series"] == series)
            cell = choose(group, by="select")
            if cell is None or cell["trial_ids"] in seen:
                continue
            seen.add(cell["trial_ids"])
            by = "select_metric" if has_select(group.cells) else "metric_value"
            numbers = numbers_of(cell, told(table))
            yield _best(title if len(panels) > 1 else "", cell, numbers, by, len(group.cells), rows)


def _best(
    panel: str, cell: pd.Series[Any], numbers: CellNumbers, chosen_by: str, n_choices: int, rows: pd.DataFrame
) -> Best:
    own = rows[rows["trial_id"].isin(cell["trial_ids"])]
    modes = own["timing_mode"].dropna().unique()
    return Best(
        panel=panel,
        cell=numbers,
        chosen_by=chosen_by,
        n_choices=n_choices,
        n_trainable=_integer(own["n_trainable"].max()),
        train_seconds=_number(own["train_seconds"].mean()),
        timing_mode=str(modes[0]) if len(modes) == 1 else None,
        others=others_of(_texts(own)),
    )


def _texts(own: pd.DataFrame) -> list[str | None]:
    """Return the column other_metrics of the rows that are ok; rows of older files have none."""
    if "other_metrics" not in own:
        return []
    ok = own.loc[own["status"] == Status.OK, "other_metrics"]
    return [value if isinstance(value, str) else None for value in ok]


def told(table: CellTable) -> tuple[str, ...]:
    """Return the settings that vary, beside those that have a column of their own."""
    return tuple(name for name in table.varying if name != "rank")


def numbers_of(cell: pd.Series[Any], varied: Sequence[str] = ()) -> CellNumbers:
    """Return the numbers of a row of a CellTable, with its settings `varied`."""
    return CellNumbers(
        series=str(cell["series"]),
        rank=_integer(cell["rank"]),
        eta_A=float(cell["eta_A"]),
        eta_B=_number(cell["eta_B"]),
        lr_ratio=_number(cell["lr_ratio"]),
        mean=_number(cell["mean"]),
        stderr=_number(cell["stderr"]),
        stderr_kind=cell["stderr_kind"] if isinstance(cell["stderr_kind"], str) else None,
        select=_number(cell["select"]),
        n_expected=int(cell["n_expected"]),
        n_ok=int(cell["n_ok"]),
        n_diverged=int(cell["n_diverged"]),
        n_collapsed=int(cell["n_collapsed"]),
        settings=_settings(cell, varied),
    )


def _settings(cell: pd.Series[Any], varied: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found = [(name, varying.value(cell, name)) for name in varied]  # type: ignore[arg-type]
    return tuple((name, "–" if one is None else varying.spelled(name, one)) for name, one in found)


def _heatmaps(df: pd.DataFrame, info: StudyInfo) -> Iterable[Heatmap]:
    table = heatmap.tidy(df, info)
    ends = limits(table)
    if ends is None:
        return
    for title, panel in split(table):
        grids = [grid_of(panel, view) for view in VIEWS if is_grid(panel, view)]
        for grid in grids:
            if grid.view == "lr_ratio" or grid.planned.mean() >= LEAST_FILLED:
                yield _heatmap(title, panel, grid, ends)


def _heatmap(title: str, panel: CellTable, grid: Grid, ends: tuple[float, float]) -> Heatmap:
    at = {(cell[grid.view], cell["eta_A"]): cell for _, cell in panel.cells.iterrows()}

    def cell_at(i: int, j: int) -> HeatCell | None:
        cell = at.get((grid.ys[i], grid.xs[j]))
        if cell is None:
            return None
        return HeatCell(
            numbers=numbers_of(cell, told(panel)),
            best=(i, j) == grid.best,
            chosen=(i, j) == grid.chosen,
            within_percent=bool(grid.within_percent[i, j]),
            within_stderr=bool(grid.within_stderr[i, j]),
        )

    columns = range(len(grid.xs))
    return Heatmap(
        title=title,
        view="eta_B" if grid.view == "eta_B" else "lr_ratio",
        xs=grid.xs,
        ys=grid.ys,
        cells=tuple(tuple(cell_at(i, j) for j in columns) for i in range(len(grid.ys))),
        low=ends[0],
        high=ends[1],
        best_at_edge=grid.best_at_edge,
    )


def _speeds(rows: pd.DataFrame) -> Iterable[Speed]:
    """Yield speeds of whole runs: a diverged trial has trained fewer steps, and the first ones are the slow ones."""
    ok = rows[rows["status"].eq(Status.OK.value) & rows["train_seconds"].notna() & (rows["steps_done"] > 0)]
    if ok.empty:
        return
    ok = ok.assign(_series=tidy.series_of(ok))
    keys = ["_series", "rank", "timing_mode", "device"]
    for (series, rank, mode, device), group in ok.groupby(keys, dropna=False, sort=True):
        yield Speed(
            series=str(series),
            rank=_integer(rank),
            timing_mode=str(mode),
            device=str(device),
            n=len(group),
            pack_sizes=(int(group["pack_size"].min()), int(group["pack_size"].max())),
            seconds_per_step=float((group["train_seconds"] / group["steps_done"]).median()),
            examples_per_second=_number(_floats(group["examples_per_second"]).median()),
            peak_memory_bytes=_integer(_floats(group["peak_memory_bytes"]).max()),
            n_trainable=_integer(_floats(group["n_trainable"]).max()),
        )


def _isolated(table: pa.Table) -> Isolated:
    modes, devices = (tuple(sorted(set(table.column(name).to_pylist()))) for name in ("timing_mode", "device"))
    return Isolated(lines=summary.lines(table), timing_modes=modes, devices=devices)


def _troubles(rows: pd.DataFrame, failed: pd.DataFrame, varied: Sequence[str]) -> Iterable[Trouble]:
    """Yield what went wrong, by cell: diverged first, then collapsed, failed and missing trials."""
    missing = rows["status"].isna() & ~rows["trial_id"].isin(failed["trial_id"])
    kinds = {
        "diverged": rows[rows["status"].eq(Status.DIVERGED.value)],
        "collapsed": rows[rows["status"].eq(Status.OK.value) & rows["collapsed"].eq(True)],
        "oom": failed[failed["status"].eq(Status.OOM.value)],
        "failed": failed[failed["status"].eq(Status.FAILED.value)],
        "missing": rows[missing],
    }
    for kind, found in kinds.items():
        keys = [name for name in SETTINGS if name in found.columns]
        for _, group in found.groupby(keys, dropna=False, sort=False):
            yield _trouble(kind, group, varied)


def _trouble(kind: str, group: pd.DataFrame, varied: Sequence[str]) -> Trouble:
    first = group.iloc[0]
    eta_B = _number(first["eta_B"])
    steps = [int(step) for step in _floats(group["diverged_step"]).dropna()] if kind == "diverged" else []
    reasons = [str(r) for r in group["reason"].dropna().unique()] if "reason" in group.columns else []
    detail = f"at step {', '.join(map(str, steps))}" if steps else "; ".join(reasons)
    return Trouble(
        kind=kind,
        series=tidy.series_of(group[:1])[0],
        rank=_integer(first["rank"]),
        eta_A=float(first["eta_A"]),
        lr_ratio=None if eta_B is None else eta_B / float(first["eta_A"]),
        seeds=tuple(sorted(int(seed) for seed in group["seed"])),
        detail=detail,
        settings=_settings(first, varied),
    )


def _floats(column: pd.Series[Any]) -> pd.Series[float]:
    return pd.to_numeric(column).astype(float)


def _number(value: Any) -> float | None:
    """Return a finite float, or None for what is missing."""
    return None if value is None or pd.isna(value) or not np.isfinite(value) else float(value)


def _integer(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(value)
