"""The pure parts of a sweep: its ledger and its forecast."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.core.record import Record, Status, to_row
from bench.core.spec import Pack
from bench.schedule.estimate import UNCALIBRATED, Calibration, Workload
from bench.sweep import Options
from bench.sweep.forecast import Forecast
from bench.sweep.ledger import Ledger
from tests.support.sweep_helpers import OPTIONS, PROVENANCE, grid, records, score

TRIALS = tuple(t for t in grid() if t.method == "lora+")
WORKLOAD = Workload(matmul_params=10, train_tokens=8.0, n_eval=4, eval_tokens=8.0)


def rows(some: list[Record]) -> dict[str, dict[str, object]]:
    return {record.trial.trial_id: to_row(record) for record in some}


def failed(one: Record) -> Record:
    return replace(one, outcome=replace(one.outcome, status=Status.FAILED, metric_value=None, select_metric=None))


def test_a_ledger_counts_what_was_there_and_what_comes() -> None:
    ledger = Ledger(TRIALS, higher_is_better=True)
    done = records(TRIALS)
    elsewhere = records([t for t in grid() if t.method == "full"])
    ledger.open(rows([*done[:2], *elsewhere]))
    ledger.begin(TRIALS, len(TRIALS))
    assert (ledger.n_goal, ledger.n_finished, ledger.n_run, ledger.n_failed) == (len(TRIALS), 2, 0, 0)
    ledger.enter(done[2:4])
    ledger.enter([failed(done[4])], final=False)
    assert (ledger.n_finished, ledger.n_run, ledger.n_failed) == (4, 2, 0), "an attempt that is repeated has not failed"
    ledger.enter([failed(done[4])])
    ledger.enter(done[:1])
    assert (ledger.n_finished, ledger.n_run, ledger.n_failed) == (4, 3, 1), "a trial that ran again is one trial"
    assert ledger.known(done) == [r.trial.trial_id for r in done[:4]]
    assert [s.trial_id for s in ledger.finished()] == [t.trial_id for t in TRIALS[:4]]


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_best_trial_is_never_one_that_diverged(higher_is_better: bool) -> None:
    ledger = Ledger(TRIALS, higher_is_better=higher_is_better)
    ledger.enter(records(TRIALS))
    good = {t.trial_id: score(t) for t in TRIALS if ledger.scores[t.trial_id].status == Status.OK}
    assert 0 < len(good) < len(TRIALS)
    pick = max if higher_is_better else min
    assert ledger.best == pick(good.items(), key=lambda item: item[1])


def test_rows_of_another_version_are_stale_one_for_each_row() -> None:
    ledger = Ledger(TRIALS, higher_is_better=True)
    ledger.enter(records(TRIALS[:3]))
    assert ledger.stale(PROVENANCE.source_hash) == []
    assert ledger.stale("1" * 16) == [PROVENANCE.source_hash] * 3


def forecast(options: Options, prior: Calibration = UNCALIBRATED, slots: int = 1) -> Forecast:
    found = Forecast(options, prior, slots=slots)
    found.expect([Pack(trials=TRIALS)])
    return found


def test_without_a_workload_nothing_is_foretold_before_something_was_measured() -> None:
    one = forecast(OPTIONS)
    assert one.remaining() is None
    one.done(records(TRIALS[:1]))
    left = one.remaining()
    assert left is not None
    assert left.seconds == pytest.approx(0.5 * (len(TRIALS) - 1)), "each trial takes the half second that one took"
    assert one.learnt() is None, "work in no known unit is no speed to keep"


def test_what_was_measured_before_counts_until_this_run_measures() -> None:
    options = replace(OPTIONS, workload=WORKLOAD)
    first = forecast(options)
    before = first.remaining()
    assert before is not None
    assert not before.calibrated
    first.done(records(TRIALS[:1]))
    learnt = first.learnt()
    assert learnt is not None
    later, halved = forecast(options, learnt).remaining(), forecast(options, learnt, slots=2).remaining()
    assert later is not None
    assert later.calibrated
    assert later.seconds == pytest.approx(0.5 * len(TRIALS))
    assert halved is not None
    assert halved.seconds == pytest.approx(later.seconds / 2)
    pack = Pack(trials=TRIALS[:4])
    assert forecast(options).measured(pack) is None, "a guess is no measurement"
    assert forecast(options, learnt, slots=2).measured(pack) == pytest.approx(2.0), "alone on its device"


def test_a_forecast_of_no_work_tells_nothing() -> None:
    assert Forecast(replace(OPTIONS, workload=WORKLOAD), UNCALIBRATED, slots=1).remaining() is None
