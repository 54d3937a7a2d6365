"""From a study to its trials: the data read and hashed, the model located, or what rows say of both; without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from bench import models, searches, study, tasks
from bench.checks import preflight
from bench.core import cells
from bench.core.cells import SCORE_COLUMNS, BestCell, Score, best_cells
from bench.core.errors import BadInput
from bench.core.spec import Meaning, MethodGrid, Study, Trial
from bench.data import causal, text
from bench.data.splits import Split, TextData
from bench.data.toy import ToyData
from bench.models import Located
from bench.schedule import price, workloads
from bench.study import widen
from bench.study.borders import borders
from bench.sweep import Options
from bench.tasks import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Readable:
    """A study with its trials: all that reading rows takes, neither data nor model.

    Its budget's n_select is how many examples are really held out.
    """

    study: Study
    n_select_asked: int  # by the study, before it was known how many can be held out
    task: Task
    model_name: str  # as rows have it
    trials: tuple[Trial, ...]

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all trials."""
        return frozenset(trial.trial_id for trial in self.trials)

    @property
    def is_search(self) -> bool:
        """Whether trials are chosen as results come in: then `trials` only spans the space, and every row counts."""
        return not searches.get(self.study.sampler).planned

    def reading(self, table: pa.Table) -> tuple[Self, pa.Table, tuple[str, ...]]:
        """Return how rows of a directory are read: the study by their ids, the rows that count, and lines to print.

        Rows with another meaning than the study has now are left out. Where all that are left are of version 1, the
        study's trials have the ids of that version, so that older results are still read, drawn and compared.
        """
        own, told = cells.own_rows(table, self.trials[:1])
        if own.num_rows:
            return self._widened(own), own, told
        older = replace(self, trials=tuple(trial.as_version_1(self.n_select_asked) for trial in self.trials))
        own_1, told_1 = cells.own_rows(table, older.trials[:1])
        if not own_1.num_rows:
            return self, own, told
        line = f"{own_1.num_rows:,} rows are of version 1: here they count as they are; a sweep runs their trials anew"
        return older, own_1, (line, *told_1)

    def _widened(self, table: pa.Table) -> Self:
        """Return the study with the trials that were added beyond the border of its grid and have rows."""
        if self.is_search or not searches.widens(self.study):
            return self
        higher = self.task.higher_is_better
        added = widen.read(self.study, self.trials, scores_of(table), higher_is_better=higher)
        return replace(self, trials=(*self.trials, *added)) if added else self

    def of_grid(self, grid: MethodGrid) -> tuple[Trial, ...]:
        """Return the study's trials of one grid alone: LoRA+'s cells of ratio 1, say, beside those of LoRA's grid."""
        first = self.trials[0]
        targets_known = next((t.target_modules for t in self.trials if t.target_modules is not None), ())
        trials = study.expand(
            replace(self.study, grids=(grid,)),
            data_hash=first.data_hash,
            model_hash=first.model_hash,
            default_targets=targets_known,
            meaning=first.meaning,
            task_name=first.task,
            model_name=first.model,
        )
        return trials if first.spec_version != 1 else tuple(t.as_version_1(self.n_select_asked) for t in trials)

    def best(self, table: pa.Table) -> tuple[tuple[BestCell, ...], tuple[str, ...]]:
        """Return the best cells among the rows of the study's directory, and the grid borders that they lie on."""
        best = best_cells(self.trials, scores_of(table), higher_is_better=self.task.higher_is_better)
        return best, borders(self.trials, best, self.study.grids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved(Readable):
    """A study with everything its trials stand on: it can be trained."""

    data: TextData | ToyData
    located: Located
    layers: str = ""  # what is adapted and which part of the head is new, in words; after every check only
    test: Split | None = None  # the test split, kept apart: only `with_test` hands it to what trains and scores

    @classmethod
    def of(cls, subject: preflight.Subject) -> Resolved:
        """Return a subject whose parts are all read; its trials hold how many examples are really held out."""
        asked = subject.study.budget
        budget = replace(asked, n_select=asked.n_select if subject.held_out is None else len(subject.held_out.select))
        meaning = _meaning(subject)
        data, test = subject.data, None
        if isinstance(data, TextData):
            data, test = replace(data, test=None), data.test
        return cls(
            study=replace(subject.study, budget=budget),
            n_select_asked=asked.n_select,
            task=subject.task,
            model_name=subject.located.name,
            data=data,
            located=subject.located,
            trials=tuple(
                replace(trial, budget=replace(trial.budget, n_select=budget.n_select), meaning=meaning)
                for trial in subject.trials
            ),
            test=test,
        )

    def with_test(self) -> Resolved:
        """Return the study whose runs are scored on the test split, too, if the task has one: for chosen cells only."""
        return replace(self, data=replace(self.data, test=self.test)) if isinstance(self.data, TextData) else self

    def sweep_options(self, **more: Any) -> Options:
        """Return how the study is swept on its device."""
        budget = self.study.budget
        workload = workloads.workload_of(self.data, self.located, budget.n_select)
        price.remember(self.study, workload)
        return Options(
            higher_is_better=self.task.higher_is_better,
            limits=workloads.limits_of(
                self.study.device, self.located, workload.train_tokens, workloads.train_lengths(self.data, self.located)
            ),
            workload=workload,
            place=workloads.place_of(self.study.device),
            fits=self.fits,
            **more,
        )

    def fits(self, trial: Trial) -> bool:
        """Return whether the model's layers can hold a trial that no check has seen."""
        try:
            models.check_targets(self.located, [trial], causal=self.task.causal is not None)
        except BadInput:
            return False
        return True


def scores_of(table: pa.Table) -> dict[str, Score]:
    return {row["trial_id"]: Score.of_row(row) for row in table.select(list(SCORE_COLUMNS)).to_pylist()}


def of_rows(chosen: Study, table: pa.Table) -> Readable:
    """Return the trials of a study on the data and the base model that rows are about; neither is read.

    Whether a row is one of the trials is told by its id, which is the hash of both with every setting.

    Raises:
        BadInput: where no row is of the study's task and model, or those that are do not all mean the same.
    """
    task, model = tasks.get(chosen.task), models.row_name(chosen.model)
    here = sorted({(row["task"], row["model"]) for row in table.select(["task", "model"]).to_pylist()})
    own = table.filter((pc.field("task") == task.name) & (pc.field("model") == model))
    if not own.num_rows:
        got = ", ".join(f"{t} on {m}" for t, m in here) or "no rows"
        way_out = "give rows of the study, or the study of these rows: --study"
        raise BadInput("--rows", f"must hold rows of {task.name} on {model}, as {chosen.name} asks", got=got,
                       way_out=way_out)  # fmt: skip
    mixed = cells.mixtures(own)
    if mixed:
        rule, way_out = "must be rows that mean the same", "give those of one kind only"
        raise BadInput("--rows", rule, got="; ".join(mixed), way_out=way_out)
    columns = ["trial_id", "target_modules", *cells.MEANING_COLUMNS]
    rows = own.select(list(dict.fromkeys(columns))).to_pylist()
    first, ids = rows[0], {row["trial_id"] for row in rows}
    budget, meaning = chosen.budget, Meaning(metric_name=task.metric)
    if (first["spec_version"] or 1) != 1:
        budget = replace(budget, n_select=min(budget.n_select, first["n_select"]))
        known = {f.name: first[f.name] for f in fields(Meaning)}
        meaning = Meaning(**{**known, "metric_name": task.metric})
    # A grid may leave target_modules to the architecture: then the rows say what those were, and the ids which rows.
    targets = dict.fromkeys(row["target_modules"] for row in rows if row["target_modules"] is not None)
    found = [
        study.expand(replace(chosen, budget=budget), data_hash=first["data_hash"], model_hash=first["model_hash"],
                     default_targets=_targets(text), meaning=meaning, task_name=task.name, model_name=model)
        for text in targets or ("[]",)
    ]  # fmt: skip
    ways = [
        Readable(
            study=replace(chosen, budget=budget), n_select_asked=chosen.budget.n_select, task=task, model_name=model,
            trials=trials,
        )
        for trials in found
    ]  # fmt: skip
    return max(ways, key=lambda way: len(way.reading(own)[0].ids & ids))


def _targets(text: str) -> str | tuple[str, ...]:
    """Return target_modules as a trial has them, from a row's JSON."""
    value = json.loads(text)
    return value if isinstance(value, str) else tuple(value)


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
    found = preflight.require(subject)
    return replace(Resolved.of(subject), layers=found["shapes"])


def _meaning(subject: preflight.Subject) -> Meaning:
    """Return what feeds and scores the trials."""
    task, held_out = subject.task, subject.held_out
    if held_out is None:
        return Meaning(metric_name=task.metric)
    return Meaning(
        metric_name=task.metric,
        tokenizer_hash=subject.located.tokenizer_hash,
        encoding_version=text.ENCODING_VERSION,
        template=causal.template_of(subject.located, task.causal),
        select_by=held_out.by,
        n_left_out=held_out.n_left_out,
    )
