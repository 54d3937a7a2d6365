"""From a study to its trials: the data read and hashed, the model located; without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from bench import methods, models, study, targets, tasks
from bench.best import COLUMNS, Best, best_cells
from bench.models import Located
from bench.spec import Study, Trial
from bench.tasks import Task
from bench.text import TextData


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A study with everything its trials stand on."""

    study: Study
    task: Task
    data: TextData
    located: Located
    trials: tuple[Trial, ...]

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all trials."""
        return frozenset(trial.trial_id for trial in self.trials)

    def by_method(self) -> dict[str, tuple[Trial, ...]]:
        """Return the trials of each method's grid; those that LoRA+ shares with LoRA are in both."""
        return {grid.method: self._expand(replace(self.study, grids=(grid,))) for grid in self.study.grids}

    def best(self, table: pa.Table) -> tuple[Best, ...]:
        """Return the best cells among the rows of a study's directory."""
        rows = table.select(COLUMNS).to_pylist()
        return best_cells(self.by_method(), rows, higher_is_better=self.task.higher_is_better)

    def _expand(self, chosen: Study) -> tuple[Trial, ...]:
        return _expand(chosen, self.task, self.data, self.located)


def resolve(chosen: Study) -> Resolved:
    """Return the trials of a study, with the data and the base model they are about.

    Raises:
        BadInput: where the data or the model is missing, malformed or out of reach, or lacks a module to adapt.
    """
    task = tasks.get(chosen.task)
    data = task.load(None if chosen.data_dir is None else Path(chosen.data_dir))
    located = models.locate(chosen.model)
    trials = _expand(chosen, task, data, located)
    models.check_targets(located, trials)
    return Resolved(study=chosen, task=task, data=data, located=located, trials=trials)


def _expand(chosen: Study, task: Task, data: TextData, located: Located) -> tuple[Trial, ...]:
    return study.expand(
        chosen,
        data_hash=data.data_hash,
        model_hash=located.model_hash,
        default_targets=targets.default_targets(located.model_type) if _needs_targets(chosen) else (),
        task_name=task.name,
        model_name=located.name,
    )


def _needs_targets(chosen: Study) -> bool:
    """Return whether a grid leaves target_modules to the architecture, which may have no default."""
    return any("target_modules" in methods.get(g.method).reads and not g.axis("target_modules") for g in chosen.grids)
