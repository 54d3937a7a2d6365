"""bench compare: every method tuned with as many cells, run again with fresh seeds, and compared with tuned LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from bench.commands._options import Selection, study_command
from bench.errors import BadInput

if TYPE_CHECKING:
    from bench.commands._resolve import Resolved
    from bench.comparison.arms import Arm
    from bench.comparison.numbers import Comparison, Setup
    from bench.spec import Study, Trial

SUFFIX = "compare"  # studies/<task>-compare.toml is the comparison study of a task
FRESH = "fresh"  # results/<study>-fresh holds the runs with fresh seeds
FILE_NAME = "comparison.json"


@study_command
def command(
    selection: Selection,
    fresh_seeds: Annotated[
        int | None, typer.Option("--fresh-seeds", help="seeds for the chosen cells [default: 8 or what claims need]")
    ] = None,
    rerun_stale: Annotated[
        bool, typer.Option("--rerun-stale", help="repeat rows of other versions of the code")
    ] = False,
) -> int:
    """Tune every method alike, run the best cells with fresh seeds, and say which differences are real."""
    from bench import store
    from bench.commands import _resolve, _run
    from bench.comparison import arms
    from bench.comparison import compare as comparing

    resolved = _resolve.resolve_to_train(chosen_study(selection))
    study, better = resolved.study, resolved.task.higher_is_better
    found = arms_of(resolved)
    arms.check(study, found)
    seeds = arms.seeds_for(study, found, fresh_seeds)
    code = _run.unfinished(_run.run(resolved, selection.results_dir, rerun_stale=rerun_stale))
    if code is not None:
        return code
    directory = selection.directory(study)
    tuning = _run.rows(store.load(directory), comparing.ROW_COLUMNS)
    trials = comparing.chosen_trials(found, tuning, seeds, higher_is_better=better)
    again = fresh_of(resolved, tuple(dict.fromkeys(t for members in trials.values() for t in members)), FRESH)
    code = _run.unfinished(_run.run(again, selection.results_dir, rerun_stale=rerun_stale))
    if code is not None:
        return code
    fresh = _run.rows(store.load(selection.directory(again.study)), comparing.ROW_COLUMNS)
    comparison = comparing.compare(_setup(resolved, seeds, directory), found, tuning=tuning, fresh=fresh)
    print(report(comparison))
    print(f"\n{write(comparison, directory)}")
    return 0


def chosen_study(selection: Selection) -> Study:
    """Return the study that is named, else the comparison study of the task.

    Raises:
        BadInput: where the task has none.
    """
    from bench.settings import files as study_files

    if "study" in selection.overrides:
        return selection.study()
    task = selection.overrides.get("task", study_files.DEFAULT_TASK)
    known = [name for name in study_files.names() if name.endswith(f"-{SUFFIX}")]
    if f"{task}-{SUFFIX}" not in known:
        way_out = f"give --study with grids of equal size, as in studies/{known[0]}.toml; known: {', '.join(known)}"
        raise BadInput("--task", "must have a comparison study", got=repr(task), way_out=way_out)
    return replace(selection, overrides={**selection.overrides, "study": f"{task}-{SUFFIX}"}).study()


def arms_of(resolved: Resolved) -> tuple[Arm, ...]:
    """Return the arms of a study: its trials, grid by grid."""
    from bench.comparison import arms

    return arms.arms_of((grid.method, resolved.of_grid(grid)) for grid in resolved.study.grids)


def fresh_of(resolved: Resolved, trials: tuple[Trial, ...], suffix: str) -> Resolved:
    """Return the study of other runs of a study's cells, whose rows go to results/<study>-<suffix>."""
    seeds = tuple(dict.fromkeys(t.seed for t in trials))
    study = replace(resolved.study, name=f"{resolved.study.name}-{suffix}", seeds=seeds, budget=trials[0].budget)
    return replace(resolved, study=study, trials=trials)


def write(comparison: Comparison, directory: Path) -> Path:
    """Write comparison.json into the study's directory and return its path."""
    from bench.cache import write_atomic
    from bench.comparison.numbers import to_json
    from bench.comparison.verdict import sentences

    document = {**to_json(comparison), "verdict": list(sentences(comparison))}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"

    def put(stream: BinaryIO) -> None:
        stream.write(text.encode())

    write_atomic(directory / FILE_NAME, put)
    return directory / FILE_NAME


def report(comparison: Comparison) -> str:
    """Return the comparison as tables and the verdict as sentences."""
    from bench.commands import _compare
    from bench.comparison.verdict import sentences

    parts = [_compare.scores(comparison), _compare.tuning(comparison), _compare.reach(comparison)]
    return "\n\n".join([*parts, "\n".join(sentences(comparison))])


def _setup(resolved: Resolved, seeds: Sequence[int], directory: Path) -> Setup:
    from bench.comparison.numbers import Setup

    return Setup(
        study=resolved.study.name,
        task=resolved.task.name,
        model=resolved.located.name,
        metric=resolved.task.metric,
        higher_is_better=resolved.task.higher_is_better,
        tuning_seeds=resolved.study.seeds,
        fresh_seeds=tuple(seeds),
        seconds_per_step=isolated_seconds(directory),
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
