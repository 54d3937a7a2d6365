"""The stages of a comparison, each a sweep of its own: tuning, the best cells again, fresh seeds, further runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import searches, store
from bench.commands import _run
from bench.comparison import arms
from bench.comparison import compare as comparing
from bench.comparison.arms import Arm, Row
from bench.comparison.numbers import Comparison, Setup, Top
from bench.core.record import Status
from bench.core.spec import Study, Trial
from bench.study import varying

if TYPE_CHECKING:
    from bench.commands._options import Selection
    from bench.commands._resolve import Readable, Resolved

TOP = "top"  # results/<study>-top holds the second stage of tuning
FRESH = "fresh"  # results/<study>-fresh holds the runs with fresh seeds
POOL = "pool"  # results/<study>-pool holds further runs of chosen cells


class Unfinished(Exception):
    """A stage was not finished, so nothing is worked out; `code` is the command's exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """One comparison that trains. `top` is the second stage of tuning, None where there is none."""

    resolved: Resolved
    selection: Selection
    contenders: tuple[Arm, ...]
    seeds: tuple[int, ...]  # of the fresh runs
    top: Top | None
    rerun_stale: bool

    @classmethod
    def of_options(
        cls, resolved: Resolved, selection: Selection, asked: Mapping[str, int | None], *, rerun_stale: bool
    ) -> Stages:
        """Return the stages that a study and the options ask for.

        Raises:
            BadInput: for a study whose methods cannot be compared, and for too few seeds.
        """
        resolved = replace(resolved, study=arms.as_compared(resolved.study))
        found = arms_of(resolved)
        arms.check(resolved.study, found)
        return cls(
            resolved=resolved,
            selection=selection,
            contenders=found,
            seeds=tuple(arms.seeds_for(resolved.study, found, asked["fresh_seeds"])),
            top=arms.top_for(resolved.study, asked["top_cells"], asked["top_seeds"]),
            rerun_stale=rerun_stale,
        )

    def run(self) -> Comparison:
        """Run what is missing of every stage and return the comparison.

        Raises:
            Unfinished: for a stage that was interrupted, or in which trials failed.
        """
        better = self.resolved.task.higher_is_better
        tuning = self._tuning()
        trials = comparing.chosen_trials(self.contenders, tuning, self.seeds, top=self.top, higher_is_better=better)
        fresh = self._fresh(tuple(dict.fromkeys(trial for of_arm in trials.values() for trial in of_arm)))
        seconds = isolated_seconds(self.selection.directory(self.resolved.study))
        setup = setup_of(self.resolved, self.seeds, self.top, seconds)

        def compared() -> Comparison:
            pool = further_rows(self.resolved, self.selection)
            return comparing.compare(setup, self.contenders, tuning=tuning, fresh=fresh, pool=pool)

        comparison = compared()
        further = _further(comparison, {name: members[0] for name, members in trials.items()})
        if not further:
            return comparison
        print(f"{len(further)} further runs of cells that would win, to see whether they collapse now and then")
        self._train(fresh_of(self.resolved, further, POOL))
        return compared()

    def _tuning(self) -> dict[str, Row]:
        self._train(self.resolved)
        rows = self._rows(self.resolved.study)
        better = self.resolved.task.higher_is_better
        second = arms.top_trials(self.contenders, rows, self.top, higher_is_better=better)
        if second:
            part = fresh_of(self.resolved, second, TOP)
            self._train(part)
            rows |= self._rows(part.study)
        return rows

    def _fresh(self, trials: tuple[Trial, ...]) -> dict[str, Row]:
        part = fresh_of(self.resolved.with_test(), trials, FRESH)
        self._train(part)
        rows = of_this_test(self._rows(part.study), self.resolved)
        unscored = [i for i, row in rows.items() if row["status"] == Status.OK and row["test_metric"] is None]
        if self.resolved.test is not None and unscored:
            way_out = f"other --fresh-seeds, or moving {self.selection.directory(part.study)} away, would score it"
            print(f"{len(unscored)} fresh runs are older than the test split as it is now; {way_out}")
        return rows

    def _train(self, part: Resolved) -> None:
        code = _run.unfinished(_run.run(part, self.selection.results_dir, rerun_stale=self.rerun_stale))
        if code is not None:
            raise Unfinished(code)

    def _rows(self, part: Study) -> dict[str, Row]:
        return _run.rows(store.load(self.selection.directory(part)), comparing.ROW_COLUMNS)

    def price(self) -> str:
        """Return what all stages take, in words; of cells that are not chosen yet any tells what one takes."""
        from bench.commands import _show, _text
        from bench.schedule import price
        from bench.schedule.estimate import Estimate
        from bench.sweep import planning

        rungs = searches.rungs_of(self.resolved.study)
        results_dir, top = self.selection.results_dir, self.top
        options = self.resolved.sweep_options()
        assert options.workload is not None  # as sweep_options gives it
        finished = store.finished_ids(results_dir / self.resolved.study.name)
        fresh = [trial for arm in self.contenders for trial in arms.fresh_trials(arm.trials[0], self.seeds)]
        evaluated = _text.every(fresh[0].budget.eval_steps)
        stages = {"tuning": [trial for trial in self.resolved.trials if trial.trial_id not in finished]}
        if top is not None:
            again = [replace(arm.trials[0], seed=seed) for arm in self.contenders for seed in top.seeds]
            stages[f"the best {top.n_cells} cells of each method again, {len(top.seeds)} seeds"] = again * top.n_cells
        stages[f"fresh runs, {len(self.seeds)} seeds of {len(self.contenders)} cells, evaluated {evaluated}"] = fresh
        parts, total = [], Estimate(seconds=0.0, calibrated=True)
        for name, trials in stages.items():
            one = price.of_trials(trials, options.workload, results_dir=results_dir, place=options.place)
            if rungs is not None and name == "tuning" and trials:
                one = replace(one, seconds=planning.share_of_steps(trials, rungs) * one.seconds)
            parts.append(f"{name}: about {_text.duration(one.seconds)}")
            total = Estimate(seconds=total.seconds + one.seconds, calibrated=total.calibrated and one.calibrated)
        head = f"the whole comparison takes about {_show.duration(total)}, further runs of cells that would win apart"
        return "\n  ".join([head, *parts])


def of_this_test(rows: Mapping[str, Row], resolved: Resolved) -> dict[str, Row]:
    """Return the rows without test scores of another test split than the task has now."""
    from bench.data.splits import hash_data

    now = None if resolved.test is None else hash_data(resolved.test)
    return {i: row if row["test_hash"] == now else {**row, "test_metric": None} for i, row in rows.items()}


def _further(comparison: Comparison, chosen: Mapping[str, Trial]) -> tuple[Trial, ...]:
    """Return the further runs that would-be winners need, one of each arm's fresh trials given."""
    seeds = comparison.setup.tuning_seeds
    wanted = comparing.runs_wanted(comparison)
    return tuple(dict.fromkeys(t for name, n in wanted.items() for t in arms.pool_trials(chosen[name], n, seeds)))


def further_rows(resolved: Resolved, selection: Selection) -> dict[str, Row]:
    """Return the rows of further runs of chosen cells, none where none were run."""
    directory = selection.results_dir / f"{resolved.study.name}-{POOL}"
    return _run.rows(store.load(directory), comparing.ROW_COLUMNS) if directory.is_dir() else {}


def arms_of(resolved: Readable) -> tuple[Arm, ...]:
    """Return the arms of a study: its trials, grid by grid."""
    return arms.arms_of((grid.method, resolved.of_grid(grid)) for grid in resolved.study.grids)


def fresh_of(resolved: Resolved, trials: tuple[Trial, ...], suffix: str) -> Resolved:
    """Return the study of other runs of a study's cells, whose rows go to results/<study>-<suffix>."""
    seeds = tuple(dict.fromkeys(t.seed for t in trials))
    study = replace(
        resolved.study, name=f"{resolved.study.name}-{suffix}", seeds=seeds, budget=trials[0].budget, sampler="grid"
    )  # whole: every one of these runs counts
    return replace(resolved, study=study, trials=trials)


def setup_of(
    resolved: Readable, seeds: Sequence[int], top: Top | None, seconds_per_step: Mapping[str, float] | None
) -> Setup:
    return Setup(
        study=resolved.study.name,
        task=resolved.task.name,
        model=resolved.model_name,
        metric=resolved.task.metric,
        higher_is_better=resolved.task.higher_is_better,
        tuning_seeds=resolved.study.seeds,
        fresh_seeds=tuple(seeds),
        seconds_per_step=seconds_per_step,
        top=top,
        varying=varying.of_trials(resolved.trials),
    )


def isolated_seconds(directory: Path) -> Mapping[str, float] | None:
    """Return isolated seconds per step by arm, the medians of speed.parquet's rows; None where there is no such file.

    Read are the columns `arm` (named as in a comparison) and `seconds_per_step`.
    """
    import pyarrow.parquet as pq

    path = directory / "speed.parquet"
    if not path.is_file():
        return None
    found = pq.read_table(path, columns=["arm", "seconds_per_step"]).to_pandas().groupby("arm")["seconds_per_step"]
    return {str(arm): float(value) for arm, value in found.median().items()}
