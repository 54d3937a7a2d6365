"""What a sweep is told and what it tells: its options, its events while it runs, its summary at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.core import provenance
from bench.core.cells import BestCell
from bench.core.record import Record
from bench.core.spec import Pack, Trial
from bench.schedule.estimate import Estimate, Place, Workload
from bench.schedule.planner import Limits

STATE = "state"  # below a study's directory: <pack_id>.safetensors of packs in mid-training
EXIT_DONE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 1, 130


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a study is swept; nothing here changes a trial."""

    storage: str | None = None  # an Optuna storage URL; None: a journal in the study's directory
    higher_is_better: bool = True
    limits: Limits = field(default_factory=Limits)
    workload: Workload | None = None  # None: no estimate before the first pack is done
    place: Place = field(default_factory=lambda: Place(device="cpu"))
    fits: Callable[[Trial], bool] = lambda trial: True  # whether the model can hold a trial beyond the grid's border
    rerun_stale: bool = False  # run trials again whose rows another version of the code wrote
    source_hash: str = field(default_factory=provenance.source_hash)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a sweep would do."""

    packs: tuple[Pack, ...]  # of the whole grid
    pending: tuple[Pack, ...]
    n_trials: int
    n_finished: int
    estimate: Estimate | None  # of the pending packs; None without a workload, or where none are
    n_pruned: int = 0  # trials that were left out at a rung
    packing: tuple[str, ...] = ()  # what the size of each kind of pack rests on, a line each


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """Event: everything is checked, work begins."""

    n_trials: int
    n_finished: int
    n_packs: int  # left to run
    estimate: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PackStarted:
    """Event: a pack goes to the executor."""

    pack: Pack
    index: int  # from 0
    n_packs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PackStored:
    """Event: records are on disk and told; a pack that had to be halved gives several."""

    records: tuple[Record, ...]
    n_finished: int
    n_trials: int
    remaining: Estimate | None
    best: tuple[str, float] | None  # trial_id and score (select_metric, else metric_value) of the best trial so far
    n_pruned: int = 0  # of the study's trials, so far
    n_widened: int = 0  # trials beyond the border, among n_trials
    share_saved: float | None = None  # of the steps of all that has ended, by leaving trials out
    index: int = 0  # of the pack, as in its PackStarted


@dataclass(frozen=True, kw_only=True, slots=True)
class Warned:
    """Event: something the user should know, on one line."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """Event: something that was found out before work begins, on one line."""

    text: str


Event = Started | PackStarted | PackStored | Warned | Noted


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSummary:
    """How a sweep ended."""

    directory: Path
    n_trials: int  # of the study
    n_finished: int  # of them, this run and those before
    n_run: int  # finished by this run
    n_failed: int  # of this run, oom included
    n_diverged: int  # among the finished
    seconds: float
    best: tuple[BestCell, ...]
    borders: tuple[str, ...]
    warnings: tuple[str, ...]
    interrupted: bool
    stopped: str | None  # why the run ended before its work did, if it did: one line
    n_pruned: int = 0  # left out at a rung, this run and those before
    share_saved: float | None = None  # of the steps of all that has ended, by leaving trials out
    n_widened: int = 0  # trials beyond the border of the grid, among n_trials

    @property
    def trials_per_minute(self) -> float | None:
        """Trials finished by this run, start-up included; None if there was none."""
        return 60 * self.n_run / self.seconds if self.n_run and self.seconds > 0 else None

    @property
    def exit_code(self) -> int:
        """0 all finished; 1 some failed, or stopped; 130 interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_DONE if not self.n_failed and self.stopped is None else EXIT_SOME_FAILED
