"""A comparison worked out from stored rows alone: what they hold of each stage decides what is said. Pure.

Nothing is trained, so nothing may be missing without a word: what the rows lack is an error where no comparison can be
worked out without it, else a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import searches
from bench.comparison import arms as of_arms
from bench.comparison.arms import Arm, Cell, Row
from bench.comparison.numbers import Top
from bench.core import stats
from bench.core.errors import BadInput
from bench.core.spec import Study, Trial

WHERE = "--rows"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """What stored rows hold of a comparison: the rows of each stage by trial_id, and lines on what they lack."""

    top: Top | None
    seeds: tuple[int, ...]  # the fresh ones
    chosen: Mapping[str, Cell]  # by arm
    tuning: Mapping[str, Row]
    fresh: Mapping[str, Row]
    told: tuple[str, ...]


def stages(
    study: Study, arms: Sequence[Arm], rows: Mapping[str, Row], *, top_cells: int | None = None,
    top_seeds: int | None = None, fresh_seeds: int | None = None, higher_is_better: bool,
) -> Stages:  # fmt: skip
    """Return the stages of a comparison of `arms` that `rows` hold (trial_id -> row with ROW_COLUMNS and seed).

    A number that is given must be there. One that is not is what the rows hold: the second stage of tuning where any
    of it is there, and the fresh seeds that the chosen cells of all arms have in common.

    Raises:
        BadInput: where a tuning trial or a part of the second stage is missing, or an arm has no fresh run.
    """
    tuning, stopped = _tuning(study, arms, rows)
    top, told = _top(study, arms, rows, top_cells, top_seeds, higher_is_better=higher_is_better)
    second = of_arms.top_trials(arms, rows, top, higher_is_better=higher_is_better)
    tuning |= _whole(second, rows, "the whole second stage of tuning", "give its file, or --top-cells 0 to do without")
    tied = {arm.name: of_arms.tied(arm, tuning, top, higher_is_better=higher_is_better) for arm in arms}
    wanted = None if fresh_seeds is None else of_arms.seeds_for(study, arms, fresh_seeds)
    candidates = wanted or sorted({row["seed"] for row in rows.values() if of_arms.is_fresh_seed(row["seed"])})
    runs = {name: [_fresh(cell.trial, candidates, rows) for cell in cells] for name, cells in tied.items()}
    # Of cells that tie where cells are chosen, the one that was run again: another version may break ties otherwise.
    places = {name: max(range(len(found)), key=lambda i: len(found[i])) for name, found in runs.items()}
    chosen = {name: tied[name][i] for name, i in places.items()}
    told += stopped
    told += [_tie(name, tied[name][0], cell) for name, cell in chosen.items() if cell is not tied[name][0]]
    found = {name: runs[name][i] for name, i in places.items()}
    seeds = tuple(seed for seed in candidates if all(seed in of_arm for of_arm in found.values()))
    if not seeds or (wanted is not None and seeds != wanted):
        got = ", ".join(f"{name} {len(of_arm)}" for name, of_arm in found.items())
        n = "fresh runs" if wanted is None else f"{len(wanted)} fresh runs"
        way_out = "give their file too (results/<study>-fresh, by export), or run make compare without ROWS"
        raise BadInput(WHERE, f"must hold {n} of each method's chosen cell, with the same seeds", got=got,
                       way_out=way_out)  # fmt: skip
    needed = stats.pairs_needed(len(arms) - 1)
    if len(seeds) < needed:
        told.append(f"{len(seeds)} fresh seeds are in the rows, and a claim needs {needed}: none can be made")
    return Stages(
        top=top, seeds=seeds, chosen=chosen, tuning=tuning, told=tuple(told),
        fresh={i: rows[i] for of_arm in found.values() for seed, i in of_arm.items() if seed in seeds},
    )  # fmt: skip


def _tuning(study: Study, arms: Sequence[Arm], rows: Mapping[str, Row]) -> tuple[dict[str, Row], list[str]]:
    """Return the rows of the first stage, and a line on those that halving stopped; BadInput where one is missing."""
    trials = [t for arm in arms for t in arm.trials]
    way_out = "give the file that holds them, or fewer methods or seeds"
    if searches.get(study.sampler).whole:
        return _whole(trials, rows, "every tuning trial of the study", way_out), []
    found = {t.trial_id: rows[t.trial_id] for t in trials if t.trial_id in rows}
    none = ", ".join(arm.name for arm in arms if not any(t.trial_id in found for t in arm.trials))
    if none:
        rule = "must hold finished tuning trials of every method"
        raise BadInput(WHERE, rule, got=f"none of {none}", way_out=way_out)
    n = len({t.trial_id for t in trials})
    return found, [f"{len(found)} of {n} tuning trials have rows: {study.sampler} is taken to have stopped the others"]


def _whole(trials: Sequence[Trial], rows: Mapping[str, Row], what: str, way_out: str) -> dict[str, Row]:
    """Return the rows of all trials; BadInput where one is missing."""
    ids = dict.fromkeys(trial.trial_id for trial in trials)
    found = {i: rows[i] for i in ids if i in rows}
    if len(found) < len(ids):
        raise BadInput(WHERE, f"must hold {what}", got=f"{len(found)} of {len(ids)}", way_out=way_out)
    return found


def _top(
    study: Study, arms: Sequence[Arm], rows: Mapping[str, Row], n_cells: int | None, n_seeds: int | None, *,
    higher_is_better: bool,
) -> tuple[Top | None, list[str]]:  # fmt: skip
    """Return the second stage: as asked; else as a comparison would run it, where the rows hold any of it."""
    top = of_arms.top_for(study, n_cells, n_seeds)
    if top is None or n_cells is not None or n_seeds is not None:
        return top, []
    second = of_arms.top_trials(arms, rows, top, higher_is_better=higher_is_better)
    if any(trial.trial_id in rows for trial in second):
        return top, []
    seeds = f"{len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    return None, [f"the rows hold no second stage of tuning: each cell was chosen with {seeds}"]


def _fresh(trial: Trial, seeds: Sequence[int], rows: Mapping[str, Row]) -> dict[int, str]:
    """Return the ids of a cell's fresh runs that are in the rows, by seed."""
    return {t.seed: t.trial_id for t in of_arms.fresh_trials(trial, seeds) if t.trial_id in rows}


def _tie(name: str, first: Cell, cell: Cell) -> str:
    rates = [f"eta_A {c.trial.eta_A:.3g}" + (f", ratio {c.trial.lr_ratio:.3g}" if c.trial.lr_ratio else "")
             for c in (cell, first)]  # fmt: skip
    return f"{name}: cells tie where they are chosen; the one with fresh runs counts ({rates[0]}), not {rates[1]}"
