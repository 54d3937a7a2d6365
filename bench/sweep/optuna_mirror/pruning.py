"""What Optuna's pruners say of trials that train in packs. Nothing is kept: what they noted follows from the values.

The values are training losses: neither the evaluation split nor the held-out part has a part in who is stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from bench.sweep.optuna_mirror.bridge import quiet


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How a trial trained so far: its training loss by step, and whether it has gone on to its end."""

    trial_id: str
    losses: tuple[tuple[int, float], ...]
    complete: bool = False


class Judge:
    """Asks a pruner about the trials of one search, all of a turn at once: those that came to a step together.

    A pruner that keeps notes of a trial (successive halving's rungs) is asked about it at each of its steps anew,
    as if it had been alone: so notes do not depend on the order in which trials were asked about. Hyperband draws a
    trial's halving by its number, which is taken from its id here: a resumed search draws the same ones.
    """

    def __init__(self, pruner: BasePruner, name: str) -> None:
        self._pruner, self._name = pruner, name
        self._notes: dict[Course, dict[str, Any]] = {}

    def stopped(self, asked: Sequence[Course], others: Sequence[Course]) -> set[str]:
        """Return the ids of the trials asked about that stop at their last step."""
        with quiet():
            trials = (*asked, *others)
            study = self._study(trials, [self._noted(one) for one in trials])
            return {one.trial_id for i, one in enumerate(asked) if self._stops(study, i, one)}

    def _stops(self, study: optuna.Study, i: int, one: Course) -> bool:
        mine = study.get_trials(deepcopy=False)[i]
        mine.system_attrs = dict(self._noted(_but_last(one)))  # it is asked, not yet noted; the pruner notes it again
        return bool(self._pruner.prune(study, mine))

    def _noted(self, one: Course) -> Mapping[str, Any]:
        """Return what the pruner notes of a trial up to its last step."""
        parts = [Course(trial_id=one.trial_id, losses=one.losses[:n]) for n in range(1, len(one.losses) + 1)]
        known = next((i for i in range(len(parts), 0, -1) if parts[i - 1] in self._notes), 0)
        for i in range(known, len(parts)):
            study = self._study([parts[i]], [self._notes[parts[i - 1]] if i else {}])
            self._pruner.prune(study, study.get_trials(deepcopy=False)[0])
            self._notes[parts[i]] = study.get_trials(deepcopy=False)[0].system_attrs
        return self._notes[parts[-1]] if parts else {}

    def _study(self, trials: Sequence[Course], notes: Sequence[Mapping[str, Any]]) -> optuna.Study:
        """Return a study of these trials, all running but for the complete ones among several."""
        study = optuna.create_study(study_name=self._name, direction="minimize", pruner=self._pruner)
        study.add_trials([_frozen(one, own, alone=len(trials) == 1) for one, own in zip(trials, notes, strict=True)])
        for one, frozen in zip(trials, study.get_trials(deepcopy=False), strict=True):
            frozen.number = int(one.trial_id, 16)
        return study


def _but_last(one: Course) -> Course:
    return Course(trial_id=one.trial_id, losses=one.losses[:-1])


def _frozen(one: Course, notes: Mapping[str, Any], *, alone: bool) -> FrozenTrial:
    complete = one.complete and not alone  # a finished trial can be noted no more
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if complete else TrialState.RUNNING,
        value=one.losses[-1][1] if complete else None,
        intermediate_values=dict(one.losses),
        system_attrs=dict(notes),
    )
