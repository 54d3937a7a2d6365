"""From a study to its trials: the data read and hashed, the model located; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench import methods, models, study, targets, tasks
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


def resolve(chosen: Study) -> Resolved:
    """Return the trials of a study, with the data and the base model they are about.

    Raises:
        BadInput: where the data or the model is missing, malformed or out of reach.
    """
    task = tasks.get(chosen.task)
    data = task.load(None if chosen.data_dir is None else Path(chosen.data_dir))
    located = models.locate(chosen.model)
    trials = study.expand(
        chosen,
        data_hash=data.data_hash,
        model_hash=located.model_hash,
        default_targets=targets.default_targets(located.model_type) if _needs_targets(chosen) else (),
        task_name=task.name,
        model_name=located.name,
    )
    return Resolved(study=chosen, task=task, data=data, located=located, trials=trials)


def _needs_targets(chosen: Study) -> bool:
    """Return whether a grid leaves target_modules to the architecture, which may have no default."""
    return any("target_modules" in methods.get(g.method).reads and not g.axis("target_modules") for g in chosen.grids)
