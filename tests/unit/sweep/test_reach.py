"""How far a search reaches: where its space grows, by which trials, and how rows tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench import store
from bench.core.cells import Score
from bench.core.record import Record, Status, to_row
from bench.core.spec import MethodGrid, Study, Trial
from bench.sweep.optuna_mirror import reach
from bench.sweep.optuna_mirror.mirror import Mirror
from bench.sweep.optuna_mirror.reach import Growth, Reach
from bench.sweep.optuna_mirror.space import Axis, Space, settings_of
from tests.support import sweep_helpers
from tests.support.sweep_helpers import (
    FakeEngine,
    comparable,
    complete,
    interrupt_at,
    records,
    rows,
    run,
    study,
    trial,
)

ETA = Axis(name="eta_A", low=1e-4, high=1e-2, log=True, integer=False)
RATIO = Axis(name="lr_ratio", low=4.0, high=64.0, log=True, integer=False)
RANK = Axis(name="rank", low=2, high=32, log=True, integer=True)
HALF_DECADE = 10**0.5  # a quarter of eta_A's two decades


def grown(axes: Sequence[Axis], best: Mapping[str, float], n: int = 2, *, largest: float = math.inf) -> Growth | None:
    space = Space(axes=tuple(axes))
    return reach.growth(space, space, best, n, fits=lambda name, value: value <= largest)


def test_a_step_is_a_quarter_of_the_range_and_its_places_lie_evenly_on_the_log_scale() -> None:
    up = grown([ETA], {"eta_A": 9e-3}, 2)
    assert up is not None
    assert up.values == pytest.approx([1e-2 * 10**0.25, 1e-2 * HALF_DECADE])
    assert up.space.axes == (replace(ETA, high=up.values[-1]),)
    down = grown([ETA], {"eta_A": 1e-4}, 1)
    assert down is not None
    assert down.values == pytest.approx([1e-4 / HALF_DECADE])
    assert down.space.axes == (replace(ETA, low=down.values[-1]),)


def test_the_border_is_half_a_step_wide() -> None:
    edge = 1e-2 / HALF_DECADE**0.5
    assert grown([ETA], {"eta_A": edge * 1.001}) is not None
    assert grown([ETA], {"eta_A": edge * 0.999}) is None


def test_a_space_that_has_grown_goes_on_by_the_same_step() -> None:
    first = grown([ETA], {"eta_A": 1e-2}, 1)
    assert first is not None
    more = reach.growth(Space(axes=(ETA,)), first.space, {"eta_A": first.values[0]}, 1, fits=lambda name, value: True)
    assert more is not None
    assert more.values == pytest.approx([1e-2 * HALF_DECADE**2])


def test_one_axis_grows_at_a_time_the_one_whose_bound_is_nearest() -> None:
    found = grown([ETA, RATIO], {"eta_A": 9e-3, "lr_ratio": 63.9})
    assert found is not None
    assert found.axis == "lr_ratio"
    assert found.space.axes[0] == ETA


def test_a_ratio_does_not_grow_to_where_lora_plus_is_lora() -> None:
    low = grown([RATIO], {"lr_ratio": 4.0}, 4)
    assert low is not None
    assert all(1 < value < 4 for value in low.values)
    assert grown([replace(RATIO, low=1.0)], {"lr_ratio": 1.0}, 4) is None
    below = grown([replace(RATIO, low=0.5)], {"lr_ratio": 0.5}, 4)
    assert below is not None, "who searches below 1 may go on"


def test_ranks_are_whole_numbers_that_the_model_can_hold() -> None:
    assert getattr(grown([RANK], {"rank": 32}, 3), "values", None) == (40, 51, 64)
    assert getattr(grown([RANK], {"rank": 32}, 3, largest=50), "values", None) == (40,)
    assert grown([RANK], {"rank": 32}, 3, largest=32) is None
    assert getattr(grown([replace(RANK, high=3)], {"rank": 3}, 2), "values", None) == (4,), "a step is less than one"
    assert grown([replace(RANK, low=1)], {"rank": 1}, 2) is None


def test_what_is_fixed_does_not_grow() -> None:
    assert grown([replace(ETA, low=1e-3, high=1e-3)], {"eta_A": 1e-3}) is None


def a_study(start: Sequence[Trial], **changes: object) -> Study:
    """Return a search between the corners of a box."""
    axes = {name: tuple(sorted({settings_of(one)[name] for one in start})) for name in ("eta_A", "lr_ratio")}
    grids = (MethodGrid(method="lora+", axes=tuple(axes.items())),)
    return study(**{"sampler": "tpe", "n_trials": 20, "grids": grids, "budget": start[0].budget, **changes})


def box(eta: float = 1e-3, ratio: float = 16.0) -> tuple[Trial, ...]:
    """Return the corners of a grid of two decades of eta_A around `eta` and 16 times in lambda around `ratio`."""
    return tuple(
        trial(eta_A=a, eta_B=a * b, seed=seed)
        for seed in (0, 1) for a in (eta / 10, eta * 10) for b in (ratio / 4, ratio * 4)
    )  # fmt: skip


def scored(trials: Sequence[Trial]) -> dict[str, Score]:
    return {row["trial_id"]: Score.of_row(row) for row in map(to_row, records(trials))}


def test_rows_tell_what_was_added_whatever_their_order() -> None:
    one = Reach(a_study(box(1e-4)), box(1e-4), higher_is_better=True)  # the best rate of the helpers' surface is 1e-3
    base = [trial(eta_A=e, eta_B=16 * e) for e in (2e-5, 1e-4, 9e-4)]
    found = one.grow(base, scored(base))
    assert found is not None
    assert found.axis == "eta_A"
    fixed = one.to_come(base)
    assert fixed == [{"eta_A": value} for value in found.values]
    added = [one.trial({"lr_ratio": 7.3, **point}, seed=0) for point in fixed]
    stray = trial(
        eta_A=1.23e-3, eta_B=16 * 1.23e-3
    )  # of an earlier grid in the same directory: at no place of a growth
    far = trial(eta_A=1e-3, eta_B=1.0)
    every = [to_row(record) for record in records([stray, *added, far, *base])]
    for order in (every, every[::-1]):
        again = Reach(a_study(box(1e-4)), box(1e-4), higher_is_better=True)
        mine = again.read({row["trial_id"]: row for row in order}, scored([*base, *added]))
        assert mine.keys() == {one.trial_id for one in (*base, *added)}
        assert again.growths[0] == found
        assert again.space_of(settings_of(base[0])) == again.base
        assert again.space_of(settings_of(added[0])) == found.space
        assert again.space.axes[0].met(settings_of(added[-1])["eta_A"]) <= found.space.axes[0].high


def test_a_growth_that_a_kill_has_cut_short_ends_with_the_same_places() -> None:
    one = Reach(a_study(box(1e-4)), box(1e-4), higher_is_better=True)
    base = [trial(eta_A=e, eta_B=16 * e) for e in (2e-5, 1e-4, 9e-4)]
    found = one.grow(base, scored(base))
    assert found is not None
    there = [*base, one.trial({"eta_A": found.values[1], "lr_ratio": 5.0}, seed=0)]
    again = Reach(a_study(box(1e-4)), box(1e-4), higher_is_better=True)
    again.read({row["trial_id"]: row for row in map(to_row, records(there))}, scored(there))
    assert again.growths == [found]
    assert again.to_come(there) == [{"eta_A": found.values[0]}]


SHIFTS = [(a, b) for a in (-2.5, -2, 0, 2, 2.5) for b in (0, 1, 2, 2.5)]  # in steps: a box is two wide on each side


def inside(directory: Path, start: Sequence[Trial], of: Study) -> bool:
    """Return whether the best finished trial lies inside what its search has reached."""
    table = {row["trial_id"]: row for row in store.load(directory / "s").to_pylist()}
    one = Reach(replace(of, max_extra=of.max_extra + 1), start, higher_is_better=True)
    scores = {trial_id: Score.of_row(row) for trial_id, row in table.items()}
    limited = Reach(of, start, higher_is_better=True)
    limited.read(table, scores)
    one._spaces, one.growths = limited._spaces, list(limited.growths)
    return one.grow(limited.read(table, scores).values(), scores) is None


@pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
def test_shifted_boxes_end_with_the_best_inside(tmp_path: Path) -> None:
    """20 boxes whose top lies inside, on the border or half a step outside, on one axis or both."""
    found = []
    for i, (a, b) in enumerate(SHIFTS):
        start = box(1e-3 * HALF_DECADE**a, 4.0 * 2**b)
        done = run(tmp_path / str(i), start, of=a_study(start))
        assert done.n_trials <= 26, "at most 30 % more"
        found.append(inside(tmp_path / str(i), start, a_study(start)))
    assert sum(found) >= 19, found


@pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
@pytest.mark.parametrize("pruner", [None, "median"])
def test_a_killed_search_adds_the_same_trials(tmp_path: Path, pruner: str | None) -> None:
    start = tuple(replace(t, budget=replace(t.budget, eval_steps=4)) for t in box(1e-3 * 10**1.5))
    of = a_study(start, pruner=pruner)
    engine = FakeEngine()
    whole = run(tmp_path / "whole", start, engine, of=of)
    assert whole.n_widened > 0
    assert whole.n_finished + whole.n_pruned == whole.n_trials == 20 + whole.n_widened
    for n in (0, len(engine.packs) // 2, len(engine.packs) - 2, len(engine.packs) - 1):
        parts = tmp_path / f"parts-{n}"
        run(parts, start, interrupt_at(n), of=of)
        run(parts, start, interrupt_at(1), of=of)
        again = run(parts, start, of=of)
        assert rows(parts) == rows(tmp_path / "whole")
        pruned = [comparable(store.load_pruned(one / "s")) for one in (parts, tmp_path / "whole")]
        assert pruned[0] == pruned[1]
        assert (again.n_widened, again.n_trials) == (whole.n_widened, whole.n_trials)
        last = FakeEngine()
        run(parts, start, last, of=of)
        assert last.packs == []
    assert len(complete(tmp_path / "whole")) == whole.n_finished


@pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
def test_what_is_added_is_bounded_and_may_be_forgone(tmp_path: Path) -> None:
    start = box(1e-6)
    assert run(tmp_path / "some", start, of=a_study(start, max_extra=0.1)).n_trials <= 22
    assert run(tmp_path / "none", start, of=a_study(start, widen=False)).n_trials == 20
    assert run(tmp_path / "zero", start, of=a_study(start, max_extra=0.0)).n_trials == 20


@pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
def test_a_search_grows_only_once_all_its_trials_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails may be the best: the next run tries another, and then decides."""
    start, failed = box(1e-3 * 10**1.5), list[str]()
    usual = sweep_helpers.outcome

    def outcome(one: Trial, **changes: object) -> object:
        if not failed:
            failed.append(one.trial_id)
        return usual(one, **({"status": Status.FAILED, "reason": "x"} if one.trial_id in failed else {}), **changes)

    monkeypatch.setattr(sweep_helpers, "outcome", outcome)
    first = run(tmp_path, start, of=a_study(start))
    assert (first.n_failed, first.n_widened, first.n_trials) == (1, 0, 20)
    monkeypatch.setattr(sweep_helpers, "outcome", usual)
    second = run(tmp_path, start, of=a_study(start))
    assert second.n_widened > 0


@pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
@pytest.mark.parametrize("pruner", [None, "median"])
def test_a_death_between_rows_and_optuna_leaves_trials_where_the_sampler_had_them(
    tmp_path: Path, pruner: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler goes by the order of trials, too: what was not told is told in its place."""
    start = tuple(replace(t, budget=replace(t.budget, eval_steps=4)) for t in box(1e-3))
    of = a_study(start, pruner=pruner)
    run(tmp_path / "whole", start, of=of)
    tell, told = Mirror.tell, list[str]()

    def dying(mirror: Mirror, record: Record) -> None:
        if record.outcome.status.finished:
            told.append(record.trial.trial_id)
            if len(told) == 13:
                raise KeyboardInterrupt
        tell(mirror, record)

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "tell", dying)
        patch.setattr(Mirror, "abandon", lambda mirror: None)
        run(tmp_path / "parts", start, of=of)
    assert told[-1] in {str(row["trial_id"]) for row in rows(tmp_path / "parts")}
    run(tmp_path / "parts", start, of=of)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
