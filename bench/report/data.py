"""What a report says, as frozen dataclasses: bench/report/contents.py works them out, bench/report/page/ shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.claims.verdict import Verdict
from bench.comparison.numbers import Comparison
from bench.report.charts import Chart
from bench.timing.methods.summary import Line
from plots.grid import View

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many trials there are of each kind. `n_collapsed` are among the ok ones, `n_failed` among the missing."""

    n_planned: int
    n_ok: int
    n_diverged: int
    n_collapsed: int
    n_missing: int
    n_failed: int
    n_other_rows: int  # rows of the directory that are not of the study
    n_pruned: int = 0  # left out early, and not among the missing
    share_saved: float | None = None  # of the steps of all that has ended, by that

    @property
    def n_finished(self) -> int:
        """Ok and diverged."""
        return self.n_ok + self.n_diverged


@dataclass(frozen=True, kw_only=True, slots=True)
class CellNumbers:
    """One cell: where it lies and its score over seeds. Scores are in the metric's own unit, not in percent."""

    series: str  # of bench.methods.Identity
    rank: int | None
    eta_A: float
    eta_B: float | None
    lr_ratio: float | None
    mean: float | None  # of metric_value over the n_ok seeds
    stderr: float | None
    stderr_kind: str | None  # over "seeds" from 3 of them, else over the "examples" of the evaluation split
    select: float | None  # mean select_metric
    n_expected: int
    n_ok: int
    n_diverged: int
    n_collapsed: int
    settings: tuple[tuple[str, str], ...] = ()  # beside rank and rates: those that vary in the study, spelled


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The cell of a method that was chosen, out of how many, and what it costs."""

    panel: str  # the settings that tell it from the same method's other best cells; empty: there is one
    cell: CellNumbers
    chosen_by: str  # select_metric or metric_value
    n_choices: int
    n_trainable: int | None
    train_seconds: float | None  # mean over seeds
    timing_mode: str | None  # None: mixed
    others: Mapping[str, float] = field(default_factory=dict)  # the task's other metrics, means over the seeds


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatCell:
    """A cell of a heatmap with its marks."""

    numbers: CellNumbers
    best: bool
    chosen: bool
    within_percent: bool  # of the best mean
    within_stderr: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Heatmap:
    """One panel: rows from the largest eta_B or lambda down, columns from the smallest eta_A up; None: no cell."""

    title: str
    view: View
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    cells: tuple[tuple[HeatCell | None, ...], ...]
    low: float  # of the colours, which are the same for all panels
    high: float
    best_at_edge: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast the trials of one method and rank trained, in one timing mode: medians over `n` trials."""

    series: str
    rank: int | None
    timing_mode: str
    device: str
    n: int
    pack_sizes: tuple[int, int]  # smallest and largest
    seconds_per_step: float
    examples_per_second: float | None
    peak_memory_bytes: int | None  # the largest; of the pack
    n_trainable: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolated:
    """What `bench speed` measured for the study: each method alone on the device, by turns."""

    lines: tuple[Line, ...]
    timing_modes: tuple[str, ...]  # isolated, or busy
    devices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """The trials of one cell that went wrong in one way."""

    kind: str  # diverged, collapsed, oom, failed or missing
    series: str
    rank: int | None
    eta_A: float
    lr_ratio: float | None
    seeds: tuple[int, ...]
    detail: str
    settings: tuple[tuple[str, str], ...] = ()  # as in CellNumbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """What is needed to run the study again."""

    command: str
    compare_command: str  # empty: none was run
    study_file: str
    toml: str
    profile: str
    settings: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    commits: tuple[str, ...]  # "+" after one with uncommitted changes
    source_hashes: tuple[str, ...]
    versions: tuple[str, ...]
    devices: tuple[str, ...]
    held_out: tuple[str, ...]  # how many training examples cells were chosen on, and how these were drawn
    data_hashes: tuple[str, ...]
    model_hashes: tuple[str, ...]
    started: tuple[str, str] | None  # of the first and the last pack


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that the page shows."""

    study: str
    figure: str
    task: str
    model: str
    metric: str
    higher_is_better: bool
    max_steps: int
    n_seeds: int
    fixed: str  # the settings that do not vary, in words
    varying: tuple[str, ...]  # the others, beside method, rank and rates
    counts: Counts
    best: tuple[Best, ...]
    borders: tuple[str, ...]
    heatmaps: tuple[Heatmap, ...]
    charts: tuple[Chart, ...]
    speeds: tuple[Speed, ...]
    isolated: Isolated | None
    troubles: tuple[Trouble, ...]
    comparison: Comparison | None
    repeat: Repeat
    claims: tuple[Verdict, ...] = ()  # that rest on the study
    optuna: Mapping[str, optuna.Study] = field(default_factory=dict)  # of the rows, by method


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What the caller knows beside the rows: how the study was asked for."""

    command: str
    study_file: str
    toml: str
    borders: tuple[str, ...] = ()
    compare_command: str = ""  # where a comparison was run
