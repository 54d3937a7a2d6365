"""Grids that grow where their best cells lie on the border, until these lie inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench import store
from bench.core import cells
from bench.core.cells import Score
from bench.core.rules import round_rate
from bench.core.spec import MethodGrid, Study, Trial
from bench.study import widen
from tests.support.sweep_helpers import (
    FakeEngine,
    comparable,
    complete,
    ids,
    interrupt_at,
    journal_of,
    rows,
    run,
    study,
    trial,
)

Surface = Callable[[Trial], float]


def of(sampler: str = "halving", **changes: object) -> Study:
    grids = (MethodGrid(method="lora+", axes=(("eta_A", (1e-4, 1e-3)), ("lr_ratio", (1.0, 4.0)))),)
    return study(sampler=sampler, grids=grids, **changes)


def grid(etas: Sequence[float], ratios: Sequence[float], seeds: Sequence[int] = (0, 1)) -> tuple[Trial, ...]:
    return tuple(
        trial(method="lora" if ratio == 1 else "lora+", seed=seed, eta_A=eta, eta_B=round_rate(eta * ratio))
        for seed in seeds
        for eta in etas
        for ratio in ratios
    )


def scores(trials: Sequence[Trial], surface: Surface) -> dict[str, Score]:
    return {
        one.trial_id: Score(
            trial_id=one.trial_id, status="ok", metric_value=surface(one), metric_stderr=None, select_metric=None,
            train_seconds=None, source_hash=None,
        )
        for one in trials
    }  # fmt: skip


def peak(eta_A: float, ratio: float) -> Surface:
    """Return a surface with one top: as in LoRA+, the rate of B matters more than that of A."""

    def at(one: Trial) -> float:
        off_A, off_ratio = math.log(one.eta_A / eta_A, 4), math.log((one.lr_ratio or 1) / ratio, 4)
        return 0.9 - 0.01 * off_A**2 - 0.02 * (off_A + off_ratio) ** 2

    return at


def grown(start: Sequence[Trial], surface: Surface, **changes: object) -> tuple[Trial, ...]:
    """Return all trials of a grid that grows to its end."""
    added: tuple[Trial, ...] = ()
    known = scores(start, surface)
    while more := widen.beyond(of(**changes), start, known, higher_is_better=True, so_far=added):
        added += more
        known |= scores(more, surface)
    assert widen.read(of(**changes), start, known, higher_is_better=True) == added
    return (*start, *added)


def is_inside(trials: Sequence[Trial], surface: Surface) -> bool:
    """Return whether the best LoRA+ cell has a neighbour on every side: a lower and a higher rate and ratio."""
    best = next(
        one.trial for one in cells.best_cells(trials, scores(trials, surface), higher_is_better=True)
        if one.method == "lora+"
    )  # fmt: skip
    row = [one.eta_A for one in trials if one.lr_ratio == best.lr_ratio]
    column = [one.lr_ratio or 1 for one in trials if one.eta_A == best.eta_A]
    return min(row) < best.eta_A < max(row) and (min(column) < (best.lr_ratio or 1) < max(column))


SHIFTS = [(a, b) for a in (-2, -1, 0, 1, 2) for b in (-1, 0, 1, 2)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shifted_grid_ends_with_its_best_cell_inside(shift: tuple[int, int]) -> None:
    """20 grids of 5 rates by 5 ratios whose middle lies up to two steps from the top."""
    top = (6.4e-4, 64.0)
    etas = [round_rate(top[0] * 4.0 ** (i + shift[0])) for i in (-2, -1, 0, 1, 2)]
    ratios = [4.0 ** (3 + i + shift[1]) for i in (-2, -1, 0, 1, 2)]
    start, surface = grid(etas, ratios), peak(*top)
    found = grown(start, surface)
    assert is_inside(found, surface)
    assert len(found) <= 1.3 * len(start)
    if shift == (0, 0):
        assert found == start, "a grid that holds its best cell inside stays as it is"


def test_the_trials_added_are_bounded() -> None:
    start = grid([1e-4, 4e-4, 1.6e-3], [4.0, 16.0, 64.0])
    uphill = peak(1.0, 4.0)
    assert len(grown(start, uphill)) <= 1.3 * len(start)
    assert grown(start, uphill, max_extra=0.0) == start
    assert len(grown(start, uphill, max_extra=2.0)) > 1.3 * len(start)


def test_a_rank_takes_its_alpha_along_and_must_fit() -> None:
    line = grid([1e-4, 1e-3, 1e-2], [1.0], (0,))
    start = tuple(replace(one, rank=rank, lora_alpha=2.0 * rank) for one in line for rank in (2, 8))
    known = scores(start, lambda one: (one.rank or 0) / 100 - abs(math.log10(one.eta_A) + 3))
    more = widen.beyond(of(max_extra=1.0), start, known, higher_is_better=True)
    assert [(one.rank, one.lora_alpha, one.eta_A) for one in more] == [(32, 64.0, 1e-3)]
    fits = widen.beyond(of(), start, known, higher_is_better=True, fits=lambda one: (one.rank or 0) <= 16)
    assert fits == ()


def test_a_grid_without_the_wish_stays(tmp_path: Path) -> None:
    start = grid([1e-4, 1e-3], [4.0, 16.0])
    assert widen.beyond(of("grid"), start, scores(start, peak(1.0, 1.0)), higher_is_better=True) == ()
    assert widen.beyond(of("grid", widen=True), start, scores(start, peak(1.0, 1.0)), higher_is_better=True) != ()


@pytest.mark.usefixtures("no_waiting_for_the_disk", "handlers_are_put_back")
@pytest.mark.parametrize("sampler", ["grid", "halving"])
def test_a_resumed_sweep_adds_the_same_cells(tmp_path: Path, sampler: str) -> None:
    start = grid([1e-5, 4e-5, 1.6e-4, 6.4e-4], [1.0, 4.0])  # the helpers' best cell is at 1e-3
    wish = of(sampler, widen=True)
    whole = run(tmp_path / "whole", start, of=wish)
    assert whole.n_widened > 0
    assert whole.n_trials == len(start) + whole.n_widened == whole.n_finished + whole.n_pruned
    for n in (1, 3, 5):
        run(tmp_path / "parts", start, interrupt_at(n), of=wish)
    engine = FakeEngine()
    run(tmp_path / "parts", start, of=wish)
    done = run(tmp_path / "parts", start, engine, of=wish)
    assert engine.packs == []
    assert (done.n_widened, done.n_trials, done.best) == (whole.n_widened, whole.n_trials, whole.best)
    journal_of(tmp_path / "parts").unlink()
    run(tmp_path / "parts", start, of=wish)
    known = {one.user_attrs["trial_id"] for one in complete(tmp_path / "parts")}
    expected = {row["trial_id"] for row in rows(tmp_path / "parts") if row["method"] == "lora+"}
    assert known == expected, "Optuna knows the trials beyond the border, too"
    for read in (store.load, store.load_pruned):
        assert comparable(read(tmp_path / "parts" / "s")) == comparable(read(tmp_path / "whole" / "s"))
    assert set(ids(start)) < {str(row["trial_id"]) for row in comparable(store.load(tmp_path / "whole" / "s"))} | {
        str(row["trial_id"]) for row in comparable(store.load_pruned(tmp_path / "whole" / "s"))
    }
