"""The sweep: nothing finished is lost, doubled or run again; rows of other versions; what a plan takes from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from bench import store, sweep
from bench.core.record import Record
from bench.core.spec import Pack
from bench.executors.local import LocalExecutor
from bench.schedule import planner
from bench.schedule.planner import Limits
from bench.store import lock
from bench.sweep import Options
from bench.sweep.events import Event, PackStored, Started
from tests.support.sweep_helpers import (
    ETA_A,
    LR_RATIO,
    OPTIONS,
    PROVENANCE,
    TRIALS,
    FakeEngine,
    complete,
    executor,
    family,
    grid,
    ids,
    interrupt_at,
    rows,
    run,
    run_with,
    study,
    trial,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")


# A whole sweep


def test_every_trial_is_run_once_and_stored(tmp_path: Path) -> None:
    events: list[Event] = []
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine, on_event=events.append)
    assert sorted(engine.trained) == ids(TRIALS) == [row["trial_id"] for row in rows(tmp_path)]
    assert (done.n_trials, done.n_finished, done.n_run, done.n_failed, done.n_diverged) == (30, 30, 30, 0, 2)
    assert (done.exit_code, done.warnings, done.interrupted, done.stopped) == (0, (), False, None)
    assert done.trials_per_minute is not None
    assert done.trials_per_minute > 0
    started = [event for event in events if isinstance(event, Started)]
    assert [(e.n_trials, e.n_finished, e.n_packs) for e in started] == [(30, 0, 14)]
    stored = [event for event in events if isinstance(event, PackStored)]
    assert [e.n_finished for e in stored][-1] == 30
    assert stored[-1].best == (trial(eta_A=1e-3, eta_B=4e-3).trial_id, 1.0)
    assert stored[-1].remaining is not None
    assert stored[-1].remaining.seconds == 0
    assert stored[-2].remaining is not None
    assert stored[-2].remaining.seconds == pytest.approx(0.5 * stored[-1].records[0].pack_size)


def test_a_second_run_trains_nothing(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    before = rows(tmp_path)
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine)
    assert (engine.packs, done.n_run, done.n_finished, done.exit_code) == ([], 0, 30, 0)
    assert done.trials_per_minute is None
    assert rows(tmp_path) == before


def test_a_grid_that_grows_runs_its_new_cells_only(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    before = rows(tmp_path)
    bigger = grid(etas=(*ETA_A, 3e-4), ratios=(*LR_RATIO, 64.0), seeds=(0, 1, 2))
    engine = FakeEngine()
    run(tmp_path, bigger, engine)
    assert sorted(engine.trained) == ids(t for t in bigger if t.trial_id not in {u.trial_id for u in TRIALS})
    assert [row for row in rows(tmp_path) if row["trial_id"] in set(ids(TRIALS))] == before
    assert len(complete(tmp_path)) == sum(t.method == "lora+" for t in bigger)
    smaller = FakeEngine()
    assert run(tmp_path, TRIALS, smaller).n_finished == 30
    assert smaller.packs == []


def test_preview_says_what_run_does(tmp_path: Path) -> None:
    def look() -> sweep.Preview:
        return sweep.preview(study(), TRIALS, results_dir=tmp_path, options=OPTIONS, family=family)

    assert (look().n_trials, look().n_finished, look().estimate) == (30, 0, None)
    assert list(tmp_path.iterdir()) == []
    engine = interrupt_at(3)
    run(tmp_path, TRIALS, engine)
    left = look().pending
    rest = FakeEngine()
    run(tmp_path, TRIALS, rest)
    assert [p.pack_id for p in left] == [p.pack_id for p in rest.packs]
    assert (look().n_finished, look().pending) == (30, ())


# Other versions of the code


def test_rows_of_another_version_are_told_and_run_again_on_request(tmp_path: Path) -> None:
    run(tmp_path, TRIALS)
    newer = replace(PROVENANCE, source_hash="1" * 16)
    options = replace(OPTIONS, source_hash=newer.source_hash)
    bigger = grid(seeds=(0, 1, 2))
    mixed = run(tmp_path, bigger, options=options, provenance=newer)
    (warning,) = mixed.warnings
    assert "30 finished rows were written by 1 other version(s) of the code and are kept" in warning
    assert mixed.n_run == 15
    parts = sorted(p.name for p in (tmp_path / "s" / store.TRIALS).iterdir())
    engine = interrupt_at(3)
    rerun = replace(options, rerun_stale=True)
    run(tmp_path, bigger, engine, options=rerun, provenance=newer)
    assert sorted(str(row["trial_id"]) for row in rows(tmp_path)) == ids(bigger), "old rows count until replaced"
    rest = FakeEngine()
    run(tmp_path, bigger, rest, options=rerun, provenance=newer)
    assert sorted(engine.trained + rest.trained) == ids(TRIALS)
    assert {row["source_hash"] for row in rows(tmp_path)} == {newer.source_hash}
    assert sorted(p.name for p in (tmp_path / "s" / store.TRIALS).iterdir()) == parts
    assert run(tmp_path, bigger, options=rerun, provenance=newer).n_run == 0


def test_the_sweep_keeps_measured_speeds_for_the_next_plan(tmp_path: Path) -> None:
    from bench.schedule.estimate import Estimate, Place, Workload

    workload = Workload(matmul_params=1000, train_tokens=10.0, n_eval=50, eval_tokens=20.0)
    options = replace(OPTIONS, workload=workload, place=Place(device="fake"))

    def estimated() -> Estimate | None:
        shown = sweep.preview(study(), grid(seeds=(0, 1, 2)), results_dir=tmp_path, options=options, family=family)
        return shown.estimate

    first = estimated()
    assert first is not None
    assert not first.calibrated
    run(tmp_path, TRIALS, options=options)
    second = estimated()
    assert second is not None
    assert second.calibrated
    assert second.seconds == pytest.approx(15 * 0.5)


def test_optunas_own_settings_are_left_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    run(tmp_path, TRIALS[:4])
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr() == ("", "")


def test_records_of_a_pack_come_in_slot_order_and_only_once(tmp_path: Path) -> None:
    found: list[Record] = executor(FakeEngine()).run(Pack(trials=TRIALS[:4]), study="s")
    assert [r.trial.trial_id for r in found] == [t.trial_id for t in TRIALS[:4]]
    assert {(r.pack_id, r.pack_size, r.study) for r in found} == {(Pack(trials=TRIALS[:4]).pack_id, 4, "s")}


def test_default_options_carry_this_codes_hash() -> None:
    assert Options().source_hash == sweep.Options().source_hash
    assert lock.LOCK_NAME.startswith(".")


# Several devices


class ThreeSlots(LocalExecutor[None]):
    """Says that it has three slots; what it is given runs one after another."""

    slots = 3


def three_slots(engine: FakeEngine) -> ThreeSlots:
    return ThreeSlots(load=lambda t: None, train=engine, provenance=PROVENANCE, metric_name="accuracy")


def test_packs_are_cut_for_the_slots_of_an_executor_and_for_one_slot_they_are_not(tmp_path: Path) -> None:
    alone, engine = FakeEngine(), FakeEngine()
    run(tmp_path / "one", TRIALS, alone)
    planned = planner.plan(TRIALS, limits=Limits(max_pack_size=4), family=family)
    assert [p.pack_id for p in alone.packs] == [p.pack_id for p in planned]
    done = run_with(tmp_path / "three", three_slots(engine))
    assert (done.exit_code, done.n_run) == (0, len(TRIALS))
    assert sorted(engine.trained) == ids(TRIALS)
    cut = planner.spread(planned, 3, overhead=planner.PACK_OVERHEAD["cpu"])
    assert [p.pack_id for p in engine.packs] == [p.pack_id for p in cut]
    assert sorted(t.trial_id for p in cut for t in p.trials) == ids(TRIALS)
    apart = ("pack_id", "pack_size")
    one, three = ([{k: v for k, v in row.items() if k not in apart} for row in rows(tmp_path / name)]
                  for name in ("one", "three"))  # fmt: skip
    assert one == three
    seen = sweep.preview(study(), TRIALS, results_dir=tmp_path / "none", options=OPTIONS, family=family, slots=3)
    assert [p.pack_id for p in seen.pending] == [p.pack_id for p in engine.packs]


@pytest.mark.parametrize("first_has_three", [True, False])
def test_a_sweep_goes_on_with_another_number_of_slots(tmp_path: Path, first_has_three: bool) -> None:
    first, second = interrupt_at(5), FakeEngine()
    if first_has_three:
        assert run_with(tmp_path, three_slots(first)).interrupted
        done = run(tmp_path, TRIALS, second)
    else:
        assert run(tmp_path, TRIALS, first).interrupted
        done = run_with(tmp_path, three_slots(second))
    assert (done.exit_code, done.n_finished) == (0, len(TRIALS))
    assert sorted(first.trained + second.trained) == ids(TRIALS), "each once"
