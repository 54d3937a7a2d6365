"""Successive halving in a sweep: who is left out, what is kept of it, and what stops, failures and growth change."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from bench import searches, store
from bench.core.errors import BadInput
from bench.core.spec import Pack, Study, Trial
from bench.searches import Rungs
from bench.searches._rungs import going_on
from bench.sweep import Options, planning
from tests.support.sweep_helpers import (
    PROVENANCE,
    TRIALS,
    FakeEngine,
    comparable,
    grid,
    ids,
    interrupt_at,
    optuna_trials,
    rows,
    run,
    score,
    study,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
RUNGS = Rungs(shares=(0.25, 0.5), keep=0.5)


def halving(**changes: object) -> Study:
    return study(**{"sampler": "halving", "rungs": RUNGS.shares, "keep": RUNGS.keep, "widen": False, **changes})


def pruned(directory: Path) -> list[dict[str, object]]:
    return comparable(store.load_pruned(directory / "s"))


def by_hand(trials: tuple[Trial, ...]) -> set[str]:
    """Return the trials that finish: the helpers' loss is 1 - score, so the best cells are those of the best scores.

    The first seed of a cell decides. One that diverges at once has come to its end; the other seeds do not begin.
    """
    found: set[str] = set()
    for group in planning.groups_of(trials):
        first = {one.cell: one for one in reversed(group)}
        diverged = {one.cell for one in group if one.eta_B is not None and one.eta_B >= 0.1}
        cells = list(dict.fromkeys(one.cell for one in group))
        for _ in RUNGS.shares:
            ranked = sorted(cells, key=lambda c: (c in diverged, -score(first[c])))
            cells = ranked[: RUNGS.n_kept(len(cells))]
        found |= {one.trial_id for one in group if one.cell in cells and one.cell not in diverged}
        found |= {first[cell].trial_id for cell in diverged}
    return found


def test_the_best_half_of_each_method_goes_on_at_each_rung(tmp_path: Path) -> None:
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine, of=halving())
    finished = {str(row["trial_id"]) for row in rows(tmp_path)}
    assert finished == by_hand(TRIALS)
    left_out = pruned(tmp_path)
    assert {str(row["trial_id"]) for row in left_out} == set(ids(TRIALS)) - finished
    assert (done.n_finished, done.n_pruned) == (len(finished), len(left_out))
    of_cell = {one.cell: one for one in reversed(TRIALS)}  # by its first seed
    by_id = {one.trial_id: one for one in TRIALS}
    at = {row["trial_id"]: row["steps_done"] for row in left_out}
    for row in left_out:
        assert (row["status"], row["metric_value"]) == ("pruned", None)
        first = of_cell[by_id[str(row["trial_id"])].cell]
        if first.trial_id == row["trial_id"]:
            assert row["steps_done"] in (5, 10)
            assert f"at step {row['steps_done']}" in str(row["reason"])
        else:
            step = at.get(first.trial_id)
            why = "diverged" if step is None else f"was left out at step {step}"
            assert (row["steps_done"], row["reason"]) == (0, f"seed {first.seed} of its cell {why}")
    begun = {trial_id for trial_id, until in engine.legs if until == 5}
    assert begun == {one.trial_id for one in of_cell.values()}, "no other seed goes through the rungs"
    assert store.load_attempts(tmp_path / "s").num_rows == 0


@pytest.mark.parametrize("n", [0, 1, 3, 5, 7, 8, 9, 10])
def test_stopped_before_any_pack_it_decides_the_same(tmp_path: Path, n: int) -> None:
    run(tmp_path / "whole", TRIALS, of=halving())
    run(tmp_path / "parts", TRIALS, interrupt_at(n), of=halving())
    run(tmp_path / "parts", TRIALS, of=halving())
    whole, parts = (
        [{k: v for k, v in row.items() if k not in ("pack_id", "pack_size")} for row in rows(tmp_path / name)]
        for name in ("whole", "parts")
    )  # a stop may cut a pack of several methods in two
    assert parts == whole
    assert pruned(tmp_path / "parts") == pruned(tmp_path / "whole")


def test_trials_of_several_methods_share_the_packs_of_a_leg(tmp_path: Path) -> None:
    """What may share a pack in a grid may in every leg: the last ones of each method alone would be packs of two."""
    engine = FakeEngine()
    run(tmp_path, TRIALS, engine, of=halving())
    groups = {one.trial_id: i for i, group in enumerate(planning.groups_of(TRIALS)) for one in group}
    several = [pack for pack in engine.packs if len({groups[one.trial_id] for one in pack.trials}) > 1]
    assert {pack.until for pack in several} == {5, 10, None}
    assert all(len({one.seed for one in pack.trials}) == 1 for pack in several)


def test_a_pack_that_fails_is_an_attempt_and_its_trials_come_again(tmp_path: Path) -> None:
    """Nothing is decided against a trial that failed; the next run trains it, and no finished row goes."""
    run(tmp_path / "whole", TRIALS, of=halving())
    engine = FakeEngine()

    def fail_once(pack: Pack) -> None:
        if len(engine.packs) == 1 and not failed:
            failed.append(pack)
            raise RuntimeError("a broken pack")

    failed: list[Pack] = []
    engine.before = fail_once
    first = run(tmp_path / "parts", TRIALS, engine, of=halving())
    lost = {one.trial_id for one in failed[0].trials}
    assert first.n_failed == len(lost) > 0
    assert not lost & {str(row["trial_id"]) for row in pruned(tmp_path / "parts")}
    before = rows(tmp_path / "parts")
    last = run(tmp_path / "parts", TRIALS, of=halving())
    assert last.exit_code == 0
    assert all(row in rows(tmp_path / "parts") for row in before)
    assert {str(r["trial_id"]) for r in rows(tmp_path / "whole")} <= {
        str(r["trial_id"]) for r in rows(tmp_path / "parts")
    }
    assert last.n_finished + last.n_pruned == len(TRIALS)


def test_a_grid_trains_what_was_left_out_and_counts_it_no_more(tmp_path: Path) -> None:
    run(tmp_path, TRIALS, of=halving())
    engine = FakeEngine()
    done = run(tmp_path, TRIALS, engine, of=study())
    assert (done.n_finished, done.n_pruned) == (len(TRIALS), 0)
    assert set(engine.trained) == {str(row["trial_id"]) for row in pruned(tmp_path)}
    again = FakeEngine()
    assert run(tmp_path, TRIALS, again, of=halving()).n_pruned == 0
    assert again.packs == []


def test_a_grown_grid_passes_the_rungs_that_the_others_passed(tmp_path: Path) -> None:
    small, large = grid(etas=(1e-4, 1e-2)), grid()
    run(tmp_path, small, of=halving())
    engine = FakeEngine()
    done = run(tmp_path, large, engine, of=halving())
    new = {one.trial_id for one in searches.leading(large)[0]} - set(ids(small))
    assert {one for one, _ in engine.legs} == new
    assert done.n_finished + done.n_pruned == len(large)
    best = {cell.method: cell.trial.eta_A for cell in done.best}
    assert best["lora+"] == 1e-3


def test_optuna_sees_what_was_pruned_and_keeps_it(tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the rows alone
        run(tmp_path, TRIALS, of=halving())
        seen = [t for t in optuna_trials(tmp_path) if t.state is not TrialState.FAIL]
        states = [t.state for t in seen]
        mine = [row for row in pruned(tmp_path) if row["method"] == "lora+"]
        assert states.count(TrialState.PRUNED) == len(mine) > 0
        assert len({t.user_attrs["trial_id"] for t in seen}) == len(seen)


def test_rows_of_other_code_are_not_run_again_at_rungs(tmp_path: Path) -> None:
    options = Options(source_hash=PROVENANCE.source_hash, rerun_stale=True)
    with pytest.raises(BadInput, match="rerun-stale"):
        run(tmp_path, TRIALS, of=halving(), options=options)


def test_the_rule_by_hand() -> None:
    assert Rungs().steps(80) == (20, 40)
    assert Rungs(shares=(0.1, 0.1, 0.99)).steps(10) == (1,), "a rung at the last step is none"
    assert [Rungs(keep=0.25).n_kept(n) for n in (1, 4, 5, 8, 40)] == [1, 2, 2, 2, 10]
    assert Rungs().expected_steps(80, 14) == [(0, 20, 14), (20, 40, 4), (40, 80, 2)]
    inf = float("inf")
    assert going_on({"a": [1.0, 3.0], "b": [1.5, 1.5], "c": [0.1, inf], "d": [2.0, 2.0]}, 3) == {"b", "a", "d"}
    assert searches.rungs_of(study()) is None
    assert searches.rungs_of(halving()) == RUNGS


def test_what_is_said_before_is_what_is_trained(tmp_path: Path) -> None:
    """Nothing diverges or ties here, so the steps foreseen are the steps trained: by hand, for two seeds."""
    trials = tuple(one for one in grid(etas=(1e-5, 1e-4, 1e-3, 1e-2), ratios=(1,)) if one.method == "lora")
    engine = FakeEngine()
    run(tmp_path, trials, engine, of=halving())
    assert [(pack.until, pack.size) for pack in engine.packs] == [(5, 4), (10, 2), (None, 2), (None, 2)]
    # 4 first seeds to step 5, 2 of them on to 10 and to 20; the other seeds of those cells from 0 to 20.
    assert planning.share_of_steps(trials, RUNGS) * 20 * len(trials) == 4 * 5 + 2 * 5 + 2 * 10 + 2 * 20
