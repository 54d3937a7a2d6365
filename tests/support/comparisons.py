"""Made-up comparisons: arms, rows and scores of runs that nobody trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bench.comparison import arms, compare
from bench.comparison.arms import Arm, Row
from bench.comparison.numbers import Comparison, Setup
from bench.core.spec import Trial
from tests.support.plot_rows import lora_grid, trial

N_EVAL = 200


ETAS = (1e-4, 4e-4, 1.6e-3, 6.4e-3)


SEEDS = tuple(range(1000, 1010))


Curve = Callable[[Trial], Sequence[float]]


def make_arms() -> tuple[Arm, ...]:
    """Return LoRA, LoRA+ and full fine-tuning with 4 cells each, two tuning seeds."""
    return arms.arms_of(
        [
            ("lora", lora_grid(ETAS, (1,), (0, 1))),
            ("lora+", lora_grid((1e-4, 4e-4), (4, 16), (0, 1))),
            ("full", tuple(trial("full", eta / 10, seed) for eta in ETAS for seed in (0, 1))),
        ]
    )


def landscape(t: Trial) -> float:
    """Return a score with one best cell for each method: LoRA at 1.6e-3, LoRA+ at (4e-4, 4), full at 1.6e-4."""
    peak = {"lora": 1.6e-3, "lora+": 4e-4, "full": 1.6e-4}[t.method]
    return 0.8 - 0.02 * abs(math.log2(t.eta_A / peak)) - 0.01 * (t.method == "lora+" and t.lr_ratio != 4)


def row(t: Trial, score: float | None, *, curve: Sequence[float] = (), right: np.ndarray | None = None) -> Row:
    """Return the columns of a stored row that a comparison reads; score None: diverged."""
    bits = np.arange(N_EVAL) < round((score or 0) * N_EVAL) if right is None else right
    step = t.budget.eval_steps
    return {
        "trial_id": t.trial_id, "status": "ok" if score is not None else "diverged", "metric_value": score,
        "metric_stderr": None if score is None else 0.01, "select_metric": score, "train_seconds": 2.0,
        "source_hash": "s", "eval_correct": np.packbits(bits).tobytes(), "n_eval": N_EVAL, "device": "cpu",
        "timing_mode": "pack_share", "git_commit": "c", "git_dirty": False, "collapsed": False,
        "curve": [{"step": (i + 1) * step, "metric_value": v} for i, v in enumerate(curve)],
    }  # fmt: skip


def table(
    trials: Iterable[Trial], score: Callable[[Trial], float | None], curve: Curve = lambda t: ()
) -> dict[str, Row]:
    return {t.trial_id: row(t, score(t), curve=curve(t)) for t in trials}


def setup(**changes: object) -> Setup:
    settings: dict[str, object] = {
        "study": "s", "task": "sst2", "model": "minilm", "metric": "accuracy", "higher_is_better": True,
        "tuning_seeds": (0, 1), "fresh_seeds": SEEDS, "seconds_per_step": None,
    }  # fmt: skip
    return Setup(**{**settings, **changes})  # type: ignore[arg-type]


def compared(
    score: Callable[[Trial], float | None], *, curve: Curve = lambda t: (), of: Setup | None = None,
    tuned: Callable[[Trial], float | None] = landscape, n_pool: int = 8,
) -> Comparison:  # fmt: skip
    """Return the comparison whose fresh runs, and further ones, score as given."""
    of, found = of or setup(), make_arms()
    tuning = table([t for a in found for t in a.trials], tuned)
    chosen = compare.chosen_trials(found, tuning, of.fresh_seeds, higher_is_better=of.higher_is_better)
    fresh = table([t for members in chosen.values() for t in members], score, curve)
    further = [t for members in chosen.values() for t in arms.pool_trials(members[0], n_pool, of.tuning_seeds)]
    return compare.compare(of, found, tuning=tuning, fresh=fresh, pool=table(further, score))


def noisy(gaps: dict[str, float], sd: float = 0.004) -> Callable[[Trial], float]:
    """Return scores that share a seed's luck and have a little of their own; LoRA+'s and full's mean lies apart."""

    def score(t: Trial) -> float:
        luck = np.random.default_rng(t.seed).normal(0, 0.02)
        own = np.random.default_rng([t.seed, len(t.method)]).normal(0, sd)
        return 0.8 + luck + own + gaps.get(t.method, 0.0)

    return score


def ramp(per_method: dict[str, int]) -> Curve:
    """Return curves of 25 points that reach 0.81 at the n-th of them (0: never)."""
    return lambda t: [0.81 if per_method[t.method] and i + 1 >= per_method[t.method] else 0.5 for i in range(25)]
