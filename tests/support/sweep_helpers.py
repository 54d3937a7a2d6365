"""A small grid, and an engine that trains nothing: its scores are a function of the trial, so runs can be compared."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import optuna
import pyarrow as pa
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from bench import store, sweep
from bench.core.record import CurvePoint, Outcome, Provenance, Record, Status
from bench.core.rules import round_rate
from bench.core.spec import MethodGrid, Pack, Study, TrainBudget, Trial
from bench.executors.local import LocalExecutor
from bench.sweep import Event, Options, SweepSummary
from bench.sweep.optuna_mirror import journal

BUDGET = TrainBudget(max_steps=20, batch_size=4, eval_steps=10, n_select=16)
ETA_A = (1e-4, 1e-3, 1e-2)
LR_RATIO = (1.0, 4.0, 16.0)
DIVERGES_FROM = 0.1  # eta_B
PROVENANCE = Provenance(git_commit=None, git_dirty=None, source_hash="0" * 16, versions="{}", device="fake")
OPTIONS = Options(source_hash=PROVENANCE.source_hash)


def trial(**changes: object) -> Trial:
    """Return a LoRA+ trial with these settings changed."""
    settings: dict[str, object] = {
        "task": "demo", "model": "tiny", "data_hash": "d", "model_hash": "m", "method": "lora+", "seed": 0,
        "eta_A": 1e-3, "eta_B": 4e-3, "rank": 8, "lora_alpha": 8.0, "lora_dropout": 0.0, "init": "zero_B",
        "target_modules": ("query", "value"), "budget": BUDGET,
    }  # fmt: skip
    return Trial(**{**settings, **changes})  # type: ignore[arg-type]


def grid(
    etas: Sequence[float] = ETA_A, ratios: Sequence[float] = LR_RATIO, seeds: Sequence[int] = (0, 1)
) -> tuple[Trial, ...]:
    """Return LoRA+ over eta_A x ratio (ratio 1 as lora), MoRA type 6 and full fine-tuning over eta_A."""
    trials = []
    for seed in seeds:
        for eta in etas:
            for ratio in ratios:
                method = "lora" if ratio == 1 else "lora+"
                trials.append(trial(method=method, seed=seed, eta_A=eta, eta_B=round_rate(eta * ratio)))
            bare = {"seed": seed, "eta_A": eta, "eta_B": None, "lora_alpha": None, "init": None}
            trials.append(trial(method="mora", mora_type=6, mora_rounding="floor", **bare))
            nothing = {"rank": None, "lora_dropout": None, "target_modules": None}
            trials.append(trial(method="full", **bare, **nothing))
    return tuple(trials)


def family(one: Trial) -> Hashable:
    """Say what may share a pack, as the methods do."""
    return {"full": ("full", one.trial_id), "mora": ("mora", one.rank)}.get(one.method, "lora")


def study(**changes: object) -> Study:
    """Return the study that the grid belongs to."""
    grids = (
        MethodGrid(method="lora+", axes=(("eta_A", ETA_A), ("lr_ratio", LR_RATIO))),
        MethodGrid(method="mora", axes=(("eta_A", ETA_A),)),
        MethodGrid(method="full", axes=(("eta_A", ETA_A),)),
    )
    settings: dict[str, object] = {
        "name": "s", "task": "demo", "model": "tiny", "seeds": (0, 1), "grids": grids, "budget": BUDGET,
        "profile": "quick", "pack_size": 4,
    }  # fmt: skip
    return Study(**{**settings, **changes})  # type: ignore[arg-type]


def score(one: Trial) -> float:
    """Return a score in (0, 1] with one best cell: eta_A = 1e-3, ratio 4."""
    miss = abs(math.log10(one.eta_A) + 3) + abs(math.log10((one.eta_B or 4 * one.eta_A) / one.eta_A) - math.log10(4))
    return 1 / (1 + miss) - 0.001 * one.seed


def outcome(one: Trial, **changes: object) -> Outcome:
    """Return what a trial gives: diverged from a rate of B on."""
    diverged = one.eta_B is not None and one.eta_B >= DIVERGES_FROM
    settings: dict[str, object] = {
        "status": Status.DIVERGED if diverged else Status.OK,
        "metric_name": "accuracy", "metric_value": None if diverged else score(one) - 0.01,
        "metric_stderr": None if diverged else 0.01, "select_metric": None if diverged else score(one),
        "eval_correct": b"\x81\x00", "steps_done": 20, "train_seconds": 0.5, "timing_mode": "pack_share",
        "started_at": "2026-01-01T00:00:00+00:00",
        "curve": tuple(
            CurvePoint(step=step, train_seconds=0.025 * step, train_loss=1 - score(one), metric_value=None)
            for step in range(one.budget.eval_steps, 20, one.budget.eval_steps)
        ),
    }  # fmt: skip
    return Outcome(**{**settings, **changes})  # type: ignore[arg-type]


def at_rung(one: Trial, step: int) -> Outcome:
    """Return what is known of a trial that pauses: its loss is the lower the better its score will be."""
    whole = outcome(one)
    if whole.status is Status.DIVERGED:
        return whole
    return outcome(
        one, status=Status.PAUSED, metric_value=None, metric_stderr=None, select_metric=None, eval_correct=None,
        steps_done=step, train_loss=1 - score(one), curve=tuple(p for p in whole.curve if p.step <= step),
    )  # fmt: skip


def records(trials: Sequence[Trial], **changes: object) -> list[Record]:
    """Return the records of these trials as one pack."""
    pack = Pack(trials=tuple(trials))
    return [
        Record(
            study="s",
            trial=t,
            pack_id=pack.pack_id,
            pack_size=pack.size,
            outcome=outcome(t, **changes),
            provenance=PROVENANCE,
        )
        for t in trials
    ]


class FakeEngine:
    """Trains a pack by looking its outcomes up; `before` may do what real training does: wait, raise, interrupt."""

    def __init__(self, before: Callable[[Pack], None] = lambda pack: None) -> None:
        self.packs: list[Pack] = []
        self.before = before

    def __call__(self, pack: Pack, loaded: object) -> list[Outcome]:
        self.before(pack)
        self.packs.append(pack)
        return [at_rung(t, pack.until) if pack.until is not None else outcome(t) for t in pack.trials]

    @property
    def trained(self) -> list[str]:
        """The ids of all trials trained to their end, in order."""
        return [t.trial_id for pack in self.packs if pack.until is None for t in pack.trials]

    @property
    def legs(self) -> list[tuple[str, int]]:
        """The trials that were trained to a rung, and the step that it is at, in order."""
        return [(t.trial_id, pack.until) for pack in self.packs if pack.until is not None for t in pack.trials]


def executor(
    engine: FakeEngine, provenance: Provenance = PROVENANCE, log_dir: Path | None = None
) -> LocalExecutor[None]:
    """Return a local executor of a fake engine."""
    return LocalExecutor(
        load=lambda t: None, train=engine, provenance=provenance, metric_name="accuracy", log_dir=log_dir
    )


def run(
    directory: Path, trials: Sequence[Trial], engine: FakeEngine | None = None, *, of: Study | None = None,
    options: Options = OPTIONS, on_event: Callable[[Event], None] = lambda event: None,
    provenance: Provenance = PROVENANCE,
) -> SweepSummary:  # fmt: skip
    """Sweep with a fake engine."""
    return sweep.run(
        of or study(), trials, results_dir=directory, executor=executor(engine or FakeEngine(), provenance),
        options=options, on_event=on_event, family=family,
    )  # fmt: skip


def comparable(table: pa.Table) -> list[dict[str, object]]:
    """Return the rows in order of their ids, without what may differ between two runs of the same sweep."""
    return sorted(table.to_pylist(), key=lambda row: str(row["trial_id"]))


def ids(trials: Iterable[Trial]) -> list[str]:
    """Return the sorted ids."""
    return sorted(t.trial_id for t in trials)


TRIALS = grid()


def rows(directory: Path) -> list[dict[str, object]]:
    """Return the stored rows of the sweep in this results directory."""
    return comparable(store.load(directory / "s"))


def journal_of(directory: Path) -> Path:
    """Return where the journal of that sweep lies."""
    return directory / "s" / journal.JOURNAL_NAME


def optuna_trials(directory: Path, name: str = "s/demo/tiny/lora+") -> list[optuna.trial.FrozenTrial]:
    """Open the journal as any user of Optuna would."""
    storage = JournalStorage(JournalFileBackend(str(journal_of(directory))))
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def complete(directory: Path, name: str = "s/demo/tiny/lora+") -> list[optuna.trial.FrozenTrial]:
    """Return the trials that Optuna holds for finished."""
    return [t for t in optuna_trials(directory, name) if t.state is TrialState.COMPLETE]


def interrupt_at(n: int, *hows: int) -> FakeEngine:
    """Return an engine that gets signals in its n-th pack, from 0: those named, else SIGTERM, which gives it up."""
    engine = FakeEngine()

    def before(pack: Pack) -> None:
        for how in hows or (signal.SIGTERM,):
            if len(engine.packs) == n:
                os.kill(os.getpid(), how)

    engine.before = before
    return engine


def run_with(directory: Path, one: LocalExecutor[None], trials: tuple[Trial, ...] = TRIALS) -> SweepSummary:
    """Sweep with this executor."""
    return sweep.run(study(), trials, results_dir=directory, executor=one, options=OPTIONS, family=family)
