"""The Optuna bridge: rows mirrored into Optuna studies, packs asked and told.

One Optuna study `<study>/<task>/<model>/<method>`, numeric parameters named as the columns of a row. The rows are the
truth: whatever the storage lost, tore or got wrong is put right from them (`recover`).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from bench.core.errors import BadInput, one_line
from bench.store.lock import directory_id
from bench.sweep.optuna_mirror import journal, summary
from bench.sweep.optuna_mirror.space import Space

_OWNER = "lorasweep_results"  # study attribute: id of the results directory that it mirrors
_PLACE = "lorasweep_place"  # attribute of a queued point: its place in a turn
_PASSWORD = re.compile(r"(://[^:/@\s]*:)\S*@")  # up to the last @: a password may hold one
_SECRET = re.compile(r"([?&;][^=&;\s]*(?:pass|pwd|secret|token|key)[^=&;\s]*=)([^&;\s]+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One trial as Optuna is to know it; `value` is None for one that is not finished, or was pruned.

    `curve` holds its evaluations while training, by step.
    """

    trial_id: str
    space: Space  # that it was chosen from
    params: Mapping[str, float | int]
    value: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A trial that Optuna knows as running."""

    number: int
    params: Mapping[str, float | int]


class Bridge:
    """The Optuna studies of one results directory, all in one storage.

    `owner` is the directory's id where the storage may be shared with others, None where it lies in the directory.
    """

    def __init__(self, storage: BaseStorage, owner: str | None, *, higher_is_better: bool) -> None:
        self._storage, self._owner = storage, owner
        self._direction = "maximize" if higher_is_better else "minimize"
        self._studies: dict[str, optuna.Study] = {}

    def recover(
        self, name: str, rows: Sequence[Entry], *, also: Mapping[str, float],
        going_on: Collection[str] = (),
    ) -> str | None:  # fmt: skip
        """Make the Optuna study `name` agree with the rows; return what had to be put right, or None.

        Waiting and running trials of a killed sweep fail, but for those whose ids are `going_on` (see `running`), and
        for those that rows finish: they keep their places, which a sampler goes by. A finished trial that neither
        `rows` nor `also` (trial_id -> value) holds, or holds with another value, or that is there twice, has the whole
        study written anew. Rows that are not there are added.
        """
        with quiet():
            study = self._study(name)
            known = self._finished(study, {**also, **{r.trial_id: r.value for r in rows}})
            note = None
            if known is None:
                optuna.delete_study(study_name=name, storage=self._storage)
                del self._studies[name]
                study, known, note = self._study(name), set(), f"Optuna study {name} written anew from the rows"
            running = self._running(study)
            left = {*going_on, *(row.trial_id for row in rows)} - known
            self._fail_the_rest(study, {asked.number for trial_id, asked in running.items() if trial_id in left})
            for row in rows:
                if row.trial_id in known:
                    continue
                if row.trial_id in running:
                    state = TrialState.PRUNED if row.value is None else TrialState.COMPLETE
                    self._end(name, running[row.trial_id], row.value, state, row.attributes, row.curve)
                else:
                    self._add(study, row)
            return note

    def running(self, name: str) -> dict[str, Asked]:
        """Return the running trials of which Optuna knows the trial_id (see `name_it`)."""
        with quiet():
            return self._running(self._study(name))

    def _running(self, study: optuna.Study) -> dict[str, Asked]:
        trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        known = [one for one in trials if "trial_id" in one.user_attrs]
        return {one.user_attrs["trial_id"]: Asked(number=one.number, params=one.params) for one in known}

    def name_it(self, name: str, asked: Asked, trial_id: str) -> None:
        """Tell Optuna the trial_id of a running trial, so that a later sweep can go on with it."""
        with quiet():
            study = self._study(name)
            self._storage.set_trial_user_attr(self._internal(study, asked), "trial_id", trial_id)

    def enqueue_and_ask(self, name: str, entries: Sequence[Entry]) -> list[Asked]:
        """Queue these trials and ask for them at once, in order: nothing is left waiting."""
        with quiet():
            study = self._study(name)
            for entry in entries:
                study.enqueue_trial(dict(entry.params), {"trial_id": entry.trial_id, **entry.attributes})
            return [_ask(study, entry.space, ("trial_id", entry.trial_id)) for entry in entries]

    def suggest(
        self, name: str, space: Space, points: Sequence[Mapping[str, float]], *, sampler: Callable[[], BaseSampler]
    ) -> list[Asked]:
        """Ask a new sampler for points at once, of each of which some parameters may be fixed."""
        with quiet():
            study = self._study(name)
            study.sampler = sampler()
            asked = []
            for i, point in enumerate(points):
                if point:
                    study.enqueue_trial(dict(point), {_PLACE: i})
                asked.append(_ask(study, space, (_PLACE, i) if point else None))
            return asked

    def tell(
        self, name: str, asked: Asked, value: float | None, attributes: Mapping[str, Any],
        curve: Mapping[int, float] | None = None,
    ) -> None:  # fmt: skip
        """Give a running trial its attributes and finish it with a value, or as failed where that is None."""
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self._end(name, asked, value, state, attributes, curve or {})

    def prune(self, name: str, asked: Asked, attributes: Mapping[str, Any], curve: Mapping[int, float]) -> None:
        """Finish a running trial as pruned; it has no value, only its curve."""
        self._end(name, asked, None, TrialState.PRUNED, attributes, curve)

    def report(self, name: str, asked: Asked, curve: Mapping[int, float]) -> None:
        """Give a running trial its evaluations so far, each once."""
        with quiet():
            study = self._study(name)
            internal = self._internal(study, asked)
            known = self._storage.get_trial(internal).intermediate_values
            for step, value in curve.items():
                if step not in known:
                    self._storage.set_trial_intermediate_value(internal, step, value)

    def _end(
        self, name: str, asked: Asked, value: float | None, state: TrialState, attributes: Mapping[str, Any],
        curve: Mapping[int, float],
    ) -> None:  # fmt: skip
        self.report(name, asked, curve)
        with quiet():
            study = self._study(name)
            for key, attribute in attributes.items():
                self._storage.set_trial_user_attr(self._internal(study, asked), key, attribute)
            study.tell(asked.number, value, state=state)

    def _internal(self, study: optuna.Study, asked: Asked) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(study._study_id, asked.number))

    def add(self, name: str, row: Entry) -> None:
        """Add a finished trial that was never queued."""
        with quiet():
            self._add(self._study(name), row)

    def summarise(self, cells: Mapping[str, Hashable]) -> None:
        """Give the studies that were opened what is known of their seeds; `cells` maps a trial_id to its cell."""
        with quiet():
            for study in self._studies.values():
                trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                known = study.user_attrs
                for key, value in summary.attributes(trials, cells).items():
                    if key not in known or known[key] != value:
                        study.set_user_attr(key, value)

    def close(self) -> None:
        """Close the storage (see `close_storage`)."""
        close_storage(self._storage)

    def _study(self, name: str) -> optuna.Study:
        if name not in self._studies:
            study = optuna.create_study(
                study_name=name,
                storage=self._storage,
                direction=self._direction,
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: grid trials come from the queue
            )
            if self._owner is not None:
                self._claim(study)
            self._studies[name] = study
        return self._studies[name]

    def _claim(self, study: optuna.Study) -> None:
        """Mark a new study as this directory's; refuse one that is not: it would be emptied as wrong."""
        owner = study.user_attrs.get(_OWNER)
        if owner is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(_OWNER, self._owner)
        elif owner != self._owner:
            rule = "an Optuna study must belong to one results directory"
            way_out = "give another storage or study name, or delete that study with `optuna delete-study`"
            raise BadInput(f"storage, study {study.study_name}", rule, got="one that another made", way_out=way_out)

    def _finished(self, study: optuna.Study, expected: Mapping[str, float | None]) -> set[str] | None:
        """Return the ids of the finished trials, or None where they contradict `expected`."""
        known: set[str] = set()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            trial_id = trial.user_attrs.get("trial_id")
            value = trial.value if trial.state is TrialState.COMPLETE else None
            if trial_id in known or trial_id not in expected or expected[trial_id] != value:
                return None
            known.add(trial_id)
        return known

    def _fail_the_rest(self, study: optuna.Study, but: Collection[int]) -> None:
        """Fail what waits or runs, but for the trials with these numbers."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING)):
            if trial.number not in but:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _add(self, study: optuna.Study, row: Entry) -> None:
        params = dict(row.params)
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={name: d for name, d in _distributions(row.space).items() if name in params},
                state=TrialState.PRUNED if row.value is None else TrialState.COMPLETE,
                value=row.value,
                user_attrs={**row.attributes, "trial_id": row.trial_id},
                intermediate_values=dict(row.curve),
            )
        )


def open_storage(directory: Path, url: str | None) -> tuple[BaseStorage, tuple[str, ...]]:
    """Return the Optuna storage of a study directory, and what had to be mended: the journal in it, or that at `url`.

    Raises:
        BadInput: if the storage at `url` cannot be opened; its password is never shown.
    """
    if url is None:
        return _open_journal(directory / journal.JOURNAL_NAME)
    try:
        with quiet():
            return optuna.storages.get_storage(url), ()
    except Exception as error:
        rule, way_out = "must be an Optuna storage that answers", "check the URL, its driver and the server"
        raise BadInput(f"storage {redact(url)}", rule, got=scrub(error, url), way_out=way_out) from None


def close_storage(storage: BaseStorage) -> None:
    """Close the connections of a storage that has some; a server has only so many to give."""
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()


def open_bridge(directory: Path, url: str | None, *, higher_is_better: bool) -> tuple[Bridge, tuple[str, ...]]:
    """Return the bridge of a study directory and what had to be mended (see `open_storage`)."""
    storage, notes = open_storage(directory, url)
    owner = None if url is None else directory_id(directory)
    return Bridge(storage, owner, higher_is_better=higher_is_better), notes


def redact(url: str) -> str:
    """Return a text without the passwords of the URLs in it, also those given as a parameter (?password=...)."""
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1***@", url))


def scrub(error: Exception, url: str | None) -> str:
    """Return an exception on one line, without the passwords of `url`, as written there or decoded."""
    text = redact(one_line(f"{type(error).__name__}: {error}"))
    for secret in _secrets(url or ""):
        text = text.replace(secret, "***")
    return text[:300]


def _secrets(url: str) -> list[str]:
    """Return what must not be shown of a URL, longest first: a driver may name it apart from the rest, and decoded."""
    found = [match[2] for match in _SECRET.finditer(url)]
    for pattern in (r"://[^:/@\s]*:(\S*)@", r"://[^:/@\s]*:([^@\s]*)@"):
        found += [match[1] for match in re.finditer(pattern, url)]
    return sorted({form for text in found for form in (text, unquote(text), unquote_plus(text)) if form}, key=len)[::-1]


class _Journal(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal without a wait for the disk after each record.

    The rows are synced, and they are the truth: what a power cut takes from the journal is put back from them. A trial
    costs about ten records.
    """

    def __init__(self, path: Path) -> None:
        self._own_path, self._own_lock = path, JournalFileOpenLock(str(path))
        super().__init__(str(path), lock_obj=self._own_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._own_lock.acquire()
        try:
            with open(self._own_path, "ab", buffering=0) as stream:
                stream.write(text.encode())
        finally:
            self._own_lock.release()


def _open_journal(path: Path) -> tuple[BaseStorage, tuple[str, ...]]:
    note = journal.mend(path)
    notes = () if note is None else (note,)
    try:
        with quiet():
            return JournalStorage(_Journal(path)), notes
    except OSError:
        raise
    except Exception:
        # Every line is JSON, but not what Optuna can replay: whole lines are missing, or it is of another version.
        notes = (*notes, journal.set_aside(path))
        with quiet():
            return JournalStorage(_Journal(path)), notes


def _ask(study: optuna.Study, space: Space, mark: tuple[str, str | int] | None) -> Asked:
    """Ask for the trial that was just queued with this mark; what others have put into the queue fails."""
    while True:
        trial = study.ask(_distributions(space))
        if mark is None or trial.user_attrs.get(mark[0]) == mark[1]:
            return Asked(number=trial.number, params=trial.params)
        study.tell(trial, state=TrialState.FAIL)


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {
        a.name: IntDistribution(int(a.low), int(a.high), log=a.log)
        if a.integer
        else FloatDistribution(a.low, a.high, log=a.log)
        for a in space.axes
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log of each trial and its notes on experimental arguments, and nothing else, while inside."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
