"""Reports of made-up studies, for tests of what they hold and of the page."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pyarrow as pa

from bench.comparison.numbers import Comparison
from bench.core.record import SCHEMA, Outcome, Provenance, Record, Status, to_table
from bench.core.spec import MethodGrid, Study, Trial
from bench.report import contents as report
from bench.report.data import Report, Source
from bench.sweep.optuna_mirror.from_rows import studies_of
from plots.tidy import StudyInfo
from tests.support.plot_rows import BUDGET, PLACE, frame, lora_grid, trial

ETAS, RATIOS, SEEDS = (1e-4, 4e-4, 1.6e-3, 6.4e-3), (1, 4, 16), (0, 1, 2)
NO_ATTEMPTS = SCHEMA.empty_table().to_pandas()
STUDY = Study(
    name="sst2-minilm", task="sst2", model="minilm", seeds=SEEDS, budget=BUDGET, profile="quick",
    grids=(MethodGrid(method="lora", axes=()),), figure="LoRA+, Fig. 3",
)  # fmt: skip
SOURCE = Source(command="python -m bench sweep --task sst2", study_file="studies/sst2.toml", toml='task = "sst2"\n')


def outcome(value: float | None, *, select: float | None = None, **changes: object) -> Outcome:
    """Return an outcome with exactly this score; None: diverged at step 7."""
    settings: dict[str, object] = {
        "status": Status.OK if value is not None else Status.DIVERGED, "metric_name": "accuracy", "metric_value": value,
        "metric_stderr": 0.01, "select_metric": select if value is not None else None, "collapsed": value == 0.5,
        "steps_done": 300 if value is not None else 6, "diverged_step": None if value is not None else 7,
        "reason": None if value is not None else "loss or gradient not finite at step 7", "train_seconds": 15.0,
        "timing_mode": "pack_share", "n_trainable": 1234, "started_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return Outcome(**{**settings, **changes})  # type: ignore[arg-type]


def rows_of(scores: dict[Trial, Outcome], *, place: Provenance = PLACE) -> pd.DataFrame:
    records = [
        Record(study="sst2-minilm", trial=t, pack_id="p", pack_size=2, outcome=o, provenance=place)
        for t, o in scores.items()
    ]
    return to_table(records).to_pandas()


def built(
    rows: pd.DataFrame, trials: tuple[Trial, ...], *, attempts: pd.DataFrame = NO_ATTEMPTS, study: Study = STUDY,
    source: Source = SOURCE, comparison: Comparison | None = None,
) -> Report:  # fmt: skip
    info = StudyInfo.of(study, trials, higher_is_better=True)
    return report.build(rows, attempts, study, info, source=source, comparison=comparison)


def whole() -> Report:
    """Return the report of a study with every kind of section."""
    trials = (
        *lora_grid(ETAS, RATIOS, SEEDS), *lora_grid(ETAS, (1,), SEEDS, rank=2),
        *(trial("full", eta, seed) for eta in ETAS for seed in SEEDS),
    )  # fmt: skip
    return built(frame(trials), trials)


def with_optuna() -> Report:
    """Return it with what Optuna makes of LoRA+'s rows."""
    rows = pa.Table.from_pandas(frame(lora_grid(ETAS, RATIOS[1:], SEEDS)), schema=SCHEMA, preserve_index=False)
    return replace(whole(), optuna=studies_of(rows.to_pylist(), STUDY.grids, higher_is_better=True))


def hand_made() -> tuple[pd.DataFrame, tuple[Trial, ...]]:
    """LoRA at two rates with two seeds each, full with one: the better one on the evaluation split is not chosen."""
    low, high = (lora_grid((eta,), (1,), (0, 1)) for eta in (1e-4, 4e-4))
    full = (trial("full", 1e-4, 0), trial("full", 1e-4, 1))
    scores = {
        low[0]: outcome(0.80, select=0.90), low[1]: outcome(0.84, select=0.92),
        high[0]: outcome(0.90, select=0.70), high[1]: outcome(0.92, select=0.72),
        full[0]: outcome(0.5, select=0.5), full[1]: outcome(None),
    }  # fmt: skip
    return rows_of(scores), (*low, *high, *full)
