"""What the driver makes of workers that are lost, late or silent, on a clock that the tests move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import store, sweep
from bench.core.spec import Pack
from bench.executors import _workers
from bench.executors.local import LocalExecutor
from tests.support.sweep_helpers import OPTIONS, PROVENANCE, FakeEngine, family, grid, ids, outcome, run, study
from tests.support.worker_fakes import InlineExecutor, rows

TRIALS = grid()


class Narrow:
    """An engine in which one trial fits, no two; the `loses`-th one to train takes the device with it."""

    def __init__(self, loses: int) -> None:
        self.loses, self.trained = loses, 0

    def __call__(self, pack: Pack, loaded: None) -> list[Any]:
        if pack.size > 1:
            raise MemoryError
        self.trained += 1
        if self.trained == self.loses:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [outcome(one) for one in pack.trials]

    def make(self, logs: Path) -> LocalExecutor[None]:
        """Return an executor of this engine."""
        return LocalExecutor(load=lambda one: None, train=self, provenance=PROVENANCE, metric_name="accuracy")


def fake(logs: Path) -> LocalExecutor[None]:
    return LocalExecutor(load=lambda one: None, train=FakeEngine(), provenance=PROVENANCE, metric_name="accuracy")


def swept(results: Path, one: InlineExecutor) -> sweep.SweepSummary:
    return sweep.run(study(), TRIALS, results_dir=results, executor=one, options=OPTIONS, family=family)


def test_what_a_lost_device_left_of_a_pack_runs_on_another_in_the_same_call(tmp_path: Path) -> None:
    """One row each: those before the loss are kept, those behind it run elsewhere, the one that failed is told."""
    engine = Narrow(loses=2)
    one = InlineExecutor(engine.make, slots=1)
    done = swept(tmp_path / "lost", one)
    assert (done.n_run, done.n_failed, engine.trained) == (29, 1, 30)
    assert one.n_started == 2
    assert "on host 1 lost its device; what waited of its pack (1 of 3 trials) runs" in done.warnings[0]
    assert [len(store.load_attempts(tmp_path / "lost" / "s"))] == [1]
    assert swept(tmp_path / "lost", InlineExecutor(fake)).n_run == 1
    run(tmp_path / "local", TRIALS)
    assert rows(tmp_path / "lost") == rows(tmp_path / "local")


def test_a_worker_that_does_not_start_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    one = InlineExecutor(fake, slots=3, hung=(1, 3), tick=200.0, start_seconds=300.0)
    done = swept(tmp_path, one)
    assert (done.exit_code, done.n_finished) == (0, 30)
    assert [row["trial_id"] for row in rows(tmp_path)] == ids(TRIALS)
    assert done.warnings == ("worker 1 has not started", "worker 3 has not started")
    assert one.n_started == 3, "they are not tried again"


def test_a_worker_that_gives_no_sign_of_life_is_killed_and_its_pack_runs_again(tmp_path: Path) -> None:
    """It is told once; where what it saved cannot be read by others, that is told, too."""
    one = InlineExecutor(fake, slots=2, silent=(1,), tick=50.0, proof=tmp_path / "not-there")
    done = swept(tmp_path, one)
    assert (done.exit_code, done.n_finished, one.n_started) == (0, 30, 3)
    assert [row["trial_id"] for row in rows(tmp_path)] == ids(TRIALS)
    killed, anew = done.warnings
    assert killed.startswith("worker on host 1 killed: it gave no sign of life for 650 s, attempt 1 of 3; ")
    assert anew.startswith("a pack runs again from its first step on host ")
    assert anew.endswith("its workers do not share the directory of results")
    (tmp_path / "there").touch()
    again = InlineExecutor(fake, slots=2, silent=(1,), tick=50.0, proof=tmp_path / "there")
    assert len(swept(tmp_path / "shared", again).warnings) == 1


@pytest.mark.parametrize(("expected", "limit"), [(10.0, 3600.0), (600.0, 12000.0)])
def test_a_pack_may_take_many_times_what_was_measured(expected: float, limit: float) -> None:
    """The first worker lives, and has no answer."""
    one = InlineExecutor(fake, slots=1, stuck=(1,), tick=100.0)
    one.expects = lambda pack: expected
    lost, done = one.stream_many([Pack(trials=TRIALS[:2])], study="s")
    reason = f"worker on host 1 killed: it took longer than the time limit, {limit:.0f} s, attempt 1 of 3"
    assert lost.records[0].outcome.reason == reason
    assert limit < one.seconds < limit + 1000.0
    assert [str(record.outcome.status) for record in done.records] == ["ok", "ok"]


def test_where_nothing_was_measured_a_pack_has_no_limit_but_one_that_is_given() -> None:
    pack, seat = Pack(trials=TRIALS[:2]), _workers.Seat(host="here")
    for given, limit in ((None, float("inf")), (60.0, 60.0)):
        InlineExecutor(fake, time_limit_seconds=given)._entrust(seat, pack)  # type: ignore[arg-type]
        assert seat.limit == limit
