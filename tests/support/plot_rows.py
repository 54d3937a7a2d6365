"""Rows such as a sweep stores, made up from a seed: the exact schema, with diverged, collapsed and missing trials.

The score rises to a plateau along a ridge log10(eta_A) + tilt * log10(lambda) = const, falls to chance beyond it and
diverges further out, which is the shape that learning-rate sweeps have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bench.core.record import CurvePoint, Outcome, Provenance, Record, Status, to_table
from bench.core.rules import round_rate
from bench.core.spec import TrainBudget, Trial

BUDGET = TrainBudget(max_steps=300, eval_steps=50)
TARGETS = ("query", "value")
N_EVAL = 872
CHANCE = 0.509
PLACE = Provenance(
    git_commit="0123456789abcdef", git_dirty=False, source_hash="s0", versions="{}", device="cpu, 2 cores"
)


def trial(
    method: str, eta_A: float, seed: int = 0, *, ratio: float | None = None, rank: int | None = 8, **more: object
) -> Trial:
    """Return a trial of `method` as study expansion makes it."""
    adapter = method != "full"
    has_B = method in ("lora", "lora+")
    fixed = Trial(
        task="sst2",
        model="minilm",
        data_hash="d0",
        model_hash="m0",
        method=method,
        seed=seed,
        eta_A=round_rate(eta_A),
        eta_B=round_rate(eta_A * (ratio or 1.0)) if has_B else None,
        rank=rank if adapter else None,
        lora_alpha=float(rank or 0) if has_B else None,
        use_rslora=False if has_B else None,
        lora_dropout=0.0 if adapter else None,
        init="zero_B" if has_B else None,
        target_modules=TARGETS if adapter else None,
        loraplus_lr_embedding=1e-6 if method == "lora+" else None,
        mora_rounding="floor" if method == "mora" else None,
        budget=BUDGET,
    )
    return replace(fixed, **more)  # type: ignore[arg-type]


def lora_grid(
    etas: Sequence[float], ratios: Sequence[float], seeds: Sequence[int], *, rank: int = 8, init: str = "zero_B"
) -> tuple[Trial, ...]:
    """Return the trials of an eta_A x lambda grid; those at lambda = 1 are LoRA's, as in stored rows."""
    return tuple(
        trial("lora" if ratio == 1 else "lora+", eta, seed, ratio=ratio, rank=rank, init=init)
        for eta in etas
        for ratio in ratios
        for seed in seeds
    )


def score(t: Trial) -> float:
    """Return the noise-free score of a cell; nan where it diverges, CHANCE where it collapses."""
    ridge = {"zero_B": 2.75, "zero_A": 2.9}.get(t.init or "", 3.0)
    if t.method == "full":
        ridge = 4.2
    if t.method == "mora":
        ridge = 3.0 if t.mora_type == 6 else 3.5
    ratio = t.lr_ratio or 1.0
    away = math.log10(t.eta_A) + 0.62 * math.log10(ratio) + ridge
    top = 0.872 + 0.007 * math.log2(t.rank or 32) / 3 - 0.004 * abs(math.log2(ratio) - 3) / 2
    if away > 1.9:
        return float("nan")
    if away > 1.25:
        return CHANCE
    return CHANCE + (top - CHANCE) / (1 + math.exp(-(away + 1.6) * 4.5)) - 0.16 * max(0.0, away - 0.2) ** 2


def record(
    t: Trial, rng: np.random.Generator, *, surface: Callable[[Trial], float] = score, study: str = "sst2-minilm"
) -> Record:
    """Return the stored record of a trial, its outcome drawn around `surface`."""
    mean = surface(t)
    if math.isnan(mean) or (mean == CHANCE and rng.random() < 0.3):
        outcome = _outcome(t, Status.DIVERGED, None, rng)
    else:
        value = CHANCE if mean == CHANCE else float(np.round((mean + rng.normal(0, 0.003)) * N_EVAL) / N_EVAL)
        outcome = _outcome(t, Status.OK, value, rng)
    return Record(study=study, trial=t, pack_id="p0", pack_size=1, outcome=outcome, provenance=PLACE)


def frame(
    trials: Sequence[Trial],
    *,
    seed: int = 0,
    drop: Callable[[Trial], bool] = lambda _: False,
    surface: Callable[[Trial], float] = score,
) -> pd.DataFrame:
    """Return stored rows of the trials as a DataFrame of SCHEMA, without those that `drop` names."""
    rng = np.random.default_rng(seed)
    records = [record(t, rng, surface=surface) for t in trials]
    return to_table([r for r in records if not drop(r.trial)]).to_pandas()


def _outcome(t: Trial, status: Status, value: float | None, rng: np.random.Generator) -> Outcome:
    steps = range(BUDGET.eval_steps, BUDGET.max_steps + 1, BUDGET.eval_steps)
    speed = 90 if (t.lr_ratio or 1) > 1 else 140
    end = CHANCE if value is None else value
    curve = tuple(
        CurvePoint(
            step=step,
            train_seconds=step * 0.05,
            train_loss=0.7 - 0.4 * step / BUDGET.max_steps,
            metric_value=end - (end - CHANCE) * math.exp(-step / speed) + rng.normal(0, 0.002),
        )
        for step in steps
        if value is not None or step <= 100
    )
    return Outcome(
        status=status,
        reason=None if value is not None else "loss is nan at step 130",
        collapsed=None if value is None else value == CHANCE,
        metric_name="accuracy",
        metric_value=value,
        metric_stderr=None if value is None else math.sqrt(value * (1 - value) / N_EVAL),
        accuracy=value,
        select_metric=None if value is None else value + float(rng.normal(0, 0.004)),
        best_metric=value,
        n_eval=N_EVAL,
        train_loss=None if value is None else 1.05 - value,
        eval_loss=None if value is None else 1.1 - value,
        steps_done=BUDGET.max_steps if value is not None else 130,
        diverged_step=None if value is not None else 130,
        train_seconds=15.0,
        timing_mode="isolated",
        engine_path="bank",
        curve=curve,
        started_at="2026-01-01T00:00:00Z",
    )
