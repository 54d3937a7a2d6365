"""What Optuna sees of one sweep. Its failure never stops a grid: the rows are the truth, and put it right next time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.cells import Score, objective
from bench.core.errors import BadInput
from bench.core.record import Record, Status, to_row
from bench.core.spec import Pack, Study, Trial
from bench.sweep.events import Options
from bench.sweep.interrupt import Guard
from bench.sweep.optuna_mirror.bridge import Asked, Bridge, Entry, open_bridge, scrub
from bench.sweep.optuna_mirror.space import AXES, Space, settings_of, space_of

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

ROW_COLUMNS = ("seed", "pack_id", "curve", *AXES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A running Optuna trial and the study it is in."""

    name: str
    asked: Asked


class Mirror:
    """The Optuna studies of one sweep: `<study>/<task>/<model>/<method>`.

    Every call is undisturbed by signals. After a call that failed, `warn` is told and no further call is made.
    """

    def __init__(
        self, study: Study, *, directory: Path, options: Options, guard: Guard, warn: Callable[[str], None]
    ) -> None:
        self._study, self._options, self._guard, self._warn = study, options, guard, warn
        self._spaces: dict[str, Space] = {}
        self._running: dict[str, Told] = {}
        self._bridge: Bridge | None = None
        self._bridge, notes = open_bridge(directory, options.storage, higher_is_better=options.higher_is_better)
        self._opened = self._bridge
        for note in notes:
            warn(note)

    @property
    def alive(self) -> bool:
        """Whether Optuna's storage still answers."""
        return self._bridge is not None

    def name(self, trial: Trial) -> str:
        """Return the name of the Optuna study of a trial."""
        return f"{self._study.name}/{trial.task}/{trial.model}/{trial.method}"

    def by_study(self, trials: Sequence[Trial]) -> dict[str, list[Trial]]:
        """Return trials by the name of their Optuna study."""
        groups: dict[str, list[Trial]] = {}
        for trial in trials:
            groups.setdefault(self.name(trial), []).append(trial)
        return groups

    def recover_grid(
        self, trials: Sequence[Trial], rows: Mapping[str, Mapping[str, Any]],
        *, pruned: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Put the studies of a grid right from all finished rows (trial_id -> row), and those of pruned trials.

        They may hold other rows too.
        """
        also = {trial_id: self.value(Score.of_row(row)) for trial_id, row in rows.items()}
        rows = {**{row["trial_id"]: row for row in pruned}, **rows}
        self.widen(trials)
        for name, members in self.by_study(trials).items():
            mine = [rows[t.trial_id] for t in members if t.trial_id in rows]
            self.recover(name, lambda row, name=name: self._spaces[name], mine, also=also)  # type: ignore[misc]

    def widen(self, trials: Sequence[Trial]) -> None:
        """Let the spaces of a grid hold all of its trials, of which some are new."""
        for name, members in self.by_study(trials).items():
            grid = next((g for g in self._study.grids if g.method == members[0].method), None)
            self._spaces[name] = space_of([settings_of(t) for t in members], grid)

    def recover(
        self, name: str, space_of: Callable[[Mapping[str, Any]], Space], rows: Sequence[Mapping[str, Any]], *,
        also: Mapping[str, float], going_on: Sequence[Trial] = (),
    ) -> None:  # fmt: skip
        """Put one study right from these rows (see `Bridge.recover`); trials that go on are running in it.

        `space_of` returns the space that a row, or the settings of a trial, was chosen from.
        """
        entries = [self._entry(space_of(row), row) for row in rows]
        ids = [trial.trial_id for trial in going_on]
        note = self._call(lambda b: b.recover(name, entries, also=also, going_on=ids))
        if note is not None:
            self._warn(note)
        if going_on:
            known = self._call(lambda b: b.running(name)) or {}
            self._running |= {one: Told(name=name, asked=known[one]) for one in ids if one in known}
            self._enqueue(name, space_of, [trial for trial in going_on if trial.trial_id not in known])

    def queue(self, pack: Pack) -> None:
        """Enqueue the trials of a pack and ask for them, but for those that run already."""
        new = [trial for trial in pack.trials if trial.trial_id not in self._running]
        for name, trials in self.by_study(new).items():
            self._enqueue(name, lambda settings, name=name: self._spaces[name], trials)  # type: ignore[misc]

    def _enqueue(self, name: str, space_of: Callable[[Mapping[str, Any]], Space], trials: Sequence[Trial]) -> None:
        settings = [settings_of(trial) for trial in trials]
        entries = [_entry(space_of(s), s, t.trial_id, {"seed": t.seed}) for s, t in zip(settings, trials, strict=True)]
        asked: list[Asked] = self._call(lambda b: b.enqueue_and_ask(name, entries)) or []
        self._running |= {e.trial_id: Told(name=name, asked=a) for e, a in zip(entries, asked, strict=False)}

    def suggest(
        self, name: str, space: Space, points: Sequence[Mapping[str, float]], *, sampler: Callable[[], BaseSampler]
    ) -> list[Asked]:
        """Return points of the sampler's choice, but for what is fixed of them; none if the storage does not answer."""
        asked: list[Asked] | None = self._call(lambda b: b.suggest(name, space, points, sampler=sampler))
        return asked or []

    def take(self, name: str, asked: Asked, trial_id: str) -> bool:
        """Make a suggested point the trial of this id; False, and the point failed, if that one is running already."""
        if trial_id in self._running:
            self.drop(name, asked)
            return False
        self._call(lambda b: b.name_it(name, asked, trial_id))
        self._running[trial_id] = Told(name=name, asked=asked)
        return True

    def drop(self, name: str, asked: Asked) -> None:
        """Fail a suggested point whose trial there is already."""
        self._call(lambda b: b.tell(name, asked, None, {"status": "known"}))

    def tell(self, record: Record) -> None:
        """Tell a stored record: its value, or that it failed; one that was never queued is added if it is finished."""
        row, finished = to_row(record), record.outcome.status.finished
        if record.outcome.status is Status.PAUSED:
            self._report(row)
            return
        told = self._running.pop(record.trial.trial_id, None)
        value = self.value(Score.of_row(row)) if finished else None
        if told is not None:
            self._call(lambda b: b.tell(told.name, told.asked, value, _attributes(row), _curve(row)))
        elif finished:
            name = self.name(record.trial)
            self._call(lambda b: b.add(name, self._entry(self._spaces[name], row)))

    def _report(self, row: Mapping[str, Any]) -> None:
        """Tell what is known of a trial that goes on, or waits to."""
        told = self._running.get(row["trial_id"])
        if told is not None:
            self._call(lambda b: b.report(told.name, told.asked, _curve(row)))

    def leave_out(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Tell that these trials were pruned."""
        for row in rows:
            told = self._running.pop(row["trial_id"], None)
            if told is not None:
                self._call(lambda b, t=told, r=row: b.prune(t.name, t.asked, _attributes(r), _curve(r)))  # type: ignore[misc]

    def abandon(self) -> None:
        """Fail what is still running: the sweep ends without it. With a pruner the next sweep goes on with it."""
        for told in self._running.values() if self._study.pruner is None else ():
            self._call(lambda b, t=told: b.tell(t.name, t.asked, None, {"status": "abandoned"}))  # type: ignore[misc]
        self._running = {}

    def summarise(self, trials: Mapping[str, Trial]) -> None:
        """Tell each study how many seeds its cells have and how much values spread over them; trials by id."""
        self._call(lambda b: b.summarise({trial_id: trial.cell for trial_id, trial in trials.items()}))

    def close(self) -> None:
        """Fail what is still running, and close the storage."""
        self.abandon()
        self._bridge = None
        self._opened.close()

    def value(self, score: Score) -> float:
        """Return what Optuna is told of a finished trial."""
        return objective(score, higher_is_better=self._options.higher_is_better)

    def _entry(self, space: Space, row: Mapping[str, Any]) -> Entry:
        return entry_of(space, row, higher_is_better=self._options.higher_is_better)

    def _call(self, call: Callable[[Bridge], Any]) -> Any:
        if self._bridge is None:
            return None
        try:
            with self._guard.shield():
                return call(self._bridge)
        except BadInput:
            raise
        except Exception as error:
            self._bridge, self._running = None, {}
            text = f"Optuna's storage failed ({scrub(error, self._options.storage)}); the rows are complete without it"
            self._warn(f"{text}, and the next sweep puts it right")
            return None


def entry_of(space: Space, row: Mapping[str, Any], *, higher_is_better: bool) -> Entry:
    """Return a finished or pruned row, whose space it was chosen from, as Optuna is to know it."""
    score = Score.of_row(row)
    value = None if row["status"] == Status.PRUNED else objective(score, higher_is_better=higher_is_better)
    return _entry(space, row, row["trial_id"], _attributes(row), value, _curve(row))


def _entry(
    space: Space, settings: Mapping[str, Any], trial_id: str, attributes: Mapping[str, Any],
    value: float | None = None, curve: Mapping[int, float] | None = None,
) -> Entry:  # fmt: skip
    params = space.params(settings)
    return Entry(trial_id=trial_id, space=space, params=params, value=value, attributes=attributes, curve=curve or {})


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Optuna is told of a row beside its parameters and value; the trial_id leads to the rest."""
    return {name: row[name] for name in ("trial_id", "seed", "status", "metric_value", "pack_id")}


def _curve(row: Mapping[str, Any]) -> dict[int, float]:
    """Return what Optuna is told of a trial's evaluations, by step."""
    points = row["curve"] or ()
    return {p["step"]: p["metric_value"] for p in points if p["metric_value"] is not None}
