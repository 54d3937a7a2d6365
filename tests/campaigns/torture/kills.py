"""Sweeps killed with SIGKILL, at random moments and inside each phase; what holds after each kill is asserted."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench import store
from bench.sweep.optuna_mirror import bridge
from tests.campaigns.torture.phases import Aim, Marks, Told, told
from tests.campaigns.torture.subjects import Subject, comparable

HANG_SECONDS = 1800.0
MISSES = 40  # starts without a kill, one after another, that are borne


@dataclass(kw_only=True)
class Counts:
    """What a campaign did."""

    killed: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)  # the phase that the process died in
    by_engine: Counter[str] = field(default_factory=Counter)
    sweeps: int = 0  # processes started
    checked_rows: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def as_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Counts:
        """Return the counts that `as_json` wrote."""
        return cls(**{name: Counter(value) if isinstance(value, dict) else value for name, value in found.items()})


def start(subject: Subject, results_dir: Path, *, aim: Aim | None = None, after: float | None = None,
          count: bool = False, drawn: bool = False) -> Told:  # fmt: skip
    """Fork one sweep, kill it at `aim` or `after` so many seconds if either is given, and return what it told."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 99
        try:
            code = subject.run(results_dir, Marks(writer, aim, count=count), drawn=drawn)
        finally:
            os._exit(code)
    os.close(writer)
    text = _read(reader, child, HANG_SECONDS if after is None else after, kills=after is not None)
    _, status = os.waitpid(child, 0)
    return told(text, status)


def _read(reader: int, child: int, seconds: float, *, kills: bool) -> str:
    """Return everything that the child writes; kill it when its time is up."""
    chunks: list[bytes] = []
    end: float | None = time.monotonic() + seconds
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while True:
            wait = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([stream], [], [], wait)[0]:
                os.kill(child, signal.SIGKILL)
                assert kills, f"a sweep hung: nothing for {seconds:g} s"
                end = None
            elif chunk := stream.read(1 << 16):
                chunks.append(chunk)
            else:
                return b"".join(chunks).decode()


class Storm:
    """Kills of one subject, in one results directory after another."""

    def __init__(self, subject: Subject, directory: Path, *, seed: str, drawn: bool) -> None:
        """Run the sweep once undisturbed: its rows are the reference, its calls the range of the aims."""
        self.subject, self.root, self.drawn = subject, directory, drawn
        self.chance = random.Random(f"{seed} {subject.name}")
        self.counts = Counts()
        whole = start(subject, directory / "whole", count=True, drawn=drawn)
        assert whole.exit_code == 0, whole
        self.calls = {"plot": 20_000, **whole.calls}
        self.expected = subject.comparable(subject.directory(directory / "whole"))
        self.pruned = subject.comparable(subject.directory(directory / "whole"), store.load_pruned)
        if subject.whole:
            assert set(self.expected) == {trial.trial_id for trial in subject.trials}
        self._fresh()

    def _fresh(self) -> None:
        self.results = self.root / f"results-{self.counts.sweeps}"
        self.known: frozenset[str] = frozenset()

    def inside(self, phase: str, n_kills: int) -> None:
        """Kill sweeps inside this phase until n_kills died there."""
        n = self.counts.by_phase[phase]
        misses = 0
        while self.counts.by_phase[phase] < n + n_kills:
            # Within what a few packs take: most of the sweep is left for the kills to come.
            reach = self.calls[phase] if phase in ("plan", "plot") else max(2, self.calls[phase] // 4)
            misses = 0 if self._kill(aim=Aim(phase=phase, n=self.chance.randint(1, reach))) else misses + 1
            assert misses < MISSES, f"{misses} sweeps in a row did not reach the aim in phase {phase}"

    def anywhere(self, n_kills: int) -> None:
        """Kill sweeps at random moments."""
        n = self.counts.killed
        while self.counts.killed < n + n_kills:
            self._kill(after=self.chance.uniform(0.0, 1.2 * self.subject.seconds))

    def _kill(self, *, aim: Aim | None = None, after: float | None = None) -> bool:
        drawn = aim is not None and aim.phase == "plot"
        ended = start(self.subject, self.results, aim=aim, after=after, drawn=drawn)
        self.counts.sweeps += 1
        self.check(ended)
        if ended.exit_code is None:
            self.counts.killed += 1
            self.counts.by_phase[ended.phase] += 1
            self.counts.by_engine[self.subject.name] += 1
        elif not drawn:  # it came to its end: the next kills need a sweep with work to do
            self.finish()
        return ended.exit_code is None

    def finish(self) -> None:
        """Let a sweep end, check that everything is as if never killed, and go on in a new directory."""
        ended = start(self.subject, self.results, drawn=False)
        self.counts.sweeps += 1
        self.check(ended)
        directory = self.subject.directory(self.results)
        assert ended.exit_code == 0, ended
        assert self.subject.comparable(directory) == self.expected, (
            "rows differ from those of a sweep that was never killed"
        )
        pruned = self.subject.comparable(directory, store.load_pruned)
        assert pruned == self.pruned, "a sweep that was never killed left out other trials"
        leftovers = [p.name for p in (directory / store.TRIALS).iterdir() if p.name.startswith(".")]
        assert not leftovers, leftovers
        check_optuna(directory, set(self.expected))
        check_figures(directory / "figures")
        self._fresh()

    def check(self, ended: Told) -> None:
        """Nothing finished is lost or doubled, every row can be read and is the one expected."""
        directory = self.subject.directory(self.results)
        assert not ended.ran_again, "a finished trial was trained again"
        assert ended.exit_code in (None, 0), ended
        rows = read_everything(directory, self.expected, self.subject.comparable)
        pruned = self.subject.comparable(directory, store.load_pruned)
        assert pruned.items() <= self.pruned.items(), "a trial was left out that is not where nothing was killed"
        present = frozenset(rows)
        lost = (self.known | ended.stored) - present
        assert not lost, f"{len(lost)} finished trials lost: {sorted(lost)}"
        assert store.finished_ids(directory) == present
        self.known = present
        self.counts.checked_rows += len(rows)


def read_everything(
    directory: Path, expected: Mapping[str, Mapping[str, Any]],
    compared: Callable[[Path], dict[str, dict[str, Any]]] = comparable,
) -> set[str]:  # fmt: skip
    """Read every part by itself, as any program would; return the ids, each of which must be there once."""
    counts: Counter[str] = Counter()
    for path in sorted((directory / store.TRIALS).glob("[!.]*.parquet")):
        counts.update(pq.read_table(path, columns=["trial_id"]).column("trial_id").to_pylist())
    doubled = [trial_id for trial_id, n in counts.items() if n > 1]
    assert not doubled, f"trials in two parts: {doubled}"
    found = store.scan(directory)
    assert not found.findings, found.findings
    for trial_id, row in compared(directory).items():
        assert row == expected[trial_id], f"trial {trial_id} differs from the one never killed"
    return set(counts)


def check_optuna(directory: Path, ids: set[str]) -> None:
    """Every finished trial must be in the journal once as complete, none left running."""
    import optuna
    from optuna.trial import TrialState

    storage, notes = bridge.open_storage(directory, None)
    assert not notes, notes
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage=storage)]
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    trials = [trial for study in studies for trial in study.get_trials(deepcopy=False)]
    complete = sorted(t.user_attrs["trial_id"] for t in trials if t.state is TrialState.COMPLETE)
    assert complete == sorted(ids), "Optuna's complete trials are not the finished ones, each once"
    assert not [t for t in trials if not t.state.is_finished()]


def check_figures(directory: Path) -> None:
    """Every figure that is there must be a whole file."""
    for path in directory.glob("[!.]*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), f"{path} is torn"
    for path in directory.glob("[!.]*.pdf"):
        assert path.read_bytes().rstrip().endswith(b"%%EOF"), f"{path} is torn"


def storm(
    subject: Subject, directory: Path, *, seed: str, inside: Mapping[str, int], anywhere: int, drawn: bool
) -> Counts:
    """Kill so many sweeps inside each phase named, and `anywhere` at random moments; return the counts."""
    one = Storm(subject, directory, seed=seed, drawn=drawn)
    for phase, n in inside.items():
        one.inside(phase, n)
    one.anywhere(anywhere)
    one.finish()
    return one.counts
