"""A row never changes its meaning: what feeds or scores a trial is part of its id; older rows are read as they are."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from bench import cli, store, study, tasks
from bench.checks import verify
from bench.commands._resolve import Resolved
from bench.comparison import arms
from bench.core import cells
from bench.core.errors import BadInput
from bench.core.record import SCHEMA, to_table
from bench.core.spec import Meaning, Trial
from bench.data.splits import Split, TextData
from bench.models import Located
from bench.models import _targets as targets
from bench.store import parts
from tests.support.sweep_helpers import BUDGET, TRIALS, FakeEngine, complete, grid, records, run, trial

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "results" / "reference"
STUDIES = {
    "loraplus-cola-minilm": "bert", "loraplus-mrpc-minilm": "bert", "loraplus-sst2-minilm": "bert",
    "sst2-compare": "bert", "sst2-reference": "bert", "uuid": "gpt2",
}  # fmt: skip
FILES = {"uuid": "uuid-tiny-decoder"}
NOW = Meaning(
    metric_name="accuracy", tokenizer_hash="t", encoding_version=1, template="Q: {prompt}", select_by="groups",
    n_left_out=3,
)  # fmt: skip


def resolved(name: str, table: pa.Table) -> Resolved:
    """Return a study of the repository, on the data and the model of these rows."""
    one = study.load(name, profile="quick" if name == "uuid" else "full")
    (row,) = table.slice(0, 1).to_pylist()
    trials = study.expand(
        one, data_hash=row["data_hash"], model_hash=row["model_hash"],
        default_targets=targets.default_targets(STUDIES[name]), model_name=row["model"],
        meaning=replace(NOW, metric_name=row["metric_name"]),
    )  # fmt: skip
    empty = Split(texts=(), pairs=None, labels=None)  # type: ignore[arg-type]
    return Resolved(
        study=one, n_select_asked=one.budget.n_select, task=tasks.get(one.task), model_name=row["model"],
        data=TextData(train=empty, eval=empty, data_hash=row["data_hash"]),
        located=Located(name=row["model"], directory=ROOT, model_hash="", tokenizer_hash="t", config={}),
        trials=tuple(replace(t, budget=replace(t.budget, n_select=min(993, t.budget.n_select))) for t in trials),
    )  # fmt: skip


def reference(name: str) -> pa.Table:
    return store.load_files([REFERENCE / f"{FILES.get(name, name)}.parquet"])


@pytest.mark.parametrize("name", STUDIES)
def test_rows_of_version_1_are_found_by_the_ids_of_that_version(name: str) -> None:
    table = reference(name)
    found = resolved(name, table)
    read, own, told = found.reading(table)
    ids = set(table.column("trial_id").to_pylist())
    assert ids <= read.ids
    assert not ids & found.ids
    assert own.num_rows == table.num_rows
    assert told == (f"{table.num_rows:,} rows are of version 1: here they count as they are; "
                    "a sweep runs their trials anew",)  # fmt: skip
    assert read.best(own)[0], "cells are chosen from them"


def test_older_rows_are_compared_grid_by_grid_and_with_their_fresh_seeds() -> None:
    table, fresh = reference("sst2-compare"), store.load_files([REFERENCE / "sst2-compare-fresh.parquet"])
    read, own, _ = resolved("sst2-compare", table).reading(table)
    rows = {row["trial_id"]: row for row in own.to_pylist()}
    known = set(fresh.column("trial_id").to_pylist())
    seeds = arms.fresh_seeds(8, (0,), first=arms.FIRST_FRESH_SEED)
    for arm in arms.arms_of((grid_.method, read.of_grid(grid_)) for grid_ in read.study.grids):
        cells = [cell.trial for cell in arms.cells(arm, rows, higher_is_better=True)]
        assert len(cells) == 12, arm.name
        again = {cell: {t.trial_id for t in arms.fresh_trials(cell, seeds)} for cell in cells}
        assert sum(ids <= known for ids in again.values()) == 1, f"{arm.name}: one cell was run again"


def test_older_rows_do_not_count_beside_newer_ones_and_nobody_adds_to_them(tmp_path: Path) -> None:
    table = reference("sst2-compare")
    found = resolved("sst2-compare", table)
    new = to_table(records(found.trials[:5]))
    read, own, (line,) = found.reading(pa.concat_tables([table, new]))
    assert read is found
    assert set(own.column("trial_id").to_pylist()) == {t.trial_id for t in found.trials[:5]}
    assert (
        line == "60 finished rows mean something else than now: spec_version 1 (now 2); they are kept and do not count"
    )
    old = tuple(t.as_version_1(1000) for t in TRIALS)
    with pytest.raises(BadInput, match="rows of version 1 can be read, not added to"):
        run(tmp_path, old)


def test_older_rows_of_another_metric_or_other_data_do_not_count() -> None:
    table = reference("sst2-compare")
    found = resolved("sst2-compare", table)
    for column in ("metric_name", "data_hash"):
        values = pa.array(["other"] * table.num_rows)
        other = table.set_column(table.column_names.index(column), table.schema.field(column), values)
        _, own, told = found.reading(other)
        assert own.num_rows == 0
        assert f"{column} other (now " in told[0]


def changed(name: str) -> Trial:
    """Return a trial of which one thing differs that gives a score its meaning."""
    values: dict[str, Any] = {"encoding_version": 2, "n_left_out": 4, "n_select": 7}
    value = values.get(name, "other")
    one = trial(meaning=NOW)
    if name == "n_select":
        return replace(one, budget=replace(BUDGET, n_select=value))
    if name in ("data_hash", "model_hash"):
        return replace(one, **{name: value})
    return replace(one, meaning=replace(NOW, **{name: value}))


@pytest.mark.parametrize("name", [f.name for f in fields(Meaning)] + ["n_select", "data_hash", "model_hash"])
def test_whatever_feeds_or_scores_a_trial_is_part_of_its_id_and_is_told_in_words(name: str) -> None:
    now, other = trial(meaning=NOW), changed(name)
    assert now.trial_id != other.trial_id
    table = to_table(records([other], metric_name=other.meaning.metric_name))
    own, told = cells.own_rows(table, [now])
    if name == "n_left_out":  # it follows from the data and the way of holding out
        return
    was, is_now = (getattr(t.meaning, name, None) or getattr(t.budget, name, None) or getattr(t, name, None)
                   for t in (other, now))  # fmt: skip
    assert own.num_rows == 0
    assert told == (
        f"1 finished rows mean something else than now: {name} {was} (now {is_now}); they are kept and do not count",
    )


def test_rows_of_another_metric_are_never_mixed_into_a_sweep(tmp_path: Path) -> None:
    """Accuracies stored, then the task says matthews_correlation: every trial runs again, and only those are chosen."""
    first = [replace(t, meaning=NOW) for t in grid(seeds=(0,))]
    again = [replace(t, meaning=replace(NOW, metric_name="matthews_correlation")) for t in grid()]
    run(tmp_path, first)
    engine = FakeEngine()
    done = run(tmp_path, again, engine)
    assert sorted(engine.trained) == sorted(t.trial_id for t in again)
    (line,) = [w for w in done.warnings if "mean something else" in w]
    assert line.startswith(f"{len(first)} finished rows")
    assert "metric_name accuracy (now matthews_correlation)" in line
    ids = {t.trial_id for t in again}
    assert {t.user_attrs["trial_id"] for t in complete(tmp_path)} <= ids, "Optuna is not taught by the others"
    table = store.load(tmp_path / "s")
    assert table.num_rows == len(first) + len(again), "nothing is lost"
    assert cells.own_rows(table, again)[0].num_rows == len(again)


def test_a_row_says_how_many_were_held_out_and_how() -> None:
    (row,) = to_table(records([trial(meaning=NOW)])).to_pylist()
    names = ("n_select", "select_by", "n_left_out", "tokenizer_hash", "encoding_version", "template", "spec_version")
    assert [row[name] for name in names] == [16, "groups", 3, "t", 1, "Q: {prompt}", 2]
    old = reference("uuid")
    assert pc.sum(pc.is_null(old.column("select_by"))).as_py() == old.num_rows


GOLDEN = Path(__file__).resolve().parents[2] / "golden"  # rows as they were when each version was new; never made again


@pytest.mark.parametrize("version", [1, 2])
def test_golden_rows_of_every_version_are_read(version: int, tmp_path: Path) -> None:
    path = GOLDEN / f"version-{version}.parquet"
    stored, read = pq.read_table(path), store.load_files([path])
    assert read.schema.equals(SCHEMA)
    for name in stored.column_names:
        assert read.column(name).to_pylist() == stored.column(name).to_pylist(), name
    assert set(read.column("schema_version").to_pylist()) == {version}
    assert set(read.column("spec_version").to_pylist()) == {None if version == 1 else 2}
    assert set(read.column("select_by").to_pylist()) == {None if version == 1 else "groups"}
    (tmp_path / store.TRIALS).mkdir()
    shutil.copy(path, tmp_path / store.TRIALS)
    assert store.finished_ids(tmp_path) == set(stored.column("trial_id").to_pylist())
    assert {problem.level for problem in verify.check(read.to_pylist(), parallel=9)} <= {"warning"}


def test_rows_that_mean_different_things_are_not_drawn_in_one_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = trial(meaning=NOW)
    paths = []
    for name in ("accuracy", "f1"):
        paths += ["--rows", str(tmp_path / f"{name}.parquet")]
        parts.write_part(Path(paths[-1]), to_table(records([replace(one, meaning=replace(NOW, metric_name=name))])))
    assert cli.main(["plot", *paths, "--results-dir", str(tmp_path)]) == 2
    assert "demo on tiny: metric_name accuracy in 1, f1 in 1; draw the files apart" in capsys.readouterr().err
    for path in REFERENCE.glob("*.parquet"):
        assert cells.mixtures(store.load_files([path])) == ()
