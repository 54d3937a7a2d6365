"""What choosing cells by the held-out part costs on the evaluation split, measured on a sweep's own rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.comparison import arms
from bench.comparison.arms import Arm, Row
from bench.core.spec import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Regret:
    """One arm with one tuning seed: the cell that the held-out part chooses, and the one that evaluation would.

    `regret` = the best cell's score on the evaluation split less the chosen cell's, so >= 0, in the metric's unit. It
    is an upper bound of what the choice costs: the best of n noisy scores is best partly by luck.
    """

    arm: str
    seed: int
    n_cells: int
    chosen: Trial
    best: Trial
    regret: float


def regrets(found: Sequence[Arm], rows: Mapping[str, Row], *, higher_is_better: bool) -> tuple[Regret, ...]:
    """Return the regret of each arm and tuning seed whose rows (trial_id -> row) have a select_metric.

    Cells of which a seed has diverged or is missing have no part in that seed's choice.
    """
    made = []
    for arm in found:
        for seed in sorted({trial.seed for trial in arm.trials}):
            one = Arm(name=arm.name, trials=tuple(trial for trial in arm.trials if trial.seed == seed))
            cells = arms.cells(one, rows, higher_is_better=higher_is_better)
            scored = [cell for cell in cells if cell.select is not None and cell.metric is not None]
            if len(scored) < 2:
                continue
            sign = 1 if higher_is_better else -1
            chosen = arms.choose(scored, higher_is_better=higher_is_better)
            best = max(scored, key=lambda cell: sign * (cell.metric or 0.0))
            assert chosen.metric is not None
            assert best.metric is not None
            regret = sign * (best.metric - chosen.metric)
            made.append(Regret(arm=arm.name, seed=seed, n_cells=len(scored), chosen=chosen.trial, best=best.trial,
                               regret=regret))  # fmt: skip
    return tuple(made)


def lines(found: Sequence[Regret], *, scale: float, unit: str) -> tuple[str, ...]:
    """Return a line for each arm: the regret of each seed and their mean, times `scale`, in `unit`."""
    by_arm: dict[str, list[Regret]] = {}
    for one in found:
        by_arm.setdefault(one.arm, []).append(one)
    return tuple(
        f"selection: {arm}: the cell chosen on held-out examples is {scale * fmean(r.regret for r in members):.2f} "
        f"{unit} worse on the evaluation split than the best of {members[0].n_cells} cells"
        + (f" (seeds: {', '.join(f'{scale * r.regret:.2f}' for r in members)})" if len(members) > 1 else "")
        for arm, members in by_arm.items()
    )
