"""What is tortured: a sweep with the fake engine, and one with the real engine on a few demo sentences."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench import store, study, sweep
from bench.commands import _resolve, plot
from bench.core.spec import MethodGrid, Pack, Study, Trial
from bench.executors import runtime
from bench.schedule import planner
from bench.sweep.events import STATE, Event, PackStored
from bench.sweep.optuna_mirror.mirror import Mirror
from tests.campaigns.torture.phases import Marks
from tests.support import sweep_helpers as fakes

TIMES = {  # columns that differ between two runs of the same trial
    "setup_seconds", "compile_seconds", "train_seconds", "eval_seconds", "examples_per_second", "tokens_per_second",
    "started_at", "peak_memory_bytes", "git_commit", "git_dirty", "source_hash", "curve",
}  # fmt: skip


class Subject(ABC):
    """A sweep that can be run, killed and run again in one results directory."""

    name: str
    study_name: str
    seconds: float  # about as long as a sweep takes, drawing apart
    whole = True  # every trial is known before the first one trains, and trains to its end
    decided: tuple[str, ...] = ()  # columns that a kill leaves as they are; none: all that do not tell times

    @property
    @abstractmethod
    def trials(self) -> tuple[Trial, ...]:
        """All trials of the study."""

    @abstractmethod
    def sweep(self, results_dir: Path, marks: Marks) -> int:
        """Run the sweep and return its exit code."""

    @abstractmethod
    def draw(self, results_dir: Path) -> None:
        """Draw the figures of what is finished."""

    def directory(self, results_dir: Path) -> Path:
        """Return the study's directory."""
        return results_dir / self.study_name

    def comparable(self, directory: Path, read: Callable[[Path], pa.Table] = store.load) -> dict[str, dict[str, Any]]:
        """Return what of each row must be as in a sweep that was never killed, by trial_id."""
        rows = comparable(directory, read)
        return {one: {k: row[k] for k in self.decided or row} for one, row in rows.items()}

    def run(self, results_dir: Path, marks: Marks, *, drawn: bool) -> int:
        """Sweep with every phase marked, then draw; return the exit code."""
        finished = store.finished_ids(self.directory(results_dir))
        planner.plan = marks.wrapped("plan", planner.plan)  # type: ignore[assignment]
        store.write = marks.wrapped("store", store.write)
        store.write_pruned = marks.wrapped("store", store.write_pruned)
        Mirror.tell = marks.wrapped("tell", Mirror.tell)  # type: ignore[method-assign]
        self.before_pack = lambda pack: _notice(pack, finished, marks)
        code = self.sweep(results_dir, marks)
        if drawn and code == 0:
            with marks.phase("plot"):
                self.draw(results_dir)
        for phase, n in marks.calls.items():
            marks.say(f"calls {phase} {n}")
        return code

    before_pack: Callable[[Pack], None] = staticmethod(lambda pack: None)


def _notice(pack: Pack, finished: frozenset[str], marks: Marks) -> None:
    if finished & {trial.trial_id for trial in pack.trials}:
        marks.say("ran-again")


def _say_stored(marks: Marks) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if isinstance(event, PackStored):
            marks.say("stored " + " ".join(r.trial.trial_id for r in event.records if r.outcome.status.finished))

    return on_event


class Fake(Subject):
    """A study with an engine that looks scores up: thirty trials of a grid."""

    name, study_name, seconds = "fake", "s", 0.25

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The grid of the sweep tests."""
        return fakes.grid()

    @property
    def study(self) -> Study:
        """What is swept."""
        return fakes.study()

    def sweep(self, results_dir: Path, marks: Marks) -> int:
        """Run with the fake engine."""
        engine = fakes.FakeEngine(before=self.before_pack)
        engine_in_phase = marks.wrapped("train", engine)
        executor = fakes.executor(engine_in_phase)  # type: ignore[arg-type]
        done = sweep.run(
            self.study, self.trials, results_dir=results_dir, executor=executor, options=fakes.OPTIONS,
            on_event=_say_stored(marks), family=fakes.family,
        )  # fmt: skip
        return done.exit_code

    def draw(self, results_dir: Path) -> None:
        """Draw all figures."""
        directory = self.directory(results_dir)
        info: dict[str, Any] = {"name": "s", "seeds": (0, 1), "trials": self.trials, "higher_is_better": True}
        for _ in plot._save(store.load(directory), info, directory / "figures", form="full"):
            pass


class Stopping(Fake):
    """A study that stops trials early or chooses them, and grows: the best rate lies beyond its border."""

    whole, seconds = False, 0.5

    def __init__(self, name: str, settings: Mapping[str, object]) -> None:
        """`settings` are those of the study."""
        self.name, self._settings = name, settings

    @property
    def trials(self) -> tuple[Trial, ...]:
        """A grid of LoRA and LoRA+ of 8 cells, with evaluations that a pruner may stop a trial at."""
        found = fakes.grid([1e-5, 4e-5, 1.6e-4, 6.4e-4], [1.0, 4.0])
        return tuple(
            replace(one, budget=replace(one.budget, eval_steps=4)) for one in found if one.method in ("lora", "lora+")
        )

    @property
    def study(self) -> Study:
        """The study."""
        grids = (MethodGrid(method="lora+", axes=(("eta_A", (1e-5, 6.4e-4)), ("lr_ratio", (1.0, 4.0)))),)
        return fakes.study(grids=grids, budget=self.trials[0].budget, **self._settings)


SEARCH: Mapping[str, object] = {"sampler": "tpe", "n_trials": 12}
STOPPING: Mapping[str, Mapping[str, object]] = {
    "widening": {"sampler": "grid", "widen": True},
    "halving": {"sampler": "halving"},
    "tpe": SEARCH,
    "median": {**SEARCH, "pruner": "median"},
    "hyperband": {**SEARCH, "pruner": "hyperband"},
}


STUDY = """task = "{task}"
model = "tiny-roberta"
seeds = [0, 1]
pack_size = 2
sampler = "{sampler}"
[train]
batch_size = 4
max_steps = 3
eval_steps = 3
n_select = 4
[grid.lora]
rank = 2
eta_A = [1e-3, {worst}]
[grid.full]
eta_A = [1e-3]
"""
TASK = """labels = ["negative", "positive"]
[columns]
text = "sentence"
[files]
train = "train.tsv"
eval = "dev.tsv"
"""


class Real(Subject):
    """Six trials of the real engine: the demo's model on a few of its sentences, three steps."""

    name, study_name, seconds = "real", "few", 4.0

    def __init__(self, directory: Path, *, worst: str = "1e-2", sampler: str = "grid") -> None:
        """Write task, data and study into `directory`; `worst` is the larger learning rate, as TOML."""
        if sampler != "grid":
            self.name, self.whole = f"real-{sampler}", False
            self.decided = ("status", "reason", "steps_done")  # whose states a kill took trains in another pack
        directory.mkdir(parents=True, exist_ok=True)
        self.home = directory
        write_data(directory)
        (directory / "few-words.toml").write_text(TASK)
        text = STUDY.format(task=directory / "few-words.toml", worst=worst, sampler=sampler)
        (directory / "few.toml").write_text(text)
        self.resolve()

    def resolve(self) -> None:
        """Read study, data and model again."""
        chosen = study.load(self.home / "few.toml", overrides={"device": "cpu"}, profile="quick")
        self.resolved = _resolve.resolve(chosen)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials of the study."""
        return self.resolved.trials

    def sweep(self, results_dir: Path, marks: Marks) -> int:
        """Run with the real engine, as bench sweep does."""
        train = runtime._train

        def noticed(pack: Pack, *args: Any, **more: Any) -> Any:
            self.before_pack(pack)
            return train(pack, *args, **more)

        runtime._train = marks.wrapped("train", noticed)
        resolved, directory = self.resolved, self.directory(results_dir)
        executor = runtime.local_executor(
            task=resolved.task, data=resolved.data, located=resolved.located, device="cpu", log_dir=directory / "logs",
            state_dir=directory / STATE,
        )  # fmt: skip
        done = sweep.run(
            resolved.study, resolved.trials, results_dir=results_dir, executor=executor,
            options=resolved.sweep_options(), on_event=_say_stored(marks),
        )  # fmt: skip
        return done.exit_code

    def draw(self, results_dir: Path) -> None:
        """Draw all figures."""
        directory = self.directory(results_dir)
        for _ in plot.draw(self.resolved, store.load(directory), directory / "figures"):
            pass


def write_data(directory: Path) -> None:
    """Write a few of the demo's sentences as train.tsv and dev.tsv."""
    from bench import tasks

    data = tasks.load(tasks.get("demo"), None)
    for name, split, n in (("train", data.train, 64), ("dev", data.eval, 24)):
        with open(directory / f"{name}.tsv", "w", newline="") as stream:
            lines = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
            lines.writerow(("sentence", "label"))
            lines.writerows(zip(split.texts[:n], split.labels[:n].tolist(), strict=True))


def comparable(directory: Path, read: Callable[[Path], pa.Table] = store.load) -> dict[str, dict[str, Any]]:
    """Return each row by its trial_id, without what differs between two runs; finished rows if not told else."""
    rows = read(directory).to_pylist()
    return {row["trial_id"]: {k: v for k, v in row.items() if k not in TIMES} for row in rows}
