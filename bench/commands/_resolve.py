"""From a study to its trials: the data read and hashed, the model located; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bench import preflight, runtime
from bench.models import Located
from bench.spec import Study, Trial
from bench.summary import SCORE_COLUMNS, BestCell, Score, best_cells, borders
from bench.sweep import Options
from bench.tasks import Task
from bench.text import TextData
from bench.toy import ToyData


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A study with everything its trials stand on."""

    study: Study
    task: Task
    data: TextData | ToyData
    located: Located
    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, subject: preflight.Subject) -> Resolved:
        """Return a subject whose parts are all read."""
        return cls(study=subject.study, task=subject.task, data=subject.data, located=subject.located,
                   trials=subject.trials)  # fmt: skip

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all trials."""
        return frozenset(trial.trial_id for trial in self.trials)

    @property
    def is_search(self) -> bool:
        """Whether trials are chosen as results come in: then `trials` only spans the space, and every row counts."""
        return self.study.sampler == "tpe"

    def sweep_options(self, **more: Any) -> Options:
        """Return how the study is swept on its device."""
        budget = self.study.budget
        workload = runtime.workload_of(self.data, self.located, budget.n_select)
        return Options(
            higher_is_better=self.task.higher_is_better,
            limits=runtime.limits_of(self.study.device, self.located, workload.train_tokens),
            workload=workload,
            place=runtime.place_of(self.study.device),
            **more,
        )

    def best(self, table: pa.Table) -> tuple[tuple[BestCell, ...], tuple[str, ...]]:
        """Return the best cells among the rows of the study's directory, and the grid borders that they lie on."""
        scores = {row["trial_id"]: Score.of_row(row) for row in table.select(list(SCORE_COLUMNS)).to_pylist()}
        best = best_cells(self.trials, scores, higher_is_better=self.task.higher_is_better)
        return best, borders(self.trials, best, self.study.grids)


def resolve(chosen: Study) -> Resolved:
    """Return the trials of a study, with the data and the base model they are about.

    Raises:
        BadInput: where the data or the model is missing, malformed or out of reach, or lacks a module to adapt.
    """
    subject = preflight.Subject(chosen)
    preflight.require(subject, only=preflight.RESOLVED)
    return Resolved.of(subject)


def resolve_to_train(chosen: Study) -> Resolved:
    """Return what `resolve` does, after every check that a sweep must pass.

    Raises:
        BadInput: whatever a sweep refuses, by the first check that finds it.
    """
    subject = preflight.Subject(chosen)
    preflight.require(subject)
    return Resolved.of(subject)
